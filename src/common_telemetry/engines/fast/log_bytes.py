"""Log records as OTLP (opentelemetry-proto, logs.proto), with the content the SDK's exporter gives them."""

from typing import Any, Final

from common_telemetry.engines.fast import wire
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.loggers import FastRecord
from common_telemetry.errors import describe
from common_telemetry.health import Faults
from common_telemetry.redaction import NO_REDACTION, Redaction

# message LogRecord
_TIME: Final = wire.tag(1, wire.FIXED64)
_SEVERITY_NUMBER: Final = wire.tag(2, wire.VARINT)
_SEVERITY_TEXT: Final = wire.tag(3, wire.DELIMITED)
_BODY: Final = wire.tag(5, wire.DELIMITED)
_ATTRIBUTE: Final = wire.tag(6, wire.DELIMITED)
_DROPPED_ATTRIBUTES: Final = wire.tag(7, wire.VARINT)
_FLAGS: Final = wire.tag(8, wire.FIXED32)
_TRACE_ID: Final = wire.tag(9, wire.DELIMITED) + wire.varint(16)
_SPAN_ID: Final = wire.tag(10, wire.DELIMITED) + wire.varint(8)
_OBSERVED_TIME: Final = wire.tag(11, wire.FIXED64)
_EVENT_NAME: Final = wire.tag(12, wire.DELIMITED)


def log_buffer(
    limit: int, faults: Faults, *, batch: int = 512, redaction: Redaction = NO_REDACTION
) -> Buffer:
    """A buffer of log records that comes out as OTLP."""

    def refuse(key: str, error: Exception) -> None:
        faults.report("attribute", f"log attribute {key!r} cannot be exported: {describe(error)}")

    def item(record: FastRecord) -> tuple[wire.Origin, bytes]:
        return record.logger.origin, write(record, refuse, redaction)

    return Buffer(limit, item, batch=batch)


def write(record: FastRecord, refuse: wire.Refused, redaction: Redaction = NO_REDACTION) -> bytes:
    """The record as an item of a request. `refuse` is told of attributes that cannot be written."""
    body, attributes = record.body, record.attributes
    if redaction.is_active:
        body, attributes = redaction.of_value(body), redaction.of(attributes)
    parts = [
        _OBSERVED_TIME,
        wire.time(record.observed_ns),
        wire.delimited(_BODY, _body(body)),
        wire.attributes(_ATTRIBUTE, attributes, refuse),
    ]
    if record.time_ns:
        parts += (_TIME, wire.time(record.time_ns))
    severity: int = getattr(record.severity_number, "value", 0)
    if severity:
        parts += (_SEVERITY_NUMBER, wire.varint(severity))
    if record.severity_text:
        parts.append(wire.text(_SEVERITY_TEXT, record.severity_text))
    if record.dropped_attributes:
        parts += (_DROPPED_ATTRIBUTES, wire.varint(record.dropped_attributes))
    span = record.span
    if span.trace_flags:
        parts += (_FLAGS, wire.fixed32(span.trace_flags))
    if span.trace_id:
        parts += (_TRACE_ID, span.trace_id.to_bytes(16, "big"))
    if span.span_id:
        parts += (_SPAN_ID, span.span_id.to_bytes(8, "big"))
    if record.event_name:
        parts.append(wire.text(_EVENT_NAME, record.event_name))
    return wire.delimited(wire.ITEM, b"".join(parts))


def _body(value: Any) -> bytes:
    try:
        return wire.any_value(value)
    except wire.UNWRITABLE:
        # Part of it has no form in OTLP (no UTF-8, a number beyond 64 bits): better as text than not at all.
        return wire.any_value(str(value).encode("utf-8", "replace").decode())
