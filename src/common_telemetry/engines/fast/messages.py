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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from threading import RLock
from types import TracebackType
from typing import Any, Final, Self, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from common_telemetry import attributes as names
from common_telemetry import forks, propagation
from common_telemetry.attributes import Attributes
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Recorder
from common_telemetry.engines.fast.bounded import Link
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.current_span import MessageContext, parent_in
from common_telemetry.engines.fast.headers import (
    ALONE,
    BAGGAGE_KEY,
    TRACEPARENT,
    PublishedHeaders,
    are_w3c,
    parent_of,
)
from common_telemetry.engines.fast.identity import SAMPLED
from common_telemetry.engines.fast.layout import MessageIds, ids_of
from common_telemetry.engines.fast.lazy_context import CURRENT, AnyContext
from common_telemetry.engines.fast.measuring import MakeMeters, MessageMeters
from common_telemetry.engines.fast.message_spans import Site
from common_telemetry.engines.fast.primitives import ContextSlot, Stamps, new_trace_id
from common_telemetry.engines.fast.spans import FastSpan, IdleSpan
from common_telemetry.engines.fast.tracer import FastTracer
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.engines.official import (
    Bound,
    OfficialMessages,
    describe_failure,
    log_failure,
    type_of,
)
from common_telemetry.errors import describe, exception_attributes
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
forks.free_in_child(_making)


class _Place:
    """A topic a plugin processes: what its spans and what its measurements have in common."""

    __slots__ = ("meters", "site")

    def __init__(self, site: Site, meters: MessageMeters) -> None:
        self.site = site
        self.meters = meters


class FastMessages(MessageTelemetry):
    """The message spans of one plugin."""

    __slots__ = (
        "_known",
        "_meters",
        "_places",
        "_sites",
        "bound",
        "buffer",
        "current",
        "follows_parent",
        "linked",
        "long_way",
        "max_age_ns",
        "plugin",
        "stamps",
        "standing",
        "taps",
        "tracer",
    )

    def __init__(self, bound: Bound, tracer: FastTracer, meters: MakeMeters) -> None:
        self.bound = bound
        self.stamps = Stamps(bound.clock)
        self.plugin = bound.plugin
        self.tracer = tracer
        self.buffer = tracer.outlet.buffer
        self.taps = tracer.outlet.tap.callbacks
        self.standing = tracer.standing
        self.current = ContextSlot(CURRENT)
        self.follows_parent = tracer.follows_parent
        self.linked = bound.config.links == "always"
        self.max_age_ns = bound.config.trace_max_age_s * 1e9
        self.long_way = OfficialMessages(replace(bound, recorder=self._recorder))
        self._meters = meters
        self._sites: dict[str, Site] = {}
        self._known: dict[tuple[str, str], _Place] = {}
        self._places: dict[str, _Place] = {}
        """Those of `_known` for the status of now."""

    def publish(
        self,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...] = (),
        is_current: bool = True,
    ) -> PublishScope:
        here, near = self.current.get(), None
        if self.standing.is_simple:
            if type(here) is _Process:
                within = here
                near = within._ids
            elif not _may_publish(here):
                return self.long_way.publish(topic, message_id, root_id, parent_ids)
            ids = ids_of(message_id, root_id, parent_ids, near)
            if ids is not None:
                site = self._sites.get(topic)
                # The attributes of a plugin are replaced when its status moves on.
                if site is None or site.attributes is not self.plugin.attributes:
                    site = self._site(topic)
                return _publishing(self, site, here, ids, is_current)
        return self.long_way.publish(topic, message_id, root_id, parent_ids)

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        here = self.current.get()
        if self.standing.is_simple and are_w3c() and _may_publish(here):
            site = self._sites.get(topic)
            if site is None or site.attributes is not self.plugin.attributes:
                site = self._site(topic)
            together = self._together(site, here, messages)
            if together is not None:
                return _PublishBatch(self, together)
        return self.long_way.publish_batch(topic, messages)

    def _together(
        self, site: Site, here: AnyContext, messages: Sequence[Outgoing]
    ) -> "list[_PublishTogether] | None":
        """The publications of a batch; None if one of them must go the long way, and the others with it."""
        parent, place = parent_in(here), self.tracer.place
        trace_id, flags, trace_state = place(parent)
        parent_id, is_remote = (None, False) if parent is None else (parent.span_id, parent.is_remote)
        if trace_state is not None or not self.follows_parent or BAGGAGE_KEY in here:
            return None
        made: list[_PublishTogether] = []
        for message in messages:
            ids = ids_of(message.id, message.root_id, message.parent_ids)
            if ids is None:
                return None
            if message.origin is not None and message.origin.trace_context:
                origin = self._published(message.origin)
                if origin is None:
                    return None
                if origin[0] != trace_id:
                    made.append(_publishing_together(self, site, here, ids, *origin, True))
                    continue
            elif parent is None:
                trace_id, flags, _ = place(None)  # each begins a trace
            made.append(_publishing_together(self, site, here, ids, trace_id, parent_id, flags, is_remote))
        return made

    def _published(self, message: ObservedMessage) -> tuple[bytes, bytes, int] | None:
        """Trace id, span id and flags by which it was published; None if only a propagator can tell."""
        carrier = message.trace_context
        if len(carrier) != ALONE:
            return None
        if type(carrier) is PublishedHeaders and carrier.ids.message_id is message.id:
            return carrier.trace_id, carrier.span_id, carrier.flags
        parent = parent_of(carrier)
        return None if parent is None else (parent.trace_id, parent.span_id, parent.flags)

    def process(
        self,
        topic: str,
        message: ObservedMessage,
        *,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        if previous is None and not replay and self.standing.is_simple:
            scope = self._process(topic, message, attempt)
            if scope is not None:
                return scope
        return self.long_way.process(topic, message, attempt=attempt, previous=previous, replay=replay)

    def _process(self, topic: str, message: ObservedMessage, attempt: int) -> "_Process | None":
        """A first handling of a message; None if it must go the long way."""
        carrier, now_ns = message.trace_context, self.stamps.time_ns()
        parent_id: bytes | None
        ids: MessageIds | None
        if type(carrier) is PublishedHeaders and len(carrier) == ALONE and self.follows_parent:
            published = carrier
            trace_id, parent_id = published.trace_id, published.span_id
            flags, ids = published.flags, published.ids
            if ids.message_id is not message.id:  # it merely took the headers of another over
                trace_id, parent_id, flags, ids = self._read(message, carrier)
        else:
            trace_id, parent_id, flags, ids = self._read(message, carrier)
        try:
            made_ns = message.timestamp
        except (OverflowError, TypeError):  # compiled; the long way can tell
            return None
        waited = now_ns - made_ns
        if ids is None or waited > self.max_age_ns:
            return None
        place = self._places.get(topic)
        if place is None or place.site.attributes is not self.plugin.attributes:
            place = self._place(topic)
        # Clocks of two machines differ; nothing waits for less than no time.
        waited_ms = waited / 1e6 if waited > 0 else 0.0
        return _processing(self, place, waited_ms, trace_id, parent_id, flags, ids, attempt, now_ns)

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        if self.standing.is_simple and are_w3c():
            published = [self._published(message) for message in messages]
            spans = [
                SpanContext(int.from_bytes(one[0]), int.from_bytes(one[1]), True, TraceFlags(one[2]))
                for one in published
                if one is not None
            ]
            if spans and len(spans) == len(messages):
                last = propagation.with_span(NonRecordingSpan(spans[-1]), Context())
                return self.long_way.batch_from(topic, messages, spans, last, attempt)
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

    def _recorder(self, metric: Metric) -> Recorder:
        """For the long way: what was noted before on the short one comes first."""
        record = self.bound.recorder(metric)

        def after_noted(value: float, attributes: Attributes, context: Context | None) -> None:
            for place in list(self._known.values()):
                place.meters.take_in()
            record(value, attributes, context)

        return after_noted

    def _read(
        self, message: ObservedMessage, carrier: Mapping[str, str]
    ) -> tuple[bytes, bytes | None, int, MessageIds | None]:
        """Trace id, parent's span id, flags and ids; no ids for a message that must go the long way."""
        parent = parent_of(carrier) if carrier and are_w3c() else None
        if carrier and parent is None:
            return b"", None, 0, None
        trace_id, flags, _ = self.tracer.place(parent)
        ids = ids_of(message.id, message.root_id, message.parent_ids)
        return trace_id, None if parent is None else parent.span_id, flags, ids

    def _site(self, topic: str) -> Site:
        if len(self._sites) >= _SITES_KEPT:
            self._sites.clear()
        redaction, semconv = self.tracer.outlet.redaction, self.bound.config.semconv
        site = self._sites[topic] = Site(names.PUBLISH, self.plugin, topic, semconv, redaction, linked=False)
        return site

    def _place(self, topic: str) -> _Place:
        key = (topic, self.plugin.status)
        place = self._known.get(key)
        if place is None:
            if len(self._known) >= _SITES_KEPT:
                self._known.clear()
                self._places.clear()
            redaction, semconv = self.tracer.outlet.redaction, self.bound.config.semconv
            site = Site(names.PROCESS, self.plugin, topic, semconv, redaction, linked=self.linked)
            place = self._known[key] = _Place(site, self._meters(self.bound, topic))
        # The same again for a status that comes back: what is noted there stays in its order.
        place.site.attributes = self.plugin.attributes
        self._places[topic] = place
        return place


def _may_publish(here: AnyContext) -> bool:
    """Whether what is published here is a part of what is current: init and the like are never parents."""
    working = here.get(CURRENT_KEY)
    return not (isinstance(working, Current) and working.lifecycle)


class _Scope(MessageContext, MessageScope):
    """The block around a message span. The hot path: what happens here happens for every message."""

    __slots__ = (
        "_has_remote_parent",
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

    _has_remote_parent: bool
    _ids: MessageIds
    _is_plain: (
        bool  # whether it is SAMPLED (1 below: a number is one in C too), and a layout has a form for it
    )
    _owner: FastMessages
    _parent_id: bytes | None
    _perf: int
    _site: Site
    _span: Span | None
    _start: int
    _token: Any
    ended_ns: int

    def __enter__(self) -> Self:
        self._token = self._owner.current.set(self)
        return self

    def _end(self, error: BaseException | None) -> None:
        """End the span where it is more than a layout has a form for."""
        if error is not None:
            self._passed_through(error)
        if self.flags & SAMPLED or self._span is not None:
            self.span().end(self.ended_ns)

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

    def _mark_failed(
        self, error: BaseException | str, error_type: str, told: Mapping[str, str] | None = None
    ) -> None:
        """`told`: the attributes of the exception, for who has them."""
        span = self.span()
        span.set_status(Status(StatusCode.ERROR, describe_failure(error)))
        span.set_attribute(names.ERROR_TYPE, error_type)
        if isinstance(error, BaseException):
            # Formatting a traceback takes longer than many a handler: it must not count as the span's time.
            now = self._start + self._owner.stamps.perf_counter_ns() - self._perf
            span.record_exception(error, told or exception_attributes(error), self.ended_ns or now)

    @abstractmethod
    def _starting(self) -> dict[str, Any]:
        """The attributes the span starts with."""

    @abstractmethod
    def _passed_through(self, error: BaseException) -> None:
        """Record an exception that leaves the block."""

    @abstractmethod
    def _write(self, buffer: Buffer, origin: Origin) -> None:
        """Write the ended span as it is sent."""


class _Publish(_Scope, PublishScope):
    __slots__ = ("_here", "_is_current")

    _here: AnyContext
    _is_current: bool

    def __enter__(self) -> Self:
        self._token = self._owner.current.set(self) if self._is_current else self
        return self

    def make_current(self) -> None:
        if not self._is_current:
            self._is_current = True
            self._token = self._owner.current.set(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self._owner
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        self.ended_ns = self._start + owner.stamps.perf_counter_ns() - self._perf
        try:
            if error is None and self._span is None and self._is_plain and not owner.taps:
                if owner.buffer is not None:
                    self._write(owner.buffer, owner.standing.origin or owner.tracer.origin)
            else:
                self._end(error)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            owner.report(self._site.name, problem)
        if self._is_current:
            try:
                owner.current.reset(self._token)
            except ValueError:  # ended in another task than it began in
                otel_context.detach(self._token)  # which says so in its log
        self._token = None

    def carrier(self) -> dict[str, str]:
        here = self._here
        if self.trace_state is None and (type(here) is _Process or BAGGAGE_KEY not in here) and are_w3c():
            return self._headers()
        carrier: dict[str, str] = {}
        try:
            propagation.inject(carrier, cast("Context", self))
        except Exception as error:  # noqa: BLE001 - a propagator of OTEL_PROPAGATORS may raise
            self._owner.report(self._site.name, error)
        return carrier

    def _headers(self) -> PublishedHeaders:
        found = PublishedHeaders.__new__(PublishedHeaders)
        found[TRACEPARENT] = self._owner.stamps.traceparent(self.trace_id, self.span_id, self.flags)
        found.ids = self._ids
        found.trace_id = self.trace_id
        found.span_id = self.span_id
        found.flags = self.flags
        return found

    def fail(self, error: BaseException | str) -> None:
        self._mark_failed(error, type_of(error, None))

    def others(self) -> Mapping[str, object]:
        """Part of MessageContext."""
        here = self._here
        return here.others() if isinstance(here, MessageContext) else here

    def _starting(self) -> dict[str, Any]:
        return self._site.starting(self._ids)

    def _write(self, buffer: Buffer, origin: Origin) -> None:
        shape = self._ids.shape
        parent_id = self._parent_id
        key = shape << 1 | (parent_id is not None)
        site = self._site
        layout = site.layout if site.key == key else None
        if layout is None:
            layout = site.lay_out_publish(key, shape, parent_id is not None)
        layout.write(
            buffer,
            origin,
            self.trace_id,
            self.span_id,
            parent_id,
            self._start,
            self.ended_ns,
            self._ids,
        )

    def _passed_through(self, error: BaseException) -> None:
        self.fail(error)


class _PublishTogether(_Publish):
    """One of a batch, in the batch's trace or in that of the message it was made from. Never current."""

    __slots__ = ()

    def carrier(self) -> dict[str, str]:
        return self._headers()

    def _write(self, buffer: Buffer, origin: Origin) -> None:
        if not self._has_remote_parent:
            _Publish._write(self, buffer, origin)  # compiled, there is no `super` here
            return
        shape = self._ids.shape
        layout = self._site.lay_out_elsewhere(~shape, shape)
        layout.write(
            buffer,
            origin,
            self.trace_id,
            self.span_id,
            self._parent_id,
            self._start,
            self.ended_ns,
            self._ids,
        )


class _PublishBatch(PublishBatchScope):
    """Publications that begin and end together. None of them is ever current."""

    __slots__ = ("_owner", "_publications")

    def __init__(self, owner: FastMessages, publications: Sequence[_PublishTogether]) -> None:
        self._owner = owner
        self._publications = publications

    def __enter__(self) -> Self:
        for publication in self._publications:
            publication._token = self  # it has begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner, is_tapped = self._owner, bool(self._owner.taps)
        if error is not None:
            self.fail(error)
        for one in self._publications:
            one.ended_ns = one._start + owner.stamps.perf_counter_ns() - one._perf
            try:
                if one._span is None and one._is_plain and not is_tapped:
                    if owner.buffer is not None:
                        one._write(owner.buffer, owner.standing.origin or owner.tracer.origin)
                else:
                    one._end(None)
            except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
                owner.report(one._site.name, problem)
            one._token = None

    def carriers(self) -> Iterable[dict[str, str]]:
        return (publication.carrier() for publication in self._publications)

    def fail(self, error: BaseException | str) -> None:
        # Once for all: to format a stack takes as long as ten messages do, and they may be a thousand.
        told = exception_attributes(error) if isinstance(error, BaseException) else None
        for one in self._publications:
            try:
                one._mark_failed(error, type_of(error, None), told)
            except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
                self._owner.report(one._site.name, problem)


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

    _attempt: int
    _current: Current | None
    _error_type: str
    _failure: BaseException | str | None
    _outcome: str
    _place: _Place
    _queue_time_ms: float

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self._owner
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        elapsed = owner.stamps.perf_counter_ns() - self._perf
        self.ended_ns = ended = self._start + elapsed
        try:
            if error is None and self._span is None and self._is_plain and not owner.taps:
                if owner.buffer is not None:
                    self._write(owner.buffer, owner.standing.origin or owner.tracer.origin)
            else:
                self._end(error)
            waited_ms = self._queue_time_ms if self._attempt == 1 else -1.0  # NOT_MEASURED, for C
            message_id = self._ids.message_id
            self._place.meters.measure(elapsed, waited_ms, self._error_type, message_id, self, ended)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            owner.report(self._site.name, problem)
        try:
            owner.current.reset(self._token)
        except ValueError:  # ended in another task than it began in
            otel_context.detach(self._token)  # which says so in its log
        self._token = None

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
            log_failure(self._owner.bound, self._starting(), error, self._error_type, cast("Context", self))
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            self._owner.report(self._site.name, problem)

    def outcome(self, name: str) -> None:
        if self._span is None and type(name) is str and name.isascii():
            self._outcome = name
        else:
            self.span().set_attribute(names.OUTCOME, name)

    def _working(self) -> Current:
        if self._current is None:
            self._current = Current(self._owner.plugin, self._site.topic, self._ids.message_id)
        return self._current

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

    def _write(self, buffer: Buffer, origin: Origin) -> None:
        shape = self._ids.shape
        parent_id, attempt, outcome = self._parent_id, self._attempt, self._outcome
        is_child = parent_id is not None
        site, layout = self._site, None
        key = shape << 1 | is_child
        if attempt != 1 or outcome:
            various = (shape, attempt, outcome, is_child)
            layout = site.lay_out_process(various, shape, attempt, outcome, is_child)
        elif site.key == key:
            layout = site.layout
        if layout is None:
            layout = site.lay_out_process(key, shape, 1, "", is_child)
        layout.write(
            buffer,
            origin,
            self.trace_id,
            self.span_id,
            parent_id,
            self._start,
            self.ended_ns,
            self._ids,
            self._queue_time_ms,
        )

    def _passed_through(self, error: BaseException) -> None:
        if error is not self._failure:
            self.fail(error)


# Functions rather than constructors: compiled, they are called without a tuple of their arguments.


def _publishing(
    owner: FastMessages, site: Site, here: AnyContext, ids: MessageIds, is_current: bool
) -> _Publish:
    """A publication that begins now."""
    made = _Publish.__new__(_Publish)
    made._perf = perf = owner.stamps.perf_counter_ns()
    made._owner = owner
    made._site = site
    made._here = here
    made._is_current = is_current
    made._ids = ids
    made._span = None
    made.ended_ns = 0
    made.span_id = owner.stamps.span_id()
    if type(here) is _Process and owner.follows_parent:
        within = here
        # One clock for a message and what is made of it.
        made._start = within._start + perf - within._perf
        made._parent_id = within.span_id
        made._has_remote_parent = False
        made.trace_id = within.trace_id
        made.flags = flags = within.flags
        made.trace_state = None
        made._is_plain = flags & 1 != 0
        return made
    made._start = owner.stamps.time_ns()
    parent = parent_in(here)
    if parent is None and owner.standing.always:
        made._parent_id = None
        made._has_remote_parent = False
        made.trace_id = new_trace_id()
        made.flags = 3  # RANDOM and SAMPLED, for C
        made.trace_state = None
        made._is_plain = True
        return made
    made._parent_id = None if parent is None else parent.span_id
    made._has_remote_parent = parent is not None and parent.is_remote
    made.trace_id, made.flags, made.trace_state = owner.tracer.place(parent)
    is_local = made.trace_state is None and not made._has_remote_parent
    made._is_plain = is_local and made.flags & 1 != 0
    return made


def _publishing_together(
    owner: FastMessages,
    site: Site,
    here: AnyContext,
    ids: MessageIds,
    trace_id: bytes,
    parent_id: bytes | None,
    flags: int,
    is_remote: bool,
) -> _PublishTogether:
    """One publication of a batch that begins now."""
    made = _PublishTogether.__new__(_PublishTogether)
    made._perf = owner.stamps.perf_counter_ns()
    made._start = owner.stamps.time_ns()
    made._owner = owner
    made._site = site
    made._here = here
    made._is_current = False
    made._ids = ids
    made._span = None
    made._token = None
    made.ended_ns = 0
    made.span_id = owner.stamps.span_id()
    made._parent_id = parent_id
    made._has_remote_parent = is_remote
    made.trace_id = trace_id
    made.flags = flags
    made.trace_state = None
    made._is_plain = flags & 1 != 0
    return made


def _processing(
    owner: FastMessages,
    place: _Place,
    queue_time_ms: float,
    trace_id: bytes,
    parent_id: bytes | None,
    flags: int,
    ids: MessageIds,
    attempt: int,
    now_ns: int,
) -> _Process:
    """An attempt that begins now."""
    made = _Process.__new__(_Process)
    made._start = now_ns
    made._perf = owner.stamps.perf_counter_ns()
    made._owner = owner
    made._place = place
    made._site = place.site
    made._ids = ids
    made._attempt = attempt
    made._span = None
    made._current = None
    made._outcome = ""
    made._error_type = ""
    made._failure = None
    made.ended_ns = 0
    made._queue_time_ms = queue_time_ms
    made.span_id = owner.stamps.span_id()
    made.trace_id = trace_id
    made._parent_id = parent_id
    made._has_remote_parent = parent_id is not None
    made.flags = flags
    made.trace_state = None  # no message on the short way has one
    made._is_plain = flags & 1 != 0
    return made
