"""The tracer provider of the fast engine, which also knows when it must not be one."""

import logging
from collections.abc import Callable, Mapping
from threading import RLock
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from common_telemetry import forks
from common_telemetry.engines.fast.bounded import Event, Link
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.identity import SAMPLED, ForeignIdentity
from common_telemetry.engines.fast.origins import origin_of
from common_telemetry.engines.fast.spans import FastSpan
from common_telemetry.engines.fast.tracer import FastTracer
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.health import Faults
from common_telemetry.redaction import NO_REDACTION, Redaction
from common_telemetry.spans import SpanEvent, SpanLink, SpanRecord
from common_telemetry.tap import Tap
from common_telemetry.weight import HEAVY

_logger = logging.getLogger("common_telemetry")


class FastTracerProvider(trace.TracerProvider):
    """Tracers whose ended spans go to the tap and into `buffer`, or with None to the tap alone.

    Resource, sampler and limits are those of a provider of the SDK's, which reads them from OTEL_*. That one
    stands by: a span processor needs spans of the SDK's own, so from the first `add_span_processor` on it
    makes them, here and for every tracer handed out before.
    """

    def __init__(
        self,
        resource: Resource,
        buffer: Buffer | None,
        tap: Tap,
        faults: Faults,
        *,
        sampler: Sampler | None = None,
        redaction: Redaction = NO_REDACTION,
    ) -> None:
        self._sdk = SdkTracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._limits = SpanLimits()
        self.buffer = buffer
        self.tap = tap
        self.redaction = redaction
        self._faults = faults
        self._lock = RLock()
        self._tracers: dict[InstrumentationScope, FastTracer] = {}
        self._is_standing_by = True
        self.flush: Callable[[float], bool] = _flushed
        """What `force_flush` calls, with the seconds it may take."""
        forks.follow(self)

    @property
    def resource(self) -> Resource:
        """What reports."""
        return self._sdk.resource

    @property
    def sampler(self) -> Sampler:
        """What decides which spans are recorded."""
        return self._sdk.sampler

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FastTracer:
        scope = InstrumentationScope(
            instrumenting_module_name or "", instrumenting_library_version or "", schema_url, attributes
        )
        return self._tracer(scope)

    def add_span_processor(self, processor: SpanProcessor) -> None:
        """Have `processor` see every span from now on, as the SDK's own provider would."""
        with self._lock:
            if self._is_standing_by:
                self._is_standing_by = False
                self._sdk.add_span_processor(_BackToUs(self))
                for scope, tracer in self._tracers.items():
                    tracer.hand_over(self._official(scope))
                _logger.warning(
                    "telemetry: the span processor %s needs spans of OpenTelemetry's own SDK, so from now on "
                    "they are made by it, at its cost (engine 'official')",
                    type(processor).__name__,
                )
            self._sdk.add_span_processor(processor)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what has ended so far; True if all of it was accepted in time."""
        return self._sdk.force_flush(timeout_millis) and self.flush(timeout_millis / 1e3)

    def shutdown(self) -> None:
        """Flush, and shut down the processors of the application. The telemetry context ends the rest."""
        self.force_flush()
        self._sdk.shutdown()

    def finish(self, span: FastSpan) -> None:
        """Take a sampled span that has ended."""
        if self.tap.callbacks:
            self._show(span)
        if self.buffer is None:
            return
        weight = span.weight()
        if weight < HEAVY:
            self.buffer.add(span)
        else:
            self.buffer.add_heavy(span, weight)

    def take_back(self, span: ReadableSpan) -> None:
        """Take an ended span that the SDK has made."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled and span.instrumentation_scope is not None:
            with self._faults.guard("span", f"span {span.name!r} cannot be exported"):
                self.finish(_copy(span, context, self._tracer(span.instrumentation_scope)))

    def before_fork(self) -> None:
        """Part of ForkAware."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Part of ForkAware."""
        for tracer in self._tracers.values():
            tracer.forget_origin()
        self._lock.release()

    def _tracer(self, scope: InstrumentationScope) -> FastTracer:
        with self._lock:
            tracer = self._tracers.get(scope)
            if tracer is None:
                tracer = self._tracers[scope] = FastTracer(
                    scope, self._origin, self._sdk.sampler, self._limits, self._faults, self
                )
                if not self._is_standing_by:
                    tracer.hand_over(self._official(scope))
        return tracer

    def _origin(self, scope: InstrumentationScope) -> Origin:
        return origin_of(self.resource, scope)

    def _official(self, scope: InstrumentationScope) -> trace.Tracer:
        return self._sdk.get_tracer(scope.name, scope.version, scope.schema_url, scope.attributes)

    def _show(self, span: FastSpan) -> None:
        with self._faults.guard("tap", f"span {span.name!r} cannot be shown"):
            self.tap.show(_record(span))


class _BackToUs(SpanProcessor):
    """Brings the SDK's spans where ours go."""

    def __init__(self, provider: FastTracerProvider) -> None:
        self._provider = provider

    def on_end(self, span: ReadableSpan) -> None:
        self._provider.take_back(span)


def _copy(span: ReadableSpan, context: SpanContext, tracer: FastTracer) -> FastSpan:
    own = ForeignIdentity.of(context)
    parent = ForeignIdentity.of(span.parent) if span.parent is not None else None
    copy = FastSpan(
        tracer,
        span.name,
        span.kind,
        own.trace_id,
        own.flags | SAMPLED,
        own.trace_state,
        parent.span_id if parent is not None else None,
        parent is not None and parent.is_remote,
        span.start_time or 0,
        dict(span.attributes or {}),
    )
    copy.span_id = own.span_id
    copy.end_ns = span.end_time or 0
    details = copy.detailed()
    details.status = span.status
    details.dropped_attributes = span.dropped_attributes
    details.dropped_events = span.dropped_events
    details.dropped_links = span.dropped_links
    for event in span.events:
        details.events.append(
            Event(event.name, event.timestamp, event.attributes or {}, event.dropped_attributes)
        )
    for link in span.links:
        to = ForeignIdentity.of(link.context)
        details.links.append(
            Link(to.trace_id, to.span_id, to.is_remote, link.attributes or {}, link.dropped_attributes)
        )
    return copy


def _record(span: FastSpan) -> SpanRecord:
    details = span.details
    return SpanRecord(
        name=span.name,
        kind=span.kind.name.lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_id.hex() if span.parent_id is not None else "",
        start_ns=span.start_ns,
        end_ns=span.end_ns or 0,
        attributes=dict(span.seen_attributes()),
        status=span.status.status_code.name.lower(),
        status_description=span.status.description or "",
        links=tuple(
            SpanLink(link.trace_id.hex(), link.span_id.hex(), link.attributes) for link in span.seen_links()
        ),
        events=tuple(
            SpanEvent(event.name, event.time_ns, event.attributes)
            for event in (details.events if details is not None else ())
        ),
        scope=span.tracer.instrumentation_scope.name,
    )


def _flushed(seconds: float) -> bool:
    return True
