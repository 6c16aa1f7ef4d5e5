"""Spans as OTLP (opentelemetry-proto, trace.proto), with the content that the SDK's exporter gives them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.trace import SpanKind, Status, TraceState

from common_telemetry import attributes as names
from common_telemetry.engines.fast import wire
from common_telemetry.engines.fast.bounded import PLAIN, Event, Link
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.message_spans import MessageSpan, Site
from common_telemetry.engines.fast.spans import FastSpan
from common_telemetry.errors import describe
from common_telemetry.health import Faults
from common_telemetry.redaction import NO_REDACTION, Redaction

# message Span
_TRACE_ID: Final = wire.tag(1, wire.DELIMITED) + wire.varint(16)
_SPAN_ID: Final = wire.tag(2, wire.DELIMITED) + wire.varint(8)
_TRACE_STATE: Final = wire.tag(3, wire.DELIMITED)
_PARENT_ID: Final = wire.tag(4, wire.DELIMITED) + wire.varint(8)
_NAME: Final = wire.tag(5, wire.DELIMITED)
_KIND: Final = wire.tag(6, wire.VARINT)
_START: Final = wire.tag(7, wire.FIXED64)
_END: Final = wire.tag(8, wire.FIXED64)
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

_WRITTEN_BY_NAME: Final = (
    names.MESSAGE_ID,
    names.MESSAGING_ID,
    names.ROOT_ID,
    names.CONVERSATION_ID,
    names.PARENT_IDS,
    names.ATTEMPT,
    names.QUEUE_TIME_MS,
)
_KEPT: Final = 4_096
_SHORT: Final = 256


class SpanWriter:
    """Writes spans one after the other; for one thread. `refuse` is told what cannot be written."""

    def __init__(self, refuse: wire.Refused, redaction: Redaction = NO_REDACTION) -> None:
        self._refuse = refuse
        self._redaction = redaction
        # What is written without a look at its key must be allowed to leave.
        self._short_way = all(map(redaction.keeps, _WRITTEN_BY_NAME))
        # The last value of each attribute and its bytes: most attributes have the same value again and again.
        self._last: dict[str, tuple[Any, bytes]] = {}

    def write(self, span: FastSpan) -> bytes:
        """The span as an item of a request. Raises nothing that a span can be the cause of."""
        if isinstance(span, MessageSpan) and span.site is not None:
            try:
                if self._short_way:
                    return wire.delimited(wire.ITEM, self._message_span(span, span.site))
            except (*wire.UNWRITABLE, AttributeError):
                pass  # an id that is no text, or none that UTF-8 has
            span.settle()
        return wire.delimited(wire.ITEM, self._span(span))

    def _message_span(self, span: MessageSpan, site: Site) -> bytes:
        fixed = site.bytes
        if fixed is None:
            fixed = site.bytes = SiteBytes(site, self._redaction)
        message_id = span.message_id.encode()
        root_id = span.root_id.encode()
        parts = [_TRACE_ID, span.trace_id, _SPAN_ID, span.span_id]
        if span.trace_state is not None:
            parts.append(_trace_state(span.trace_state))
        if span.parent_id is not None:
            parts += (_PARENT_ID, span.parent_id)
        parts += (
            fixed.head if span.name is site.name else _head(span),
            _START,
            wire.fixed64(span.start_ns),
            _END,
            wire.fixed64(span.end_ns or 0),
            fixed.before,
            _message_id(message_id),
        )
        if root_id and site.with_root:
            parts.append(_root_id(root_id))
        if span.parent_ids:
            parts.append(wire.delimited(_ATTRIBUTE, wire.key_value(names.PARENT_IDS, span.parent_ids)))
        parts.append(fixed.after)
        if site.with_twins:
            parts.append(_messaging_id(message_id))
            if root_id:
                parts.append(_conversation_id(root_id))
        if span.attempt:
            parts.append(_attempt(span.attempt))
        if span.queue_time_ms is not None:
            parts += (_QUEUE_TIME, wire.double(span.queue_time_ms))
        if span.pairs:
            self._attributes(span.pairs, parts)
        if span.linked and span.parent_id is not None:
            link = b"".join(
                (
                    _TRACE_ID,
                    span.trace_id,
                    _SPAN_ID,
                    span.parent_id,
                    _linked_id(message_id),
                    _LINK_FLAGS,
                    _REMOTE[span.parent_is_remote],
                )
            )
            parts += (_LINK, wire.varint(len(link)), link)
        self._details(span, parts)
        parts += (_FLAGS, _REMOTE[span.parent_is_remote])
        return b"".join(parts)

    def _span(self, span: FastSpan) -> bytes:
        parts = [_TRACE_ID, span.trace_id, _SPAN_ID, span.span_id]
        if span.trace_state is not None:
            parts.append(_trace_state(span.trace_state))
        if span.parent_id is not None:
            parts += (_PARENT_ID, span.parent_id)
        parts += (_head(span), _START, wire.time(span.start_ns), _END, wire.time(span.end_ns))
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
            _TRACE_ID,
            link.trace_id,
            _SPAN_ID,
            link.span_id,
            self._few(_LINK_ATTRIBUTE, link.attributes),
        ]
        if link.dropped_attributes:
            parts += (_LINK_DROPPED, wire.varint(link.dropped_attributes))
        parts += (_LINK_FLAGS, _REMOTE[link.is_remote])
        return b"".join(parts)


def span_buffer(
    limit: int, faults: Faults, *, batch: int = 512, redaction: Redaction = NO_REDACTION
) -> Buffer[FastSpan]:
    """A buffer of spans that comes out as OTLP."""

    def refuse(key: str, error: Exception) -> None:
        faults.report("attribute", f"attribute {key!r} cannot be exported: {describe(error)}")

    writer = SpanWriter(refuse, redaction)
    return Buffer(limit, lambda span: (span.tracer.origin, writer.write(span)), batch=batch)


class SiteBytes:
    """What is the same in all message spans of a site."""

    __slots__ = ("after", "before", "head")

    def __init__(self, site: Site, redaction: Redaction) -> None:
        self.head = wire.text(_NAME, site.name) + _KINDS[site.kind]
        self.before = wire.attributes(_ATTRIBUTE, redaction.of(site.before))
        self.after = wire.attributes(_ATTRIBUTE, redaction.of(site.after))


def _before_text(tag: bytes, key: str) -> Callable[[bytes], bytes]:
    """Writes the attribute `key` with a text for a value, given in UTF-8.

    What stands before the text depends on its length alone, so for the usual lengths it is made beforehand.
    """

    def write(value: bytes) -> bytes:
        return wire.delimited(tag, wire.key_value(key, value.decode()))

    prepared = [write(b"x" * length)[: -length or None] for length in range(100)]

    def write_prepared(value: bytes) -> bytes:
        return prepared[len(value)] + value if len(value) < 100 else write(value)

    return write_prepared


_message_id: Final = _before_text(_ATTRIBUTE, names.MESSAGE_ID)
_messaging_id: Final = _before_text(_ATTRIBUTE, names.MESSAGING_ID)
_root_id: Final = _before_text(_ATTRIBUTE, names.ROOT_ID)
_conversation_id: Final = _before_text(_ATTRIBUTE, names.CONVERSATION_ID)
_linked_id: Final = _before_text(_LINK_ATTRIBUTE, names.MESSAGING_ID)
_QUEUE_TIME: Final = wire.delimited(_ATTRIBUTE, wire.key_value(names.QUEUE_TIME_MS, 0.0))[:-8]
_ATTEMPTS: Final = [wire.delimited(_ATTRIBUTE, wire.key_value(names.ATTEMPT, number)) for number in range(16)]


def _attempt(number: int) -> bytes:
    if number < len(_ATTEMPTS):
        return _ATTEMPTS[number]
    return wire.delimited(_ATTRIBUTE, wire.key_value(names.ATTEMPT, number))


def _head(span: FastSpan) -> bytes:
    return wire.text(_NAME, span.name) + _KINDS.get(span.kind, _KINDS[SpanKind.INTERNAL])


def _status(status: Status) -> bytes:
    if status.is_unset:
        return _NO_STATUS
    body = wire.text(_MESSAGE, status.description) if status.description else b""
    return wire.delimited(_STATUS, body + _CODE + wire.varint(status.status_code.value))


def _trace_state(state: TraceState) -> bytes:
    return wire.text(_TRACE_STATE, state.to_header())
