import itertools
from pathlib import Path
from typing import Any

import pytest
from caption_transformer import create_plugin
from caption_transformer.layout import Limits, divide, set_lines
from caption_transformer.timing import Shown, schedule
from caption_transformer.words import Word, break_costs, words_of
from hypothesis import given
from hypothesis import strategies as st

from echo_core.testing import PluginHarness, async_test, check_plugin_contract

LIMITS = Limits(
    lines=2, line_length=42, min_duration=1000, max_duration=7000, reading_speed=20, max_delay=2000
)


def segment(text: str, start: float = 0.0, end: float = 5.0, **more: Any) -> dict[str, Any]:
    names = {"transcript": "talk", "segment": f"talk-{start}", "language": "en", "speaker": "Host"}
    return {**names, "start": start, "end": end, "text": text, **more}


async def captions_of(*segments: dict[str, Any], **config: Any) -> list[Any]:
    async with PluginHarness(create_plugin(), config=config) as harness:
        for each in segments:
            await harness.handle(each)
        assert {publication.topic for publication in harness.published} == {"transcript.captioned"}
        return harness.data


SENTENCE = (
    "The river decided long before us, and it will decide again, "
    "because twice a day the water rises four metres and a half."
)


@async_test
async def test_a_segment_becomes_captions_that_keep_within_all_limits() -> None:
    captions = await captions_of(segment(SENTENCE, 10.0, 19.0))
    assert [caption["text"] for caption in captions] == [
        "The river decided long before us,\nand it will decide again,",
        "because twice a day the water\nrises four metres and a half.",
    ]
    first, second = captions
    assert (first["start"], second["end"]) == (10.0, 19.0)
    assert first["end"] == pytest.approx(second["start"], abs=0.1)


@async_test
async def test_a_caption_says_where_it_comes_from() -> None:
    (caption,) = await captions_of(segment("Good evening, everybody.", 1.5, 3.5))
    assert caption == {
        "caption": "talk-1.5.1",
        "transcript": "talk",
        "segment": "talk-1.5",
        "language": "en",
        "speaker": "Host",
        "start": 1.5,
        "end": 3.5,
        "text": "Good evening, everybody.",
    }


@async_test
async def test_word_times_decide_when_a_caption_appears() -> None:
    texts = SENTENCE.split()
    begins = [at * 0.4 + (3 if at > 10 else 0) for at in range(len(texts))]
    words = [{"text": text, "start": at, "end": at + 0.3} for text, at in zip(texts, begins, strict=True)]
    captions = await captions_of(segment(SENTENCE, 0.0, words[-1]["end"], words=words))
    assert captions[1]["text"].split()[0] == texts[11]
    assert captions[1]["start"] == pytest.approx(begins[11])
    assert captions[0]["end"] < captions[1]["start"], "nothing is shown in the silence"


@async_test
async def test_a_short_caption_stays_into_the_silence_after_it() -> None:
    (known,) = await captions_of(segment("Yes.", 5.0, 5.3, next_start=9.0))
    assert (known["start"], known["end"]) == (5.0, 6.0)


@async_test
async def test_a_short_caption_delays_the_next_one_rather_than_flashing_by() -> None:
    yes, no, _ = await captions_of(
        segment("Yes.", 5.0, 5.3, next_start=5.4),
        segment("No.", 5.4, 5.8, next_start=6.0),
        segment("Then we are agreed on that.", 6.0, 9.0),
    )
    assert (yes["start"], yes["end"], no["start"], no["end"]) == (5.0, 6.0, 6.0, 7.0)


@async_test
async def test_speech_that_is_too_fast_is_shown_in_full_and_marked() -> None:
    fast = segment(SENTENCE, 0.0, 2.0, next_start=2.0)
    captions = await captions_of(fast, segment("And so on.", 2.0, 4.0))
    assert " ".join(caption["text"] for caption in captions[:-1]).split() == SENTENCE.split()
    assert any(caption.get("reading_speed_exceeded") for caption in captions)
    assert captions[-1]["start"] <= 4.0, "later captions are late by max_delay at most"


@async_test
async def test_overlapping_speakers_take_turns_on_the_screen() -> None:
    first, second, third = await captions_of(
        segment("This is what I have to say.", 0.0, 6.0, next_start=2.0),
        segment("Wait a moment!", 2.0, 4.0, next_start=6.5, speaker="Guest"),
        segment("Go on.", 6.5, 7.5),
    )
    assert first["end"] == second["start"] == 2.0
    assert second["end"] == 4.0
    assert third["start"] == 6.5


@async_test
async def test_languages_and_transcripts_do_not_wait_for_each_other() -> None:
    captions = await captions_of(
        segment("One two three four.", 0.0, 4.0),
        segment("Eins zwei drei vier.", 0.0, 4.0, language="de"),
        segment("Another film altogether.", 0.0, 4.0, transcript="other"),
    )
    assert {caption["start"] for caption in captions} == {0.0}


@async_test
async def test_a_segment_that_comes_again_gets_the_same_captions_again() -> None:
    first, second = segment("One two three four.", 0.0, 4.0, next_start=3.0), segment("Five six.", 3.0, 5.0)
    async with PluginHarness(create_plugin()) as harness:
        for each in (first, first, second, second):
            await harness.handle(each)
    assert harness.data[0] == harness.data[1]
    assert harness.data[2] == harness.data[3]


@async_test
async def test_a_segment_that_comes_again_after_later_ones_has_its_own_time_and_moves_nothing() -> None:
    first, second, third = (segment(f"Number {at}.", at, at + 2.0) for at in (0.0, 2.0, 4.0))
    one, two, again, three = await captions_of(first, second, first, third)
    assert again == one
    assert [(each["start"], each["end"]) for each in (one, two, three)] == [
        (0.0, 2.0),
        (2.0, 4.0),
        (4.0, 6.0),
    ]


@async_test
async def test_the_end_of_a_transcript_goes_on_and_clears_the_screen() -> None:
    end = {"transcript": "talk", "language": "en", "complete": True}
    data = await captions_of(segment("The very end.", 50.0, 52.0), end, segment("Once more.", 0.0, 2.0))
    assert data[1] == end
    assert data[2]["start"] == 0.0


@async_test
async def test_a_word_longer_than_a_line_is_split_and_loses_nothing() -> None:
    word = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
    captions = await captions_of(segment(f"Die {word} war da.", 0.0, 9.0))
    assert "".join("".join(caption["text"] for caption in captions).split()) == f"Die{word}warda."
    assert all(len(line) <= 42 for caption in captions for line in caption["text"].split("\n"))


@async_test
async def test_a_dash_that_begins_a_turn_begins_a_line() -> None:
    (caption,) = await captions_of(segment("- Where is it? - Over there."))
    assert caption["text"] == "- Where is it?\n- Over there."


@async_test
async def test_segments_of_another_source_need_no_names() -> None:
    (caption,) = await captions_of({"start": 0, "end": 2, "text": "Hello.", "language": "en"})
    assert caption["transcript"] == "captions"
    assert caption["caption"].endswith(".1")


@async_test
async def test_the_limits_are_configurable() -> None:
    captions = await captions_of(segment("one two three four five six", 0.0, 6.0), lines=1, line_length=10)
    assert all(len(caption["text"]) <= 10 for caption in captions)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "We drew a bridge that is seventeen metres above",
            ["We drew a bridge", "that is seventeen metres above"],
        ),
        (
            "It was calm, and nobody on the bank could see it",
            ["It was calm,", "and nobody on the bank could see it"],
        ),
        ("short enough", ["short enough"]),
        (f"{'a' * 40} bbb ccc", ["a" * 40, "bbb ccc"]),
    ],
)
def test_lines_part_at_clauses_and_conjunctions_where_that_leaves_them_balanced(
    text: str, lines: list[str]
) -> None:
    words = words_of({"start": 0, "end": 4, "text": text}, longest=42)
    assert set_lines(words, break_costs(words, {"that", "and"}), LIMITS).split("\n") == lines


TEXTS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=60).filter(
        lambda text: len(text.split()) == 1
    )
    | st.sampled_from(["and", "the", "sea,", "ends.", "why?", "-", "I"]),
    min_size=1,
    max_size=60,
)


@given(texts=TEXTS, seconds=st.floats(0.05, 60), start=st.floats(0, 5000))
def test_every_character_lands_in_one_line_in_order_and_every_line_fits(
    texts: list[str], seconds: float, start: float
) -> None:
    said = {"start": start, "end": start + seconds, "text": " ".join(texts)}
    words = words_of(said, longest=42)
    costs = break_costs(words, {"and"})
    parts = divide(words, costs, words[-1].end, LIMITS)
    at = itertools.accumulate(map(len, parts), initial=0)
    captions = [set_lines(part, costs[first:], LIMITS) for part, first in zip(parts, at, strict=False)]
    assert "".join("".join(captions).split()) == "".join(" ".join(texts).split())
    if all(len(text) <= 42 for text in texts):
        assert " ".join(captions).split() == texts
    for caption in captions:
        assert 1 <= len(caption.split("\n")) <= 2
        assert all(0 < len(line) <= 42 for line in caption.split("\n"))


@st.composite
def transcripts(draw: st.DrawFn) -> list[list[Word]]:
    """Segments of timed words that begin in order, and overlap now and then."""
    now, segments = 0, []
    for _ in range(draw(st.integers(1, 12))):
        begins, words = now, []
        for size in draw(st.lists(st.integers(1, 12), min_size=1, max_size=40)):
            lasts, pause = draw(st.integers(0, 900)), draw(st.sampled_from([0, 0, 0, 40, 700]))
            words.append(Word("x" * size, begins, begins + lasts))
            begins += lasts + pause
        segments.append(words)
        now = max(now, words[-1].end + draw(st.integers(-1500, 2500)))
    return segments


@given(transcripts())
def test_captions_never_overlap_and_never_stay_too_long(segments: list[list[Word]]) -> None:
    shown_until, shown = 0, []
    for words, following in itertools.zip_longest(segments, segments[1:]):
        next_start = following[0].start if following else None
        parts = divide(
            words, break_costs(words, ()), words[-1].end if next_start is None else next_start, LIMITS
        )
        times = schedule(parts, not_before=shown_until, next_start=next_start, limits=LIMITS)
        assert len(times) == len(parts)
        shown.extend(times)
        shown_until = times[-1].end
    for time in shown:
        assert 1000 <= time.end - time.start <= 7000
    for earlier, later in itertools.pairwise(shown):
        assert earlier.end <= later.start


def test_captions_are_late_by_no_more_than_the_allowed_delay_however_fast_the_speech() -> None:
    parts = [[Word("x" * 60, at * 1200, at * 1200 + 1200)] for at in range(100)]
    times = schedule(parts, not_before=0, next_start=None, limits=LIMITS)
    assert max(time.start - part[0].start for time, part in zip(times, parts, strict=True)) == 2000


def test_a_caption_is_shown_for_its_reading_time_when_there_is_room() -> None:
    words = [Word("x" * 40, 1000, 1500)]
    assert schedule([words], not_before=0, next_start=9000, limits=LIMITS) == [Shown(1000, 3000)]
    assert schedule([words], not_before=0, next_start=2500, limits=LIMITS) == [Shown(1000, 3000)]
    assert schedule([words], not_before=1200, next_start=9000, limits=LIMITS) == [Shown(1200, 3200)]


@async_test
async def test_it_keeps_what_every_plugin_promises() -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, samples=[segment(SENTENCE), {}])
