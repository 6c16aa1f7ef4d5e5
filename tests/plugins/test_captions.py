"""The captions pipeline in a real host: every word is accounted for, and every file is WebVTT."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from echo_core.testing import async_test
from plugins.running import CAPTIONS, PANEL, Outcome, create, importable, run_until_idle
from plugins.strict_webvtt import Cue, read_strictly

LINE_LENGTH = 42
# Fillers and stutters of the sample, counted by hand
FILLED = {
    "en": Counter({"um": 5, "uh": 2, "hm": 1, "i": 2, "the": 2, "a": 1}),
    "de": Counter({"ähm": 2, "äh": 1, "dann": 1}),
}


async def caption(transcript: Path, folder: Path, **source: Any) -> tuple[Outcome, dict[str, list[Cue]]]:
    """Run the pipeline over the file; what the host counted, and the cues by file."""
    overrides: dict[str, dict[str, Any]] = {name: {} for name in CAPTIONS}
    overrides["transcript_source"] = {"path": str(transcript), **source}
    overrides["webvtt_sink"] = {"directory": str(folder / "captions")}
    outcome = await run_until_idle(folder, overrides)
    return outcome, read_files(folder / "captions")


def read_files(folder: Path) -> dict[str, list[Cue]]:
    return {path.name: read_strictly(path.read_bytes()) for path in sorted(folder.glob("*.vtt"))}


def words_shown(cues: list[Cue]) -> list[str]:
    return [word for cue in cues for line in cue.lines for word in line.split()]


def missing(said: list[str], shown: list[str]) -> list[str]:
    """What was said and is not shown, without case and punctuation; all that is shown was said, in order."""
    left, result = iter(shown), []
    expected = next(left, None)
    for word in said:
        if word == expected:
            expected = next(left, None)
        else:
            result.append(word.strip(".,").lower())
    assert expected is None, f"{expected!r} is shown and was not said there"
    return result


def check_layout(cues: list[Cue]) -> None:
    """At most two lines of 42 characters, 1 to 7 seconds, never two at a time."""
    for cue in cues:
        assert len(cue.lines) <= 2, cue
        assert all(len(line) <= LINE_LENGTH for line in cue.lines), cue
        assert 1000 <= cue.end - cue.start <= 7000, cue
    for earlier, later in itertools.pairwise(cues):
        assert earlier.end <= later.start, (earlier, later)


def check_counts(outcome: Outcome) -> None:
    """What one plugin made is what the next one got, and everything ended."""
    for name, plugin in outcome.plugins.items():
        assert plugin.received == plugin.processed + plugin.filtered + plugin.dead_lettered, name
        assert (plugin.queue, plugin.in_hand, plugin.reason) == (0, 0, ""), name
    stages = [outcome.plugins[name] for name in CAPTIONS]
    for before, after in itertools.pairwise(stages):
        assert before.published == after.received


@async_test
async def test_every_word_of_the_panel_is_in_a_file_or_accounted_for(tmp_path: Path) -> None:
    outcome, files = await caption(PANEL, tmp_path)
    check_counts(outcome)

    # Every word that was said, and is not a filler or a stutter, stands in the file of its language, in order
    said: dict[str, list[str]] = {"en": [], "de": []}
    for line in PANEL.read_text(encoding="utf-8").splitlines():
        if '"words"' in line:
            segment = json.loads(line)
            said[segment["language"]] += segment["text"].split()
    assert sorted(files) == ["panel.de.vtt", "panel.en.vtt"]
    for language, words in said.items():
        cues = files[f"panel.{language}.vtt"]
        check_layout(cues)
        assert Counter(missing(words, words_shown(cues))) == FILLED[language]
    assert outcome.plugins["filler_filter"].filtered == 2, "one speaker only says Um, another only Hm"

    # And what is no segment stands among the dead letters, each with its reason
    assert sorted(letter.reason.removeprefix("FAILED: ") for letter in outcome.dead_letters) == [
        "end 58.2 is before start 61.84",
        "it lasts 99,000 s, more than 600 s",
        "language '??' is not a language tag like en or pt-BR",
        "line 40: not JSON: Unterminated string starting at column 40",
        "start '07:01' is not a number of seconds; end '07:03' is not a number of seconds",
        "text is empty",
    ]
    assert {letter.plugin for letter in outcome.dead_letters} == {"transcript_validator"}


@async_test
async def test_the_panel_is_comfortable_to_read(tmp_path: Path) -> None:
    _, files = await caption(PANEL, tmp_path)
    cues = [cue for file in files.values() for cue in file]
    speeds = [len(" ".join(cue.lines)) * 1000 / (cue.end - cue.start) for cue in cues]
    assert max(speeds) <= 20
    assert all(cue.speaker for cue in cues)
    two = [cue.lines for cue in cues if len(cue.lines) == 2]
    fair = [lines for lines in two if 2 * min(map(len, lines)) >= max(map(len, lines))]
    assert len(fair) >= 0.9 * len(two), "lines are balanced"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@async_test
async def test_a_nasty_subtitle_file_comes_out_whole(tmp_path: Path, encoding: str, line_end: str) -> None:
    original = PANEL.with_name("nasty.srt").read_text(encoding="utf-8")
    transcript = tmp_path / "nasty.srt"
    transcript.write_bytes(original.replace("\n", line_end).encode(encoding))
    outcome, files = await caption(transcript, tmp_path)
    check_counts(outcome)
    assert outcome.dead_letters == []
    cues = files["nasty.en.vtt"]
    check_layout(cues)
    without_markup = re.sub(r"</?b>|</?font[^>]*>|<v Host>|{.an8}", "", original)
    without_times = re.sub(r"^\d\n00:.*\n", "", without_markup, flags=re.MULTILINE)
    assert "".join(words_shown(cues)) == "".join(without_times.split())
    assert {cue.speaker for cue in cues} == {"", "Host"}


@async_test
async def test_of_a_nasty_webvtt_file_the_good_is_shown_and_the_broken_is_explained(tmp_path: Path) -> None:
    outcome, files = await caption(PANEL.with_name("nasty.vtt"), tmp_path)
    check_counts(outcome)
    cues = files["nasty.de.vtt"]
    check_layout(cues)
    assert [(cue.speaker, " ".join(cue.lines)) for cue in cues] == [
        ("Müllerin", "Guten Abend & guten Weg."),
        ("Deichmeister", "Darf ich?"),
        ("Müllerin", "Bitte."),
        ("", "Sehr spät."),
    ]
    assert sorted(letter.reason.removeprefix("FAILED: ") for letter in outcome.dead_letters) == [
        "end 11.0 is before start 12.0",
        "line 20: no cue times: '00:07.000 -> 00:08.000'",
        "line 23: no cue times: '00:09.000 --> bald'",
        "line 31: text without cue times",
        "text is empty",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "it is empty"), (bytes(range(256)) * 8, "binary, not text"), (None, "No such file")],
    ids=["empty", "binary", "missing"],
)
@async_test
async def test_what_is_no_transcript_fails_the_source_with_the_reason_and_nothing_else(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    transcript = tmp_path / "broken.srt"
    if content is not None:
        transcript.write_bytes(content)
    outcome, files = await caption(transcript, tmp_path)
    assert reason in outcome.plugins["transcript_source"].reason
    assert str(transcript) in outcome.plugins["transcript_source"].reason
    assert all(not plugin.reason for name, plugin in outcome.plugins.items() if name != "transcript_source")
    assert files == {}


@async_test
async def test_the_same_transcript_gives_the_same_files(tmp_path: Path) -> None:
    _, first = await caption(PANEL, tmp_path / "first")
    _, again = await caption(PANEL, tmp_path / "again")
    assert first == again


def test_the_sample_is_what_its_script_makes(tmp_path: Path) -> None:
    script = PANEL.with_name("make_panel.py")
    scope: dict[str, Any] = {"__name__": "make_panel", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), scope)  # noqa: S102 (our own script)
    text = script.with_name("panel.txt").read_text(encoding="utf-8")
    assert "\n".join(scope["lines"](text)) + "\n" == PANEL.read_text(encoding="utf-8")


def test_the_sample_is_more_than_ten_minutes_of_two_languages_with_word_times_and_faults() -> None:
    lines = PANEL.read_text(encoding="utf-8").splitlines()
    good = [json.loads(line) for line in lines if '"words"' in line]
    assert good[-1]["end"] > 600
    assert len(lines) - len(good) == 6
    spoken = Counter[str]()
    for segment in good:
        assert [word["text"] for word in segment["words"]] == segment["text"].split()
        spoken[segment["language"]] += round(segment["end"] - segment["start"])
    assert min(spoken["en"], spoken["de"]) > 180
    assert len({segment["speaker"] for segment in good}) == 6


def test_a_plugin_that_was_imported_for_a_test_is_forgotten_after_it() -> None:
    with importable("language_router"):
        first = create("language_router")
    with importable("language_router"):
        assert type(create("language_router")) is not type(first)
