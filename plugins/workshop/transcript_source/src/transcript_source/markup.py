"""Cue text without its markup, and who speaks it."""

import html
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

# Known tags only: in a file that escapes nothing, "a < b and c > d" is speech.
_TAG: Final = re.compile(
    r"</?(?:c|i|b|u|s|v|lang|ruby|rt|font|em|strong|span)(?:[.\s][^<>]*)?/?>|<(?:\d+:)?\d+:\d+[.,]\d+>",
    re.IGNORECASE,
)
_BREAK: Final = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SUBSTATION: Final = re.compile(r"\{\\[^{}]*\}")
_VOICE: Final = re.compile(r"<v(?:\.[^\s<>]*)?(?:\s+([^<>]*))?>|</v>", re.IGNORECASE)


class Speech(NamedTuple):
    """What one speaker says within a cue; the speaker is empty where nobody is named."""

    speaker: str
    text: str


def speeches(cue_text: str, *, escapes: bool) -> list[Speech]:
    """The speeches of a cue, in order; one with an empty text if the cue says nothing.

    With `escapes`, character references such as `&amp;` stand for what they name (WebVTT, section 4.2.1).
    """
    result: list[Speech] = []
    for speaker, raw in _voices(cue_text):
        text, name = _plain(raw, escapes), _plain(speaker, escapes)
        if not text:
            continue
        if result and result[-1].speaker == name:
            result[-1] = Speech(name, f"{result[-1].text} {text}")
        else:
            result.append(Speech(name, text))
    return result or [Speech("", "")]


def _voices(cue_text: str) -> Iterator[tuple[str, str]]:
    speaker, position = "", 0
    for tag in _VOICE.finditer(cue_text):
        yield speaker, cue_text[position : tag.start()]
        speaker, position = tag.group(1) or "", tag.end()
    yield speaker, cue_text[position:]


def _plain(raw: str, escapes: bool) -> str:
    text = _TAG.sub("", _SUBSTATION.sub("", _BREAK.sub("\n", raw)))
    return " ".join((html.unescape(text) if escapes else text).split())
