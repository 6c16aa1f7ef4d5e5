"""Divides words among captions and lines.

Both are the cheapest way through a table of costs: every gap between words has a price (`break_costs`),
and so has what makes a caption hard to read. Every word lands in exactly one line, in order.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from caption_transformer.words import AT_SENTENCE, Word, begins_turn

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

    def reading_time(self, characters: int) -> int:
        """How long so many characters should be shown."""
        needed = max(self.min_duration, -int(-characters * 1000 // self.reading_speed))
        return min(needed, self.max_duration)


class _Ruler:
    """Widths of any words that stand in a row, without adding them up each time."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._ends = list(itertools.accumulate((len(word.text) + 1 for word in words), initial=0))

    def width(self, start: int, stop: int) -> int:
        """Characters of the words from `start` to before `stop`, with the spaces between them."""
        return self._ends[stop] - self._ends[start] - 1

    def line_breaks(self, start: int, stop: int, line_length: int) -> Iterator[int]:
        """Where these words can be parted into two lines that both fit."""
        for at in range(start + 1, stop):
            if self.width(start, at) > line_length:
                return
            if self.width(at, stop) <= line_length:
                yield at


def divide(words: Sequence[Word], costs: Sequence[int], until: int, limits: Limits) -> list[Sequence[Word]]:
    """The words of each caption. `until` is when the last one must give way to whatever follows."""
    ruler = _Ruler(words)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for stop in range(1, len(words) + 1):
        ends = words[stop].start if stop < len(words) else max(until, words[-1].end)
        leaving = costs[stop] if stop < len(words) else AT_SENTENCE
        choices, silence = [], 0
        for start in range(stop - 1, -1, -1):
            if not _fits(ruler, start, stop, limits):
                break
            silence += words[start + 1].start - words[start].end if start + 1 < stop else 0
            reading = limits.reading_time(ruler.width(start, stop)) - (ends - words[start].start)
            overstay = words[stop - 1].end - words[start].start - limits.max_duration
            price = _HURRY * max(0, reading) + _OVERSTAY * max(0, overstay) + _SILENCE * silence
            choices.append((best[start][0] + leaving + _CAPTION + price / 1000, start))
        best.append(min(choices))
    stops = [len(words)]
    while stops[-1]:
        stops.append(best[stops[-1]][1])
    return [words[start:stop] for start, stop in itertools.pairwise(reversed(stops))]


def _fits(ruler: _Ruler, start: int, stop: int, limits: Limits) -> bool:
    """Whether these words can be set in the lines there are."""
    if ruler.width(start, stop) <= limits.line_length:
        return True
    return limits.lines == 2 and any(ruler.line_breaks(start, stop, limits.line_length))


def set_lines(words: Sequence[Word], costs: Sequence[int], limits: Limits) -> str:
    """The caption's text: one line, or two of about equal length that part at the best place."""
    ruler, count = _Ruler(words), len(words)
    breaks = list(ruler.line_breaks(0, count, limits.line_length)) if limits.lines == 2 else []
    turns = [at for at in breaks if begins_turn(words[at - 1], words[at])]
    if ruler.width(0, count) <= limits.line_length and not turns:
        return _line(words)

    def price(at: int) -> float:
        difference = abs(ruler.width(0, at) - ruler.width(at, count))
        return costs[at] + _IMBALANCE * difference / limits.line_length

    at = min(turns or breaks, key=price)
    return f"{_line(words[:at])}\n{_line(words[at:])}"


def _line(words: Sequence[Word]) -> str:
    return " ".join(word.text for word in words)
