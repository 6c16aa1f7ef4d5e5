"""Words with their times (milliseconds), and what a break in each gap between them costs."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

AT_SENTENCE: Final = 0
AT_CLAUSE: Final = 1
AT_CONJUNCTION: Final = 2
ANYWHERE: Final = 4
"""What a break costs, by where it is made."""

_SENTENCE_END: Final = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001 (full-width marks end sentences too)
_CLAUSE_END: Final = (",", ";", ":", "–", "—", "、", "，")  # noqa: RUF001
_CLOSING: Final = "\"'”’»)]"  # noqa: RUF001 (typographic quotes)
_DASHES: Final = ("-", "–", "—", "‐")  # noqa: RUF001
_SILENCE_MS: Final = 500


class Word(NamedTuple):
    """One word, or a piece of one that is longer than a line."""

    text: str
    start: int
    end: int


def words_of(segment: Mapping[str, Any], *, longest: int) -> list[Word]:
    """The segment's words, none longer than `longest` characters, with times that never run backwards.

    Without word times the segment's own time is divided in proportion to the characters.
    """
    start, end = milliseconds(segment["start"]), milliseconds(segment["end"])
    if segment.get("words"):
        timed = [
            Word(word["text"], milliseconds(word["start"]), milliseconds(word["end"]))
            for word in segment["words"]
        ]
    else:
        timed = _divide(segment["text"].split(), start, end)
    pieces = [piece for word in timed for piece in _split(word, longest)]
    result, now = [], start
    for piece in pieces:
        begins = max(now, min(piece.start, end))
        now = max(begins, min(piece.end, end))
        result.append(Word(piece.text, begins, now))
    return result


def milliseconds(seconds: float) -> int:
    """Seconds as whole milliseconds, which is what subtitles can express."""
    return round(seconds * 1000)


def _divide(texts: Sequence[str], start: int, end: int) -> list[Word]:
    """The texts, with the time from `start` to `end` divided in proportion to their characters."""
    done = list(itertools.accumulate((len(text) + 1 for text in texts), initial=0))
    marks = [start + (end - start) * at // done[-1] for at in done]
    return [
        Word(text, begins, ends)
        for text, (begins, ends) in zip(texts, itertools.pairwise(marks), strict=True)
    ]


def _split(word: Word, longest: int) -> list[Word]:
    if len(word.text) <= longest:
        return [word]
    texts = [word.text[at : at + longest] for at in range(0, len(word.text), longest)]
    return _divide(texts, word.start, word.end)


def width(words: Sequence[Word]) -> int:
    """Characters of the words in one line."""
    return sum(len(word.text) for word in words) + len(words) - 1


def break_costs(words: Sequence[Word], conjunctions: Collection[str]) -> list[int]:
    """What a break before each word costs; before the first it is free."""
    costs = [0]
    for earlier, word in itertools.pairwise(words):
        ending = earlier.text.rstrip(_CLOSING)
        if ending.endswith(_SENTENCE_END):
            costs.append(AT_SENTENCE)
        elif ending.endswith(_CLAUSE_END) or word.start - earlier.end >= _SILENCE_MS:
            costs.append(AT_CLAUSE)
        elif word.text.strip(".,;:!?\"'").casefold() in conjunctions:
            costs.append(AT_CONJUNCTION)
        else:
            costs.append(ANYWHERE)
    return costs


def begins_turn(earlier: Word, word: Word) -> bool:
    """Whether a dash says that somebody else speaks now, as in `- Where? - There.`."""
    return word.text.startswith(_DASHES) and earlier.text.rstrip(_CLOSING).endswith(_SENTENCE_END)
