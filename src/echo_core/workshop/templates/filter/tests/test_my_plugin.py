import pytest
from echo_core import ProcessingStatus
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


@async_test
async def test_a_record_goes_on_unchanged() -> None:
    record = {"language": "en", "text": "Good morning."}
    async with PluginHarness(create_plugin()) as harness:
        assert await harness.handle(record) == ProcessingStatus.ACKNOWLEDGED
        assert harness.data == [record]


@pytest.mark.parametrize("text", ["", "  Oh  "])
@async_test
async def test_a_short_text_is_dropped(text: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        assert await harness.handle({"text": text}) == ProcessingStatus.FILTERED
        assert harness.data == []


@pytest.mark.parametrize(
    ("text", "kept"), [("Buy now, BUY!", False), ("The buyer waits.", True), ("Straße", False)]
)
@async_test
async def test_a_blocked_word_is_found_whatever_its_case_but_only_as_a_whole(text: str, kept: bool) -> None:
    async with PluginHarness(create_plugin(), config={"blocked_words": ["buy", "STRASSE"]}) as harness:
        await harness.handle({"text": text})
        assert harness.data == ([{"text": text}] if kept else [])
