"""The engine made of plain OpenTelemetry API calls, on whatever providers it is given."""

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)

from common_telemetry import attributes as names
from common_telemetry import catalogue, errors, propagation
from common_telemetry.attributes import Attributes, AttributeValue, PluginIdentity
from common_telemetry.catalogue import Metric
from common_telemetry.config import TelemetryConfig
from common_telemetry.engine import Binder, Clock, Engine, PluginEngine, Recorder
from common_telemetry.engines.accounts import ObservedAccount
from common_telemetry.health import Faults
from common_telemetry.logs import LogEmitter
from common_telemetry.message import ObservedMessage, Outgoing
from common_telemetry.messages import (
    MessageScope,
    MessageTelemetry,
    ProcessScope,
    PublishBatchScope,
    PublishScope,
)
from common_telemetry.propagation import Current


@dataclass(frozen=True, slots=True)
class PluginProviders:
    """Where one plugin's data goes."""

    tracer: TracerProvider
    meter: MeterProvider
    logs: LogEmitter


class ProviderSet(Protocol):
    """Knows the providers of each plugin."""

    def of(self, plugin: PluginIdentity) -> PluginProviders:
        """The providers of `plugin`."""


class OfficialEngine(Engine):
    """Spans, metrics and logs through the OpenTelemetry API.

    `keep_message_id` says whether instruments may be given message.id: only where a View takes it off the
    series again, or where it is wanted there.
    """

    def __init__(
        self,
        providers: ProviderSet,
        config: TelemetryConfig,
        faults: Faults,
        clock: Clock,
        *,
        keep_message_id: bool,
    ) -> None:
        self._providers = providers
        self._config = config
        self._faults = faults
        self._clock = clock
        self._keep_message_id = keep_message_id

    def bind(self, plugin: PluginIdentity) -> PluginEngine:
        """A tracer, a meter and a logger of scope `echo.plugin.<name>`."""
        providers = self._providers.of(plugin)
        tracer = providers.tracer.get_tracer(plugin.scope, plugin.version)
        meter = providers.meter.get_meter(plugin.scope, plugin.version)
        recorder = _Recorders(meter, keep_message_id=self._keep_message_id).of
        bound = Bound(
            plugin, tracer, meter, recorder, providers.logs, self._config, self._faults, self._clock
        )
        return PluginEngine(
            self._messages(bound),
            tracer,
            recorder,
            providers.logs,
            functools.partial(ObservedAccount, meter, plugin, self._config.semconv, faults=self._faults),
            binder=self._binder(bound),
            tracer_raises=self._tracer_raises(bound),
        )

    def _messages(self, bound: "Bound") -> MessageTelemetry:
        return OfficialMessages(bound)

    def _binder(self, bound: "Bound") -> Binder | None:
        return None

    def _tracer_raises(self, bound: "Bound") -> bool:
        return True


class _Recorders:
    def __init__(self, meter: Meter, *, keep_message_id: bool) -> None:
        self._meter = meter
        self._keep_message_id = keep_message_id
        self._made: dict[str, Recorder] = {}

    def of(self, metric: Metric) -> Recorder:
        recorder = self._made.get(metric.name)
        if recorder is None:
            recorder = self._made[metric.name] = self._make(metric)
        return recorder

    def _make(self, metric: Metric) -> Recorder:
        record = self._instrument(metric)
        if self._keep_message_id:
            return record

        def record_without_id(value: float, attributes: Attributes, context: Context | None) -> None:
            bounded = {key: part for key, part in attributes.items() if key not in names.UNBOUNDED}
            record(value, bounded, context)

        return record_without_id

    def _instrument(self, metric: Metric) -> Recorder:
        if metric.kind == "counter":
            return self._meter.create_counter(metric.name, metric.unit, metric.description).add
        if metric.kind == "gauge":
            return self._meter.create_gauge(metric.name, metric.unit, metric.description).set
        return self._meter.create_histogram(
            metric.name,
            metric.unit,
            metric.description,
            explicit_bucket_boundaries_advisory=metric.buckets,
        ).record


@dataclass(frozen=True, slots=True)
class Bound:
    """Everything a scope of one plugin needs."""

    plugin: PluginIdentity
    tracer: Tracer
    meter: Meter
    recorder: Callable[[Metric], Recorder]
    logs: LogEmitter
    config: TelemetryConfig
    faults: Faults
    clock: Clock

    def guard(self, doing: str) -> AbstractContextManager[None, bool]:
        """Telemetry never fails a message."""
        return self.faults.guard("message", f"plugin {self.plugin.name!r}: {doing!r} is not fully reported")


@dataclass(slots=True)
class _Opening:
    """A message span about to begin: in which context, with what on it."""

    name: str
    kind: SpanKind
    context: Context
    attributes: dict[str, AttributeValue]
    links: list[Link] = field(default_factory=list)
    current: Current | None = None


class _Scope(MessageScope):
    __slots__ = ("_bound", "_context", "_ended", "_opening", "_perf", "_span", "_start", "_token")

    def __init__(self, bound: Bound, opening: _Opening) -> None:
        self._bound = bound
        self._opening = opening
        self._span: Span = INVALID_SPAN
        self._context = opening.context
        self._ended = 0

    def __enter__(self) -> Self:
        clock, opening = self._bound.clock, self._opening
        self._start = clock.time_ns()
        self._perf = clock.perf_counter_ns()
        with self._bound.guard(opening.name):
            self._begin()
            self._span = self._bound.tracer.start_span(
                opening.name,
                context=opening.context,
                kind=opening.kind,
                attributes=opening.attributes,
                links=opening.links,
                start_time=self._start,
            )
            self._context = propagation.with_span(self._span, opening.context)
            if opening.current is not None:
                self._context = propagation.with_current(opening.current, self._context)
        self._token = otel_context.attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended = self._now()
        with self._bound.guard(self._opening.name):
            if error is not None:
                self._passed_through(error)
            self._finish(self._ended - self._start)
            self._span.end(self._ended)
        otel_context.detach(self._token)

    @property
    def span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def _now(self) -> int:
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        return self._start + self._bound.clock.perf_counter_ns() - self._perf

    def _begin(self) -> None:
        """Add what is only known at the start."""

    def _passed_through(self, error: BaseException) -> None:
        """Record an exception that leaves the block."""

    def _finish(self, elapsed_ns: int) -> None:
        """Measure what there is to measure."""

    def _mark_failed(self, error: BaseException | str, error_type: str) -> None:
        # Formatting a traceback takes longer than many a handler: it must not count as the span's time.
        mark_failed(self._span, error, error_type, self._ended or self._now())


class _Publish(_Scope, PublishScope):
    __slots__ = ()

    def carrier(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        with self._bound.guard(self._opening.name):
            propagation.inject(headers, self._context)
        return headers

    def fail(self, error: BaseException | str) -> None:
        self._mark_failed(error, type_of(error, None))

    def _passed_through(self, error: BaseException) -> None:
        self.fail(error)


class _PublishBatch(PublishBatchScope):
    """Spans that begin and end together; the context of each is where its carrier comes from."""

    __slots__ = ("_bound", "_contexts", "_openings", "_perf", "_spans", "_start")

    def __init__(self, bound: Bound, openings: Sequence[_Opening]) -> None:
        self._bound = bound
        self._openings = openings
        self._spans: list[Span] = []
        self._contexts: list[Context] = []

    def __enter__(self) -> Self:
        clock = self._bound.clock
        self._start = clock.time_ns()
        self._perf = clock.perf_counter_ns()
        for opening in self._openings:
            span: Span = INVALID_SPAN
            with self._bound.guard(opening.name):
                span = self._bound.tracer.start_span(
                    opening.name,
                    context=opening.context,
                    kind=opening.kind,
                    attributes=opening.attributes,
                    start_time=self._start,
                )
            self._spans.append(span)
            self._contexts.append(propagation.with_span(span, opening.context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(error)
        ended = self._start + self._bound.clock.perf_counter_ns() - self._perf
        for opening, span in zip(self._openings, self._spans, strict=True):
            with self._bound.guard(opening.name):
                span.end(ended)

    def carriers(self) -> Iterable[dict[str, str]]:
        for opening, context in zip(self._openings, self._contexts, strict=True):
            headers: dict[str, str] = {}
            with self._bound.guard(opening.name):
                propagation.inject(headers, context)
            yield headers

    def fail(self, error: BaseException | str) -> None:
        told: Attributes | None = None
        if isinstance(error, BaseException):
            told = {**errors.exception_attributes(error), "exception.escaped": "False"}
        for opening, span in zip(self._openings, self._spans, strict=True):
            with self._bound.guard(opening.name):
                mark_failed(span, error, type_of(error, None), told=told)


class _Process(_Scope, ProcessScope):
    __slots__ = (
        "_error_type",
        "_failure",
        "_message_id",
        "_plugin_attributes",
        "_topic",
        "_waiting_since",
        "_with_queue_time",
    )

    def __init__(
        self,
        bound: Bound,
        opening: _Opening,
        topic: str,
        message_id: str,
        *,
        waiting_since: int | None = None,
        with_queue_time: bool = False,
    ) -> None:
        super().__init__(bound, opening)
        self._topic = topic
        self._message_id = message_id
        # Measured with the plugin's status when it began, as the span has it.
        self._plugin_attributes = bound.plugin.attributes
        self._waiting_since = waiting_since
        self._with_queue_time = with_queue_time
        self._error_type = ""
        self._failure: BaseException | str | None = None

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def ended_ns(self) -> int:
        return self._ended

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        self._failure = error
        self._error_type = type_of(error, error_type)
        with self._bound.guard(self._opening.name):
            self._mark_failed(error, self._error_type)
            log_failure(self._bound, self._opening.attributes, error, self._error_type, self._context)

    def outcome(self, name: str) -> None:
        self._span.set_attribute(names.OUTCOME, name)

    def _begin(self) -> None:
        if self._waiting_since is not None:
            self._opening.attributes[names.QUEUE_TIME_MS] = self._queue_time_ms(self._waiting_since)

    def _queue_time_ms(self, since: int) -> float:
        # Clocks of two machines differ; nothing waits for less than no time.
        return max(self._start - since, 0) / 1e6

    def _passed_through(self, error: BaseException) -> None:
        if error is not self._failure:
            self.fail(error)

    def _measured(self) -> dict[str, AttributeValue]:
        found = {**self._plugin_attributes, names.MESSAGE_TOPIC: self._topic}
        if self._message_id:
            found[names.MESSAGE_ID] = self._message_id
        return found

    def _finish(self, elapsed_ns: int) -> None:
        attributes = self._measured()
        _measure_process(self._bound, self._topic, attributes, self._error_type, elapsed_ns, self._context)
        if self._with_queue_time and self._waiting_since is not None:
            attributes = self._measured()
            waited = self._queue_time_ms(self._waiting_since)
            self._bound.recorder(catalogue.QUEUE_TIME)(waited, attributes, self._context)


class OfficialMessages(MessageTelemetry):
    """Message spans by API calls alone."""

    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def publish(
        self,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...] = (),
        is_current: bool = True,
    ) -> PublishScope:
        here, links = otel_context.get_current(), []
        working = propagation.current(here)
        if working is not None and working.lifecycle:
            links = [Link(propagation.span_context(here))]
            here = propagation.with_span(INVALID_SPAN, here)
        attributes = self._attributes(names.PUBLISH, topic, message_id, root_id, parent_ids)
        return _Publish(self._bound, _Opening(f"publish {topic}", SpanKind.PRODUCER, here, attributes, links))

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        here = otel_context.get_current()
        working = propagation.current(here)
        if working is not None and working.lifecycle:
            here = propagation.with_span(INVALID_SPAN, here)
        trace_id = propagation.span_context(here).trace_id
        openings = [
            _Opening(
                f"publish {topic}",
                SpanKind.PRODUCER,
                self._made_in(topic, message, here, trace_id),
                self._attributes(names.PUBLISH, topic, message.id, message.root_id, message.parent_ids),
            )
            for message in messages
        ]
        return _PublishBatch(self._bound, openings)

    def _made_in(self, topic: str, message: Outgoing, here: Context, trace_id: int) -> Context:
        """Where a message goes on: here, or where its origin came from if that is another trace."""
        if message.origin is None:
            return here
        incoming = propagation.extract(message.origin.trace_context)
        origin = propagation.span_context(incoming)
        baggage, header = propagation.received_baggage(message.origin.trace_context, incoming)
        is_elsewhere = origin.is_valid and origin.trace_id != trace_id
        parent = trace.get_current_span(incoming if is_elsewhere else here)
        working = Current(self._bound.plugin, topic, message.id, baggage=baggage, baggage_header=header)
        return propagation.with_current(working, propagation.with_span(parent, incoming))

    def process(
        self,
        topic: str,
        message: ObservedMessage,
        *,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        opening = self._process_opening(topic, message, attempt, replay=replay)
        waiting_since = message.timestamp
        if previous is not None:
            waiting_since = previous.ended_ns or waiting_since
            if previous.span_context.is_valid:
                opening.links.append(_link(previous.span_context, message.id))
        return _Process(
            self._bound,
            opening,
            topic,
            message.id,
            waiting_since=None if replay else waiting_since,
            with_queue_time=attempt == 1 and not replay,
        )

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        contexts = [propagation.extract(message.trace_context) for message in messages]
        spans = [propagation.span_context(context) for context in contexts]
        return self.batch_from(topic, messages, spans, contexts[-1] if contexts else Context(), attempt)

    def batch_from(
        self,
        topic: str,
        messages: Sequence[ObservedMessage],
        spans: Sequence[SpanContext],
        last: Context,
        attempt: int,
    ) -> ProcessScope:
        """`batch`, for who knows by which spans the messages were published, and the last one's context."""
        links = [
            _link(span, message.id) for span, message in zip(spans, messages, strict=True) if span.is_valid
        ]
        one_trace = len({span.trace_id for span in spans}) == 1
        roots = {message.root_id for message in messages}
        parents = [parent for message in messages for parent in message.parent_ids]
        attributes = self._attributes(
            names.PROCESS, topic, "", roots.pop() if len(roots) == 1 else "", list(dict.fromkeys(parents))
        )
        attributes |= {names.BATCH_COUNT: len(messages), names.ATTEMPT: attempt}
        opening = _Opening(
            f"process {topic}",
            SpanKind.CONSUMER,
            last if one_trace else Context(),
            attributes,
            links,
            Current(self._bound.plugin, topic),
        )
        return _Process(self._bound, opening, topic, "")

    def dead_letter(
        self, topic: str, message: ObservedMessage, reason: str, failed: ProcessScope
    ) -> PublishScope:
        attributes = self._attributes(names.PUBLISH, topic, message.id, message.root_id, message.parent_ids)
        attributes |= {names.DLQ_REASON: reason, names.DLQ_TOPIC: failed.topic, names.DLQ_ID: message.id}
        incoming = propagation.extract(message.trace_context)  # its baggage goes with it
        baggage, header = propagation.received_baggage(message.trace_context, incoming)
        opening = _Opening(
            f"publish {topic}",
            SpanKind.PRODUCER,
            propagation.with_span(NonRecordingSpan(failed.span_context), incoming),
            attributes,
            current=Current(self._bound.plugin, topic, message.id, baggage=baggage, baggage_header=header),
        )
        return _Publish(self._bound, opening)

    def crash(self, topic: str, message: ObservedMessage, exit_code: int, *, attempt: int = 1) -> None:
        opening = self._process_opening(topic, message, attempt, replay=False)
        opening.attributes |= {names.ERROR_TYPE: "plugin_crash", names.EXIT_CODE: exit_code}
        with self._bound.guard(opening.name):
            self._report_crash(opening, f"the plugin's process ended with {exit_code} over this message")

    def _report_crash(self, opening: _Opening, reason: str) -> None:
        now = self._bound.clock.time_ns()
        span = self._bound.tracer.start_span(
            opening.name,
            context=opening.context,
            kind=opening.kind,
            attributes=opening.attributes,
            links=opening.links,
            start_time=now,
        )
        span.set_status(Status(StatusCode.ERROR, reason))
        span.end(now)
        context = propagation.with_span(span, opening.context)
        log_failure(self._bound, opening.attributes, reason, "plugin_crash", context)

    def _process_opening(
        self, topic: str, message: ObservedMessage, attempt: int, *, replay: bool
    ) -> _Opening:
        incoming = propagation.extract(message.trace_context)
        origin = propagation.span_context(incoming)
        attributes = self._attributes(names.PROCESS, topic, message.id, message.root_id, message.parent_ids)
        attributes[names.ATTEMPT] = attempt
        fresh = replay or self._is_late(message)
        if fresh:
            attributes[names.REPLAY if replay else names.LATE] = True
        baggage, header = propagation.received_baggage(message.trace_context, incoming)
        return _Opening(
            f"process {topic}",
            SpanKind.CONSUMER,
            propagation.with_span(INVALID_SPAN, incoming) if fresh else incoming,
            attributes,
            [_link(origin, message.id)] if self._is_linked(origin, fresh=fresh) else [],
            Current(self._bound.plugin, topic, message.id, baggage=baggage, baggage_header=header),
        )

    def _is_late(self, message: ObservedMessage) -> bool:
        age_ns = self._bound.clock.time_ns() - message.timestamp
        return age_ns > self._bound.config.trace_max_age_s * 1e9

    def _is_linked(self, origin: SpanContext, *, fresh: bool) -> bool:
        return origin.is_valid and (fresh or self._bound.config.links == "always")

    def _attributes(
        self,
        operation: names.Operation,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: Sequence[str],
    ) -> dict[str, AttributeValue]:
        semconv = self._bound.config.semconv
        return names.message_attributes(
            operation, self._bound.plugin, topic, message_id, root_id, parent_ids, semconv
        )


def _link(span: SpanContext, message_id: str) -> Link:
    return Link(span, {names.MESSAGING_ID: message_id})


def type_of(error: BaseException | str, given: str | None) -> str:
    """The value of `error.type`."""
    if given:
        return given
    # "_OTHER" is the conventions' word for an error without a class.
    return errors.error_type(error) if isinstance(error, BaseException) else "_OTHER"


def mark_failed(
    span: Span,
    error: BaseException | str,
    error_type: str,
    now_ns: int | None = None,
    *,
    told: Attributes | None = None,
) -> None:
    """Make `span` that of something that went wrong.

    `told` is what its event says of the exception, for who has that: `record_exception` formats it anew.
    """
    span.set_status(Status(StatusCode.ERROR, describe_failure(error)))
    span.set_attribute(names.ERROR_TYPE, error_type)
    if told is not None:
        span.add_event("exception", told, now_ns)
    elif isinstance(error, BaseException):
        span.record_exception(error, errors.exception_attributes(error), now_ns)


def describe_failure(error: BaseException | str) -> str:
    """The failure in one line."""
    return error if isinstance(error, str) else errors.describe(error)


def _measure_process(
    bound: Bound,
    topic: str,
    attributes: dict[str, AttributeValue],
    error_type: str,
    elapsed_ns: int,
    context: Context,
) -> None:
    failed: Attributes = {names.ERROR_TYPE: error_type} if error_type else {}
    if bound.config.semconv != "otel":
        bound.recorder(catalogue.PROCESSING_TIME)(elapsed_ns / 1e6, {**attributes, **failed}, context)
    if bound.config.semconv != "echo":
        del attributes[names.MESSAGE_TOPIC]
        attributes |= {
            names.SYSTEM: names.SYSTEM_NAME,
            names.OPERATION_NAME: names.PROCESS.name,
            names.DESTINATION: topic,
            names.CONSUMER_GROUP: bound.plugin.name,
            **failed,
        }
        bound.recorder(catalogue.PROCESS_DURATION)(elapsed_ns / 1e9, attributes, context)


def log_failure(
    bound: Bound, about: Attributes, error: BaseException | str, error_type: str, context: Context
) -> None:
    """Log that a message, or a batch, `about` which all is known, could not be handled."""
    attributes: dict[str, AttributeValue] = {**about, names.ERROR_TYPE: error_type}
    if isinstance(error, BaseException):
        attributes |= errors.exception_attributes(error)
    bound.logs.emit(
        bound.plugin.scope,
        bound.plugin.version,
        logging.ERROR,
        f"{about.get(names.MESSAGE_ID, 'a batch')} on {about.get(names.MESSAGE_TOPIC)}: "
        f"{describe_failure(error)}",
        attributes,
        context=context,
        event_name="plugin.message.failed",
    )
