from pathlib import Path
from typing import Any

import pytest
from transcript_validator import create_plugin

from echo_core import Outcome
from echo_core.testing import PluginHarness, async_test, check_plugin_contract

GOOD: dict[str, Any] = {
    "transcript": "talk",
    "segment": "talk-00001",
    "start": 1.0,
    "end": 3.5,
    "text": "Good evening, everybody.",
    "language": "en",
    "speaker": "Host",
}
WORDS = [
    {"text": "Good", "start": 1.0, "end": 1.2},
    {"text": "evening,", "start": 1.2, "end": 2.0},
    {"text": "everybody.", "start": 2.0, "end": 3.5},
]


@pytest.mark.parametrize(
    "data",
    [
        GOOD,
        {**GOOD, "words": WORDS},
        {**GOOD, "language": "pt-BR", "speaker": None},
        {"transcript": "talk", "language": "de", "complete": True},
    ],
    ids=["segment", "with words", "without speaker", "end of transcript"],
)
@async_test
async def test_good_data_goes_on_unchanged(data: dict[str, Any]) -> None:
    async with PluginHarness(create_plugin()) as harness:
        status = await harness.handle(data)
    assert status.outcome is Outcome.ACKNOWLEDGED
    assert [(out.topic, out.message.data) for out in harness.published] == [("transcript.valid", data)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"start": None}, "start is missing"),
        ({"end": None}, "end is missing"),
        ({"start": "00:01"}, "start '00:01' is not a number of seconds"),
        ({"start": True}, "start True is not a number of seconds"),
        ({"end": float("nan")}, "end is not a number"),
        ({"start": -0.5}, "start -0.5 is negative"),
        ({"start": 3.5, "end": 1.0}, "end 1.0 is before start 3.5"),
        ({"end": 1.0}, "it lasts no time: start and end are both 1.0"),
        ({"end": 602}, "it lasts 601 s, more than 600 s"),
        ({"start": 4e6, "end": 5e6},
         "start 4,000,000 is beyond 3,600,000 s; end 5,000,000 is beyond 3,600,000 s"),
        ({"end": float("inf")}, "end inf is beyond 3,600,000 s"),
        ({"text": None}, "text is missing"),
        ({"text": 42}, "text 42 is not text"),
        ({"text": " \n"}, "text is empty"),
        ({"language": None}, "language is missing"),
        ({"language": "english!"}, "language 'english!' is not a language tag like en or pt-BR"),
        ({"language": 7}, "language 7 is not a language tag like en or pt-BR"),
        ({"speaker": 7}, "speaker 7 is not text"),
        ({"words": "Good"}, "words is not a list of objects with text, start and end"),
        ({"words": [{"text": "Good", "start": 1.0}]},
         "words is not a list of objects with text, start and end"),
        ({"words": WORDS[:2]}, "words do not say what text says"),
    ],
)  # fmt: skip
@async_test
async def test_bad_data_is_stopped_with_the_exact_reason(change: dict[str, Any], reason: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        status = await harness.handle({**GOOD, **change})
    assert (status.outcome, status.reason) == (Outcome.FAILED, reason)
    assert harness.published == []


@async_test
async def test_all_faults_are_named_at_once() -> None:
    async with PluginHarness(create_plugin()) as harness:
        status = await harness.handle({"text": "", "language": "x", "start": 1})
    assert status.reason == (
        "language 'x' is not a language tag like en or pt-BR; end is missing; text is empty"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("hello", "a segment is an object, not str"),
        ({"raw": "{", "fault": "not JSON", "line": 3}, "line 3: not JSON"),
        ({"transcript": "talk", "language": "?", "complete": True},
         "language '?' is not a language tag like en or pt-BR"),
    ],
)  # fmt: skip
@async_test
async def test_what_is_no_segment_at_all_is_stopped(data: Any, reason: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        assert (await harness.handle(data)).reason == reason


@async_test
async def test_the_limits_are_configurable() -> None:
    async with PluginHarness(create_plugin(), config={"max_segment_s": 2, "max_time_s": 3}) as harness:
        status = await harness.handle(GOOD)
        assert status.reason == "end 3.5 is beyond 3 s"
        assert (await harness.handle({**GOOD, "start": 0, "end": 2.5})).reason == (
            "it lasts 2.5 s, more than 2 s"
        )


@async_test
async def test_it_keeps_what_every_plugin_promises() -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, samples=[GOOD, {}, None])
