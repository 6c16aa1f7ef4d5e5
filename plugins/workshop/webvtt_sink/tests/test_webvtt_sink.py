import json
from pathlib import Path
from typing import Any

import pytest
from webvtt_sink import create_plugin
from webvtt_sink.files import CaptionFile, file_name
from webvtt_sink.webvtt import cue_of, read_cues, render, timestamp

from echo_core import BaseMessage, PluginError
from echo_core.testing import PluginHarness, async_test, check_plugin_contract


def caption(number: int, start: float | None = None, **more: Any) -> dict[str, Any]:
    begins = float(number) if start is None else start
    names = {"caption": f"talk-{number}.1", "transcript": "talk", "language": "en"}
    return {**names, "start": begins, "end": begins + 1, "text": f"caption {number}", **more}


END = {"transcript": "talk", "language": "en", "complete": True}


def sink(folder: Path, **config: Any) -> PluginHarness:
    rare = {"every": 1000, "at_least_every_s": 1000}
    return PluginHarness(
        create_plugin(), config={"directory": str(folder), **rare, **config}, topic="captions.en"
    )


def test_a_file_is_webvtt_to_the_letter() -> None:
    captions = [
        caption(2, speaker="Ferry\npilot > all", text="Bread & <butter>\nand --> here"),
        caption(1, start=3661.5),
    ]
    assert render(map(cue_of, captions)) == (
        "WEBVTT\n"
        "\n"
        "talk-2.1\n"
        "00:00:02.000 --> 00:00:03.000\n"
        "<v Ferry pilot &gt; all>Bread &amp; &lt;butter&gt;\n"
        "and --&gt; here</v>\n"
        "\n"
        "talk-1.1\n"
        "01:01:01.500 --> 01:01:02.500\n"
        "caption 1\n"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00:00.000"),
        (0.0005, "00:00:00.000"),
        (1.9996, "00:00:02.000"),
        (59.9996, "00:01:00.000"),
        (3599.9999, "01:00:00.000"),
        (360000.25, "100:00:00.250"),
    ],
)
def test_times_are_rounded_to_milliseconds_and_carry_over(seconds: float, text: str) -> None:
    assert timestamp(seconds) == text


def test_neither_an_empty_line_nor_an_arrow_can_break_a_cue() -> None:
    (header, cue) = render([cue_of(caption(1, text="one\n\n \ntwo\0", caption="a --> b\nc"))]).split("\n\n")
    assert header == "WEBVTT"
    assert cue.split("\n") == ["a - b c", "00:00:01.000 --> 00:00:02.000", "one", "two\ufffd", ""]


@async_test
async def test_captions_are_sorted_into_a_file_a_transcript_and_language(tmp_path: Path) -> None:
    async with sink(tmp_path / "made" / "for it") as harness:
        for each in (caption(3), caption(1), caption(2, language="de"), caption(1, transcript="other")):
            await harness.handle(each)
    folder = tmp_path / "made" / "for it"
    files = {path.name: path.read_text() for path in folder.glob("*.vtt")}
    assert sorted(files) == ["other.en.vtt", "talk.de.vtt", "talk.en.vtt"]
    assert files["talk.en.vtt"].index("caption 1") < files["talk.en.vtt"].index("caption 3")
    assert "caption 2" in files["talk.de.vtt"]


@async_test
async def test_a_caption_that_comes_again_is_written_once(tmp_path: Path) -> None:
    nameless = BaseMessage(source="test", data={"start": 5, "end": 6, "text": "no name", "language": "en"})
    async with sink(tmp_path) as harness:
        for each in (caption(1), caption(1), nameless, nameless):
            await harness.handle(each)
    assert (tmp_path / "talk.en.vtt").read_text().count("caption 1") == 1
    assert (tmp_path / "captions.en.vtt").read_text().count("no name") == 1


@async_test
async def test_the_end_of_a_transcript_finishes_its_file_and_removes_the_journal(tmp_path: Path) -> None:
    def files() -> list[str]:
        return sorted(path.name for path in tmp_path.iterdir())

    async with sink(tmp_path) as harness:
        await harness.handle(caption(1))
        assert files() == ["talk.en.vtt.journal"]
        await harness.handle(END)
        assert files() == ["talk.en.vtt"]
        await harness.handle(caption(2))
    text = (tmp_path / "talk.en.vtt").read_text()
    assert text.count("-->") == 2, "what comes late is added, not written over the rest"


@async_test
async def test_a_new_run_begins_anew_after_a_complete_one(tmp_path: Path) -> None:
    async with sink(tmp_path) as harness:
        await harness.handle(caption(1))
        await harness.handle(END)
    async with sink(tmp_path) as harness:
        await harness.handle(caption(2))
        await harness.handle(END)
    assert "caption 1" not in (tmp_path / "talk.en.vtt").read_text()


def of_edition(edition: str, *captions: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**each, "edition": edition} for each in captions]


@async_test
async def test_what_comes_again_after_the_end_finds_itself_in_the_file(tmp_path: Path) -> None:
    captions = of_edition("one", caption(1, text="a & b", speaker="Ann"), caption(2), caption(3), END)
    async with sink(tmp_path) as harness:
        for each in captions:
            await harness.handle(each)
    whole, journal = (tmp_path / "talk.en.vtt").read_text(), tmp_path / "talk.en.vtt.journal"
    for again in (captions[2:], captions[1:], captions[3:]):
        async with sink(tmp_path) as harness:
            for each in again:
                await harness.handle(each)
        assert (tmp_path / "talk.en.vtt").read_text() == whole
        assert not journal.exists()


def test_a_process_that_dies_after_the_end_loses_nothing_of_the_file(tmp_path: Path) -> None:
    def opened() -> CaptionFile:
        file = CaptionFile(tmp_path / "talk.en.vtt", every=1000, at_least_every_s=1000)
        assert file.belongs("one")
        return file

    one, two, other_times = of_edition("one", caption(1), caption(2), caption(2, end=2.5))
    first = opened()
    first.add("talk-1.1", one)
    first.add("talk-2.1", two)
    first.complete()
    opened().add("talk-2.1", other_times)  # and dies
    last = opened()
    last.write()
    text = (tmp_path / "talk.en.vtt").read_text()
    assert text.count("-->") == 2
    assert "00:00:02.000 --> 00:00:02.500" in text


@async_test
async def test_another_edition_begins_the_file_anew_and_an_earlier_one_is_too_late(tmp_path: Path) -> None:
    async with sink(tmp_path) as harness:
        for each in of_edition("one", caption(1), caption(2), END):
            await harness.handle(each)
        for each in of_edition("two", caption(3)):
            await harness.handle(each)
        for each in of_edition("one", caption(1)):
            await harness.handle(each)
    async with sink(tmp_path) as harness:  # what was kept for a host that died comes late
        for each in of_edition("one", caption(2), END):
            await harness.handle(each)
        for each in of_edition("two", caption(4)):
            await harness.handle(each)
    text = (tmp_path / "talk.en.vtt").read_text()
    assert text.count("-->") == 2
    assert "caption 3" in text
    assert "caption 4" in text


def test_what_is_read_from_a_file_is_what_was_written() -> None:
    cues = [cue_of(caption(number, speaker="A & B", text="x\ny")) for number in (1, 2)]
    assert list(read_cues(render(cues)).values()) == cues
    assert read_cues("") == {}


def test_a_process_that_dies_loses_no_caption(tmp_path: Path) -> None:
    def opened() -> CaptionFile:
        return CaptionFile(tmp_path / "talk.en.vtt", every=1000, at_least_every_s=1000)

    dying = opened()
    dying.add("1", caption(1))
    dying.add("2", caption(2))
    with (tmp_path / "talk.en.vtt.journal").open("a") as journal:
        journal.write('\n["3", {"capt')
    next_one = opened()
    next_one.add("3", caption(3))
    next_one.write()
    assert (tmp_path / "talk.en.vtt").read_text().count("-->") == 3
    assert len(opened()) == 3


def test_the_file_is_written_after_so_many_captions_or_so_much_time(tmp_path: Path) -> None:
    now = 0.0
    path = tmp_path / "talk.en.vtt"
    file = CaptionFile(path, every=3, at_least_every_s=10, monotonic=lambda: now)

    def written() -> int:
        return path.read_text().count("-->") if path.exists() else 0

    seen = []
    for number in range(1, 6):
        file.add(str(number), caption(number))
        seen.append(written())
    now = 10.0
    file.add("6", caption(6))
    assert [*seen, written()] == [0, 0, 3, 3, 3, 6]


def test_a_long_file_is_written_anew_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CaptionFile(tmp_path / "talk.en.vtt", every=2, at_least_every_s=1000)
    rendered: list[int] = []
    monkeypatch.setattr("webvtt_sink.files.render", lambda captions: rendered.append(len(captions)) or "")
    for number in range(2_000):
        file.add(str(number), caption(number))
    assert rendered[:3] == [2, 4, 6]
    assert sum(rendered) < 30 * 2_000, "all writing together costs a multiple of the file, not its square"


def test_a_reader_finds_the_old_file_or_the_new_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "talk.en.vtt"
    file = CaptionFile(path, every=1, at_least_every_s=0)
    file.add("1", caption(1))
    with path.open() as reader:
        file.add("2", caption(2))
        assert reader.read().count("-->") == 1, "a file that is being read is not changed under the reader"
    assert path.read_text().count("-->") == 2
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    ("transcript", "language", "name"),
    [
        ("talk", "en", "talk.en.vtt"),
        ("../../etc/passwd", "en", "_.._etc_passwd.en.vtt"),
        ("a/b\\c:d\0e", "pt-BR", "a_b_c_d_e.pt-BR.vtt"),
        ("Gespräch 3", "de", "Gespräch 3.de.vtt"),
        ("...", "", "captions.und.vtt"),
        ("x" * 500, "en", "x" * 200 + ".en.vtt"),
    ],
)
def test_a_name_never_leads_out_of_the_folder(transcript: str, language: str, name: str) -> None:
    assert file_name(transcript, language) == name


@async_test
async def test_a_folder_that_cannot_be_made_is_refused_at_init(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PluginError, match="captions cannot be written") as refused:
        async with sink(tmp_path / "file"):
            pass
    assert refused.value.where == str(tmp_path / "file")


@async_test
async def test_the_journal_is_readable_by_people(tmp_path: Path) -> None:
    async with sink(tmp_path) as harness:
        await harness.handle(caption(1, text="Größe"))
    line = (tmp_path / "talk.en.vtt.journal").read_text(encoding="utf-8").strip()
    assert "Größe" in line
    assert json.loads(line)[0] == "talk-1.1"


@async_test
async def test_it_keeps_what_every_plugin_promises(tmp_path: Path) -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(
        create_plugin, manifest, config={"directory": str(tmp_path)}, samples=[caption(1), END, {}]
    )
