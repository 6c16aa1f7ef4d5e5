"""Divides words among captions and lines.

Both are the cheapest way through a table of costs: every gap between words has a price (`break_costs`),
and so has what makes a caption hard to read. Every word lands in exactly one line, in order.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from caption_transformer.words import AT_SENTENCE, Word, begins_turn, width

# Prices beside those of breaks (0 to 4). Seconds and shares are what they are multiplied with.
_CAPTION: Final = 3.0
"""Each caption: fewer are better than more."""
_HURRY: Final = 4.0
"""Each second that is missing for the shortest duration or the reading speed."""
_OVERSTAY: Final = 2.0
"""Each second that the words take beyond the longest duration."""
_SILENCE: Final = 2.0
"""Each second of silence between two words of a caption: the second would be read before it is said."""
_IMBALANCE: Final = 4.0
"""The difference of two lines' lengths, as a share of the longest line."""


@dataclass(frozen=True)
class Limits:
    """What a caption may be. Durations are milliseconds, the reading speed characters a second."""

    lines: int
    line_length: int
    min_duration: int
    max_duration: int
    reading_speed: float
    max_delay: int

    @cached_property
    def capacity(self) -> int:
        """Characters that no caption exceeds."""
        return self.lines * (self.line_length + 1) - 1

    def reading_time(self, characters: int) -> int:
        """How long so many characters should be shown."""
        needed = max(self.min_duration, -int(-characters * 1000 // self.reading_speed))
        return min(needed, self.max_duration)


def divide(words: Sequence[Word], costs: Sequence[int], until: int, limits: Limits) -> list[Sequence[Word]]:
    """The words of each caption. `until` is when the last one must give way to whatever follows."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for stop in range(1, len(words) + 1):
        ends = words[stop].start if stop < len(words) else max(until, words[-1].end)
        leaving = costs[stop] if stop < len(words) else AT_SENTENCE
        choices = []
        for start in range(stop - 1, -1, -1):
            caption = words[start:stop]
            if not _fits(caption, limits):
                break
            choices.append((best[start][0] + leaving + _price(caption, ends, limits), start))
        best.append(min(choices))
    stops = [len(words)]
    while stops[-1]:
        stops.append(best[stops[-1]][1])
    bounds = stops[::-1]
    return [words[start:stop] for start, stop in itertools.pairwise(bounds)]


def _fits(words: Sequence[Word], limits: Limits) -> bool:
    """Whether the words can be set in the lines there are."""
    total = width(words)
    if total <= limits.line_length:
        return True
    return total <= limits.capacity and limits.lines == 2 and bool(_line_breaks(words, limits.line_length))


def _price(words: Sequence[Word], ends: int, limits: Limits) -> float:
    start = words[0].start
    hurry = max(0, limits.reading_time(width(words)) - (ends - start))
    overstay = max(0, words[-1].end - start - limits.max_duration)
    silence = sum(max(0, word.start - earlier.end) for earlier, word in itertools.pairwise(words))
    return _CAPTION + (_HURRY * hurry + _OVERSTAY * overstay + _SILENCE * silence) / 1000


def set_lines(words: Sequence[Word], costs: Sequence[int], limits: Limits) -> str:
    """The caption's text: one line, or two of about equal length that part at the best place."""
    breaks = _line_breaks(words, limits.line_length) if limits.lines == 2 else []
    turns = [at for at in breaks if begins_turn(words[at - 1], words[at])]
    if width(words) <= limits.line_length and not turns:
        return _line(words)

    def price(at: int) -> float:
        difference = abs(width(words[:at]) - width(words[at:]))
        return costs[at] + _IMBALANCE * difference / limits.line_length

    at = min(turns or breaks, key=price)
    return f"{_line(words[:at])}\n{_line(words[at:])}"


def _line_breaks(words: Sequence[Word], line_length: int) -> list[int]:
    """Where the words can be parted into two lines that both fit."""
    return [
        at
        for at in range(1, len(words))
        if width(words[:at]) <= line_length and width(words[at:]) <= line_length
    ]


def _line(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
