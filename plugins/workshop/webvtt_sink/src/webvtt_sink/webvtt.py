"""Captions as WebVTT text (W3C, https://www.w3.org/TR/webvtt1/, section 4)."""

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

_TIMES: Final = re.compile(r"(\d+):(\d\d):(\d\d\.\d\d\d) --> (\d+):(\d\d):(\d\d\.\d\d\d)")


class Cue(NamedTuple):
    """One caption as it stands in the file."""

    start: float
    end: float
    block: str
    """Identifier, times and text."""


def render(cues: Iterable[Cue]) -> str:
    """A WebVTT file with the cues in the order of their times."""
    return "\n\n".join(["WEBVTT", *(cue.block for cue in sorted(cues, key=_times))]) + "\n"


def read_cues(text: str) -> dict[str, Cue]:
    """What `render` made, by identifier."""
    cues = {}
    for block in text.removesuffix("\n").split("\n\n")[1:]:
        name, _, rest = block.partition("\n")
        if times := _TIMES.match(rest):
            hours, minutes, seconds, *end = times.groups()
            cues[name] = Cue(_seconds(hours, minutes, seconds), _seconds(*end), block)
    return cues


def _seconds(hours: str, minutes: str, seconds: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _times(cue: Cue) -> tuple[float, float]:
    return cue.start, cue.end


def cue_of(caption: Mapping[str, Any]) -> Cue:
    """How the caption is written."""
    lines = [_escape(line) for line in caption["text"].split("\n") if line.strip()]
    text = "\n".join(lines)
    if caption.get("speaker"):
        # The name ends at ">" and at the end of the line, whatever it is.
        text = f"<v {_escape(' '.join(caption['speaker'].split()))}>{text}</v>"
    start, end = caption["start"], caption["end"]
    times = f"{timestamp(start)} --> {timestamp(end)}"
    return Cue(start, end, f"{identifier(caption['caption'])}\n{times}\n{text}")


def _escape(text: str) -> str:
    """The text with `&`, `<` and `>` (and so also `-->`) escaped; NUL has no place in WebVTT."""
    return html.escape(text, quote=False).replace("\0", "\ufffd")


def identifier(name: str) -> str:
    """One line without an arrow."""
    return " ".join(name.split()).replace("-->", "-")


def timestamp(seconds: float) -> str:
    """`HH:MM:SS.mmm`; more digits for the hours where it takes them."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}"
