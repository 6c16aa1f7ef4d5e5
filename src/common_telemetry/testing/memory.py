"""Telemetry that stays in the process, for unit tests."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from common_telemetry.config import TelemetryConfig
from common_telemetry.context import TelemetryContext
from common_telemetry.engine import Clock
from common_telemetry.pipelines import LogPipeline, MetricPipeline, TracePipeline
from common_telemetry.plugin import PluginTelemetry
from common_telemetry.providers import Exporters
from common_telemetry.testing.received import ReceivedLog, ReceivedPoint, ReceivedSpan
from common_telemetry.testing.store import Received


class InMemoryTelemetry:
    """A telemetry context whose data can be read back at once, as it would arrive by OTLP."""

    def __init__(self, config: TelemetryConfig | None = None, *, clock: Clock = time) -> None:
        self._received = Received()
        exporters = Exporters(
            traces=[TracePipeline(_Spans(self._received), "memory")],
            metrics=[MetricPipeline(_Metrics(self._received), "memory")],
            logs=[LogPipeline(_Logs(self._received), "memory")],
        )
        self.context = TelemetryContext._assemble(config or TelemetryConfig(), exporters, clock=clock)

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
