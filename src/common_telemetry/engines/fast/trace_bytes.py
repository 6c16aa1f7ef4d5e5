"""Spans as OTLP (opentelemetry-proto, trace.proto), with the content that the SDK's exporter gives them."""

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.trace import SpanKind, Status, TraceState

from common_telemetry.engines.fast import wire
from common_telemetry.engines.fast.bounded import PLAIN, Event, Link
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.spans import FastSpan
from common_telemetry.errors import describe
from common_telemetry.health import Faults
from common_telemetry.redaction import NO_REDACTION, Redaction

# message Span
TRACE_ID: Final = wire.tag(1, wire.DELIMITED) + wire.varint(16)
SPAN_ID: Final = wire.tag(2, wire.DELIMITED) + wire.varint(8)
_TRACE_STATE: Final = wire.tag(3, wire.DELIMITED)
PARENT_ID: Final = wire.tag(4, wire.DELIMITED) + wire.varint(8)
_NAME: Final = wire.tag(5, wire.DELIMITED)
_KIND: Final = wire.tag(6, wire.VARINT)
START: Final = wire.tag(7, wire.FIXED64)
END: Final = wire.tag(8, wire.FIXED64)
_ATTRIBUTE: Final = wire.tag(9, wire.DELIMITED)
_DROPPED_ATTRIBUTES: Final = wire.tag(10, wire.VARINT)
_EVENT: Final = wire.tag(11, wire.DELIMITED)
_DROPPED_EVENTS: Final = wire.tag(12, wire.VARINT)
_LINK: Final = wire.tag(13, wire.DELIMITED)
_DROPPED_LINKS: Final = wire.tag(14, wire.VARINT)
_STATUS: Final = wire.tag(15, wire.DELIMITED)
_FLAGS: Final = wire.tag(16, wire.FIXED32)

# message Span.Event
_EVENT_TIME: Final = wire.tag(1, wire.FIXED64)
_EVENT_NAME: Final = wire.tag(2, wire.DELIMITED)
_EVENT_ATTRIBUTE: Final = wire.tag(3, wire.DELIMITED)
_EVENT_DROPPED: Final = wire.tag(4, wire.VARINT)

# message Span.Link; its ids have the numbers of the span's
_LINK_ATTRIBUTE: Final = wire.tag(4, wire.DELIMITED)
_LINK_DROPPED: Final = wire.tag(5, wire.VARINT)
_LINK_FLAGS: Final = wire.tag(6, wire.FIXED32)

# message Status
_MESSAGE: Final = wire.tag(2, wire.DELIMITED)
_CODE: Final = wire.tag(3, wire.VARINT)

# enum SpanFlags: bit 8 says that bit 9 is set if the parent, or the linked span, is remote.
_REMOTE: Final = (wire.fixed32(0x100), wire.fixed32(0x300))
_NO_STATUS: Final = wire.delimited(_STATUS, b"")
_KINDS: Final = {kind: _KIND + wire.varint(kind.value + 1) for kind in SpanKind}

ENDING: Final = _NO_STATUS + _FLAGS + _REMOTE[False]
"""The end of a span without a status, whose parent, if any, is of this process."""
ENDING_REMOTE: Final = _NO_STATUS + _FLAGS + _REMOTE[True]
"""The same, where the parent came in headers."""
_KEPT: Final = 4_096
_SHORT: Final = 256


class SpanWriter:
    """Writes spans one after the other; for one thread. `refuse` is told what cannot be written."""

    def __init__(self, refuse: wire.Refused, redaction: Redaction = NO_REDACTION) -> None:
        self._refuse = refuse
        self._redaction = redaction
        # The last value of each attribute and its bytes: most attributes have the same value again and again.
        self._last: dict[str, tuple[Any, bytes]] = {}

    def write(self, span: FastSpan) -> bytes:
        """The span as an item of a request. Raises nothing that a span can be the cause of."""
        return wire.delimited(wire.ITEM, self._span(span))

    def _span(self, span: FastSpan) -> bytes:
        parts = [TRACE_ID, span.trace_id, SPAN_ID, span.span_id]
        if span.trace_state is not None:
            parts.append(_trace_state(span.trace_state))
        if span.parent_id is not None:
            parts += (PARENT_ID, span.parent_id)
        parts += (head(span.name, span.kind), START, wire.time(span.start_ns), END, wire.time(span.end_ns))
        self._attributes(span.seen_attributes(), parts)
        self._details(span, parts)
        parts += (_FLAGS, _REMOTE[span.parent_is_remote])
        return b"".join(parts)

    def _attributes(self, pairs: Mapping[str, Any], parts: list[bytes]) -> None:
        if self._redaction.is_active:
            pairs = self._redaction.of(pairs)
        known = self._last
        for key, value in pairs.items():
            last = known.get(key)
            if last is not None and last[0] is value:
                parts.append(last[1])
                continue
            try:
                written = wire.delimited(_ATTRIBUTE, wire.key_value(key, value))
            except wire.UNWRITABLE as error:
                self._refuse(key, error)
                continue
            parts.append(written)
            # Not what is long or could change: this is to save time, not to fill the memory.
            if len(written) < _SHORT and value.__class__ in PLAIN and (last or len(known) < _KEPT):
                known[key] = (value, written)

    def _details(self, span: FastSpan, parts: list[bytes]) -> None:
        details = span.details
        if details is None:
            parts.append(_NO_STATUS)
            return
        if details.dropped_attributes:
            parts += (_DROPPED_ATTRIBUTES, wire.varint(details.dropped_attributes))
        parts += [wire.delimited(_EVENT, self._event(event)) for event in details.events]
        if details.dropped_events:
            parts += (_DROPPED_EVENTS, wire.varint(details.dropped_events))
        parts += [wire.delimited(_LINK, self._link(link)) for link in details.links]
        if details.dropped_links:
            parts += (_DROPPED_LINKS, wire.varint(details.dropped_links))
        parts.append(_status(details.status))

    def _few(self, tag: bytes, pairs: Mapping[str, Any]) -> bytes:
        if self._redaction.is_active:
            pairs = self._redaction.of(pairs)
        return wire.attributes(tag, pairs, self._refuse)

    def _event(self, event: Event) -> bytes:
        parts = [
            _EVENT_TIME,
            wire.time(event.time_ns),
            wire.text(_EVENT_NAME, event.name),
            self._few(_EVENT_ATTRIBUTE, event.attributes),
        ]
        if event.dropped_attributes:
            parts += (_EVENT_DROPPED, wire.varint(event.dropped_attributes))
        return b"".join(parts)

    def _link(self, link: Link) -> bytes:
        parts = [
            TRACE_ID,
            link.trace_id,
            SPAN_ID,
            link.span_id,
            self._few(_LINK_ATTRIBUTE, link.attributes),
        ]
        if link.dropped_attributes:
            parts += (_LINK_DROPPED, wire.varint(link.dropped_attributes))
        parts += (_LINK_FLAGS, _REMOTE[link.is_remote])
        return b"".join(parts)


def span_buffer(
    limit: int, faults: Faults, *, batch: int = 512, redaction: Redaction = NO_REDACTION
) -> Buffer:
    """A buffer of spans that comes out as OTLP."""

    def refuse(key: str, error: Exception) -> None:
        faults.report("attribute", f"attribute {key!r} cannot be exported: {describe(error)}")

    writer = SpanWriter(refuse, redaction)
    return Buffer(limit, lambda span: (span.tracer.origin, writer.write(span)), batch=batch)


def head(name: object, kind: SpanKind) -> bytes:
    """Name and kind."""
    return wire.text(_NAME, name) + _KINDS.get(kind, _KINDS[SpanKind.INTERNAL])


def attribute(key: str, value: Any) -> bytes:
    """One attribute of a span. Raises one of `wire.UNWRITABLE`."""
    return wire.delimited(_ATTRIBUTE, wire.key_value(key, value))


def attributes(pairs: Mapping[str, Any]) -> bytes:
    """Attributes of a span."""
    return wire.attributes(_ATTRIBUTE, pairs)


# What stands before a value depends on no more than the length of the value.


def before_text(key: str, length: int) -> bytes:
    """An attribute up to its text, of so many bytes of UTF-8."""
    return attribute(key, "x" * length)[: -length or None]


def before_only_text(key: str, length: int) -> bytes:
    """An attribute up to the text that is all there is in its array."""
    return attribute(key, ("x" * length,))[: -length or None]


def before_double(key: str) -> bytes:
    """An attribute up to its double."""
    return attribute(key, 0.0)[:-8]


def link_around(key: str, length: int) -> tuple[bytes, tuple[bytes, bytes], bytes]:
    """A link to a span that came in headers, with one attribute, a text of so many bytes: what is around it.

    What stands before its trace id; between that, its span id and the text; and after that.
    """
    text = wire.delimited(_LINK_ATTRIBUTE, wire.key_value(key, "x" * length))[: -length or None]
    after = _LINK_FLAGS + _REMOTE[True]
    size = len(TRACE_ID) + 16 + len(SPAN_ID) + 8 + len(text) + length + len(after)
    return _LINK + wire.varint(size) + TRACE_ID, (SPAN_ID, text), after


def _status(status: Status) -> bytes:
    if status.is_unset:
        return _NO_STATUS
    body = wire.text(_MESSAGE, status.description) if status.description else b""
    return wire.delimited(_STATUS, body + _CODE + wire.varint(status.status_code.value))


def _trace_state(state: TraceState) -> bytes:
    return wire.text(_TRACE_STATE, state.to_header())
