"""All instruments of a process, and their export as one OTLP request."""

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import lt
from threading import Lock, RLock
from time import time_ns
from typing import Any, Final, Literal, Protocol

from opentelemetry.context import Context

from common_telemetry import forks
from common_telemetry.attributes import UNBOUNDED
from common_telemetry.engines.fast import metric_bytes as encode
from common_telemetry.engines.fast.bounded import PLAIN, clean
from common_telemetry.engines.fast.exemplars import EXEMPLAR_FILTERS, ExemplarFilter, Sample, sample
from common_telemetry.engines.fast.series import (
    ExponentialSeries,
    HistogramSeries,
    Key,
    LastValueSeries,
    ObservedSumSeries,
    Series,
    SumSeries,
)
from common_telemetry.engines.fast.wire import Origin, request
from common_telemetry.redaction import NO_REDACTION, Redaction

_logger = logging.getLogger("common_telemetry")

InstrumentKind = Literal[
    "counter",
    "up_down_counter",
    "gauge",
    "histogram",
    "observable_counter",
    "observable_up_down_counter",
    "observable_gauge",
]
Temporality = Literal["cumulative", "delta", "lowmemory"]

SERIES_LIMIT: Final = 2_000  # OpenTelemetry specification, metrics SDK, "Cardinality limits"
_OTLP: Final = "OTEL_EXPORTER_OTLP_METRICS"
_EXPLICIT: Final = "explicit_bucket_histogram"
_EXPONENTIAL: Final = "base2_exponential_bucket_histogram"
_OVERFLOW: Final = {"otel.metric.overflow": True}
# OpenTelemetry specification, metrics SDK, "Explicit bucket histogram aggregation".
_DEFAULT_BOUNDS: Final = (0, 5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000)
_NAME: Final = re.compile(r"[a-zA-Z][-_./a-zA-Z0-9]{0,254}")
_UNIT: Final = re.compile(r"[\x00-\x7F]{0,63}")
_DELTA_KINDS: Final[Mapping[Temporality, frozenset[InstrumentKind]]] = {
    "cumulative": frozenset(),
    "delta": frozenset({"counter", "histogram", "observable_counter"}),
    "lowmemory": frozenset({"counter", "histogram"}),
}
_SUMS: Final[frozenset[InstrumentKind]] = frozenset(
    {"counter", "up_down_counter", "observable_counter", "observable_up_down_counter"}
)
_MONOTONIC: Final[frozenset[InstrumentKind]] = frozenset({"counter", "observable_counter"})


@dataclass(frozen=True, slots=True)
class MetricOptions:
    """How metrics are aggregated, and which attributes are left out of them."""

    temporality: Temporality = "cumulative"
    exponential: bool = False
    exemplars: ExemplarFilter = "trace_based"
    redaction: Redaction = NO_REDACTION


def options_of(environ: Mapping[str, str], redaction: Redaction = NO_REDACTION) -> MetricOptions:
    """What the OTEL_* variables say. Raises ValueError for an exemplar filter that does not exist.

    What its exporter does not know is logged, as there, and the default taken.
    """
    preference = environ.get(f"{_OTLP}_TEMPORALITY_PREFERENCE", "").strip().lower() or "cumulative"
    temporality = next((one for one in _DELTA_KINDS if one == preference), None)
    if temporality is None:
        _logger.warning("telemetry: %s_TEMPORALITY_PREFERENCE=%s is unknown; cumulative", _OTLP, preference)
    aggregation = environ.get(f"{_OTLP}_DEFAULT_HISTOGRAM_AGGREGATION", "").strip() or _EXPLICIT
    if aggregation not in (_EXPLICIT, _EXPONENTIAL):
        _logger.warning(
            "telemetry: %s_DEFAULT_HISTOGRAM_AGGREGATION=%s is unknown; %s", _OTLP, aggregation, _EXPLICIT
        )
    wanted = environ.get("OTEL_METRICS_EXEMPLAR_FILTER", "").strip() or "trace_based"
    exemplars = next((one for one in EXEMPLAR_FILTERS if one == wanted), None)
    if exemplars is None:
        raise ValueError(f"OTEL_METRICS_EXEMPLAR_FILTER={wanted} is none of {', '.join(EXEMPLAR_FILTERS)}")
    return MetricOptions(temporality or "cumulative", aggregation == _EXPONENTIAL, exemplars, redaction)


class Due(Protocol):
    """Has measurements that are not in their series yet."""

    def take_in(self) -> None:
        """Take them in."""


class Metrics:
    """Makes instruments and collects them."""

    def __init__(self, options: MetricOptions = MetricOptions()) -> None:
        self.options = options
        self.lock = RLock()
        self.due: deque[Due] = deque()
        """Who is to take in, before the next collection, what it has noted."""
        self._collecting = Lock()
        self._scopes: list[Scope] = []
        forks.follow(self)

    def scope(self, origin: Callable[[], Origin]) -> "Scope":
        """Where one more library or plugin has its instruments. `origin` is asked again in a forked child."""
        made = Scope(self, origin)
        with self.lock:
            self._scopes.append(made)
        return made

    def collect(self) -> tuple[bytes, int] | None:
        """An ExportMetricsServiceRequest and how many data points it has; None if there are none."""
        with self._collecting:
            self._take_in()
            now_ns = time_ns()
            content: list[tuple[Origin, list[bytes]]] = []
            count = 0
            for scope in list(self._scopes):
                metrics = []
                for instrument in list(scope.instruments):
                    points = instrument.collect(now_ns)
                    if points:
                        metrics.append(instrument.metric(points))
                        count += len(points)
                if metrics:
                    content.append((scope.origin, metrics))
        return (request(content), count) if content else None

    def _take_in(self) -> None:
        # As many as there are now: a busy program adds on.
        for _ in range(len(self.due)):
            self.due.popleft().take_in()

    def before_fork(self) -> None:
        """Part of ForkAware."""
        self.lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: begin at zero, for the parent goes on exporting what was recorded so far."""
        self._collecting = Lock()
        self._take_in()  # so that it is forgotten with the rest
        for scope in self._scopes:
            scope.forget()
        self.lock.release()


class Scope:
    """The instruments of one library or plugin."""

    def __init__(self, metrics: Metrics, origin: Callable[[], Origin]) -> None:
        self.metrics = metrics
        self.instruments: list[Instrument] = []
        self._make_origin = origin
        self._origin: Origin | None = None

    @property
    def origin(self) -> Origin:
        """Resource and scope in bytes."""
        if self._origin is None:
            self._origin = self._make_origin()
        return self._origin

    def instrument(
        self,
        name: str,
        kind: InstrumentKind,
        unit: str = "",
        description: str = "",
        bounds: Sequence[float] | None = None,
        observe: "Callable[[Instrument], None] | None" = None,
    ) -> "Instrument":
        """One more instrument; whether there is one of that name already is the caller's to know.

        `observe` is called before each export, to record on the instrument what it observes.
        Raises ValueError for a name, a unit or bounds OpenTelemetry does not allow.
        """
        made = Instrument(self.metrics, name, kind, unit, description, bounds, observe)
        with self.metrics.lock:
            self.instruments.append(made)
        return made

    def forget(self) -> None:
        """Begin at zero."""
        self._origin = None
        for instrument in self.instruments:
            instrument.forget()


class Instrument:
    """The series of one instrument.

    At most SERIES_LIMIT sets of attributes have a series of their own; all others share the one that says
    otel.metric.overflow. With delta temporality that is per export, as in the SDK.
    """

    def __init__(
        self,
        metrics: Metrics,
        name: str,
        kind: InstrumentKind,
        unit: str,
        description: str,
        bounds: Sequence[float] | None,
        observe: "Callable[[Instrument], None] | None",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name of an instrument; begin with a letter, go on with letters, digits and "
                f"any of - _ . / up to 255 characters"
            )
        if not _UNIT.fullmatch(unit):
            raise ValueError(f"instrument {name!r}: {unit!r} is no unit; give up to 63 ASCII characters")
        options = metrics.options
        self.lock = metrics.lock
        self.kind = kind
        self._observe = observe
        self._header = encode.header(name.lower(), description, unit)
        self._bounds = _checked(_DEFAULT_BOUNDS if bounds is None else bounds)
        self._bounds_bytes = encode.explicit_bounds(self._bounds)
        self._exponential = options.exponential
        self.exemplars = options.exemplars
        self._delta = kind in _DELTA_KINDS[options.temporality]
        # Of what a callback tells only the callback knows the beginning, so its series stay.
        self._restarts = self._delta and not kind.startswith("observable")
        self.redaction = options.redaction
        self._series: dict[Key, Series] = {}
        self._recent: dict[Key, Series] = {}
        self._collected_ns = 0

    def bind(self, attributes: Mapping[str, Any]) -> Series:
        """The series of these attributes, for recording on it again and again without looking for it.

        Message ids among them are left out: they belong to a single measurement.
        """
        return self._find({key: value for key, value in attributes.items() if key not in UNBOUNDED})

    def record(
        self, value: float, attributes: Mapping[str, Any] | None = None, context: Context | None = None
    ) -> None:
        """Take in one measurement. `value` must be finite."""
        attributes = attributes or {}
        left_out = {key: clean(attributes[key], None) for key in UNBOUNDED if key in attributes}
        if left_out:
            attributes = {key: part for key, part in attributes.items() if key not in UNBOUNDED}
        # 1, 1.0 and True are equal, but different attributes.
        key = (*attributes.items(), *map(type, attributes.values()))
        try:
            series = self._recent.get(key)
        except TypeError:  # a list or a mapping as a value
            series = self._find(attributes)
        else:
            if series is None:
                series = self._find(attributes)
                if len(self._recent) < SERIES_LIMIT and _is_plain(attributes):
                    self._recent[key] = series
        series.record(value, self.sample(context, left_out))

    def sample(self, context: Context | None, left_out: Mapping[str, Any]) -> Sample | None:
        """What makes a measurement in this context an exemplar; None if it may not be one."""
        if left_out and self.redaction.is_active:
            left_out = self.redaction.of(left_out)
        return sample(self.exemplars, context, left_out)

    def admit(self, series: Series) -> Series:
        """Part of Keeper."""
        at = self._series.get(series.key)
        if at is not None:
            return at
        if len(self._series) >= SERIES_LIMIT and series.key != _OVERFLOW_KEY:
            return self._series.get(_OVERFLOW_KEY) or self._new(_OVERFLOW, _OVERFLOW_KEY)
        self._series[series.key] = series
        series.start_ns = self._collected_ns or time_ns()
        return series

    def collect(self, now_ns: int) -> list[bytes]:
        """The data points of all series with something to say."""
        if self._observe is not None:
            self._observe(self)
        with self.lock:
            series = list(self._series.values())
            if self._restarts:
                # Bound ones come back by themselves with their next value; the others need not be kept.
                self._series, self._recent = {}, {}
                self._collected_ns = now_ns
        if self.kind.startswith("observable"):
            series = [one for one in series if not one.idle]
        return [one.point(now_ns, delta=self._delta or self.kind == "observable_gauge") for one in series]

    def metric(self, points: Sequence[bytes]) -> bytes:
        """These data points with what describes them, as a part of a request."""
        if self.kind in _SUMS:
            data = encode.SUM
        elif self.kind == "histogram":
            data = encode.EXPONENTIAL if self._exponential else encode.HISTOGRAM
        else:
            data = encode.GAUGE
        temporality = encode.DELTA if self._delta else encode.CUMULATIVE
        return encode.metric(
            self._header,
            data,
            points,
            None if data is encode.GAUGE else temporality,
            monotonic=self.kind in _MONOTONIC,
        )

    def forget(self) -> None:
        """Begin at zero. Bound series stay bound."""
        for series in self._series.values():
            series.reset()
        self._series, self._recent, self._collected_ns = {}, {}, 0

    def _find(self, attributes: Mapping[str, Any]) -> Series:
        cleaned: dict[str, Any] = clean(attributes, None)
        if self.redaction.is_active:
            cleaned = self.redaction.of(cleaned)
        key = _key_of(cleaned)
        return self._series.get(key) or self._new(cleaned, key)

    def _new(self, attributes: Mapping[str, Any], key: Key) -> Series:
        if self.kind == "histogram":
            if self._exponential:
                return ExponentialSeries(self, attributes, key)
            return HistogramSeries(self, attributes, key, self._bounds, self._bounds_bytes)
        if self.kind in ("observable_counter", "observable_up_down_counter"):
            return ObservedSumSeries(self, attributes, key)
        return (SumSeries if self.kind in _SUMS else LastValueSeries)(self, attributes, key)


def _key_of(value: Any) -> Key:
    """What tells attributes apart, whatever their order; the type too, for 1, 1.0 and True are equal."""
    if isinstance(value, Mapping):
        return ("mapping", *((key, _key_of(value[key])) for key in sorted(value)))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return ("sequence", *map(_key_of, value))
    return (type(value).__name__, value)


_OVERFLOW_KEY: Final = _key_of(_OVERFLOW)


def _is_plain(attributes: Mapping[Any, Any]) -> bool:
    """Whether these attributes can be told apart by their items and the types of their values."""
    return all(key.__class__ is str for key in attributes) and all(
        value.__class__ in PLAIN for value in attributes.values()
    )


def _checked(bounds: Sequence[float]) -> tuple[float, ...]:
    if all(map(math.isfinite, bounds)) and all(map(lt, bounds, bounds[1:])):
        return tuple(bounds)
    raise ValueError(
        f"{bounds!r} are no bounds of a histogram; give finite numbers, each above the one before"
    )
