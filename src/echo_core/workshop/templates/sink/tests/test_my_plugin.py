import json
from pathlib import Path
from typing import Any

from echo_core import BaseMessage, ProcessingStatus
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


def harness_for(path: Path, **config: Any) -> PluginHarness:
    return PluginHarness(create_plugin(), config={"path": str(path), **config})


def data_in(path: Path) -> list[Any]:
    return [json.loads(line)["data"] for line in path.read_text(encoding="utf-8").splitlines()]


@async_test
async def test_each_message_becomes_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text.jsonl"
    async with harness_for(path) as harness:
        assert await harness.handle({"text": "GUTEN TAG – 世"}) == ProcessingStatus.ACKNOWLEDGED
        await harness.handle({"text": "two\nlines"})
    assert data_in(path) == [{"text": "GUTEN TAG – 世"}, {"text": "two\nlines"}]


@async_test
async def test_a_message_that_comes_again_is_written_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    first, second = (BaseMessage(source="test", data=number) for number in (1, 2))
    async with harness_for(path) as harness:
        await harness.handle(first)
        await harness.handle(first)
    async with harness_for(path) as harness:
        await harness.handle(first)
        await harness.handle(second)
    assert data_in(path) == [1, 2]


@async_test
async def test_only_the_newest_ids_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    first, second = (BaseMessage(source="test", data=number) for number in (1, 2))
    async with harness_for(path, remember=1) as harness:
        for message in (first, second, second, first):
            await harness.handle(message)
    assert data_in(path) == [1, 2, 1]


@async_test
async def test_a_line_that_a_crash_cut_short_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    path.write_text('{"id": "1", "data"', encoding="utf-8")
    async with harness_for(path) as harness:
        await harness.handle("next")
    cut_short, whole = path.read_text(encoding="utf-8").splitlines()
    assert cut_short == '{"id": "1", "data"'
    assert json.loads(whole)["data"] == "next"
