"""OpenTelemetry's metrics API over this engine: what plugins' code and instrumented libraries get to see."""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    CallbackT,
    Counter,
    Histogram,
    Meter,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    Observation,
    UpDownCounter,
)
from opentelemetry.metrics import _Gauge as Gauge
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common_telemetry import forks
from common_telemetry.catalogue import Metric
from common_telemetry.engines.fast.metrics import Instrument, InstrumentKind, Metrics
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.errors import describe
from common_telemetry.health import Faults

# The SDK's own logger, so that what an application does about these complaints holds for both engines.
_logger = logging.getLogger("opentelemetry.sdk.metrics._internal.instrument")
_T = TypeVar("_T")
_Attributes = Mapping[str, Any] | None


class MakeOrigin(Protocol):
    """Tells what stands in front of the metrics of a scope; asked again in a forked child."""

    def __call__(self, scope: InstrumentationScope) -> Origin:
        """Resource and scope in bytes."""


class FastMeterProvider(MeterProvider):
    """Meters of one resource. All providers of a process may share one `Metrics`, and so one export."""

    def __init__(self, metrics: Metrics, origin: MakeOrigin, faults: Faults) -> None:
        self._metrics = metrics
        self._origin = origin
        self._faults = faults
        self._lock = RLock()
        self._meters: dict[InstrumentationScope, FastMeter] = {}
        self.flush: Callable[[float], bool] = _flushed
        """What `force_flush` calls, with the seconds it may take."""
        forks.follow(self)

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> "FastMeter":
        scope = InstrumentationScope(name or "", version or "", schema_url, attributes)
        with self._lock:
            meter = self._meters.get(scope)
            if meter is None:
                meter = self._meters[scope] = FastMeter(self._metrics, scope, self._origin, self._faults)
        return meter

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Send what was measured so far; True if it was accepted in time."""
        return self.flush(timeout_millis / 1e3)

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """Flush. The telemetry context ends the rest."""
        self.force_flush(timeout_millis)

    def before_fork(self) -> None:
        """Part of ForkAware. Not holding the locks: `Metrics` holds its own, which is taken within these."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: a thread that is not in this process may hold them."""
        self._lock = RLock()
        for meter in self._meters.values():
            meter.renew_lock()


class FastMeter(Meter):
    """The instruments of one scope. The same name, kind, unit and description give the same instrument."""

    def __init__(
        self, metrics: Metrics, scope: InstrumentationScope, origin: MakeOrigin, faults: Faults
    ) -> None:
        super().__init__(scope.name, scope.version, scope.schema_url)
        self.metrics = metrics
        self._scope = metrics.scope(lambda: origin(scope))
        self._faults = faults
        self._lock_of_made = RLock()
        self._made: dict[tuple[str, InstrumentKind, str, str], Any] = {}

    def renew_lock(self) -> None:
        """Part of what its provider does in the child of a fork."""
        self._lock_of_made = RLock()

    def instrument(self, metric: Metric) -> Instrument:
        """The instrument of `metric`, to bind series of it."""
        name, unit, description = metric.name, metric.unit, metric.description
        made: _Recording
        if metric.kind == "counter":
            made = self._instrument(FastCounter, "counter", name, unit, description)
        elif metric.kind == "gauge":
            made = self._instrument(FastGauge, "gauge", name, unit, description)
        else:
            made = self._instrument(FastHistogram, "histogram", name, unit, description, metric.buckets)
        return made.instrument

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        return self._instrument(FastCounter, "counter", name, unit, description)

    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> UpDownCounter:
        return self._instrument(FastUpDownCounter, "up_down_counter", name, unit, description)

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Gauge:
        return self._instrument(FastGauge, "gauge", name, unit, description)

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        bounds = explicit_bucket_boundaries_advisory
        return self._instrument(FastHistogram, "histogram", name, unit, description, bounds)

    def create_observable_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableCounter:
        return self._observable(
            FastObservableCounter, "observable_counter", name, callbacks, unit, description
        )

    def create_observable_up_down_counter(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableUpDownCounter:
        kind: InstrumentKind = "observable_up_down_counter"
        return self._observable(FastObservableUpDownCounter, kind, name, callbacks, unit, description)

    def create_observable_gauge(
        self, name: str, callbacks: Sequence[CallbackT] | None = None, unit: str = "", description: str = ""
    ) -> ObservableGauge:
        return self._observable(FastObservableGauge, "observable_gauge", name, callbacks, unit, description)

    def _instrument(
        self,
        make: "Callable[[str, Instrument, Faults], _T]",
        kind: InstrumentKind,
        name: str,
        unit: str,
        description: str,
        bounds: Sequence[float] | None = None,
        observe: Callable[[Instrument], None] | None = None,
    ) -> _T:
        unit, description = unit or "", description or ""
        with self._lock_of_made:
            # OpenTelemetry holds names that differ only in case for one instrument.
            identity = (name.lower(), kind, unit, description)
            made = self._made.get(identity)
            if made is None:
                instrument = self._scope.instrument(name, kind, unit, description, bounds, observe)
                made = self._made[identity] = make(name, instrument, self._faults)
        return cast("_T", made)

    def _observable(
        self,
        make: "Callable[[str, Instrument, Faults], _T]",
        kind: InstrumentKind,
        name: str,
        callbacks: Sequence[CallbackT] | None,
        unit: str,
        description: str,
    ) -> _T:
        observer = _Observer(name, callbacks or (), self._faults)
        return self._instrument(make, kind, name, unit, description, observe=observer)


class _Recording:
    """What the instruments that are called have in common.

    Nothing raises: a value that is not allowed is logged as the SDK does, anything else becomes a fault.
    """

    _may_be_negative: ClassVar[bool] = False

    def __init__(self, name: str, instrument: Instrument, faults: Faults) -> None:
        self.name = name
        self.instrument = instrument
        self._faults = faults

    def _record(self, value: float, attributes: _Attributes, context: Context | None) -> None:
        try:
            if not math.isfinite(value):
                _logger.warning("Amount %s is not finite on %s, ignoring measurement.", value, self.name)
            elif value < 0 and not self._may_be_negative:
                _logger.warning("Amount %s must be non-negative on %s.", value, self.name)
            else:
                self.instrument.record(value, attributes, context)
        except Exception as error:  # noqa: BLE001 - attributes may be of any class, with code of its own
            self._faults.report("measurement", f"{self.name!r} cannot be recorded: {describe(error)}")


class FastCounter(_Recording, Counter):
    """Goes up."""

    def add(self, amount: float, attributes: _Attributes = None, context: Context | None = None) -> None:
        self._record(amount, attributes, context)


class FastUpDownCounter(_Recording, UpDownCounter):
    """Goes up and down."""

    _may_be_negative = True

    def add(self, amount: float, attributes: _Attributes = None, context: Context | None = None) -> None:
        self._record(amount, attributes, context)


class FastGauge(_Recording, Gauge):
    """Has a value."""

    _may_be_negative = True

    def set(self, amount: float, attributes: _Attributes = None, context: Context | None = None) -> None:
        self._record(amount, attributes, context)


class FastHistogram(_Recording, Histogram):
    """Has a distribution."""

    def record(self, amount: float, attributes: _Attributes = None, context: Context | None = None) -> None:
        self._record(amount, attributes, context)


class _Observed:
    """What the instruments that call back have in common."""

    def __init__(self, name: str, instrument: Instrument, faults: Faults) -> None:
        self.name = name
        self.instrument = instrument


class FastObservableCounter(_Observed, ObservableCounter):
    """Its callbacks tell a total that only goes up."""


class FastObservableUpDownCounter(_Observed, ObservableUpDownCounter):
    """Its callbacks tell a total."""


class FastObservableGauge(_Observed, ObservableGauge):
    """Its callbacks tell a value."""


class _Observer:
    """Calls the callbacks of one instrument before an export, in the thread that exports."""

    def __init__(self, name: str, callbacks: Iterable[CallbackT], faults: Faults) -> None:
        self._name = name
        self._faults = faults
        self._callbacks = [_function(callback) for callback in callbacks]

    def __call__(self, instrument: Instrument) -> None:
        for callback in self._callbacks:
            try:
                for observation in callback(_OPTIONS):
                    if math.isfinite(observation.value):
                        instrument.record(observation.value, observation.attributes, observation.context)
            except Exception as error:  # noqa: BLE001 - somebody else's callback; the others go on
                self._faults.report("callback", f"a callback of {self._name!r} failed: {describe(error)}")


_OPTIONS: Final = CallbackOptions()


def _function(callback: CallbackT) -> Callable[[CallbackOptions], Iterable[Observation]]:
    if not isinstance(callback, Generator):
        return callback
    next(callback)  # as the API has it: it yields once before it is asked

    def ask(options: CallbackOptions) -> Iterable[Observation]:
        try:
            return callback.send(options)
        except StopIteration:
            return ()

    return ask


def _flushed(seconds: float) -> bool:
    return True
