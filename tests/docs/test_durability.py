"""`docs/durability.md` says what the code says of itself; `tests/transports` holds each sentence."""

from pathlib import Path

import msgspec
import pytest

from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.sqlite.settings import StoreSettings, settings_from_url
from echo_core.transports.sqlite.transport import SqliteTransport

PAGE = (Path(__file__).parents[2] / "docs" / "durability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("scheme", "transport"), [("memory", MemoryTransport), ("sqlite", SqliteTransport)])
def test_what_accepted_and_settled_mean_is_said_in_the_same_words(
    scheme: str, transport: type[Transport]
) -> None:
    section = PAGE.partition(f"**{scheme}://**")[2].partition("\n\n**")[0].split("\n\nWhat")[0]
    assert f"- *Accepted*: {transport.capabilities.accepted}\n" in section + "\n"
    assert f"- *Settled*: {transport.capabilities.settled}\n" in section + "\n"


def test_every_setting_is_listed_with_its_default(tmp_path: Path) -> None:
    table = PAGE.partition("## Settings")[2].partition("## ")[0]
    listed = {
        cells[1].strip().strip("`"): cells[2].strip().strip("`")
        for line in table.splitlines()
        if line.startswith("| `") and (cells := line.split("|"))
    }
    assert len(listed) == len(StoreSettings.__struct_fields__) - 1  # the path
    query = "&".join(f"{name}={value}" for name, value in listed.items() if value != "none")
    assert settings_from_url(f"sqlite://x?{query}", tmp_path) == StoreSettings(path=tmp_path / "x")


def test_the_examples_of_urls_are_read_as_the_page_says(tmp_path: Path) -> None:
    def path(url: str) -> Path:
        return settings_from_url(url, tmp_path).path

    assert path("sqlite://") == tmp_path / "core/state/messages.sqlite"
    assert path("sqlite://data/messages.sqlite") == tmp_path / "data/messages.sqlite"
    assert path("sqlite:///var/lib/echo.sqlite") == Path("/var/lib/echo.sqlite")
    assert (
        msgspec.structs.asdict(settings_from_url("sqlite://?synchronous=normal&retain=7d"))["retain_s"]
        == 7 * 86_400
    )
