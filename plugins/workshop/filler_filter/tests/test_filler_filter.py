from pathlib import Path
from typing import Any

import pytest
from filler_filter import create_plugin

from echo_core import Outcome
from echo_core.testing import PluginHarness, async_test, check_plugin_contract


def segment(text: str, language: str = "en", **more: Any) -> dict[str, Any]:
    return {"segment": "s-1", "start": 0.0, "end": 4.0, "text": text, "language": language, **more}


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("Um, so the bridge, uh, opens.", "so the bridge, opens."),
        ("UHM... Well", "Well"),
        ("the the bridge", "the bridge"),
        ("The the bridge", "The bridge"),
        ("I, I think", "I think"),
        ("the um the bridge", "the bridge"),
        ("and and and then", "and then"),
        ("don't don't go", "don't go"),
        ("a hummingbird and a number", "a hummingbird and a number"),
    ],
)
@async_test
async def test_fillers_and_stuttered_words_are_taken_out(said: str, left: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        assert (await harness.handle(segment(said))).outcome is Outcome.ACKNOWLEDGED
    assert harness.data == [segment(left)]


@pytest.mark.parametrize(
    "said",
    [
        "I know that that is true", "No, no, no.", "She had had enough", "It is five 5 5 5",
        "We left. We left early", "Was it? It was.", "♪ ♪", "- What? - What?",
    ],
)  # fmt: skip
@async_test
async def test_what_may_be_meant_stays(said: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle(segment(said))
    assert harness.data[0]["text"] == said


@pytest.mark.parametrize("said", ["Um.", "uh, uhm, er", "- Hmm?", "um um um"])
@async_test
async def test_a_segment_of_nothing_but_fillers_is_filtered(said: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        assert (await harness.handle(segment(said))).outcome is Outcome.FILTERED
    assert harness.published == []


@async_test
async def test_words_that_stay_keep_their_times() -> None:
    said = "so, um, the the end"
    words = [{"text": text, "start": at, "end": at + 0.5} for at, text in enumerate(said.split())]
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle(segment(said, words=words))
    assert harness.data[0]["text"] == "so, the end"
    assert harness.data[0]["words"] == [words[0], words[2], words[4]]


@async_test
async def test_each_language_has_its_own_fillers() -> None:
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle(segment("Er kommt, ähm, um drei", "de"))
        await harness.handle(segment("Er, it is late", "en-GB"))
        await harness.handle(segment("um er uh", "fi"))
    assert [data["text"] for data in harness.data] == ["Er kommt, um drei", "it is late", "um er uh"]


@async_test
async def test_lists_and_switches_are_configurable() -> None:
    config = {"fillers": {"en": ["like", "um"]}, "remove_repeated": False, "never_remove": ["Um"]}
    async with PluginHarness(create_plugin(), config=config) as harness:
        await harness.handle(segment("Um, the the like end"))
    assert harness.data[0]["text"] == "Um, the the end"


@async_test
async def test_the_end_of_a_transcript_goes_on() -> None:
    end = {"transcript": "talk", "language": "en", "complete": True}
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle(end)
    assert [(out.topic, out.message.data) for out in harness.published] == [("transcript.clean", end)]


@async_test
async def test_it_keeps_what_every_plugin_promises() -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, samples=[segment("um, the the end"), {}])
