from pathlib import Path

import pytest
from echo_core import PluginError
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


@async_test
async def test_samples_are_published_when_no_file_is_named() -> None:
    async with PluginHarness(create_plugin(), config={"samples": 2}) as harness:
        await harness.run_source()
        assert [record["number"] for record in harness.data] == [1, 2]
        assert [topic for topic, _ in harness.published] == ["text.raw", "text.raw"]


@async_test
async def test_every_line_of_the_file_is_published(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "zwei – 二"}\n', encoding="utf-8")
    async with PluginHarness(create_plugin(), config={"path": str(path)}) as harness:
        await harness.run_source()
        assert harness.data == [{"text": "one"}, {"text": "zwei – 二"}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "null"])
@async_test
async def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "records.jsonl"
    path.write_text(f'{{"text": "one"}}\n{line}\n', encoding="utf-8")
    async with PluginHarness(create_plugin(), config={"path": str(path)}) as harness:
        with pytest.raises(PluginError, match=r"records\.jsonl:2"):
            await harness.run_source()
        assert harness.data == [{"text": "one"}]
