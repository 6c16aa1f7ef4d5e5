"""One series of one instrument: measurements with the same attributes, aggregated as they come.

Recording is a few additions under one lock, which all series of a process share, so that the three histograms
a message is measured by need it only once. It is held for less than a microsecond, never while anything is
written or sent. It is there because `self._value += value` reads and writes in steps, between which another
thread may run; and it is reentrant, because a signal handler or a finaliser that measures may run there too.

A collection takes what came since the last one and adds it to the sum of all before, in the order the SDK
does, so that sums of floating point numbers come out equal to the last bit.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from threading import RLock
from typing import Any, ClassVar, Final, Protocol

from common_telemetry.engines.fast import metric_bytes as encode
from common_telemetry.engines.fast.exemplars import Exemplar, Reservoir, Sample
from common_telemetry.engines.fast.exponential import MAX_SCALE, Distribution
from common_telemetry.engines.fast.primitives import count_run
from common_telemetry.engines.fast.wire import attributes as encoded

_WORTH_A_RUN: Final = 8
_EXEMPLARS_OF_EXPONENTIAL: Final = 20  # OpenTelemetry specification, metrics SDK, "Exemplar defaults"

Key = tuple[Any, ...]
SampleOf = Callable[[int], Sample | None]


class Keeper(Protocol):
    """The instrument of a series."""

    @property
    def lock(self) -> RLock:
        """The lock all series share."""

    def admit(self, series: "Series") -> "Series":
        """Take a series in that gets its first value, and set its start; or say which takes it instead."""


class Series(ABC):
    """Measurements of one set of attributes.

    A series nothing was recorded on is not exported, and takes none of the instrument's places: it is `idle`.
    """

    __slots__ = ("_encoded", "_keeper", "attributes", "idle", "key", "lock", "start_ns")
    _tag: ClassVar[bytes]
    idle: bool

    def __init__(self, keeper: Keeper, attributes: Mapping[str, Any], key: Key) -> None:
        self._keeper = keeper
        self._encoded: bytes | None = None
        self.lock = keeper.lock
        self.attributes = attributes
        self.key = key
        self.start_ns = 0
        self.reset()

    def record(self, value: float, sample: Sample | None = None) -> None:
        """Take in one measurement, which must be finite; with a sample it may become an exemplar."""
        with self.lock:
            self.add(value, sample)

    @abstractmethod
    def add(self, value: float, sample: Sample | None = None) -> None:
        """As `record`, for who holds the lock already and records on several series."""

    def add_run(self, values: Sequence[float], sample_of: SampleOf | None) -> None:
        """As `add` for one after the other; `sample_of` gives the sample of the value at an index."""
        for at, value in enumerate(values):
            self.add(value, sample_of and sample_of(at))

    @abstractmethod
    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """The data point in bytes. With `delta` the series starts anew, else it goes on."""

    @abstractmethod
    def reset(self) -> None:
        """Forget everything."""

    def _elsewhere(self, value: float, sample: Sample | None) -> bool:
        """Whether another series has taken this first value."""
        target = self._keeper.admit(self)
        if target is self:
            self.idle = False
            return False
        if sample is not None and target.key != self.key:
            # The exemplar keeps what the series that takes it does not say.
            time_ns, trace_id, span_id, left_out = sample
            sample = (time_ns, trace_id, span_id, {**self.attributes, **(left_out or {})})
        target.add(value, sample)
        return True

    def _described(self) -> bytes:
        if self._encoded is None:
            self._encoded = encoded(self._tag, self.attributes)
        return self._encoded


class SumSeries(Series):
    """Adds up: counters and up-down counters."""

    __slots__ = ("_reservoir", "_total", "_value")
    _value: float
    _total: float
    _reservoir: Reservoir
    _tag = encode.NUMBER_ATTRIBUTES

    def add(self, value: float, sample: Sample | None = None) -> None:
        """Part of Series."""
        if self.idle and self._elsewhere(value, sample):
            return
        self._value += value
        if sample is not None:
            self._reservoir.offer(value, sample)

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Part of Series."""
        with self.lock:
            value, self._value = self._value, 0
            exemplars = self._reservoir.take()
            self.idle = delta
        if not delta:
            value = self._total = value + self._total
        return encode.number_point(self._described(), self.start_ns, now_ns, value, exemplars)

    def reset(self) -> None:
        """Part of Series."""
        self.idle = True
        self._value = 0
        self._total = 0
        self._reservoir = Reservoir(1)


class LastValueSeries(Series):
    """Keeps the last value: gauges."""

    __slots__ = ("_reservoir", "_value")
    _value: float
    _reservoir: Reservoir
    _tag = encode.NUMBER_ATTRIBUTES

    def add(self, value: float, sample: Sample | None = None) -> None:
        """Part of Series."""
        if self.idle and self._elsewhere(value, sample):
            return
        self._value = value
        if sample is not None:
            self._reservoir.offer(value, sample)

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Part of Series."""
        with self.lock:
            value = self._value
            exemplars = self._reservoir.take()
            self.idle = delta
        return encode.number_point(self._described(), None, now_ns, value, exemplars)

    def reset(self) -> None:
        """Part of Series."""
        self.idle = True
        self._value = 0
        self._reservoir = Reservoir(1)


class HistogramSeries(Series):
    """Counts in buckets with fixed bounds; keeps the last exemplar of each."""

    __slots__ = (
        "_bounds",
        "_bounds_bytes",
        "_counts",
        "_exemplars",
        "_high",
        "_low",
        "_sum",
        "_total_counts",
        "_total_high",
        "_total_low",
        "_total_sum",
    )
    _counts: list[int]
    _sum: float
    _low: float
    _high: float
    _exemplars: list[Exemplar | None]
    _total_counts: list[int]
    _total_sum: float
    _total_low: float
    _total_high: float
    _tag = encode.HISTOGRAM_ATTRIBUTES

    def __init__(
        self,
        keeper: Keeper,
        attributes: Mapping[str, Any],
        key: Key,
        bounds: Sequence[float],
        bounds_bytes: bytes,
    ) -> None:
        self._bounds = bounds
        self._bounds_bytes = bounds_bytes
        super().__init__(keeper, attributes, key)

    def add(self, value: float, sample: Sample | None = None) -> None:
        """Part of Series."""
        if self.idle and self._elsewhere(value, sample):
            return
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if value < self._low:
            self._low = value
        if value > self._high:
            self._high = value
        if sample is not None:
            self._exemplars[bucket] = (value, sample)

    def add_run(self, values: Sequence[float], sample_of: SampleOf | None) -> None:
        """Part of Series."""
        if self.idle or len(values) < _WORTH_A_RUN:
            super().add_run(values, sample_of)
            return
        self._sum, self._low, self._high, last = count_run(
            self._bounds, self._counts, values, self._sum, self._low, self._high
        )
        if sample_of is None:
            return
        for bucket, at in last.items():
            # Of each bucket the last value with a sample becomes the exemplar.
            if (sample := sample_of(at)) is not None:
                self._exemplars[bucket] = (values[at], sample)
            else:
                self._keep_last_of(bucket, values[:at], sample_of)

    def _keep_last_of(self, bucket: int, values: Sequence[float], sample_of: SampleOf) -> None:
        for at in range(len(values) - 1, -1, -1):
            if bisect_left(self._bounds, values[at]) == bucket and (sample := sample_of(at)) is not None:
                self._exemplars[bucket] = (values[at], sample)
                return

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Part of Series."""
        with self.lock:
            counts, total, low, high = self._counts, self._sum, self._low, self._high
            exemplars = [exemplar for exemplar in self._exemplars if exemplar is not None]
            self._begin()
            self.idle = delta
        if not delta:
            counts = self._total_counts = [
                new + old for new, old in zip(counts, self._total_counts, strict=True)
            ]
            total = self._total_sum = total + self._total_sum
            low = self._total_low = min(low, self._total_low)
            high = self._total_high = max(high, self._total_high)
        return encode.histogram_point(
            self._described(),
            self.start_ns,
            now_ns,
            counts,
            total,
            low,
            high,
            self._bounds_bytes,
            exemplars,
        )

    def reset(self) -> None:
        """Part of Series."""
        self.idle = True
        self._begin()
        self._total_counts = [0] * (len(self._bounds) + 1)
        self._total_sum = 0
        self._total_low = math.inf
        self._total_high = -math.inf

    def _begin(self) -> None:
        buckets = len(self._bounds) + 1
        self._counts = [0] * buckets
        self._exemplars = [None] * buckets
        self._sum = 0
        self._low = math.inf
        self._high = -math.inf


class ExponentialSeries(Series):
    """Counts in buckets whose width grows with the value and with the range of values."""

    __slots__ = (
        "_count",
        "_distribution",
        "_high",
        "_low",
        "_reservoir",
        "_scale",
        "_sum",
        "_total",
        "_total_count",
        "_total_high",
        "_total_low",
        "_total_sum",
    )
    _distribution: Distribution
    _scale: int
    _count: int
    _sum: float
    _low: float
    _high: float
    _reservoir: Reservoir
    _total: Distribution
    _total_count: int
    _total_sum: float
    _total_low: float
    _total_high: float
    _tag = encode.EXPONENTIAL_ATTRIBUTES

    def add(self, value: float, sample: Sample | None = None) -> None:
        """Part of Series."""
        if self.idle and self._elsewhere(value, sample):
            return
        self._sum += value
        if value < self._low:
            self._low = value
        if value > self._high:
            self._high = value
        self._scale = self._distribution.count(value, self._scale, self._count)
        self._count += 1
        if sample is not None and value != 0:  # the SDK never keeps a zero
            self._reservoir.offer(value, sample)

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Part of Series."""
        with self.lock:
            found, count = self._distribution, self._count
            total, low, high = self._sum, self._low, self._high
            exemplars = self._reservoir.take()
            self._begin()
            self.idle = delta
            if delta:
                self._scale = MAX_SCALE
        if not delta:
            self._total.merge(found)
            found = self._total
            count = self._total_count = count + self._total_count
            total = self._total_sum = total + self._total_sum
            low = self._total_low = min(low, self._total_low)
            high = self._total_high = max(high, self._total_high)
        return encode.exponential_point(
            self._described(),
            self.start_ns,
            now_ns,
            count,
            total,
            low,
            high,
            found.scale or 0,
            found.zeros,
            found.buckets.start,
            found.buckets.padded(),
            exemplars,
        )

    def reset(self) -> None:
        """Part of Series."""
        self.idle = True
        self._scale = MAX_SCALE
        self._begin()
        self._total = Distribution()
        self._total_count = 0
        self._total_sum = 0
        self._total_low = math.inf
        self._total_high = -math.inf

    def _begin(self) -> None:
        self._distribution = Distribution()
        self._count = 0
        self._sum = 0
        self._low = math.inf
        self._high = -math.inf
        self._reservoir = Reservoir(_EXEMPLARS_OF_EXPONENTIAL)


class ObservedSumSeries(Series):
    """Totals told by a callback, one an export: observable counters and up-down counters."""

    __slots__ = ("_before", "_reservoir", "_value")
    _value: float
    _before: float
    _reservoir: Reservoir
    _tag = encode.NUMBER_ATTRIBUTES

    def add(self, value: float, sample: Sample | None = None) -> None:
        """Part of Series."""
        if self.idle and self._elsewhere(value, sample):
            return
        self._value += value
        if sample is not None:
            self._reservoir.offer(value, sample)

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Part of Series. What is not told again is not exported again."""
        value, start_ns = self._value, self.start_ns
        if delta:
            value, self._before = value - self._before, value
            self.start_ns = now_ns
        self.idle, self._value = True, 0
        return encode.number_point(self._described(), start_ns, now_ns, value, self._reservoir.take())

    def reset(self) -> None:
        """Part of Series."""
        self.idle = True
        self._value = 0
        self._before = 0
        self._reservoir = Reservoir(1)
