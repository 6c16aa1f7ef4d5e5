"""A WebVTT reader that accepts what the grammar of the W3C says and nothing else.

https://www.w3.org/TR/webvtt1/#syntax; of that, the parts a caption file needs: no settings, notes,
styles or regions, and of markup only whole-cue voices. Anything else is an error.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Final

_TIME: Final = r"(?:(\d{2,}):)?([0-5]\d):([0-5]\d)\.(\d{3})"
_TIMINGS: Final = re.compile(rf"{_TIME}[ \t]+-->[ \t]+{_TIME}")
_VOICE: Final = re.compile(r"<v(?:\.[^\s<>&.]+)*[ \t]([^\n\r<>]+)>(.*)</v>", re.DOTALL)
_REFERENCE: Final = re.compile(r"&(amp|lt|gt|lrm|rlm|nbsp);")
_MEANING: Final = {"amp": "&", "lt": "<", "gt": ">", "lrm": "\u200e", "rlm": "\u200f", "nbsp": "\u00a0"}


@dataclass(frozen=True)
class Cue:
    """One cue; times in milliseconds."""

    identifier: str
    start: int
    end: int
    speaker: str
    lines: tuple[str, ...]


def read_strictly(raw: bytes) -> list[Cue]:
    """The cues of the file; an AssertionError names the first line that the grammar does not allow."""
    text = raw.decode("utf-8")
    assert "\0" not in text
    assert "\r" not in text
    header, *blocks = text.split("\n\n")
    assert header == "WEBVTT", f"the header is {header!r}"
    if not blocks:
        return []
    assert blocks[-1].endswith("\n")
    blocks[-1] = blocks[-1].removesuffix("\n")
    cues = [_cue(block) for block in blocks]
    for earlier, later in itertools.pairwise(cues):
        assert earlier.start <= later.start, f"{later.identifier} begins before {earlier.identifier}"
    assert len({cue.identifier for cue in cues}) == len(cues), "identifiers are unique"
    return cues


def _cue(block: str) -> Cue:
    lines = block.split("\n")
    assert all(lines), f"an empty line in {block!r}"
    assert "-->" not in lines[0], "every cue has an identifier"
    timings = _TIMINGS.fullmatch(lines[1])
    assert timings, f"no timings: {lines[1]!r}"
    start, end = (_milliseconds(timings.groups()[at : at + 4]) for at in (0, 4))
    assert start < end, f"{lines[0]} ends when it begins, or before"
    payload = "\n".join(lines[2:])
    assert payload, f"{lines[0]} says nothing"
    assert "-->" not in payload
    voice = _VOICE.fullmatch(payload)
    speaker, said = (_text(voice.group(1)), voice.group(2)) if voice else ("", payload)
    return Cue(lines[0], start, end, speaker, tuple(_text(line) for line in said.split("\n")))


def _milliseconds(fields: tuple[str | None, ...]) -> int:
    hours, minutes, seconds, thousandths = (int(field or 0) for field in fields)
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + thousandths


def _text(raw: str) -> str:
    assert not re.search(r"[<>]", raw), f"markup or an unescaped sign in {raw!r}"
    assert "&" not in _REFERENCE.sub("", raw), f"an unescaped & in {raw!r}"
    return _REFERENCE.sub(lambda found: _MEANING[found.group(1)], raw)
