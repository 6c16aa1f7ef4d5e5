"""Publishing and processing messages, the short way: what every message goes through.

A message takes it if its headers are the usual ones, and it is neither late, nor replayed, nor a batch, nor
tried again. All others go the long way: the official engine's message scopes, over the tracers of this one.
Both give the same spans; tests compare them.

What happens to a message on the short way:

1. `process` finds the `Site` of its topic, where all that is constant is kept. Who published the message it
   reads from `PublishedHeaders`, or parses `traceparent`. The scope it gives is the OpenTelemetry context of
   the message at the same time; neither context nor span is made before somebody looks (`LazyContext`).
2. `publish` within does the same for the message that goes out, and `carrier` gives its headers.
3. `__exit__` writes the span in its final bytes by the site's `Layout`, gives them to the buffer, and notes
   the measurements.

If somebody did look, the scope has a `FastSpan` by then, which is ended and written as any other span.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from threading import RLock
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from common_telemetry import attributes as names
from common_telemetry import propagation
from common_telemetry.engines.fast import headers
from common_telemetry.engines.fast.bounded import Link
from common_telemetry.engines.fast.current_span import MessageContext, parent_in
from common_telemetry.engines.fast.headers import PublishedHeaders
from common_telemetry.engines.fast.identity import SAMPLED, Identity, new_span_id, traceparent_of
from common_telemetry.engines.fast.lazy_context import CURRENT
from common_telemetry.engines.fast.measuring import MakeMeters, MessageMeters
from common_telemetry.engines.fast.message_spans import MessageIds, Site, ids_of
from common_telemetry.engines.fast.spans import FastSpan, IdleSpan
from common_telemetry.engines.fast.tracer import FastTracer
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

# Beyond, somebody makes topics out of data, and keeping what is constant of each would only fill the memory.
_SITES_KEPT: Final = 4_096
_making: Final = RLock()  # so that threads which look at the same message at once see the same span


class _Place(NamedTuple):
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
        "linked",
        "long_way",
        "max_age_ns",
        "perf_counter_ns",
        "plugin",
        "time_ns",
        "tracer",
    )

    def __init__(self, bound: Bound, tracer: FastTracer, meters: MakeMeters) -> None:
        self.bound = bound
        self.time_ns = bound.clock.time_ns
        self.perf_counter_ns = bound.clock.perf_counter_ns
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
        here = CURRENT.get()
        if self.tracer.is_simple and (here.__class__ is _Process or _may_publish(here)):
            ids = ids_of(message_id, root_id, parent_ids)
            if ids is not None:
                site = self._sites.get(topic)
                # The attributes of a plugin are replaced when its status moves on.
                if site is None or site.attributes is not self.plugin.attributes:
                    site = self._site(topic)
                return _Publish(self, site, here, ids)
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
        if previous is None and not replay and self.tracer.is_simple:
            carrier = message.trace_context
            parent: Identity | None
            ids: MessageIds | None
            if (
                carrier.__class__ is PublishedHeaders
                and carrier.ids.message_id is message.id
                and len(carrier) == headers.ALONE
            ):
                parent, ids = carrier, carrier.ids
            else:
                parent, ids = _read(message, carrier)
            now_ns = self.time_ns()
            if ids is not None and now_ns - message.timestamp <= self.max_age_ns:
                place = self._places.get(topic)
                if place is None or place.site.attributes is not self.plugin.attributes:
                    place = self._place(topic)
                return _Process(self, place, message, parent, ids, attempt, now_ns)
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
        if len(self._sites) >= _SITES_KEPT:
            self._sites.clear()
        redaction, semconv = self.tracer.outlet.redaction, self.bound.config.semconv
        site = self._sites[topic] = Site(names.PUBLISH, self.plugin, topic, semconv, redaction, linked=False)
        return site

    def _place(self, topic: str) -> _Place:
        if len(self._places) >= _SITES_KEPT:
            self._places.clear()
        redaction, semconv = self.tracer.outlet.redaction, self.bound.config.semconv
        site = Site(names.PROCESS, self.plugin, topic, semconv, redaction, linked=self.linked)
        place = self._places[topic] = _Place(site, self._meters(self.bound, topic))
        return place


def _may_publish(here: Context) -> bool:
    """Whether what is published here is a part of what is current: init and the like are never parents."""
    working = here.get(CURRENT_KEY)
    return not (isinstance(working, Current) and working.lifecycle)


def _read(message: ObservedMessage, carrier: Mapping[str, str]) -> tuple[Identity | None, MessageIds | None]:
    """Who published the message, and its ids; no ids for a message that must go the long way."""
    parent = headers.parent_of(carrier) if carrier and headers.are_w3c() else None
    if carrier and parent is None:
        return None, None
    return parent, ids_of(message.id, message.root_id, message.parent_ids)


class _Scope(MessageContext, MessageScope):
    """The block around a message span. The hot path: what happens here happens for every message."""

    __slots__ = (
        "_ids",
        "_is_plain",
        "_owner",
        "_parent_id",
        "_perf",
        "_site",
        "_span",
        "_start",
        "_token",
        "ended_ns",
    )

    _ids: MessageIds
    _is_plain: bool  # whether a layout has a form for it
    _owner: FastMessages
    _parent_id: bytes | None
    _perf: int
    _site: Site
    _span: Span | None
    _start: int
    _token: Any
    ended_ns: int

    def __enter__(self) -> Self:
        self._token = CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self._owner
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        elapsed = owner.perf_counter_ns() - self._perf
        self.ended_ns = ended = self._start + elapsed
        try:
            if error is not None:
                self._passed_through(error)
            if self._span is None and self.flags & SAMPLED:
                outlet = owner.tracer.outlet
                if self._is_plain and not outlet.tap.callbacks:
                    if outlet.buffer is not None:
                        outlet.buffer.add((owner.tracer.origin, self._written()))
                else:
                    self.span()
            if self._span is not None:
                self._span.end(ended)
            self._finish(elapsed)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            owner.report(self._site.name, problem)
        try:
            CURRENT.reset(self._token)
        except ValueError:  # ended in another task than it began in
            otel_context.detach(self._token)  # which says so in its log
        self._token = None

    def span(self) -> Span:
        """Part of MessageContext."""
        with _making:
            if self._span is None:
                made = self._made()
                if self._token is None and isinstance(made, FastSpan):
                    made.end_ns = self.ended_ns  # somebody looks when all is over
                self._span = made
        return self._span

    def _made(self) -> Span:
        if not self.flags & SAMPLED:
            idle = IdleSpan(self.trace_id, self.flags, self.trace_state)
            idle.span_id = self.span_id
            return idle
        span = FastSpan(
            self._owner.tracer,
            self._site.name,
            self._site.kind,
            self.trace_id,
            self.flags,
            self.trace_state,
            self._parent_id,
            self._has_remote_parent,
            self._start,
            self._starting(),
        )
        span.span_id = self.span_id
        return span

    def _mark_failed(self, error: BaseException | str, error_type: str) -> None:
        span = self.span()
        span.set_status(Status(StatusCode.ERROR, describe_failure(error)))
        span.set_attribute(names.ERROR_TYPE, error_type)
        if isinstance(error, BaseException):
            # Formatting a traceback takes longer than many a handler: it must not count as the span's time.
            now = self._start + self._owner.perf_counter_ns() - self._perf
            span.record_exception(error, timestamp=self.ended_ns or now)

    @property
    @abstractmethod
    def _has_remote_parent(self) -> bool:
        """Whether the parent came in headers."""

    @abstractmethod
    def _starting(self) -> dict[str, Any]:
        """The attributes the span starts with."""

    @abstractmethod
    def _written(self) -> bytes:
        """The span as an item of a request, by the layout of its site."""

    @abstractmethod
    def _passed_through(self, error: BaseException) -> None:
        """Record an exception that leaves the block."""

    def _finish(self, elapsed_ns: int) -> None:
        """Measure what there is to measure."""


class _Publish(_Scope, PublishScope):
    __slots__ = ("_here", "_parent")
    _parent: Identity | None

    def __init__(self, owner: FastMessages, site: Site, here: Context, ids: MessageIds) -> None:
        self._start = owner.time_ns()
        self._perf = owner.perf_counter_ns()
        self._owner = owner
        self._site = site
        self._here = here
        self._ids = ids
        self._span = None
        self.ended_ns = 0
        self.span_id = new_span_id()
        tracer = owner.tracer
        if here.__class__ is _Process and tracer.follows_parent:
            self._parent = here
            self._parent_id = here.span_id
            self.trace_id = here.trace_id
            self.flags = here.flags
            self.trace_state = None
            self._is_plain = True
            return
        parent = self._parent = parent_in(here)
        self._parent_id = None if parent is None else parent.span_id
        self.trace_id, self.flags, self.trace_state = tracer.place(parent)
        self._is_plain = self.trace_state is None and not self._has_remote_parent

    def carrier(self) -> dict[str, str]:
        here = self._here
        if (
            self.trace_state is None
            and (here.__class__ is _Process or headers.BAGGAGE_KEY not in here)
            and headers.are_w3c()
        ):
            found = PublishedHeaders(traceparent=traceparent_of(self.trace_id, self.span_id, self.flags))
            found.ids = self._ids
            found.trace_id = self.trace_id
            found.span_id = self.span_id
            found.flags = self.flags
            return found
        carrier: dict[str, str] = {}
        try:
            propagation.inject(carrier, self)
        except Exception as error:  # noqa: BLE001 - a propagator of OTEL_PROPAGATORS may raise
            self._owner.report(self._site.name, error)
        return carrier

    def fail(self, error: BaseException | str) -> None:
        self._mark_failed(error, type_of(error, None))

    def others(self) -> Mapping[str, object]:
        """Part of MessageContext."""
        here = self._here
        return here.others() if isinstance(here, MessageContext) else here

    @property
    def _has_remote_parent(self) -> bool:
        return self._parent is not None and self._parent.is_remote

    def _starting(self) -> dict[str, Any]:
        return self._site.starting(self._ids)

    def _written(self) -> bytes:
        *_, message, root, parent, shape = self._ids
        parent_id = self._parent_id
        key = (shape, parent_id is not None)
        layout = self._site.layouts.get(key) or self._site.lay_out_publish(key)
        pack, (start, a, b, c, d, e, f, g, h, i, end) = layout
        written: bytes = pack(
            *(start, self.trace_id, a, self.span_id, b, parent_id or b"", c, self._start, d, self.ended_ns),
            *(e, message, f, root, g, parent, h, message, i, root, end),
        )
        return written

    def _passed_through(self, error: BaseException) -> None:
        self.fail(error)


class _Process(_Scope, ProcessScope):
    __slots__ = (
        "_attempt",
        "_current",
        "_error_type",
        "_failure",
        "_outcome",
        "_place",
        "_queue_time_ms",
    )

    def __init__(
        self,
        owner: FastMessages,
        place: _Place,
        message: ObservedMessage,
        parent: Identity | None,
        ids: MessageIds,
        attempt: int,
        now_ns: int,
    ) -> None:
        self._start = now_ns
        self._perf = owner.perf_counter_ns()
        self._owner = owner
        self._place = place
        self._site = place.site
        self._ids = ids
        self._attempt = attempt
        self._span = None
        self._current: Current | None = None
        self._outcome = ""
        self._error_type = ""
        self._failure: BaseException | str | None = None
        self.ended_ns = 0
        # Clocks of two machines differ; nothing waits for less than no time.
        waited = now_ns - message.timestamp
        self._queue_time_ms = waited / 1e6 if waited > 0 else 0.0
        self.span_id = new_span_id()
        self.trace_id, self.flags, self.trace_state = owner.tracer.place(parent)
        self._parent_id = None if parent is None else parent.span_id
        self._is_plain = True  # `parent` has no trace state on the short way

    @property
    def topic(self) -> str:
        return self._site.topic

    def get(self, key: str, default: object = None) -> Any:
        # Every measurement and log record asks who works on what, and none of them needs the span.
        return self._working() if key == CURRENT_KEY else super().get(key, default)

    def others(self) -> Mapping[str, object]:
        """Part of MessageContext."""
        return {CURRENT_KEY: self._working()}

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        self._failure = error
        self._error_type = type_of(error, error_type)
        try:
            self._mark_failed(error, self._error_type)
            log_failure(self._owner.bound, self._starting(), error, self._error_type, self)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            self._owner.report(self._site.name, problem)

    def outcome(self, name: str) -> None:
        if self._span is None and name.__class__ is str and name.isascii():
            self._outcome = name
        else:
            self.span().set_attribute(names.OUTCOME, name)

    def _working(self) -> Current:
        if self._current is None:
            self._current = Current(self._owner.plugin, self._site.topic, self._ids.message_id)
        return self._current

    @property
    def _has_remote_parent(self) -> bool:
        return self._parent_id is not None

    def _starting(self) -> dict[str, Any]:
        return self._site.starting(self._ids, self._attempt, self._queue_time_ms)

    def _made(self) -> Span:
        span = super()._made()
        if isinstance(span, FastSpan):
            if self._owner.linked and self._parent_id is not None:
                attributes = {names.MESSAGING_ID: self._ids.message_id}
                span.own_links().append(Link(self.trace_id, self._parent_id, True, attributes, 0))
            if self._outcome:
                span.set_attribute(names.OUTCOME, self._outcome)
        return span

    def _written(self) -> bytes:
        *_, message, root, parent, shape = self._ids
        trace_id, parent_id = self.trace_id, self._parent_id
        key = (shape, self._attempt, self._outcome, parent_id is not None)
        layout = self._site.layouts.get(key) or self._site.lay_out_process(key)
        pack, (start, a, b, c, d, e, f, g, h, i, j, k, m, n, end) = layout
        parent_id = parent_id or b""
        written: bytes = pack(
            *(start, trace_id, a, self.span_id, b, parent_id, c, self._start, d, self.ended_ns),
            *(e, message, f, root, g, parent, h, message, i, root, j, self._queue_time_ms),
            *(k, trace_id, m, parent_id, n, message, end),
        )
        return written

    def _passed_through(self, error: BaseException) -> None:
        if error is not self._failure:
            self.fail(error)

    def _finish(self, elapsed_ns: int) -> None:
        self._place.meters.measure(
            elapsed_ns,
            self._queue_time_ms if self._attempt == 1 else None,
            self._error_type,
            self._ids.message_id,
            self,
            self.ended_ns,
        )
