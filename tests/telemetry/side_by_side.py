"""The same calls made to both engines, and what each would send, brought into a form that can be compared."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from common_telemetry import TelemetryConfig, TelemetryContext, environment
from common_telemetry.config import Engine
from common_telemetry.engine import Clock
from common_telemetry.engines.fast.log_bytes import log_buffer
from common_telemetry.engines.fast.loggers import FastLoggerProvider
from common_telemetry.engines.fast.provider import FastTracerProvider
from common_telemetry.engines.fast.trace_bytes import span_buffer
from common_telemetry.health import Faults
from common_telemetry.providers import Exporters
from common_telemetry.tap import Tap

RESOURCE = Resource({"service.name": "side by side"}, "https://example.org/schema")
ENGINES: tuple[Engine, ...] = ("official", "fast")
# Times nobody gave are of this century; those that tests give are smaller.
_NOW = 10**18


class Spans(Protocol):
    """A tracer provider, and what it would have sent."""

    provider: Any

    def context(self, config: TelemetryConfig, clock: Clock) -> TelemetryContext:
        """Telemetry whose spans come here, and the rest nowhere."""

    def request(self) -> ExportTraceServiceRequest:
        """What would have been sent."""


class OfficialSpans(SpanProcessor):
    def __init__(self, sampler: Sampler | None) -> None:
        self.provider = TracerProvider(sampler, RESOURCE, shutdown_on_exit=False)
        self.provider.add_span_processor(self)
        self._ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._ended.append(span)

    def context(self, config: TelemetryConfig, clock: Clock) -> TelemetryContext:
        return TelemetryContext._assemble(config, Exporters(), self.provider, clock=clock)

    def request(self) -> ExportTraceServiceRequest:
        return encode_spans(self._ended)


class FastSpans:
    def __init__(self, sampler: Sampler | None) -> None:
        self.faults = Faults()
        self.buffer = span_buffer(65_536, self.faults)
        self.provider = FastTracerProvider(
            RESOURCE, self.buffer, Tap(self.faults), self.faults, sampler=sampler
        )

    def context(self, config: TelemetryConfig, clock: Clock) -> TelemetryContext:
        return TelemetryContext._assemble(config, Exporters(spans=self.buffer), clock=clock)

    def request(self) -> ExportTraceServiceRequest:
        drained = self.buffer.drain(65_536)
        assert len(self.buffer) == self.buffer.dropped == 0
        return ExportTraceServiceRequest.FromString(bytes(drained[0]) if drained else b"")


def spans(engine: Engine, environ: Mapping[str, str] | None = None, sampler: Sampler | None = None) -> Spans:
    """A tracer provider of `engine`, set up by `environ`."""
    with environment.in_force(environ or {}):
        return FastSpans(sampler) if engine == "fast" else OfficialSpans(sampler)


class OfficialLogs(LogRecordProcessor):
    def __init__(self) -> None:
        self.provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
        self.provider.add_log_record_processor(self)
        self._emitted: list[ReadableLogRecord] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._emitted.append(
            ReadableLogRecord(log_record.log_record, RESOURCE, log_record.instrumentation_scope)
        )

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def request(self) -> ExportLogsServiceRequest:
        return encode_logs(self._emitted)


class FastLogs:
    def __init__(self) -> None:
        faults = Faults()
        self.buffer = log_buffer(65_536, faults)
        self.provider = FastLoggerProvider(RESOURCE, self.buffer, faults)

    def request(self) -> ExportLogsServiceRequest:
        drained = self.buffer.drain(65_536)
        assert len(self.buffer) == self.buffer.dropped == 0
        return ExportLogsServiceRequest.FromString(bytes(drained[0]) if drained else b"")


def logs(engine: Engine, environ: Mapping[str, str] | None = None) -> OfficialLogs | FastLogs:
    """A logger provider of `engine`, set up by `environ`."""
    with environment.in_force(environ or {}):
        return FastLogs() if engine == "fast" else OfficialLogs()


def normal(request: ExportTraceServiceRequest) -> str:
    """The request with ids numbered as they come, and without stack traces and the times nobody gave.

    As text, in which a NaN is equal to itself.
    """
    found = ExportTraceServiceRequest()
    found.CopyFrom(request)
    known: dict[bytes, bytes] = {}

    def number(identifier: bytes) -> bytes:
        return (
            known.setdefault(identifier, len(known).to_bytes(len(identifier), "big")) if identifier else b""
        )

    every = [span for group in found.resource_spans for part in group.scope_spans for span in part.spans]
    for span in every:
        span.trace_id, span.span_id = number(span.trace_id), number(span.span_id)
    for span in every:
        span.parent_span_id = number(span.parent_span_id)
        _forget_times(span)
        for link in span.links:
            link.trace_id, link.span_id = number(link.trace_id), number(link.span_id)
        for event in span.events:
            _forget_stacktrace(event.attributes)
    return str(found)


def _forget_times(span: SpanProto) -> None:
    if span.start_time_unix_nano > _NOW:
        span.start_time_unix_nano = 0
    if span.end_time_unix_nano > _NOW:
        span.end_time_unix_nano = 0
    for event in span.events:
        if event.time_unix_nano > _NOW:
            event.time_unix_nano = 0


def _forget_stacktrace(attributes: Iterable[KeyValue]) -> None:
    # Some of its frames are those of the engine.
    for attribute in attributes:
        if attribute.key == "exception.stacktrace":
            attribute.value.string_value = ""


def normal_logs(request: ExportLogsServiceRequest) -> str:
    """The request with times nobody gave left out, as text."""
    found = ExportLogsServiceRequest()
    found.CopyFrom(request)
    for group in found.resource_logs:
        for part in group.scope_logs:
            for record in part.log_records:
                if record.observed_time_unix_nano > _NOW:
                    record.observed_time_unix_nano = 0
                _forget_stacktrace(record.attributes)
    return str(found)


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """The SDK logs each thing it corrects or leaves out."""
    logger = logging.getLogger("opentelemetry")
    before, logger.disabled = logger.level, False
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)
