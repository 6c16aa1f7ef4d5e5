"""The tracers that plugins, message scopes and instrumented libraries make spans with."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TraceState

from common_telemetry.engines.fast.bounded import bounded
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.current_span import parent_in, with_span
from common_telemetry.engines.fast.identity import RANDOM, SAMPLED, Identity
from common_telemetry.engines.fast.message_spans import ROOM, Standing, may_be_laid_out
from common_telemetry.engines.fast.primitives import new_trace_id
from common_telemetry.engines.fast.sampling import Shortcut
from common_telemetry.engines.fast.spans import FastSpan, IdleSpan, links_of
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.errors import describe, message_of
from common_telemetry.health import Faults
from common_telemetry.redaction import Redaction
from common_telemetry.tap import Tap

_NO_LINKS: Final = ()  # there is but one empty tuple; what else was given may raise when asked if it is empty
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Outlet(Protocol):
    """Where ended spans go."""

    @property
    def buffer(self) -> Buffer | None:
        """To the exporter, if there is one."""

    @property
    def tap(self) -> Tap:
        """To whoever watches."""

    @property
    def redaction(self) -> Redaction:
        """What must not leave."""

    def finish(self, span: FastSpan) -> None:
        """Take a sampled span that has ended."""


class FastTracer(trace.Tracer):
    """Makes the spans of one instrumentation scope."""

    def __init__(
        self,
        scope: InstrumentationScope,
        make_origin: Callable[[InstrumentationScope], Origin],
        sampler: Sampler,
        limits: SpanLimits,
        faults: Faults,
        outlet: Outlet,
    ) -> None:
        self.instrumentation_scope = scope
        self.limits = limits
        self.outlet = outlet
        self.finish = outlet.finish
        self._shortcut = Shortcut.of(sampler)
        self._official: trace.Tracer | None = None
        self.standing = Standing(
            is_simple=self._shortcut is not None and _have_room(limits) and may_be_laid_out(outlet.redaction),
            always=self._shortcut is not None and self._shortcut.always,
        )
        self.follows_parent = self._shortcut is not None and self._shortcut.follows_parent
        """Whether a span with a parent takes all of `place` from it."""
        self._sampler = sampler
        self._make_origin = make_origin
        self._faults = faults

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        if self._official is not None:
            return self._official.start_span(
                name,
                context,
                kind,
                attributes,
                links,
                start_time,
                record_exception,
                set_status_on_exception,
            )
        parent = parent_in(otel_context.get_current() if context is None else context)
        trace_id, flags, trace_state = self.place(parent)
        recorded = flags & SAMPLED
        if self._shortcut is None:
            recorded, flags, trace_state, attributes = self._ask(
                context, trace_id, name, kind, attributes, links, flags, trace_state
            )
        if not recorded:
            return IdleSpan(trace_id, flags, trace_state)

        pairs, lost = self._bounded(name, attributes)
        span = FastSpan(
            self,
            name,
            kind,
            trace_id,
            flags,
            trace_state,
            parent.span_id if parent is not None else None,
            parent is not None and parent.is_remote,
            time_ns() if start_time is None else start_time,
            pairs,
        )
        if lost:
            span.detailed().dropped_attributes = lost
        if links is not None and links is not _NO_LINKS:
            self._link(span, links)
        if not (record_exception and set_status_on_exception):
            details = span.detailed()
            details.record_exception = record_exception
            details.set_status_on_exception = set_status_on_exception
        return span

    def start_as_current_span(  # type: ignore[override] # the API says how its own helper is called, not what it does
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
        end_on_exit: bool = True,
    ) -> "SpanBlock":
        how = (
            name,
            context,
            kind,
            attributes,
            links,
            start_time,
            record_exception,
            set_status_on_exception,
        )
        return SpanBlock(self, how, end_on_exit)

    def hand_over(self, official: trace.Tracer) -> None:
        """Have all spans from now on made by `official`."""
        self._official = official
        self.standing.is_simple = False

    def place(self, parent: Identity | None) -> tuple[bytes, int, TraceState | None]:
        """Trace id, flags and trace state of a new span. It is sampled only if no sampler has to be asked."""
        shortcut = self._shortcut
        if parent is None:
            trace_id, flags, trace_state = new_trace_id(), RANDOM, None
        else:
            if self.follows_parent:
                return parent.trace_id, parent.flags & (RANDOM | SAMPLED), parent.trace_state
            trace_id, flags, trace_state = parent.trace_id, parent.flags & RANDOM, parent.trace_state
        if shortcut is not None and shortcut.of_trace(trace_id):
            flags |= SAMPLED
        return trace_id, flags, trace_state

    @property
    def origin(self) -> Origin:
        """Where its spans come from, as OTLP has it."""
        origin = self.standing.origin
        if origin is None:
            origin = self.standing.origin = self._make_origin(self.instrumentation_scope)
        return origin

    def forget_origin(self) -> None:
        """Find out anew where spans come from."""
        self.standing.origin = None

    def refuse(self, what: str, span: str, error: Exception) -> None:
        """Report what could not be put on a span of that name."""
        scope = self.instrumentation_scope.name
        self._faults.report("span", f"{scope}: {what} of span {span!r} are left out: {describe(error)}")

    def _ask(
        self,
        context: Context | None,
        trace_id: bytes,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link] | None,
        flags: int,
        trace_state: TraceState | None,
    ) -> tuple[bool, int, TraceState | None, Mapping[str, Any] | None]:
        """Whether to record, the flags, the trace state and the attributes, by the sampler itself."""
        try:
            result = self._sampler.should_sample(
                context, int.from_bytes(trace_id, "big"), name, kind, attributes, links or ()
            )
        except Exception as error:  # noqa: BLE001 - a sampler of the application's
            self._faults.report("sampler", f"span {name!r} is not recorded: {describe(error)}")
            return False, flags, trace_state, attributes
        if result.decision is Decision.RECORD_AND_SAMPLE:
            flags |= SAMPLED
        recorded = result.decision is not Decision.DROP
        return recorded, flags, result.trace_state or None, result.attributes

    def _bounded(self, name: str, attributes: Mapping[str, Any] | None) -> tuple[dict[str, Any], int]:
        try:
            return bounded(attributes, self.limits.max_span_attributes, self.limits.max_span_attribute_length)
        except Exception as error:  # noqa: BLE001 - it may be no mapping at all
            self.refuse("attributes", name, error)
            return {}, 0

    def _link(self, span: FastSpan, links: Sequence[Link]) -> None:
        try:
            found, lost = links_of(links, self)
        except Exception as error:  # noqa: BLE001 - they may be anything
            self.refuse("links", span.name, error)
            return
        if found or lost:
            details = span.detailed()
            details.links, details.dropped_links = found, lost


def _have_room(limits: SpanLimits) -> bool:
    lengths = (limits.max_span_attribute_length, limits.max_attribute_length)
    counts = (limits.max_span_attributes, limits.max_links, limits.max_link_attributes)
    return all(longest is None for longest in lengths) and all(
        most is None or most >= ROOM for most in counts
    )


class SpanBlock:
    """A `with` block around a span that is current in it. It also decorates functions and coroutines."""

    __slots__ = ("_end", "_how", "_span", "_token", "_tracer")

    def __init__(self, tracer: FastTracer, how: tuple[Any, ...], end: bool) -> None:
        self._tracer = tracer
        self._how = how  # the arguments of `start_span`
        self._end = end

    def __enter__(self) -> Span:
        span = self._span = self._tracer.start_span(*self._how)
        # A copy of the context: others may hold the one that is current.
        self._token = otel_context.attach(with_span(otel_context.get_current(), span))
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        otel_context.detach(self._token)
        span = self._span
        # What is no Exception (a cancellation, the end of a generator) is no error of the block's.
        if isinstance(error, Exception) and span.is_recording():
            *_, record_exception, set_status_on_exception = self._how
            if record_exception:
                span.record_exception(error)
            if set_status_on_exception:
                description = f"{type(error).__name__}: {message_of(error)}"
                span.set_status(Status(StatusCode.ERROR, description))
        if self._end:
            span.end()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """`function` with a span of its own around each call."""

        def block() -> SpanBlock:
            return SpanBlock(self._tracer, self._how, self._end)

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with block():
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _R]", call_async)

        @functools.wraps(function)
        def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with block():
                return function(*args, **kwargs)

        return call
