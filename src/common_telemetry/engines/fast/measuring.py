"""How message scopes measure: on series that are found once for a topic, or on any meter's instruments."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from opentelemetry.context import Context
from opentelemetry.metrics import Meter, NoOpMeter

from common_telemetry import attributes as names
from common_telemetry import catalogue
from common_telemetry.attributes import AttributeValue
from common_telemetry.catalogue import Metric
from common_telemetry.engines.fast.current_span import MessageContext
from common_telemetry.engines.fast.exemplars import Sample
from common_telemetry.engines.fast.meter import FastMeter
from common_telemetry.engines.fast.run import Noted, Run
from common_telemetry.engines.fast.series import SampleOf, Series
from common_telemetry.engines.official import Bound

_ERROR_TYPES_KEPT: Final = 64
_RUN: Final = 256
"""So many measurements at most wait to be taken in."""
_Attributes = dict[str, AttributeValue]
_Target = TypeVar("_Target")


class MessageMeters:
    """The measurements of processed messages, of one plugin in one status, and one topic."""

    __slots__ = ()

    @abstractmethod
    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        """Measure one attempt; `waited_ms` is NOT_MEASURED where the time in the queue is not to be."""

    def take_in(self) -> None:
        """Take in what was noted, where anything is."""
        return


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
        waited_ms: float,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        return None


_NO_METERS: Final = _None()


class _Targets(Generic[_Target]):
    """What is measured where, kept for success and for each kind of failure."""

    def __init__(
        self, bound: Bound, topic: str, target_for: Callable[[Metric, _Attributes], _Target]
    ) -> None:
        """`target_for` gives where measurements of a metric with these attributes go."""
        semconv, plugin = bound.config.semconv, bound.plugin
        echo = {**plugin.attributes, names.MESSAGE_TOPIC: topic}
        messaging = {
            **plugin.attributes,
            names.SYSTEM: names.SYSTEM_NAME,
            names.OPERATION_NAME: names.PROCESS.name,
            names.DESTINATION: topic,
            names.CONSUMER_GROUP: plugin.name,
        }
        self._target_for = target_for
        # What is measured, with what, and how many nanoseconds are one of its unit.
        self._measured: list[tuple[Metric, _Attributes, float]] = []
        if semconv != "otel":
            self._measured.append((catalogue.PROCESSING_TIME, echo, 1e6))
        if semconv != "echo":
            self._measured.append((catalogue.PROCESS_DURATION, messaging, 1e9))
        self.succeeded = self._targets("")
        self._failed: dict[str, list[tuple[_Target, float]]] = {}
        self.queue_time = target_for(catalogue.QUEUE_TIME, echo)

    def with_error(self, error_type: str) -> list[tuple[_Target, float]]:
        """Where durations go that ended in such an error, and how many nanoseconds are one of the unit."""
        found = self._failed.get(error_type)
        if found is None:
            found = self._targets(error_type)
            if len(self._failed) < _ERROR_TYPES_KEPT:
                self._failed[error_type] = found
        return found

    def _targets(self, error_type: str) -> list[tuple[_Target, float]]:
        more: _Attributes = {names.ERROR_TYPE: error_type} if error_type else {}
        return [(self._target_for(metric, {**about, **more}), ns) for metric, about, ns in self._measured]


class _OnSeries(MessageMeters):
    """On series of this engine, in runs: what goes well is noted, and taken in many at a time.

    That costs a third of taking in one by one, and gives the same to the last bit.
    """

    __slots__ = ("_is_due", "_metrics", "_of_others", "_of_sampled", "_run", "_targets", "_with_id")

    def __init__(self, meter: FastMeter, bound: Bound, topic: str) -> None:
        self._metrics = metrics = meter.metrics
        self._run = Run(_RUN)
        self._is_due = False  # whether the next collection knows that there is a run
        self._with_id = bound.config.message_id_on_metrics == "exemplar" and metrics.options.redaction.keeps(
            names.MESSAGE_ID
        )
        # Whether a measurement may be an exemplar: of a span that is sampled, and of one that is not.
        self._of_sampled = metrics.options.exemplars != "always_off"
        self._of_others = metrics.options.exemplars == "always_on"
        self._targets = _Targets[Series](
            bound, topic, lambda metric, attributes: meter.instrument(metric).bind(attributes)
        )

    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        may_be_exemplar = self._of_sampled if context.flags & 1 else self._of_others  # SAMPLED, for C
        trace_id = context.trace_id if may_be_exemplar else None
        if error_type:
            sample = self._sample((now_ns, trace_id, context.span_id, message_id) if trace_id else None)
            self._take_in_failure(elapsed_ns, waited_ms, error_type, sample)
            return
        is_full = self._run.note(elapsed_ns, waited_ms, message_id, trace_id, context.span_id, now_ns)
        if not self._is_due:
            # After it was noted: whoever collects in between either sees it or is told again.
            self._is_due = True
            self._metrics.due.append(self)
        if is_full:
            self.take_in()

    def take_in(self) -> None:
        """Part of Due: all that was noted, in the order in which it was."""
        with self._metrics.lock:
            self._is_due = False
            noted = self._run.take()
            if not noted:
                return
            for series, ns in self._targets.succeeded:
                series.add_run(noted.durations(ns), self._samples(noted, range(len(noted))))
            waits, which = noted.waits()
            self._targets.queue_time.add_run(waits, self._samples(noted, which))

    def _samples(self, noted: Noted, which: Sequence[int]) -> SampleOf | None:
        if not noted.has_samples():
            return None
        return lambda at: self._sample(noted.sample(which[at]))

    def _take_in_failure(
        self, elapsed_ns: int, waited_ms: float, error_type: str, sample: Sample | None
    ) -> None:
        with self._metrics.lock:
            self.take_in()  # what came before it, first: the time in the queue is one sum for all
            for series, ns in self._targets.with_error(error_type):
                series.add(elapsed_ns / ns, sample)
            if waited_ms >= 0:
                self._targets.queue_time.add(waited_ms, sample)

    def _sample(self, noted: tuple[int, bytes, bytes, str] | None) -> Sample | None:
        if noted is None:
            return None
        now_ns, trace_id, span_id, message_id = noted
        return now_ns, trace_id, span_id, {names.MESSAGE_ID: message_id} if self._with_id else None


_Record = Callable[[float, str, MessageContext], None]


class _OnRecorders(MessageMeters):
    """On instruments of any meter, which take their attributes each time."""

    def __init__(self, bound: Bound, topic: str) -> None:
        self._recorder = bound.recorder
        self._targets = _Targets[_Record](bound, topic, self._target)

    def measure(
        self,
        elapsed_ns: int,
        waited_ms: float,
        error_type: str,
        message_id: str,
        context: MessageContext,
        now_ns: int,
    ) -> None:
        for record, ns in self._targets.with_error(error_type) if error_type else self._targets.succeeded:
            record(elapsed_ns / ns, message_id, context)
        if waited_ms >= 0:
            self._targets.queue_time(waited_ms, message_id, context)

    def _target(self, metric: Metric, attributes: _Attributes) -> _Record:
        record: Final = self._recorder(metric)
        return lambda value, message_id, context: record(
            value, {**attributes, names.MESSAGE_ID: message_id}, cast("Context", context)
        )
