"""JSON Lines: one segment or one word a line."""

import json
from collections.abc import Iterator
from typing import Any, Final, TypeGuard

_SCALARS: Final = ("start", "end", "text", "speaker", "language")
_INT64_DIGITS: Final = 18


def read_json_lines(text: str) -> Iterator[dict[str, Any]]:
    """An entry for each line that is not blank; a line that is no segment and no word becomes a fault.

    A line with `word` in place of `text` is a single word; it is marked as a `fragment`.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _entry(_load(line))
        except RecursionError:
            yield {"raw": line, "fault": "the JSON is nested too deeply", "line": number}
        except ValueError as error:
            yield {"raw": line, "fault": str(error), "line": number}


def _load(line: str) -> dict[str, Any]:
    """The line's JSON object; raises ValueError if it is none, or cannot be sent on as a message."""
    try:
        document = json.loads(line, parse_int=_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}") from error
    if not isinstance(document, dict):
        raise ValueError("a line must be a JSON object")
    for key in _SCALARS:
        if isinstance(document.get(key), dict | list):
            raise ValueError(f"{key} must not be an object or an array")
    if "\\ud" in line.lower():
        _check_surrogates(document)
    return document


def _number(digits: str) -> int | float:
    """An integer that fits into 64 bits, or the nearest float."""
    return int(digits) if len(digits) <= _INT64_DIGITS else float(digits)


def _check_surrogates(document: dict[str, Any]) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no character") from error


def _entry(document: dict[str, Any]) -> dict[str, Any]:
    entry = {key: document[key] for key in _SCALARS if document.get(key) is not None}
    if "text" not in entry and "word" in document:
        entry |= {"text": document["word"], "fragment": True}
    words = _words(document.get("words"))
    if words and "text" not in entry:
        entry["text"] = " ".join(word["text"] for word in words)
    # Times of words that are not the text's words would be wrong times: the text wins.
    if words and [word["text"] for word in words] == str(entry["text"]).split():
        entry["words"] = words
    return entry


def _words(raw: Any) -> list[dict[str, Any]]:
    """The words with their times, or none if any of them is not understood."""
    words = []
    for item in raw if isinstance(raw, list) else []:
        if not isinstance(item, dict):
            return []
        text, start, end = item.get("text", item.get("word")), item.get("start"), item.get("end")
        if not isinstance(text, str) or not is_time(start) or not is_time(end):
            return []
        words.append({"text": text.strip(), "start": start, "end": end})
    return words


def is_time(value: object) -> TypeGuard[float]:
    """Whether it is a number, as a time is; what the number may be is the validator's matter."""
    return isinstance(value, int | float) and not isinstance(value, bool)
