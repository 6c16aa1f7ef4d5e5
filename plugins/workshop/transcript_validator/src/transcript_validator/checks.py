"""What a segment must be. Pure: data in, reasons out."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

# The shape of a BCP 47 tag (RFC 5646, section 2.1): a language, then subtags. It is also one word of a topic.
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_SHOWN: Final = 40


def faults(data: Any, *, max_segment_s: float, max_time_s: float) -> Iterator[str]:
    """Every reason why `data` is not a good segment; none for a good one, or for the end of a transcript."""
    if not isinstance(data, Mapping):
        yield f"a segment is an object, not {type(data).__name__}"
    elif "fault" in data:
        yield f"line {data.get('line', '?')}: {data['fault']}"
    else:
        yield from _language_faults(data.get("language"))
        if not data.get("complete"):
            yield from _time_faults(data, max_segment_s, max_time_s)
            yield from _text_faults(data)


def _language_faults(language: Any) -> Iterator[str]:
    if language is None:
        yield "language is missing"
    elif not isinstance(language, str) or not _LANGUAGE.fullmatch(language):
        yield f"language {_show(language)} is not a language tag like en or pt-BR"


def _time_faults(data: Mapping[str, Any], max_segment_s: float, max_time_s: float) -> Iterator[str]:
    start: Any = data.get("start")
    end: Any = data.get("end")
    found = [*_one_time("start", start, max_time_s), *_one_time("end", end, max_time_s)]
    yield from found
    if found:
        return
    if end < start:
        yield f"end {end} is before start {start}"
    elif end == start:
        yield f"it lasts no time: start and end are both {start}"
    elif end - start > max_segment_s:
        yield f"it lasts {end - start:,.10g} s, more than {max_segment_s:,.10g} s"


def _one_time(name: str, value: Any, max_time_s: float) -> Iterator[str]:
    if value is None:
        yield f"{name} is missing"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        yield f"{name} {_show(value)} is not a number of seconds"
    elif math.isnan(value):
        yield f"{name} is not a number"
    elif value < 0:
        yield f"{name} {value} is negative"
    elif value > max_time_s:
        yield f"{name} {value:,.10g} is beyond {max_time_s:,.10g} s"


def _text_faults(data: Mapping[str, Any]) -> Iterator[str]:
    text, speaker = data.get("text"), data.get("speaker")
    if text is None:
        yield "text is missing"
    elif not isinstance(text, str):
        yield f"text {_show(text)} is not text"
    elif not text.strip():
        yield "text is empty"
    elif "words" in data:
        yield from _word_faults(data["words"], text)
    if speaker is not None and not isinstance(speaker, str):
        yield f"speaker {_show(speaker)} is not text"


def _word_faults(words: Any, text: str) -> Iterator[str]:
    """Words are the text's words, each with its times; small disorder in the times is harmless."""
    if not isinstance(words, list) or not all(_is_word(word) for word in words):
        yield "words is not a list of objects with text, start and end"
    elif [word["text"] for word in words] != text.split():
        yield "words do not say what text says"


def _is_word(word: Any) -> bool:
    if not isinstance(word, Mapping) or not isinstance(word.get("text"), str):
        return False
    times = (word.get("start"), word.get("end"))
    return all(
        isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time) for time in times
    )


def _show(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
