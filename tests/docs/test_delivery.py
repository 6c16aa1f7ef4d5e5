"""docs/delivery.md is held to the code."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_core import Ending
from echo_core.manifest import Delivery
from echo_core.runtime.settings import HostSettings
from echo_core.testing import PluginHarness, check_plugin_contract
from runtime.hosting import Handler, World, manifest

PAGE = (Path(__file__).parents[2] / "docs" / "delivery.md").read_text(encoding="utf-8")


def test_it_lists_every_ending_from_good_to_bad() -> None:
    table = PAGE[PAGE.index("| ending |") :]
    assert re.findall(r"^\| `([A-Z_]+)` \|", table, flags=re.M) == [ending.name for ending in Ending]


def test_it_tells_the_defaults() -> None:
    assert f"| `delivery.queue_limit` | manifest.json | {Delivery().queue_limit:,} |" in PAGE
    host = HostSettings()
    assert f"| `host.max_in_flight_messages` | echo-core.toml | {host.max_in_flight_messages:,} |" in PAGE
    mebibytes = host.max_in_flight_bytes // 1024**2
    assert f"| `host.max_in_flight_bytes` | echo-core.toml | {mebibytes} MiB |" in PAGE


@dataclass
class Record:
    offset: int
    value: Any


class Consumer:
    committed = -1

    async def __aiter__(self) -> AsyncIterator[Record]:
        for offset in range(10):
            yield Record(offset, offset)

    async def commit(self, offset: int) -> None:
        self.committed = offset


def shown(name: str) -> Any:
    """The class of that name, from the page's example."""
    (code,) = [
        code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if f"class {name}(" in code
    ]
    names: dict[str, Any] = {}
    exec(compile(code, "docs/delivery.md", "exec"), names)  # noqa: S102 - our own page
    return names[name]


def test_the_source_that_goes_on_where_it_was_keeps_what_every_source_promises(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    lines, of = shown("Lines"), manifest("lines", says=("raw",), plugin_type="source")

    async def go_on() -> None:
        config = {"path": str(tmp_path / "lines")}
        await check_plugin_contract(lines, of, config=config)
        async with PluginHarness(lines(), manifest=of, config=config, state={"next": 2}) as harness:
            await harness.run_source()
            assert harness.data == [{"line": "three"}]
            assert harness.states == [{"next": 3}]

    asyncio.run(go_on())


def test_the_source_that_it_shows_commits_what_has_ended(tmp_path: Path) -> None:
    consumer, world = Consumer(), World(tmp_path)
    world.add(shown("Orders")(consumer), manifest("orders", says=("raw",), plugin_type="source"))
    world.add(Handler(), manifest("end", hears=("raw",)))
    asyncio.run(world.run())
    assert consumer.committed == 9
