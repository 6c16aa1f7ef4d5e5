"""How message scopes measure: on series that are found once for a topic, or on any meter's instruments."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Meter, NoOpMeter

from common_telemetry import attributes as names
from common_telemetry import catalogue
from common_telemetry.attributes import AttributeValue
from common_telemetry.catalogue import Metric
from common_telemetry.engines.fast.current_span import MessageContext
from common_telemetry.engines.fast.exemplars import Sample
from common_telemetry.engines.fast.identity import SAMPLED
from common_telemetry.engines.fast.meter import FastMeter
from common_telemetry.engines.fast.series import Series
from common_telemetry.engines.official import Bound

_ERROR_TYPES_KEPT: Final = 64
_Attributes = dict[str, AttributeValue]
_Target = TypeVar("_Target")


class MessageMeters(ABC):
    """The measurements of processed messages, of one plugin in one status, and one topic."""

    @abstractmethod
    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float | None,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        """Measure one attempt; `waited_ms` only where the time in the queue is to be measured too."""


MakeMeters = Callable[[Bound, str], MessageMeters]
"""Gives the meters for a topic."""


def meters_on(meter: Meter) -> MakeMeters:
    """The cheapest way to measure on `meter`."""
    if isinstance(meter, NoOpMeter):
        return lambda bound, topic: _NO_METERS
    if isinstance(meter, FastMeter):
        return lambda bound, topic: _OnSeries(meter, bound, topic)
    return _OnRecorders


class _None(MessageMeters):
    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float | None,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        return None


_NO_METERS: Final = _None()


class _Targets(MessageMeters, Generic[_Target]):
    """What is measured where, kept for success and for each kind of failure."""

    def __init__(self, bound: Bound, topic: str) -> None:
        semconv, plugin = bound.config.semconv, bound.plugin
        echo = {**plugin.attributes, names.MESSAGE_TOPIC: topic}
        messaging = {
            **plugin.attributes,
            names.SYSTEM: names.SYSTEM_NAME,
            names.OPERATION_NAME: names.PROCESS.name,
            names.DESTINATION: topic,
            names.CONSUMER_GROUP: plugin.name,
        }
        # What is measured, with what, and how many nanoseconds are one of its unit.
        self._measured: list[tuple[Metric, _Attributes, float]] = []
        if semconv != "otel":
            self._measured.append((catalogue.PROCESSING_TIME, echo, 1e6))
        if semconv != "echo":
            self._measured.append((catalogue.PROCESS_DURATION, messaging, 1e9))
        self._succeeded = self._targets("")
        self._failed: dict[str, list[tuple[_Target, float]]] = {}
        self._queue_time = self._target(catalogue.QUEUE_TIME, echo)

    @abstractmethod
    def _target(self, metric: Metric, attributes: _Attributes) -> _Target:
        """Where measurements with these attributes go."""

    def _with_error(self, error_type: str) -> list[tuple[_Target, float]]:
        found = self._failed.get(error_type)
        if found is None:
            found = self._targets(error_type)
            if len(self._failed) < _ERROR_TYPES_KEPT:
                self._failed[error_type] = found
        return found

    def _targets(self, error_type: str) -> list[tuple[_Target, float]]:
        more: _Attributes = {names.ERROR_TYPE: error_type} if error_type else {}
        return [(self._target(metric, {**about, **more}), ns) for metric, about, ns in self._measured]


class _OnSeries(_Targets[Series]):
    """On series of this engine: three of them under one lock, and nothing to look for."""

    def __init__(self, meter: FastMeter, bound: Bound, topic: str) -> None:
        self._instrument = meter.instrument
        metrics = meter.metrics
        self._lock = metrics.lock
        self._always = metrics.options.exemplars == "always_on"
        self._if_sampled = metrics.options.exemplars == "trace_based"
        self._with_id = bound.config.message_id_on_metrics == "exemplar" and metrics.options.redaction.keeps(
            names.MESSAGE_ID
        )
        super().__init__(bound, topic)

    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float | None,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        sample: Sample | None = None
        if self._always or (self._if_sampled and context.flags & SAMPLED):
            left_out = {names.MESSAGE_ID: message_id} if self._with_id else None
            sample = (now_ns, context.trace_id, context.span_id, left_out)
        targets = self._with_error(error_type) if error_type else self._succeeded
        with self._lock:
            for series, ns in targets:
                series.add(elapsed_ns / ns, sample)
            if waited_ms is not None:
                self._queue_time.add(waited_ms, sample)

    def _target(self, metric: Metric, attributes: _Attributes) -> Series:
        return self._instrument(metric).bind(attributes)


_Record = Callable[[float, str, Context], None]


class _OnRecorders(_Targets[_Record]):
    """On instruments of any meter, which take their attributes each time."""

    def __init__(self, bound: Bound, topic: str) -> None:
        self._recorder = bound.recorder
        super().__init__(bound, topic)

    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float | None,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        for record, ns in self._with_error(error_type) if error_type else self._succeeded:
            record(elapsed_ns / ns, message_id, context)
        if waited_ms is not None:
            self._queue_time(waited_ms, message_id, context)

    def _target(self, metric: Metric, attributes: _Attributes) -> _Record:
        record: Final = self._recorder(metric)
        return lambda value, message_id, context: record(
            value, {**attributes, names.MESSAGE_ID: message_id}, context
        )
