import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transcript_source import TranscriptSource, create_plugin
from transcript_source.segments import gather
from transcript_source.subtitles import read_subrip, read_webvtt

from echo_core import PluginError
from echo_core.testing import PluginHarness, async_test, check_plugin_contract

SUBRIP = """1
00:00:01,000 --> 00:00:03,000
Hello <i>there</i>
on two lines

2
00:00:02,500 --> 00:00:05,000
{\\an8}Overlapping
"""

WEBVTT = """WEBVTT - a title
Kind: captions
Language: de

STYLE
::cue { color: red }

NOTE
spoken by nobody

intro
00:01.000 --> 00:03.000 align:start
<v Anna Lee>Hello <b>you</b> &amp; &lt;me&gt;

00:00:04.000 --> 00:00:06.000
<v.loud Bob>One two</v> <c.yellow>three</c>
"""


async def read(path: Path, **config: Any) -> list[Mapping[str, Any]]:
    """What the source publishes of the file."""
    async with PluginHarness(create_plugin(), config={"path": str(path), **config}) as harness:
        await harness.run_source()
        assert {publication.topic for publication in harness.published} <= {"transcript.raw"}
        return harness.data


def write(folder: Path, content: str | bytes, name: str = "talk.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(data: list[Mapping[str, Any]]) -> list[str]:
    return [segment["text"] for segment in data if "text" in segment]


@async_test
async def test_subrip_becomes_segments_without_markup(tmp_path: Path) -> None:
    first, second, complete = await read(write(tmp_path, SUBRIP))
    edition = first["edition"]
    assert first == {
        "transcript": "talk",
        "edition": edition,
        "segment": "talk-00001",
        "language": "en",
        "start": 1.0,
        "end": 3.0,
        "text": "Hello there on two lines",
        "next_start": 2.5,
    }
    assert (second["text"], second["start"], second["end"]) == ("Overlapping", 2.5, 5.0)
    assert complete == {"transcript": "talk", "language": "en", "complete": True, "edition": edition}


@async_test
async def test_webvtt_gives_speakers_and_its_own_language_and_no_notes(tmp_path: Path) -> None:
    data = await read(write(tmp_path, WEBVTT))
    assert [(segment.get("speaker"), segment.get("text")) for segment in data] == [
        ("Anna Lee", "Hello you & <me>"),
        ("Bob", "One two"),
        (None, "three"),
        (None, None),
    ]
    assert {segment["language"] for segment in data} == {"de"}


@async_test
async def test_two_speakers_in_one_cue_share_its_time_by_what_they_say(tmp_path: Path) -> None:
    cue = "WEBVTT\n\n00:10.000 --> 00:14.000\n<v Ann>Yes</v>\n<v Ben>Certainly"
    ann, ben, _ = await read(write(tmp_path, cue))
    assert (ann["start"], ann["end"], ben["start"], ben["end"]) == (10.0, 11.0, 11.0, 14.0)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@async_test
async def test_the_same_text_comes_out_of_every_encoding_and_line_end(
    tmp_path: Path, encoding: str, line_end: str
) -> None:
    content = SUBRIP.replace("there", "dört").replace("dört", "dôrt").replace("\n", line_end)
    data = await read(write(tmp_path, content.encode(encoding)))
    assert texts(data) == ["Hello dôrt on two lines", "Overlapping"]


@async_test
async def test_a_named_encoding_wins(tmp_path: Path) -> None:
    content = SUBRIP.replace("there", "źle").encode("cp1250")
    assert texts(await read(write(tmp_path, content), encoding="cp1250"))[0] == "Hello źle on two lines"


@async_test
async def test_the_content_decides_the_format_and_not_the_name(tmp_path: Path) -> None:
    assert len(texts(await read(write(tmp_path, WEBVTT, "wrong.srt")))) == 3
    assert len(texts(await read(write(tmp_path, SUBRIP, "wrong.jsonl")))) == 2
    line = json.dumps({"start": 0, "end": 2, "text": "at 00:00:01,000 --> 00:00:02,000"})
    assert len(texts(await read(write(tmp_path, line, "wrong.vtt")))) == 1


BROKEN_CUES = """00:00:01.000 --> 00:00:02.000
good one

00:00:03.000 -> 00:00:04.000
an arrow too short

00:00:05.000 --> later
no time

00:00:07.000 --> 00:00:06.000
backwards

00:00:08.000 --> 00:00:09.000

00:00:10.000 --> 00:00:11.000
good two
"""


@pytest.mark.parametrize("header", ["WEBVTT\n\n", ""], ids=["webvtt", "subrip"])
@async_test
async def test_a_broken_cue_harms_no_other_and_is_published_with_its_line(
    tmp_path: Path, header: str
) -> None:
    data = await read(write(tmp_path, header + BROKEN_CUES))
    assert texts(data) == ["good one", "backwards", "", "good two"]
    lines = header.count("\n")
    assert [(segment["line"], segment["raw"].split("\n")[-1]) for segment in data if "fault" in segment] == [
        (lines + 4, "an arrow too short"),
        (lines + 7, "no time"),
    ]


@async_test
async def test_text_without_times_is_a_fault_in_webvtt(tmp_path: Path) -> None:
    stray = "WEBVTT\n\n00:01.000 --> 00:02.000\ngood\n\nwhere do I\nbelong\n\nNOTE\nnowhere\n"
    good, fault, _ = await read(write(tmp_path, stray))
    assert good["text"] == "good"
    assert (fault["raw"], fault["fault"], fault["line"]) == (
        "where do I\nbelong",
        "text without cue times",
        6,
    )


@pytest.mark.parametrize(
    "cues",
    [
        "1\n00:00:01,000 --> 00:00:02,000\none\n\nstill one\n\n2\n00:00:03,000 --> 00:00:04,000\ntwo",
        "00:00:01,000 --> 00:00:02,000\none still one\n00:00:03,000 --> 00:00:04,000\ntwo",
        "1\n00:00:01,000 --> 00:00:02,000\none still one\n2\n00:00:03,000 --> 00:00:04,000\ntwo",
        "1\n\n00:00:01,000 --> 00:00:02,000\none\nstill one\n\n2\n\n00:00:03,000 --> 00:00:04,000\ntwo",
        "1\n0:0:1,5 --> 0:0:2,25\none still one\n \n2\n00:00:03.000 --> 00:00:04.000\ntwo",
    ],
    ids=["blank line in text", "no indexes", "no blank lines", "blank line below index", "sloppy times"],
)
@async_test
async def test_careless_subrip_is_understood(tmp_path: Path, cues: str) -> None:
    assert texts(await read(write(tmp_path, cues))) == ["one still one", "two"]


@pytest.mark.parametrize(
    "said",
    ["How many?\n42", "a < b and c > d", "turn left --> here", "<LAUGHING> ha", "AT&T &amp; co", "{music}"],
)
@async_test
async def test_what_only_looks_like_markup_is_kept_in_subrip(tmp_path: Path, said: str) -> None:
    cue = f"1\n00:00:01,000 --> 00:00:02,500\n{said}\n\n2\n00:00:03,000 --> 00:00:04,000\nnext\n"
    assert texts(await read(write(tmp_path, cue))) == [" ".join(said.split()), "next"]


@async_test
async def test_json_lines_keep_word_times_and_broken_lines_become_faults(tmp_path: Path) -> None:
    words = [{"word": " Hi", "start": 0.0, "end": 0.4}, {"word": " you", "start": 0.5, "end": 1.0}]
    lines = [
        json.dumps({"start": 0.0, "end": 1.0, "text": "Hi you", "speaker": "A", "words": words}),
        '{"start": 1.2, "en',
        "[1, 2]",
        json.dumps({"start": 2.0, "end": 3.0, "text": ["no", "text"]}),
        '{"start": 3.0, "end": 4.0, "text": "half \\ud83d"}',
        "",
        json.dumps({"start": 5.0, "end": 6.5, "text": "Hi there", "words": words, "language": "fr"}),
    ]
    data = await read(write(tmp_path, "\n".join(lines)))
    assert data[0]["words"] == [
        {"text": "Hi", "start": 0.0, "end": 0.4},
        {"text": "you", "start": 0.5, "end": 1.0},
    ]
    assert [(fault["line"], fault["fault"]) for fault in data if "fault" in fault] == [
        (2, "not JSON: Unterminated string starting at column 16"),
        (3, "a line must be a JSON object"),
        (4, "text must not be an object or an array"),
        (5, "half of a surrogate pair is no character"),
    ]
    assert "words" not in data[5], "times of other words are no times for these"
    assert [end["language"] for end in data if end.get("complete")] == ["en", "fr"]


@async_test
async def test_numbers_that_no_message_can_carry_do_not_stop_the_source(tmp_path: Path) -> None:
    lines = [
        '{"start": 1, "end": %s, "text": "long"}' % ("9" * 400),
        '{"start": NaN, "end": 1e999, "text": "never"}',
        '{"start": 2, "end": 3.5, "text": "fine"}',
    ]
    data = await read(write(tmp_path, "\n".join(lines)))
    assert texts(data) == ["long", "never", "fine"]


@async_test
async def test_single_words_are_gathered_into_sentences(tmp_path: Path) -> None:
    said = [
        ("So", 0.0, "A"), ("it", 0.3, "A"), ("is.", 0.5, "A"), ("Good.", 0.9, "A"),
        ("Why", 1.2, "B"), ("not", 3.0, "B"),
    ]  # fmt: skip
    lines = [
        json.dumps({"word": word, "start": start, "end": start + 0.2, "speaker": speaker})
        for word, start, speaker in said
    ]
    data = await read(write(tmp_path, "\n".join(lines)))
    assert texts(data) == ["So it is.", "Good.", "Why", "not"], "sentence, speaker and silence end a segment"
    assert [word["start"] for word in data[0]["words"]] == [0.0, 0.3, 0.5]


def test_gathering_loses_and_reorders_nothing() -> None:
    entries: list[dict[str, Any]] = [
        {"start": at / 10, "end": at / 10 + 0.1, "text": f"w{at}", "fragment": at % 3 > 0} for at in range(90)
    ]
    entries.insert(40, {"raw": "?", "fault": "broken", "line": 1})
    entries.insert(60, {"start": "x", "end": 1, "text": "bad", "fragment": True})
    gathered = list(gather(entries, pause_s=0.5))
    assert " ".join(entry.get("text", "?") for entry in gathered).split() == [
        entry.get("text", "?") for entry in entries
    ]
    assert len(gathered) < len(entries)
    assert not any("fragment" in entry for entry in gathered)


@async_test
async def test_segments_come_in_order_of_time_and_know_when_their_language_goes_on(tmp_path: Path) -> None:
    lines = [
        {"start": 9, "end": 11, "text": "last", "language": "en"},
        {"start": 0, "end": 2, "text": "first", "language": "en"},
        {"start": 8, "end": 4, "text": "backwards", "language": "en"},
        {"start": 4, "end": 6, "text": "anders", "language": "de"},
    ]
    data = await read(write(tmp_path, "\n".join(map(json.dumps, lines))))
    assert [(segment["text"], segment.get("next_start")) for segment in data[:4]] == [
        ("first", 9),
        ("backwards", None),
        ("anders", None),
        ("last", None),
    ]
    assert [segment["segment"] for segment in data[:4]] == [
        "talk-00002",
        "talk-00003",
        "talk-00004",
        "talk-00001",
    ], "the id is the place in the file"


LINES = st.sampled_from(
    [
        "7",
        "00:00:01,000 --> 00:00:02,000",
        "00:00:03.000 --> 00:00:04.500 align:start",
        "01:02.000-->01:03.000",
        "00:00:05,000 -> 00:00:06,000",
        "00:00:07,000 --> soon",
        "",
        " ",
        "it says --> here",
        "<v Ann>one <i>word</i>",
        "two &lt; three",
        "42 {\\an8}four",
    ]
)
SAID = frozenset({"it", "says", "here", "one", "word", "two", "three", "four"})


def said_in(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for word in re.findall(r"[a-z]+", " ".join(texts)) if word in SAID)


@given(st.lists(LINES, max_size=25))
def test_every_word_of_any_subrip_is_in_a_segment_or_a_fault(lines: list[str]) -> None:
    entries = list(read_subrip("\n".join(lines)))
    assert said_in(entry.get("text") or entry.get("raw", "") for entry in entries) == said_in(lines)
    assert all(0 < entry["line"] <= len(lines) for entry in entries if "fault" in entry)


@given(st.lists(LINES, max_size=25))
def test_every_word_of_any_webvtt_is_in_a_segment_or_a_fault_or_names_a_cue(lines: list[str]) -> None:
    entries = list(read_webvtt("\n".join(["WEBVTT", "", *lines])))
    read = said_in(entry.get("text") or entry.get("raw", "") for entry in entries)
    names = [
        line
        for before, line, after in zip(["", *lines], lines, lines[1:], strict=False)
        if not before.strip() and ("-->" in after or "->" in after)
    ]
    assert read <= said_in(lines)
    assert said_in(lines) - read <= said_in(names)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b" \r\n\n", "it is empty"),
        (bytes(range(256)) * 20, "binary"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
        (b"\xff\xfea\x00\x00\xd8", "not text in utf-16"),
        (b"Dear diary,\ntoday", "begins with 'Dear diary"),
        (b'{"segments": [\n{"start": 1,\n"end": 2}\n]}', "neither WebVTT, SubRip nor JSON Lines"),
    ],
    ids=["empty", "blank", "bytes", "image", "damaged utf-16", "prose", "one JSON document"],
)
@async_test
async def test_what_is_no_transcript_is_refused_at_init_with_the_file_and_the_reason(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PluginError) as refused:
        await read(path)
    assert refused.value.where == str(path)
    assert reason in refused.value.why
    assert refused.value.fix


@async_test
async def test_a_missing_file_no_file_and_a_large_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="No such file"):
        await read(tmp_path / "nowhere.srt")
    with pytest.raises(PluginError, match="Is a directory"):
        await read(tmp_path)
    with pytest.raises(PluginError, match="set path"):
        async with PluginHarness(create_plugin()):
            pass
    with pytest.raises(PluginError, match="more than max_bytes"):
        await read(write(tmp_path, SUBRIP), max_bytes=10)
    with pytest.raises(PluginError, match="knows no encoding 'klingon'"):
        await read(write(tmp_path, SUBRIP), encoding="klingon")


@async_test
async def test_at_a_speed_each_segment_comes_when_it_has_been_spoken(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    plugin = TranscriptSource(sleep=sleep, monotonic=lambda: 100 + sum(waits))
    config = {"path": str(write(tmp_path, SUBRIP)), "speed": 2}
    async with PluginHarness(plugin, config=config) as harness:
        await harness.run_source()
    assert waits == [1.5, 1.0], "the segments end at 3 and 5 seconds, and time runs twice as fast"


@async_test
async def test_a_segment_with_a_wrong_end_does_not_hold_back_those_after_it(tmp_path: Path) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    lines = ({"start": 1, "end": 99_000, "text": "endless"}, {"start": 2, "end": 5, "text": "next"})
    path = write(tmp_path, "\n".join(map(json.dumps, lines)), "talk.jsonl")
    plugin = TranscriptSource(sleep=sleep, monotonic=lambda: now)
    async with PluginHarness(plugin, config={"path": str(path), "speed": 1}) as harness:
        await harness.run_source()
        assert [data.get("text") for data in harness.data] == ["endless", "next", None]
    assert now == 61, "a minute after it began, and not after 27 hours"


@async_test
async def test_it_goes_on_after_what_was_published_with_the_same_messages(tmp_path: Path) -> None:
    config = {"path": str(write(tmp_path, SUBRIP))}
    async with PluginHarness(create_plugin(), config=config) as whole:
        await whole.run_source()
    for at, state in enumerate(whole.states, start=1):
        async with PluginHarness(create_plugin(), config=config, state=state) as harness:
            await harness.run_source()
        assert harness.data == whole.data[at:]
        assert [each.message.id for each in harness.published] == [
            each.message.id for each in whole.published[at:]
        ]
    assert "was published whole" in harness.logs()[-1].body


@async_test
async def test_another_transcript_is_published_from_its_beginning(tmp_path: Path) -> None:
    state = {"edition": "of another", "next": 2}
    config = {"path": str(write(tmp_path, SUBRIP))}
    async with PluginHarness(create_plugin(), config=config, state=state) as harness:
        await harness.run_source()
        assert len(harness.data) == 3


@async_test
async def test_at_a_speed_it_goes_on_from_where_it_was(tmp_path: Path) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    config = {"path": str(write(tmp_path, SUBRIP)), "speed": 1}
    async with PluginHarness(create_plugin(), config=config) as whole:
        await whole.run_source(limit=1)
    plugin = TranscriptSource(sleep=sleep, monotonic=lambda: 100 + sum(waits))
    async with PluginHarness(plugin, config=config, state=whole.states[0]) as harness:
        await harness.run_source()
    assert waits == [2.5], "the second segment, from 2.5 to 5 seconds, is spoken from its beginning"


@async_test
async def test_it_keeps_what_every_plugin_promises(tmp_path: Path) -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, config={"path": str(write(tmp_path, SUBRIP))})
