"""Telemetry that stays in the process, for unit tests."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from common_telemetry.config import TelemetryConfig
from common_telemetry.context import TelemetryContext
from common_telemetry.engine import Clock
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.log_bytes import log_buffer
from common_telemetry.engines.fast.metrics import MetricOptions, Metrics
from common_telemetry.engines.fast.trace_bytes import span_buffer
from common_telemetry.errands import Errands
from common_telemetry.health import Signal, Tally
from common_telemetry.pipeline import Pipeline
from common_telemetry.pipelines import LogPipeline, MetricPipeline, TracePipeline
from common_telemetry.plugin import PluginTelemetry
from common_telemetry.providers import Exporters
from common_telemetry.redaction import Redaction
from common_telemetry.testing.received import ReceivedLog, ReceivedPoint, ReceivedSpan
from common_telemetry.testing.store import Received

_LIMIT: Final = 65_536


class InMemoryTelemetry:
    """A telemetry context whose data can be read back at once, as it would arrive by OTLP."""

    def __init__(self, config: TelemetryConfig | None = None, *, clock: Clock = time) -> None:
        self._received = Received()
        config = config or TelemetryConfig()
        redaction = Redaction(config.redact)
        exporters = Exporters(redaction=redaction)
        if config.engine == "fast":
            exporters.spans = span_buffer(_LIMIT, exporters.faults, redaction=redaction)
            exporters.fast.append(_FromBuffer("traces", exporters.spans, self._add_spans))
            exporters.measured = Metrics(MetricOptions(redaction=redaction))
            exporters.fast.append(_Measured(exporters.measured, self._received))
            exporters.records = log_buffer(_LIMIT, exporters.faults, redaction=redaction)
            exporters.fast.append(_FromBuffer("logs", exporters.records, self._add_logs))
        else:
            exporters.traces.append(TracePipeline(_Spans(self._received), "memory", redaction))
            exporters.logs.append(LogPipeline(_Logs(self._received), "memory", redaction))
            exporters.metrics.append(MetricPipeline(_Metrics(self._received), "memory", redaction))
        self.context = TelemetryContext._assemble(config, exporters, clock=clock)

    def _add_spans(self, request: bytes) -> None:
        self._received.add(ExportTraceServiceRequest.FromString(request))

    def _add_logs(self, request: bytes) -> None:
        self._received.add(ExportLogsServiceRequest.FromString(request))

    def for_plugin(self, name: str, version: str = "1.0.0", status: str = "running") -> PluginTelemetry:
        """The telemetry of one plugin."""
        return self.context.for_plugin(name, version, status)

    def spans(self, name: str | None = None) -> list[ReceivedSpan]:
        """The spans ended so far, or those of one name, in the order of their end."""
        self.context.flush()
        return self._received.spans(name)

    def metrics(self, name: str | None = None) -> list[ReceivedPoint]:
        """The current data points, or those of one metric."""
        self._received.clear_metrics()
        self.context.flush()
        return self._received.metrics(name)

    def logs(self, event_name: str | None = None) -> list[ReceivedLog]:
        """The log records so far, or those of one event name."""
        self.context.flush()
        return self._received.logs(event_name)

    def close(self) -> None:
        """Shut the context down. Safe to repeat."""
        self.context.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _FromBuffer(Pipeline):
    """What the fast engine has buffered, taken out when it is asked for."""

    def __init__(self, signal: Signal, buffer: Buffer, add: Callable[[bytes], None]) -> None:
        self.tally = Tally(signal, "memory", _LIMIT)
        self.errands = self._errands = Errands(f"telemetry-{signal}-memory")
        self._buffer = buffer
        self._add = add

    def flush(self) -> None:
        while (drained := self._buffer.drain(_LIMIT)) is not None:
            request, count = drained
            self.tally.enter(count)
            self._add(bytes(request))
            self.tally.succeeded(count)
            self._buffer.settle()

    def close(self) -> None:
        self._buffer.close()
        self.flush()

    def abandon(self) -> None:
        self._buffer.discard()

    def release(self) -> None:
        self._errands.close()


class _Measured(Pipeline):
    """What the fast engine has measured, collected when it is asked for."""

    def __init__(self, metrics: Metrics, received: Received) -> None:
        self.tally = Tally("metrics", "memory", _LIMIT)
        self.errands = self._errands = Errands("telemetry-metrics-memory")
        self._metrics = metrics
        self._received = received

    def flush(self) -> None:
        collected = self._metrics.collect()
        if collected is not None:
            request, count = collected
            self.tally.enter(count)
            self._received.add(ExportMetricsServiceRequest.FromString(request))
            self.tally.succeeded(count)

    def close(self) -> None:
        self.flush()

    def abandon(self) -> None:
        return None

    def release(self) -> None:
        self._errands.close()


class _Spans(SpanExporter):
    def __init__(self, received: Received) -> None:
        self._received = received

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._received.add(encode_spans(spans))
        return SpanExportResult.SUCCESS


class _Metrics(MetricExporter):
    def __init__(self, received: Received) -> None:
        super().__init__()
        self._received = received

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        self._received.add(encode_metrics(metrics_data))
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        return None

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True


class _Logs(LogRecordExporter):
    def __init__(self, received: Received) -> None:
        self._received = received

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        self._received.add(encode_logs(batch))
        return LogRecordExportResult.SUCCESS

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
