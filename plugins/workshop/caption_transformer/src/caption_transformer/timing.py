"""When each caption is shown. Times are milliseconds."""

from collections.abc import Sequence
from typing import NamedTuple

from caption_transformer.layout import Limits
from caption_transformer.words import Word, width


class Shown(NamedTuple):
    """From when to when a caption is shown."""

    start: int
    end: int


def schedule(
    captions: Sequence[Sequence[Word]], *, not_before: int, next_start: int | None, limits: Limits
) -> list[Shown]:
    """When each caption is shown: none before `not_before`, none while another one is.

    A caption appears with its first word and stays to its last, or longer while its reading time needs
    it: into the silence that follows and, if that is too short, up to `max_delay` into the next
    caption's time, which then appears that much later. The shortest and the longest duration hold
    whatever else has to give. `next_start` is when the next segment begins;
    None if nobody knows, and then nothing beyond the last word is taken but that delay.
    """
    result: list[Shown] = []
    for index, words in enumerate(captions):
        last_word = words[-1].end
        if index + 1 < len(captions):
            claimed = captions[index + 1][0].start
        else:
            claimed = last_word if next_start is None else next_start
        shown = _show(words, max(words[0].start, not_before), last_word, claimed, limits)
        result.append(shown)
        not_before = shown.end
    return result


def _show(words: Sequence[Word], start: int, last_word: int, claimed: int, limits: Limits) -> Shown:
    """`claimed` is the moment from which the time belongs to the next caption."""
    read = start + limits.reading_time(width(words))
    wanted = max(last_word, read)
    end = min(wanted, max(claimed, min(read, claimed + limits.max_delay)))
    # Even where another speaks at the same time: nobody can read what only flashes by.
    return Shown(start, min(max(end, start + limits.min_duration), start + limits.max_duration))
