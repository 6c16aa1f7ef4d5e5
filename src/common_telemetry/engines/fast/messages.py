"""Publishing and processing messages, the short way: what every message goes through.

A message takes it if its headers are the usual ones, and it is neither late, nor replayed, nor a batch, nor
tried again. All others go the long way: the official engine's message scopes, over the tracers of this one.
Both give the same spans; tests compare them.

What happens to a message on the short way:

1. `process` finds the `Site` of its topic, where all that is constant is kept, and parses `traceparent`.
2. `__enter__` makes a `MessageSpan` and attaches a context that holds it.
3. `publish` within does the same for the message that goes out, and `carrier` formats its `traceparent`.
4. `__exit__` records the measurements and gives the span to the tracer, which puts it into the buffer.

The rest, from slots to bytes, is `trace_bytes` in the thread that exports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, Status, StatusCode

from common_telemetry import attributes as names
from common_telemetry import propagation
from common_telemetry.engines.fast import headers
from common_telemetry.engines.fast.identity import SAMPLED, SpanIdentity
from common_telemetry.engines.fast.measuring import MakeMeters, MessageMeters
from common_telemetry.engines.fast.message_spans import MessageSpan, Site
from common_telemetry.engines.fast.spans import IdleSpan
from common_telemetry.engines.fast.tracer import SPAN_KEY, FastTracer, parent_in
from common_telemetry.engines.official import (
    Bound,
    OfficialMessages,
    describe_failure,
    log_failure,
    type_of,
)
from common_telemetry.errors import describe
from common_telemetry.message import ObservedMessage, Outgoing
from common_telemetry.messages import (
    MessageScope,
    MessageTelemetry,
    ProcessScope,
    PublishBatchScope,
    PublishScope,
)
from common_telemetry.propagation import CURRENT_KEY, Current

_NOWHERE: Final = Context()
# Beyond, somebody makes topics out of data, and keeping what is constant of each would only fill the memory.
_SITES_KEPT: Final = 4_096


@dataclass(slots=True)
class _Place:
    """A topic a plugin processes: what its spans and what its measurements have in common."""

    site: Site
    meters: MessageMeters


class FastMessages(MessageTelemetry):
    """The message spans of one plugin."""

    __slots__ = (
        "_meters",
        "_places",
        "_sites",
        "bound",
        "clock",
        "linked",
        "long_way",
        "max_age_ns",
        "plugin",
        "tracer",
    )

    def __init__(self, bound: Bound, tracer: FastTracer, meters: MakeMeters) -> None:
        self.bound = bound
        self.clock = bound.clock
        self.plugin = bound.plugin
        self.tracer = tracer
        self.linked = bound.config.links == "always"
        self.max_age_ns = bound.config.trace_max_age_s * 1e9
        self.long_way = OfficialMessages(bound)
        self._meters = meters
        self._sites: dict[str, Site] = {}
        self._places: dict[str, _Place] = {}

    def publish(
        self, topic: str, message_id: str, root_id: str, parent_ids: tuple[str, ...] = ()
    ) -> PublishScope:
        here = otel_context.get_current()
        working = here.get(CURRENT_KEY)
        if (
            self.tracer.is_simple
            and message_id
            and not (isinstance(working, Current) and working.lifecycle)  # never a parent of messages
        ):
            return _Publish(self, self._site(topic), here, message_id, root_id, parent_ids)
        return self.long_way.publish(topic, message_id, root_id, parent_ids)

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        return self.long_way.publish_batch(topic, messages)

    def process(
        self,
        topic: str,
        message: ObservedMessage,
        *,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        if previous is None and not replay and self.tracer.is_simple and message.id:
            carrier = message.trace_context
            parent = headers.parent_of(carrier) if carrier and headers.are_w3c() else None
            is_late = self.clock.time_ns() - message.timestamp > self.max_age_ns
            if not is_late and (parent is not None or not carrier):
                return _Process(self, self._place(topic), message, parent, attempt)
        return self.long_way.process(topic, message, attempt=attempt, previous=previous, replay=replay)

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        return self.long_way.batch(topic, messages, attempt=attempt)

    def dead_letter(
        self, topic: str, message: ObservedMessage, reason: str, failed: ProcessScope
    ) -> PublishScope:
        return self.long_way.dead_letter(topic, message, reason, failed)

    def crash(self, topic: str, message: ObservedMessage, exit_code: int, *, attempt: int = 1) -> None:
        self.long_way.crash(topic, message, exit_code, attempt=attempt)

    def report(self, scope: str, error: Exception) -> None:
        """Telemetry failed, and must not fail a message."""
        self.bound.faults.report(
            "message",
            f"plugin {self.plugin.name!r}: {scope!r} is not fully reported: {describe(error)}",
        )

    def _site(self, topic: str) -> Site:
        site = self._sites.get(topic)
        # The attributes of a plugin are replaced when its status moves on.
        if site is None or site.attributes is not self.plugin.attributes:
            if len(self._sites) >= _SITES_KEPT:
                self._sites.clear()
            site = Site(names.PUBLISH, self.plugin, topic, self.bound.config.semconv)
            self._sites[topic] = site
        return site

    def _place(self, topic: str) -> _Place:
        place = self._places.get(topic)
        if place is None or place.site.attributes is not self.plugin.attributes:
            if len(self._places) >= _SITES_KEPT:
                self._places.clear()
            site = Site(names.PROCESS, self.plugin, topic, self.bound.config.semconv)
            place = self._places[topic] = _Place(site, self._meters(self.bound, topic))
        return place


class _Scope(MessageScope):
    """The block around a message span. The hot path: what happens here happens for every message."""

    __slots__ = ("_context", "_ended", "_owner", "_perf", "_site", "_span", "_start", "_token")

    # Set by the constructors of the two scopes, each by itself: calling one here would cost as much again.
    _owner: FastMessages
    _site: Site
    _span: Span
    _context: Context
    _ended: int

    def __enter__(self) -> Self:
        clock = self._owner.clock
        self._start = clock.time_ns()
        self._perf = clock.perf_counter_ns()
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001 - telemetry never fails a message
            self._owner.report(self._site.name, error)
        self._token = otel_context.attach(self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        elapsed = self._owner.clock.perf_counter_ns() - self._perf
        self._ended = self._start + elapsed
        try:
            if error is not None:
                self._passed_through(error)
            self._finish(elapsed)
            self._span.end(self._ended)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            self._owner.report(self._site.name, problem)
        otel_context.detach(self._token)

    @property
    def span_context(self) -> SpanContext:
        return self._span.get_span_context()

    def _begin(self) -> None:
        """Make the span, and the context it is current in."""

    def _passed_through(self, error: BaseException) -> None:
        """Record an exception that leaves the block."""

    def _finish(self, elapsed_ns: int) -> None:
        """Measure what there is to measure."""

    def _mark_failed(self, error: BaseException | str, error_type: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, describe_failure(error)))
        self._span.set_attribute(names.ERROR_TYPE, error_type)
        if isinstance(error, BaseException):
            # Formatting a traceback takes longer than many a handler: it must not count as the span's time.
            now = self._start + self._owner.clock.perf_counter_ns() - self._perf
            self._span.record_exception(error, timestamp=self._ended or now)


class _Publish(_Scope, PublishScope):
    __slots__ = ("_here", "_message_id", "_parent_ids", "_root_id")

    def __init__(
        self,
        owner: FastMessages,
        site: Site,
        here: Context,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...],
    ) -> None:
        self._owner = owner
        self._site = site
        self._span = INVALID_SPAN
        self._context = self._here = here
        self._ended = 0
        self._message_id = message_id
        self._root_id = root_id
        self._parent_ids = parent_ids

    def _begin(self) -> None:
        tracer, here = self._owner.tracer, self._here
        parent = parent_in(here)
        trace_id, flags, trace_state = tracer.place(parent)
        if flags & SAMPLED:
            self._span = MessageSpan(
                tracer,
                self._site,
                trace_id,
                flags,
                trace_state,
                parent,
                self._start,
                self._message_id,
                self._root_id,
                self._parent_ids,
            )
        else:
            self._span = IdleSpan(trace_id, flags, trace_state)
        self._context = Context({**here, SPAN_KEY: self._span})

    def carrier(self) -> dict[str, str]:
        span = self._span
        if (
            isinstance(span, SpanIdentity)
            and span.trace_state is None
            and headers.BAGGAGE_KEY not in self._here
            and headers.are_w3c()
        ):
            return {headers.TRACEPARENT: span.traceparent()}
        found: dict[str, str] = {}
        try:
            propagation.inject(found, self._context)
        except Exception as error:  # noqa: BLE001 - a propagator of OTEL_PROPAGATORS may raise
            self._owner.report(self._site.name, error)
        return found

    def fail(self, error: BaseException | str) -> None:
        self._mark_failed(error, type_of(error, None))

    def _passed_through(self, error: BaseException) -> None:
        self.fail(error)


class _Process(_Scope, ProcessScope):
    __slots__ = ("_attempt", "_error_type", "_failure", "_message", "_parent", "_place", "_queue_time_ms")

    def __init__(
        self,
        owner: FastMessages,
        place: _Place,
        message: ObservedMessage,
        parent: SpanIdentity | None,
        attempt: int,
    ) -> None:
        self._owner = owner
        self._site = place.site
        self._span = INVALID_SPAN
        self._context = _NOWHERE
        self._ended = 0
        self._place = place
        self._message = message
        self._parent = parent
        self._attempt = attempt
        self._queue_time_ms = 0.0
        self._error_type = ""
        self._failure: BaseException | str | None = None

    @property
    def topic(self) -> str:
        return self._site.topic

    @property
    def ended_ns(self) -> int:
        return self._ended

    def _begin(self) -> None:
        owner, message, parent = self._owner, self._message, self._parent
        # Clocks of two machines differ; nothing waits for less than no time.
        waited = self._start - message.timestamp
        self._queue_time_ms = waited / 1e6 if waited > 0 else 0.0
        trace_id, flags, trace_state = owner.tracer.place(parent)
        if flags & SAMPLED:
            span = self._span = MessageSpan(
                owner.tracer,
                self._site,
                trace_id,
                flags,
                trace_state,
                parent,
                self._start,
                message.id,
                message.root_id,
                message.parent_ids,
            )
            span.attempt = self._attempt
            span.queue_time_ms = self._queue_time_ms
            span.linked = owner.linked
        else:
            self._span = IdleSpan(trace_id, flags, trace_state)
        working = Current(owner.plugin, self._site.topic, message.id)
        self._context = Context({SPAN_KEY: self._span, CURRENT_KEY: working})

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        self._failure = error
        self._error_type = type_of(error, error_type)
        message = self._message
        try:
            self._mark_failed(error, self._error_type)
            about = self._site.starting(
                message.id, message.root_id, message.parent_ids, self._attempt, self._queue_time_ms
            )
            log_failure(self._owner.bound, about, error, self._error_type, self._context)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            self._owner.report(self._site.name, problem)

    def outcome(self, name: str) -> None:
        self._span.set_attribute(names.OUTCOME, name)

    def _passed_through(self, error: BaseException) -> None:
        if error is not self._failure:
            self.fail(error)

    def _finish(self, elapsed_ns: int) -> None:
        self._place.meters.measure(
            elapsed_ns,
            self._queue_time_ms if self._attempt == 1 else None,
            self._error_type,
            self._message.id,
            self._span,
            self._context,
            self._ended,
        )
