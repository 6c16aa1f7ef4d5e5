"""What arrived by OTLP, as plain data: read from the official protobuf messages, and from nothing else."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber
from opentelemetry.proto.metrics.v1 import metrics_pb2 as otlp_metrics
from opentelemetry.proto.trace.v1 import trace_pb2 as otlp_trace

from common_telemetry.spans import SpanEvent, SpanLink, SpanRecord

_KINDS = {
    otlp_trace.Span.SPAN_KIND_INTERNAL: "internal",
    otlp_trace.Span.SPAN_KIND_SERVER: "server",
    otlp_trace.Span.SPAN_KIND_CLIENT: "client",
    otlp_trace.Span.SPAN_KIND_PRODUCER: "producer",
    otlp_trace.Span.SPAN_KIND_CONSUMER: "consumer",
}
_STATUSES = {
    otlp_trace.Status.STATUS_CODE_UNSET: "unset",
    otlp_trace.Status.STATUS_CODE_OK: "ok",
    otlp_trace.Status.STATUS_CODE_ERROR: "error",
}
_TEMPORALITIES = {
    otlp_metrics.AGGREGATION_TEMPORALITY_UNSPECIFIED: "",
    otlp_metrics.AGGREGATION_TEMPORALITY_DELTA: "delta",
    otlp_metrics.AGGREGATION_TEMPORALITY_CUMULATIVE: "cumulative",
}
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan(SpanRecord):
    """A span with the resource and the scope it came under."""

    scope_version: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)
    trace_state: str = ""
    sampled: bool = True


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One measurement kept beside the aggregate, with the attributes a view took off the series."""

    value: float
    trace_id: str
    span_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedPoint:
    """One data point: one series of one metric in one export.

    `kind` is sum, gauge, histogram or exponential_histogram; sums and gauges have `value`, histograms `count`
    and `sum`. `temporality` is cumulative, delta or "" for a gauge.
    """

    name: str
    kind: str
    unit: str
    description: str
    attributes: Mapping[str, Any]
    temporality: str = ""
    monotonic: bool = False
    value: float = 0
    count: int = 0
    sum: float = 0
    bounds: tuple[float, ...] = ()
    bucket_counts: tuple[int, ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    scope: str = ""
    scope_version: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedLog:
    """One log record. `severity` is the text, INFO or ERROR for example; ids are "" outside a trace."""

    body: Any
    severity: str
    severity_number: int
    attributes: Mapping[str, Any]
    event_name: str = ""
    trace_id: str = ""
    span_id: str = ""
    time_ns: int = 0
    scope: str = ""
    scope_version: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)


def spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    """The spans of one request."""
    for group in request.resource_spans:
        resource = attributes(group.resource.attributes)
        for part in group.scope_spans:
            for span in part.spans:
                yield _span(span, part.scope, resource)


def points(request: ExportMetricsServiceRequest) -> Iterator[ReceivedPoint]:
    """The data points of one request."""
    for group in request.resource_metrics:
        resource = attributes(group.resource.attributes)
        for part in group.scope_metrics:
            for metric in part.metrics:
                yield from _points(metric, part.scope, resource)


def logs(request: ExportLogsServiceRequest) -> Iterator[ReceivedLog]:
    """The log records of one request."""
    for group in request.resource_logs:
        resource = attributes(group.resource.attributes)
        for part in group.scope_logs:
            for record in part.log_records:
                yield _log(record, part.scope, resource)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """OTLP attributes as Python values; arrays as tuples."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(_value(part) for part in value.array_value.values)
    if kind == "kvlist_value":
        return attributes(value.kvlist_value.values)
    return getattr(value, kind)


def _span(span: otlp_trace.Span, scope: InstrumentationScope, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=_KINDS[span.kind],
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=attributes(span.attributes),
        status=_STATUSES[span.status.code],
        status_description=span.status.message,
        links=tuple(
            SpanLink(link.trace_id.hex(), link.span_id.hex(), attributes(link.attributes))
            for link in span.links
        ),
        events=tuple(
            SpanEvent(event.name, event.time_unix_nano, attributes(event.attributes)) for event in span.events
        ),
        scope=scope.name,
        scope_version=scope.version,
        resource=resource,
        trace_state=span.trace_state,
        sampled=bool(span.flags & _SAMPLED),
    )


def _points(
    metric: otlp_metrics.Metric, scope: InstrumentationScope, resource: dict[str, Any]
) -> Iterator[ReceivedPoint]:
    kind = metric.WhichOneof("data")
    if kind is None:
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        yield ReceivedPoint(
            name=metric.name,
            kind=kind,
            unit=metric.unit,
            description=metric.description,
            attributes=attributes(point.attributes),
            temporality=_temporality(data),
            monotonic=getattr(data, "is_monotonic", False),
            **_aggregate(kind, point),
            exemplars=tuple(_exemplar(exemplar) for exemplar in point.exemplars),
            scope=scope.name,
            scope_version=scope.version,
            resource=resource,
        )


def _temporality(data: Any) -> str:
    return "" if isinstance(data, otlp_metrics.Gauge) else _TEMPORALITIES[data.aggregation_temporality]


def _aggregate(kind: str, point: Any) -> dict[str, Any]:
    if kind in ("sum", "gauge"):
        return {"value": getattr(point, point.WhichOneof("value") or "as_double")}
    if kind == "histogram":
        return {
            "count": point.count,
            "sum": point.sum,
            "bounds": tuple(point.explicit_bounds),
            "bucket_counts": tuple(point.bucket_counts),
        }
    return {"count": point.count, "sum": point.sum}


def _exemplar(exemplar: otlp_metrics.Exemplar) -> Exemplar:
    return Exemplar(
        getattr(exemplar, exemplar.WhichOneof("value") or "as_double"),
        exemplar.trace_id.hex(),
        exemplar.span_id.hex(),
        attributes(exemplar.filtered_attributes),
    )


def _log(record: LogRecord, scope: InstrumentationScope, resource: dict[str, Any]) -> ReceivedLog:
    return ReceivedLog(
        body=_value(record.body),
        severity=record.severity_text or SeverityNumber.Name(record.severity_number),
        severity_number=record.severity_number,
        attributes=attributes(record.attributes),
        event_name=record.event_name,
        trace_id=_id(record.trace_id),
        span_id=_id(record.span_id),
        time_ns=record.time_unix_nano,
        scope=scope.name,
        scope_version=scope.version,
        resource=resource,
    )


def _id(value: bytes) -> str:
    # Some senders write an absent id as zeros.
    return value.hex() if any(value) else ""
