"""WebVTT and SubRip, cue by cue.

Where cues begin is found here, and each is read by webvtt-py on its own: a broken cue then costs no
other one and is reported with its line, where a reader of whole files skips it silently or gives up.
To that reader a SubRip cue is a WebVTT cue with a decimal comma.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import webvtt

from transcript_source.markup import speeches

_ARROW: Final = "-->"
_TIMES: Final = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d{1,2}[.,]\d+\s*-+>")
_COMMA: Final = re.compile(r"(:\d{1,2}),(\d)")
_NO_SPEECH: Final = re.compile(r"(?:NOTE|STYLE|REGION)(?:[ \t]|$)")


class _Cue(NamedTuple):
    """Where a cue stands: its first line (an identifier, or its times), its times, and what follows it."""

    head: int
    times: int
    stop: int


def looks_like_times(line: str) -> bool:
    """Whether the line is meant to be a cue's times, well-formed or not."""
    return bool(_TIMES.match(line))


def read_webvtt(text: str) -> Iterator[dict[str, Any]]:
    """The cues of a WebVTT file, and a fault for each block that is none; notes and styles are no speech."""
    lines = text.split("\n")
    cues = _find_cues(lines, named=True)
    header = lines.index("") if "" in lines else len(lines)
    yield from _text_without_times(lines, header, cues[0].head if cues else len(lines))
    for cue in cues:
        end = next((at for at in range(cue.times + 1, cue.stop) if lines[at] == ""), cue.stop)
        yield from _read_cue(lines, cue._replace(stop=end), escapes=True)
        yield from _text_without_times(lines, end, cue.stop)


def read_subrip(text: str) -> Iterator[dict[str, Any]]:
    """The cues of a SubRip file, and a fault for each block that is none.

    Text after an empty line still belongs to the cue before it: SubRip has no way to say otherwise.
    """
    lines = text.split("\n")
    cues = _find_cues(lines, named=False)
    yield from _text_without_times(lines, 0, cues[0].head if cues else len(lines))
    for cue in cues:
        yield from _read_cue(lines, cue, escapes=False)


def _find_cues(lines: list[str], *, named: bool) -> list[_Cue]:
    """The cues; `named` if any text may identify one, and not a number only."""
    heads = []
    after = 0  # the line after the last cue's times: no identifier stands above it
    for at, line in enumerate(lines):
        head = _identifier(lines, at, after, named)
        begins_block = at == 0 or not lines[at - 1].strip() or head < at
        if looks_like_times(line) or (_ARROW in line and begins_block):
            heads.append((head, at))
            after = at + 1
    stops = itertools.chain((head for head, _ in heads[1:]), (len(lines),))
    return [_Cue(head, times, stop) for (head, times), stop in zip(heads, stops, strict=False)]


def _identifier(lines: list[str], times: int, after: int, named: bool) -> int:
    """The line of the identifier of the cue with these times, or `times` if it has none.

    A name stands directly above and alone. A number (SubRip's index) need not be alone, and may have
    an empty line below it, as careless editors leave it.
    """

    def is_alone(at: int) -> bool:
        return at == 0 or not lines[at - 1].strip()

    above, further = times - 1, times - 2
    if above >= after and lines[above].strip():
        is_name = named and is_alone(above)
        return above if is_name or lines[above].strip().isdigit() else times
    if further >= after and lines[further].strip().isdigit() and is_alone(further):
        return further
    return times


def _read_cue(lines: list[str], cue: _Cue, *, escapes: bool) -> Iterator[dict[str, Any]]:
    """The cue's segments, one a speaker; or a fault."""
    times = _COMMA.sub(r"\1.\2", lines[cue.times])
    # An arrow within the text would begin another cue; WebVTT writes it with an escape.
    said = [line.replace(_ARROW, "--&gt;") for line in lines[cue.times + 1 : cue.stop] if line.strip()]
    captions = webvtt.from_string("\n".join(["WEBVTT", "", times, *said])).captions
    if not captions:
        yield _fault(lines, cue.head, cue.stop, f"no cue times: {lines[cue.times].strip()!r}")
        return
    caption = captions[0]
    raw = caption.raw_text if escapes else caption.raw_text.replace("--&gt;", _ARROW)
    start, end = (time.in_milliseconds() / 1000 for time in (caption.start_time, caption.end_time))
    spoken = speeches(raw, escapes=escapes)
    bounds = _shares(start, end, [len(speech.text) for speech in spoken])
    for speech, (begins, ends) in zip(spoken, itertools.pairwise(bounds), strict=True):
        entry = {"start": begins, "end": ends, "text": speech.text}
        yield entry | {"speaker": speech.speaker} if speech.speaker else entry


def _shares(start: float, end: float, sizes: list[int]) -> list[float]:
    """The moments that divide the time from `start` to `end` in proportion to `sizes`."""
    total = sum(sizes) or 1
    inner = [start + (end - start) * done / total for done in itertools.accumulate(sizes[:-1])]
    return [start, *(round(moment, 3) for moment in inner), end]


def _text_without_times(lines: list[str], start: int, stop: int) -> Iterator[dict[str, Any]]:
    """A fault for each block of text in which no cue was found; notes and styles are none."""
    blocks = itertools.groupby(range(start, stop), key=lambda at: bool(lines[at].strip()))
    for is_text, numbers in blocks:
        block = list(numbers)
        if is_text and not _NO_SPEECH.match(lines[block[0]]):
            yield _fault(lines, block[0], block[-1] + 1, "text without cue times")


def _fault(lines: list[str], start: int, stop: int, reason: str) -> dict[str, Any]:
    return {"raw": "\n".join(lines[start:stop]).strip("\n"), "fault": reason, "line": start + 1}
