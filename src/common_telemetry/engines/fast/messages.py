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
from typing import Any, Final, NamedTuple, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, Status, StatusCode, TraceFlags

from common_telemetry import attributes as names
from common_telemetry import forks, propagation
from common_telemetry.attributes import Attributes
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Recorder
from common_telemetry.engines.fast import headers
from common_telemetry.engines.fast.bounded import Link
from common_telemetry.engines.fast.current_span import MessageContext, parent_in
from common_telemetry.engines.fast.headers import PublishedHeaders
from common_telemetry.engines.fast.identity import SAMPLED, new_span_id, traceparent_of
from common_telemetry.engines.fast.lazy_context import CURRENT
from common_telemetry.engines.fast.measuring import MakeMeters, MessageMeters
from common_telemetry.engines.fast.message_spans import LONGEST, MessageIds, Site, ids_of
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
forks.free_in_child(_making)


class _Place(NamedTuple):
    """A topic a plugin processes: what its spans and what its measurements have in common."""

    site: Site
    meters: MessageMeters


class FastMessages(MessageTelemetry):
    """The message spans of one plugin."""

    __slots__ = (
        "_known",
        "_meters",
        "_places",
        "_sites",
        "bound",
        "buffer",
        "linked",
        "long_way",
        "max_age_ns",
        "perf_counter_ns",
        "plugin",
        "tap",
        "time_ns",
        "tracer",
    )

    def __init__(self, bound: Bound, tracer: FastTracer, meters: MakeMeters) -> None:
        self.bound = bound
        self.time_ns = bound.clock.time_ns
        self.perf_counter_ns = bound.clock.perf_counter_ns
        self.plugin = bound.plugin
        self.tracer = tracer
        self.buffer = tracer.outlet.buffer
        self.tap = tracer.outlet.tap
        self.linked = bound.config.links == "always"
        self.max_age_ns = bound.config.trace_max_age_s * 1e9
        self.long_way = OfficialMessages(replace(bound, recorder=self._recorder))
        self._meters = meters
        self._sites: dict[str, Site] = {}
        self._known: dict[tuple[str, str], _Place] = {}
        self._places: dict[str, _Place] = {}
        """Those of `_known` for the status of now."""

    def publish(
        self, topic: str, message_id: str, root_id: str, parent_ids: tuple[str, ...] = ()
    ) -> PublishScope:
        here = CURRENT.get()
        ids: MessageIds | None
        if self.tracer.is_simple and (here.__class__ is _Process or _may_publish(here)):
            if here.__class__ is _Process and len(parent_ids) == 1:
                ids = here.ids_of_derived(message_id, root_id, parent_ids)
            else:
                ids = ids_of(message_id, root_id, parent_ids)
            if ids is not None:
                site = self._sites.get(topic)
                # The attributes of a plugin are replaced when its status moves on.
                if site is None or site.attributes is not self.plugin.attributes:
                    site = self._site(topic)
                return _Publish(self, site, here, ids)
        return self.long_way.publish(topic, message_id, root_id, parent_ids)

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        here = CURRENT.get()
        if self.tracer.is_simple and headers.are_w3c() and _may_publish(here):
            site = self._sites.get(topic)
            if site is None or site.attributes is not self.plugin.attributes:
                site = self._site(topic)
            together = self._together(site, here, messages)
            if together is not None:
                return _PublishBatch(self, together)
        return self.long_way.publish_batch(topic, messages)

    def _together(
        self, site: Site, here: Context, messages: Sequence[Outgoing]
    ) -> "list[_PublishTogether] | None":
        """The publications of a batch; None if one of them must go the long way, and the others with it."""
        parent, place = parent_in(here), self.tracer.place
        trace_id, flags, trace_state = place(parent)
        parent_id, is_remote = (None, False) if parent is None else (parent.span_id, parent.is_remote)
        if trace_state is not None or not self.tracer.follows_parent or headers.BAGGAGE_KEY in here:
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
                    made.append(_PublishTogether(self, site, here, ids, *origin, is_remote=True))
                    continue
            elif parent is None:
                trace_id, flags, _ = place(None)  # each begins a trace
            made.append(
                _PublishTogether(self, site, here, ids, trace_id, parent_id, flags, is_remote=is_remote)
            )
        return made

    def _published(self, message: ObservedMessage) -> tuple[bytes, bytes, int] | None:
        """Trace id, span id and flags by which it was published; None if only a propagator can tell."""
        carrier = message.trace_context
        if len(carrier) != headers.ALONE:
            return None
        if carrier.__class__ is PublishedHeaders and carrier.message_id is message.id:
            return carrier.published[:3]
        parent = headers.parent_of(carrier)
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
        if previous is None and not replay and self.tracer.is_simple:
            carrier, now_ns = message.trace_context, self.time_ns()
            parent_id: bytes | None
            ids: MessageIds | None
            if (
                carrier.__class__ is PublishedHeaders
                and carrier.message_id is message.id  # and of no message that merely took its headers over
                and len(carrier) == headers.ALONE
                and self.tracer.follows_parent
            ):
                trace_id, parent_id, flags, ids = carrier.published
            else:
                trace_id, parent_id, flags, ids = self._read(message, carrier)
            if ids is not None and now_ns - message.timestamp <= self.max_age_ns:
                place = self._places.get(topic)
                if place is None or place.site.attributes is not self.plugin.attributes:
                    place = self._place(topic)
                return _Process(self, place, message, trace_id, parent_id, flags, ids, attempt, now_ns)
        return self.long_way.process(topic, message, attempt=attempt, previous=previous, replay=replay)

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        if self.tracer.is_simple and headers.are_w3c():
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
        parent = headers.parent_of(carrier) if carrier and headers.are_w3c() else None
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


def _may_publish(here: Context) -> bool:
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
    _is_plain: bool  # whether it is sampled, and a layout has a form for it
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

    def _mark_failed(self, error: BaseException | str, error_type: str) -> None:
        span = self.span()
        span.set_status(Status(StatusCode.ERROR, describe_failure(error)))
        span.set_attribute(names.ERROR_TYPE, error_type)
        if isinstance(error, BaseException):
            # Formatting a traceback takes longer than many a handler: it must not count as the span's time.
            now = self._start + self._owner.perf_counter_ns() - self._perf
            span.record_exception(error, timestamp=self.ended_ns or now)

    @abstractmethod
    def _starting(self) -> dict[str, Any]:
        """The attributes the span starts with."""

    @abstractmethod
    def _passed_through(self, error: BaseException) -> None:
        """Record an exception that leaves the block."""


class _Publish(_Scope, PublishScope):
    __slots__ = ("_here",)

    def __init__(self, owner: FastMessages, site: Site, here: Context, ids: MessageIds) -> None:
        self._perf = perf = owner.perf_counter_ns()
        self._owner = owner
        self._site = site
        self._here = here
        self._ids = ids
        self._span = None
        self.ended_ns = 0
        self.span_id = new_span_id()
        tracer = owner.tracer
        if here.__class__ is _Process and tracer.follows_parent:
            # One clock for a message and what is made of it.
            self._start = here._start + perf - here._perf
            self._parent_id = here.span_id
            self._has_remote_parent = False
            self.trace_id = here.trace_id
            self.flags = flags = here.flags
            self.trace_state = None
            self._is_plain = flags & SAMPLED != 0
            return
        self._start = owner.time_ns()
        parent = parent_in(here)
        self._parent_id = None if parent is None else parent.span_id
        self._has_remote_parent = parent is not None and parent.is_remote
        self.trace_id, self.flags, self.trace_state = tracer.place(parent)
        is_local = self.trace_state is None and not self._has_remote_parent
        self._is_plain = is_local and self.flags & SAMPLED != 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self._owner
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        self.ended_ns = self._start + owner.perf_counter_ns() - self._perf
        try:
            if error is None and self._span is None and self._is_plain and not owner.tap.callbacks:
                if owner.buffer is not None:
                    owner.buffer.add((owner.tracer.origin, self._written()))
            else:
                self._end(error)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            owner.report(self._site.name, problem)
        try:
            CURRENT.reset(self._token)
        except ValueError:  # ended in another task than it began in
            otel_context.detach(self._token)  # which says so in its log
        self._token = None

    def carrier(self) -> dict[str, str]:
        here = self._here
        if (
            self.trace_state is None
            and (here.__class__ is _Process or headers.BAGGAGE_KEY not in here)
            and headers.are_w3c()
        ):
            trace_id, span_id, flags, ids = self.trace_id, self.span_id, self.flags, self._ids
            found = PublishedHeaders()
            found[headers.TRACEPARENT] = traceparent_of(trace_id, span_id, flags)
            found.message_id = ids[0]
            found.published = trace_id, span_id, flags, ids
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

    def _starting(self) -> dict[str, Any]:
        return self._site.starting(self._ids)

    def _written(self) -> bytes:
        _, _, _, message, root, parent, shape = self._ids
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


class _PublishTogether(_Publish):
    """One of a batch, in the batch's trace or in that of the message it was made from. Never current."""

    __slots__ = ()

    def __init__(
        self,
        owner: FastMessages,
        site: Site,
        here: Context,
        ids: MessageIds,
        trace_id: bytes,
        parent_id: bytes | None,
        flags: int,
        *,
        is_remote: bool,
    ) -> None:
        self._perf = owner.perf_counter_ns()
        self._start = owner.time_ns()
        self._owner = owner
        self._site = site
        self._here = here
        self._ids = ids
        self._span = None
        self._token = None
        self.ended_ns = 0
        self.span_id = new_span_id()
        self._parent_id = parent_id
        self._has_remote_parent = is_remote
        self.trace_id = trace_id
        self.flags = flags
        self.trace_state = None
        self._is_plain = flags & SAMPLED != 0

    def carrier(self) -> dict[str, str]:
        trace_id, span_id, flags, ids = self.trace_id, self.span_id, self.flags, self._ids
        found = PublishedHeaders()
        found[headers.TRACEPARENT] = traceparent_of(trace_id, span_id, flags)
        found.message_id = ids[0]
        found.published = trace_id, span_id, flags, ids
        return found

    def _written(self) -> bytes:
        if not self._has_remote_parent:
            return super()._written()
        _, _, _, message, root, parent, shape = self._ids
        layout = self._site.layouts.get((shape,)) or self._site.lay_out_elsewhere((shape,))
        pack, (start, a, b, c, d, e, f, g, h, i, end) = layout
        written: bytes = pack(
            *(start, self.trace_id, a, self.span_id, b, self._parent_id, c, self._start, d, self.ended_ns),
            *(e, message, f, root, g, parent, h, message, i, root, end),
        )
        return written


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
        owner, is_tapped = self._owner, bool(self._owner.tap.callbacks)
        for one in self._publications:
            one.ended_ns = one._start + owner.perf_counter_ns() - one._perf
            try:
                if error is None and one._span is None and one._is_plain and not is_tapped:
                    if owner.buffer is not None:
                        owner.buffer.add((owner.tracer.origin, one._written()))
                else:
                    one._end(error)
            except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
                owner.report(one._site.name, problem)
            one._token = None

    def carriers(self) -> Iterable[dict[str, str]]:
        return (publication.carrier() for publication in self._publications)

    def fail(self, error: BaseException | str) -> None:
        for publication in self._publications:
            publication.fail(error)


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
        trace_id: bytes,
        parent_id: bytes | None,
        flags: int,
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
        self.trace_id = trace_id
        self._parent_id = parent_id
        self._has_remote_parent = parent_id is not None
        self.flags = flags
        self.trace_state = None  # no message on the short way has one
        self._is_plain = flags & SAMPLED != 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        owner = self._owner
        # Measured from the start, so that a clock that is set in the meantime bends no duration.
        elapsed = owner.perf_counter_ns() - self._perf
        self.ended_ns = ended = self._start + elapsed
        try:
            if error is None and self._span is None and self._is_plain and not owner.tap.callbacks:
                if owner.buffer is not None:
                    owner.buffer.add((owner.tracer.origin, self._written()))
            else:
                self._end(error)
            waited_ms = self._queue_time_ms if self._attempt == 1 else None
            self._place.meters.measure(elapsed, waited_ms, self._error_type, self._ids[0], self, ended)
        except Exception as problem:  # noqa: BLE001 - telemetry never fails a message
            owner.report(self._site.name, problem)
        try:
            CURRENT.reset(self._token)
        except ValueError:  # ended in another task than it began in
            otel_context.detach(self._token)  # which says so in its log
        self._token = None

    def ids_of_derived(self, message_id: str, root_id: str, parent_ids: tuple[str, ...]) -> MessageIds | None:
        """The ids of a message published meanwhile, which has most bytes in common with this one."""
        own, own_root, _, written, root, _, (length, root_length, _) = self._ids
        if own is not parent_ids[0] or own_root is not root_id:
            return ids_of(message_id, root_id, parent_ids)
        try:
            message = message_id.encode()
        except (AttributeError, ValueError, TypeError):
            return None
        if not message or len(message) > LONGEST:
            return None
        return message_id, root_id, parent_ids, message, root, written, (len(message), root_length, length)

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
            self._current = Current(self._owner.plugin, self._site.topic, self._ids[0])
        return self._current

    def _starting(self) -> dict[str, Any]:
        return self._site.starting(self._ids, self._attempt, self._queue_time_ms)

    def _made(self) -> Span:
        span = super()._made()
        if isinstance(span, FastSpan):
            if self._owner.linked and self._parent_id is not None:
                attributes = {names.MESSAGING_ID: self._ids[0]}
                span.own_links().append(Link(self.trace_id, self._parent_id, True, attributes, 0))
            if self._outcome:
                span.set_attribute(names.OUTCOME, self._outcome)
        return span

    def _written(self) -> bytes:
        _, _, _, message, root, parent, shape = self._ids
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
