from pathlib import Path

import pytest
from telemetry_example import create_plugin
from telemetry_example.counting import texts_in, words_in

from echo_core import Outcome
from echo_core.testing import PluginHarness, async_test, check_plugin_contract


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("one two three", 3),
        ({"text": "one two", "more": {"deep": ["three", ("four", 5)]}}, 4),
        (None, 0),
        (b"bytes are no text", 0),
        ([], 0),
    ],
)
def test_words_are_counted_wherever_they_lie(data: object, words: int) -> None:
    assert words_in(texts_in(data)) == words


@async_test
async def test_every_message_is_watched_and_nothing_is_published() -> None:
    async with PluginHarness(create_plugin()) as harness:
        for topic in ("orders", "greetings.en", "a.b.c.d"):
            status = await harness.handle({"text": "hello"}, topic=topic)
            assert status.outcome is Outcome.ACKNOWLEDGED
    assert harness.published == []


@async_test
async def test_it_keeps_what_every_plugin_promises() -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, samples=[{"text": "one two"}, None, 3])
