"""Buckets of a base-2 exponential histogram (OpenTelemetry specification, metrics data model).

The index of a bucket, how the scale goes down when values spread, and how many empty buckets stand at the
end: all as in the SDK, so that both engines make the same data points. A test holds them side by side.
"""

from math import ceil, floor, frexp, ldexp, log, log2
from sys import float_info
from typing import Final, Self

MAX_BUCKETS: Final = 160
MAX_SCALE: Final = 20
_SCALE_FACTORS: Final = tuple(ldexp(1 / log(2), scale) for scale in range(MAX_SCALE + 1))
_MIN_NORMAL_EXPONENT: Final = -1022
_MAX_NORMAL_EXPONENT: Final = 1023


def index_of(value: float, scale: int) -> int:
    """The bucket of a value above 0: it holds those above 2**(index / 2**scale), up to the next bound."""
    if scale > 0:
        if value <= float_info.min:  # too small for a logarithm of full precision
            return (_MIN_NORMAL_EXPONENT << scale) - 1
        fraction, exponent = frexp(value)
        if fraction == 0.5:  # a power of two is a bound itself, which a logarithm may miss
            return ((exponent - 1) << scale) - 1
        return min(floor(log(value) * _SCALE_FACTORS[scale]), ((_MAX_NORMAL_EXPONENT + 1) << scale) - 1)
    if value < float_info.min:
        lowest = _MIN_NORMAL_EXPONENT >> -scale
        return lowest - 1 if scale > -2 else lowest
    fraction, exponent = frexp(value)
    return (exponent - 1 - (fraction == 0.5)) >> -scale


def scale_change(low: int, high: int) -> int:
    """By how much the scale must go down for these indexes to fit into the buckets there may be."""
    change = 0
    while high - low >= MAX_BUCKETS:
        low >>= 1
        high >>= 1
        change += 1
    return change


class Buckets:
    """Counts of the buckets `start` to `end`.

    `room` is how many buckets the SDK would have allocated by now; it sends the unused ones along.
    """

    __slots__ = ("counts", "end", "room", "start")

    def __init__(self, start: int = 0, end: int = 0, room: int = 1) -> None:
        self.start = start
        self.end = end
        self.room = room
        self.counts = [0] * (end - start + 1)

    @property
    def unused(self) -> bool:
        """Whether nothing was ever counted."""
        return self.start == self.end and self.counts[0] == 0

    @property
    def untouched(self) -> bool:
        """Whether nothing is counted and there never was room for more than one bucket."""
        return self.room == 1 and self.counts[0] == 0

    def empty_copy(self) -> Self:
        """The same buckets with nothing in them."""
        return type(self)(self.start, self.end, self.room)

    def fits(self, index: int) -> bool:
        """Whether the range of buckets may be widened to `index`."""
        return max(self.end, index) - min(self.start, index) < MAX_BUCKETS

    def count(self, index: int, times: int = 1) -> None:
        """Count in a bucket; the range must fit."""
        if index < self.start:
            self._grow(self.end - index + 1)
            self.counts = [0] * (self.start - index) + self.counts
            self.start = index
        elif index > self.end:
            self._grow(index - self.start + 1)
            self.counts += [0] * (index - self.end)
            self.end = index
        self.counts[index - self.start] += times

    def downscale(self, change: int) -> None:
        """Merge 2**change neighbours into one."""
        if not change:
            return
        start, end = self.start >> change, self.end >> change
        merged = [0] * (end - start + 1)
        for index, count in enumerate(self.counts, self.start):
            merged[(index >> change) - start] += count
        self.start, self.end, self.counts = start, end, merged

    def padded(self) -> list[int]:
        """The counts, and the room behind them."""
        return self.counts + [0] * (self.room - len(self.counts))

    def _grow(self, needed: int) -> None:
        if needed > self.room:
            self.room = min(2 ** ceil(log2(needed)), MAX_BUCKETS)


class Distribution:
    """What an exponential histogram holds of one span of time: buckets and their scale, and the zeros."""

    __slots__ = ("buckets", "scale", "zeros")

    def __init__(self) -> None:
        self.buckets = Buckets()
        self.scale: int | None = None
        self.zeros = 0

    def count(self, value: float, scale: int, earlier: int) -> int:
        """Count a value at `scale` or, if it does not fit, at a lower one, which is returned.

        `earlier` is how many values were counted before, zeros included.
        """
        if value == 0:
            self.zeros += 1
            if earlier + 1 == self.zeros:
                self.scale = 0
            return scale
        index = index_of(value, scale)
        buckets = self.buckets
        if buckets.unused:
            buckets.start = buckets.end = index
        elif not buckets.fits(index):
            change = scale_change(min(buckets.start, index), max(buckets.end, index))
            buckets.downscale(change)
            scale -= change
            index = index_of(value, scale)
        self.scale = scale
        buckets.count(index)
        return scale

    def merge(self, later: "Distribution") -> None:
        """Add what came later, at the lower of the two scales or one at which both fit."""
        if self.scale is None:
            self.buckets, self.scale = later.buckets.empty_copy(), later.scale
        mine = self.scale if self.scale is not None else MAX_SCALE
        theirs = later.scale if later.scale is not None else mine
        scale = min(mine, theirs)
        ranges = [
            (buckets.start >> (at - scale), buckets.end >> (at - scale))
            for buckets, at in ((self.buckets, mine), (later.buckets, theirs))
            if not buckets.untouched
        ]
        if ranges:
            scale -= scale_change(min(low for low, _ in ranges), max(high for _, high in ranges))
        self.buckets.downscale(mine - scale)
        self.scale = scale
        for index, count in enumerate(later.buckets.counts, later.buckets.start):
            if count:
                self._take_over(index >> (theirs - scale), count)
        self.zeros += later.zeros

    def _take_over(self, index: int, count: int) -> None:
        if self.buckets.unused and not self.buckets.fits(index):
            self.buckets.start = self.buckets.end = index
        self.buckets.count(index, count)
