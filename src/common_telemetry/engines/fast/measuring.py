"""How message scopes measure: on series that are found once for a topic, or on any meter's instruments."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
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
from common_telemetry.engines.fast.series import SampleOf, Series
from common_telemetry.engines.official import Bound

_ERROR_TYPES_KEPT: Final = 64
_RUN: Final = 256
"""So many measurements at most wait to be taken in."""
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
    """On series of this engine, in runs: what goes well is noted, and taken in many at a time.

    That costs a third of taking in one by one, and gives the same to the last bit.
    """

    def __init__(self, meter: FastMeter, bound: Bound, topic: str) -> None:
        self._instrument = meter.instrument
        self._metrics = metrics = meter.metrics
        self._run: deque[_Noted] = deque()
        self._is_due = False  # whether the next collection knows that there is a run
        self._with_id = bound.config.message_id_on_metrics == "exemplar" and metrics.options.redaction.keeps(
            names.MESSAGE_ID
        )
        exemplars = metrics.options.exemplars
        self._sampled = (exemplars == "always_on", exemplars != "always_off")
        """Whether a measurement may be an exemplar: of a span that is not sampled, and of one that is."""
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
        trace_id = context.trace_id if self._sampled[context.flags & SAMPLED] else None
        noted = (elapsed_ns, waited_ms, message_id, trace_id, context.span_id, now_ns)
        if error_type:
            self._take_in_failure(noted, error_type)
            return
        run = self._run
        run.append(noted)
        if not self._is_due:
            # After the append: whoever collects in between either sees it or is told again.
            self._is_due = True
            self._metrics.due.append(self)
        if len(run) >= _RUN:
            self.take_in()

    def take_in(self) -> None:
        """Part of Due: all that was noted, in the order in which it was."""
        run = self._run
        with self._metrics.lock:
            self._is_due = False
            noted = [run.popleft() for _ in range(len(run))]
            if not noted:
                return
            elapsed = [one[0] for one in noted]
            for series, ns in self._succeeded:
                series.add_run([value / ns for value in elapsed], self._samples(noted))
            first = [one for one in noted if one[1] is not None]
            self._queue_time.add_run([one[1] or 0.0 for one in first], self._samples(first))

    def _samples(self, noted: "Sequence[_Noted]") -> SampleOf | None:
        if all(trace_id is None for _, _, _, trace_id, _, _ in noted):
            return None
        return lambda at: self._sample(noted[at])

    def _take_in_failure(self, noted: "_Noted", error_type: str) -> None:
        elapsed_ns, waited_ms, *_ = noted
        sample = self._sample(noted)
        with self._metrics.lock:
            self.take_in()  # what came before it, first: the time in the queue is one sum for all
            for series, ns in self._with_error(error_type):
                series.add(elapsed_ns / ns, sample)
            if waited_ms is not None:
                self._queue_time.add(waited_ms, sample)

    def _sample(self, noted: "_Noted") -> Sample | None:
        _, _, message_id, trace_id, span_id, now_ns = noted
        if trace_id is None:
            return None
        return now_ns, trace_id, span_id, {names.MESSAGE_ID: message_id} if self._with_id else None

    def _target(self, metric: Metric, attributes: _Attributes) -> Series:
        return self._instrument(metric).bind(attributes)


_Noted = tuple[int, float | None, str, bytes | None, bytes, int]
"""Elapsed, waited, the message's id, trace id if it may be an exemplar, span id, when."""


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
