"""Captions as WebVTT text (W3C, https://www.w3.org/TR/webvtt1/, section 4)."""

import html
from collections.abc import Iterable, Mapping
from typing import Any


def render(captions: Iterable[Mapping[str, Any]]) -> str:
    """A WebVTT file with the captions in the order of their times."""
    blocks = [_cue(caption) for caption in sorted(captions, key=_times)]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def _times(caption: Mapping[str, Any]) -> tuple[float, float]:
    return caption["start"], caption["end"]


def _cue(caption: Mapping[str, Any]) -> str:
    lines = [_escape(line) for line in caption["text"].split("\n") if line.strip()]
    text = "\n".join(lines)
    if caption.get("speaker"):
        # The name ends at ">" and at the end of the line, whatever it is.
        text = f"<v {_escape(' '.join(caption['speaker'].split()))}>{text}</v>"
    times = f"{timestamp(caption['start'])} --> {timestamp(caption['end'])}"
    return f"{_identifier(caption['caption'])}\n{times}\n{text}"


def _escape(text: str) -> str:
    """The text with `&`, `<` and `>` (and so also `-->`) escaped; NUL has no place in WebVTT."""
    return html.escape(text, quote=False).replace("\0", "\ufffd")


def _identifier(name: str) -> str:
    """One line without an arrow."""
    return " ".join(name.split()).replace("-->", "-")


def timestamp(seconds: float) -> str:
    """`HH:MM:SS.mmm`; more digits for the hours where it takes them."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}"
