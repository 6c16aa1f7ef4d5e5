"""Finished spans handed to callbacks in the same process, before and beside any exporter."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from threading import RLock
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, format_span_id, format_trace_id

from common_telemetry.health import Faults
from common_telemetry.redaction import NO_REDACTION, Redaction
from common_telemetry.spans import SpanEvent, SpanLink, SpanRecord

Callback = Callable[[SpanRecord], None]


class Tap(SpanProcessor):
    """Calls every callback with every sampled span that ends, in the thread that ends it."""

    def __init__(self, faults: Faults, redaction: Redaction = NO_REDACTION) -> None:
        self._faults = faults
        self._redaction = redaction
        self._lock = RLock()
        self.callbacks: list[Callback] = []
        """One list for good: who asks for every message whether anybody is here keeps it."""

    def add(self, callback: Callback) -> Callable[[], None]:
        """Call `callback` from now on; the returned function ends that, and is safe to repeat."""

        def entry(
            record: SpanRecord,
        ) -> None:  # so that one added twice goes one at a time
            callback(record)

        with self._lock:
            self.callbacks.append(entry)

        def remove() -> None:
            with self._lock, suppress(ValueError):
                self.callbacks.remove(entry)

        return remove

    def close(self) -> None:
        """Forget all callbacks."""
        with self._lock:
            self.callbacks.clear()

    def on_end(self, span: ReadableSpan) -> None:
        """Part of SpanProcessor."""
        context = span.get_span_context()
        if self.callbacks and context is not None and context.trace_flags.sampled:
            self.show(_record(span, context))

    def show(self, record: SpanRecord) -> None:
        """Call every callback with `record`. What they raise ends here."""
        if self._redaction.is_active:
            record = _redacted(record, self._redaction)
        for callback in tuple(self.callbacks):
            with self._faults.guard("tap", f"a tap failed on span {record.name!r}"):
                callback(record)


def _redacted(record: SpanRecord, redaction: Redaction) -> SpanRecord:
    return replace(
        record,
        attributes=redaction.of(record.attributes),
        links=tuple(replace(link, attributes=redaction.of(link.attributes)) for link in record.links),
        events=tuple(replace(event, attributes=redaction.of(event.attributes)) for event in record.events),
    )


def _record(span: ReadableSpan, context: SpanContext) -> SpanRecord:
    return SpanRecord(
        name=span.name,
        kind=span.kind.name.lower(),
        trace_id=format_trace_id(context.trace_id),
        span_id=format_span_id(context.span_id),
        parent_span_id=format_span_id(span.parent.span_id) if span.parent else "",
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes=_plain(span.attributes),
        status=span.status.status_code.name.lower(),
        status_description=span.status.description or "",
        links=tuple(
            SpanLink(
                format_trace_id(link.context.trace_id),
                format_span_id(link.context.span_id),
                _plain(link.attributes),
            )
            for link in span.links
        ),
        events=tuple(
            SpanEvent(event.name, event.timestamp, _plain(event.attributes)) for event in span.events
        ),
        scope=span.instrumentation_scope.name if span.instrumentation_scope else "",
    )


def _plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return dict(attributes or {})
