"""From entries as a file has them to the segments that are published."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from transcript_source.jsonlines import is_time

LONGEST_S: Final = 15.0
"""Words are gathered into segments of at most this length."""
SHORTEST_S: Final = 1.0
"""A segment shorter than this is a fragment: too short for a caption of its own."""
_FURTHEST_S: Final = 1e9  # no time is beyond this, but infinity is
_SENTENCE_END: Final = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001 (full-width marks end sentences too)


def is_timed(entry: dict[str, Any]) -> bool:
    """Whether the entry has a text, and times in the right order."""
    start, end = entry.get("start"), entry.get("end")
    return (
        is_time(start)
        and is_time(end)
        and 0 <= start <= end < _FURTHEST_S
        and isinstance(entry.get("text"), str)
    )


def gather(entries: Iterable[dict[str, Any]], *, pause_s: float) -> Iterator[dict[str, Any]]:
    """Join fragments (single words, and what lasts under a second) into segments.

    A segment ends at the end of a sentence, at a silence of more than `pause_s`, where the speaker or
    the language changes, and after `LONGEST_S`. Everything else passes as it is.
    """
    pending: dict[str, Any] | None = None
    for entry in entries:
        joinable = _as_fragment(entry)
        if pending is not None and joinable is not None and _continues(pending, joinable, pause_s):
            pending = _join(pending, joinable)
            continue
        if pending is not None:
            yield pending
        pending = joinable
        if joinable is None:
            yield entry
    if pending is not None:
        yield pending


def _as_fragment(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The entry with word times, if it is a fragment; None if it is a segment, or not in order."""
    is_word = entry.get("fragment", False)
    rest = {key: value for key, value in entry.items() if key != "fragment"}
    if not is_timed(entry) or not entry["text"].strip():
        return rest if is_word else None
    if not is_word and entry["end"] - entry["start"] >= SHORTEST_S:
        return None
    return rest if "words" in rest else {**rest, "words": _words(rest)}


def _words(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The entry's words, with times in proportion to their characters."""
    texts = entry["text"].split()
    total, done, words = sum(map(len, texts)), 0, []
    for text in texts:
        begins, done = done, done + len(text)
        start, end = (
            round(entry["start"] + (entry["end"] - entry["start"]) * at / total, 3) for at in (begins, done)
        )
        words.append({"text": text, "start": start, "end": end})
    return words


def _continues(pending: dict[str, Any], entry: dict[str, Any], pause_s: float) -> bool:
    return (
        "words" in pending
        and "words" in entry
        and all(pending.get(key) == entry.get(key) for key in ("speaker", "language"))
        and pending["end"] <= entry["start"] <= pending["end"] + pause_s
        and entry["end"] - pending["start"] <= LONGEST_S
        and not pending["text"].endswith(_SENTENCE_END)
    )


def _join(pending: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    words = [*pending["words"], *entry["words"]]
    return {**pending, "end": entry["end"], "text": " ".join(word["text"] for word in words), "words": words}


def arrange(entries: Iterable[dict[str, Any]], *, transcript: str) -> list[dict[str, Any]]:
    """The entries in the order of their times, each with the transcript's name and an id of its own.

    An id is the same whenever the same file is read. `next_start` says when the next segment of the
    same language begins: as long as that, its captions have for themselves.
    """
    numbered = [
        {"transcript": transcript, "segment": f"{transcript}-{number:05d}", **entry}
        for number, entry in enumerate(entries, 1)
    ]
    ordered = sorted(numbered, key=_Position())
    upcoming: dict[Any, float] = {}
    for segment in reversed(ordered):
        language = segment.get("language")
        if is_timed(segment) and isinstance(language, str):
            if language in upcoming:
                segment["next_start"] = upcoming[language]
            upcoming[language] = segment["start"]
    return ordered


class _Position:
    """Sort key: a segment's start; what has no good times keeps its place behind the one before it."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, segment: dict[str, Any]) -> float:
        if is_timed(segment):
            self._last = segment["start"]
        return self._last
