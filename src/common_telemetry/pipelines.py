"""SDK processors, readers and exporters with every result counted: the SDK's own flush proves nothing."""

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from common_telemetry import sdk_redaction
from common_telemetry.errands import Errands
from common_telemetry.errors import describe
from common_telemetry.health import Tally
from common_telemetry.pipeline import Pipeline
from common_telemetry.redaction import NO_REDACTION, Redaction
from common_telemetry.weight import weight_of, weight_of_all

# The SDK's own 2,048 loses more than a third of the spans at 8,000 a second.
_QUEUE_LIMIT: Final = 32_768
_exporting = threading.local()


class _SdkPipeline(Pipeline):
    """One signal on its way to an exporter of the SDK's kind."""

    def __init__(self, tally: Tally, exporter: "_Counting") -> None:
        self.tally = tally
        self.errands = self._errands = Errands(f"telemetry-{tally.signal}-{tally.exporter}")
        self._exporter = exporter

    def abandon(self) -> None:
        """Part of Pipeline."""
        self._exporter.abandon()

    def release(self) -> None:
        """Part of Pipeline."""
        self._exporter.release()
        self._errands.close()


class _Counting:
    """The counting common to the three kinds of exporter."""

    def __init__(self, inner: Any, tally: Tally, redaction: Redaction) -> None:
        self._inner = inner
        self._tally = tally
        self._redaction = redaction
        self._abandoned = False
        self._released = False

    def _count(self, count: int, export: Callable[[], bool]) -> bool:
        if self._abandoned:
            self._tally.failed(count, "given up at shutdown")
            return False
        with _quietly() as said:
            try:
                exported = export()
            except Exception as error:  # noqa: BLE001 - the SDK's threads must survive whatever an exporter raises
                said.append(describe(error))
                exported = False
        if exported:
            self._tally.succeeded(count)
        else:
            self._tally.failed(count, said[-1] if said else "")
        return exported

    def abandon(self) -> None:
        self._abandoned = True
        self.release()

    def release(self) -> None:
        if not self._released:
            self._released = True
            with _quietly(), suppress(Exception):  # closing what is broken may fail too
                self._inner.shutdown()


class CountingSpanExporter(_Counting, SpanExporter):
    """Passes spans on and counts what became of them."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """As the wrapped exporter."""
        weights = [_weight_of_span(span) for span in spans]
        if self._redaction.is_active:
            spans = [sdk_redaction.span(span, self._redaction) for span in spans]
        exported = self._count(len(spans), lambda: self._inner.export(spans) is SpanExportResult.SUCCESS)
        self._tally.relieve(weights)
        return SpanExportResult.SUCCESS if exported else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing: the pipeline releases the wrapped exporter."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """As the wrapped exporter."""
        return bool(self._inner.force_flush(timeout_millis))


class CountingMetricExporter(_Counting, MetricExporter):
    """Passes metrics on and counts data points. Several readers may share it."""

    def __init__(self, inner: MetricExporter, tally: Tally, redaction: Redaction) -> None:
        _Counting.__init__(self, inner, tally, redaction)
        # The reader asks the exporter for these; there is no public way to read them.
        MetricExporter.__init__(self, inner._preferred_temporality, inner._preferred_aggregation)
        self._one_at_a_time = threading.Lock()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """As the wrapped exporter."""
        points = _data_points(metrics_data)
        if not points:
            return MetricExportResult.SUCCESS
        if self._redaction.is_active:
            metrics_data = sdk_redaction.metrics(metrics_data, self._redaction)
        self._tally.enter(points)
        with self._one_at_a_time:
            exported = self._count(
                points,
                lambda: (
                    self._inner.export(metrics_data, timeout_millis, **kwargs) is MetricExportResult.SUCCESS
                ),
            )
        return MetricExportResult.SUCCESS if exported else MetricExportResult.FAILURE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing: the pipeline releases the wrapped exporter."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """As the wrapped exporter."""
        return bool(self._inner.force_flush(timeout_millis))


class CountingLogExporter(_Counting, LogRecordExporter):
    """Passes log records on and counts what became of them."""

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """As the wrapped exporter."""
        weights = [_weight_of_record(record.log_record) for record in batch]
        if self._redaction.is_active:
            batch = [sdk_redaction.log_record(record, self._redaction) for record in batch]
        exported = self._count(len(batch), lambda: self._inner.export(batch) is LogRecordExportResult.SUCCESS)
        self._tally.relieve(weights)
        return LogRecordExportResult.SUCCESS if exported else LogRecordExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing: the pipeline releases the wrapped exporter."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is buffered between the processor and the exporter."""
        return True


class TracePipeline(_SdkPipeline):
    """Spans in batches. `processor` belongs on a tracer provider."""

    def __init__(self, exporter: SpanExporter, name: str, redaction: Redaction = NO_REDACTION) -> None:
        limit = _limit("OTEL_BSP_MAX_QUEUE_SIZE")
        tally = Tally("traces", name, limit)
        counting = CountingSpanExporter(exporter, tally, redaction)
        super().__init__(tally, counting)
        self._batches = BatchSpanProcessor(counting, max_queue_size=limit)
        self.processor: SpanProcessor = _SpanGate(self._batches, tally)

    def flush(self) -> None:
        """Send all queued spans."""
        self._batches.force_flush()

    def close(self) -> None:
        """Send all queued spans and end the thread."""
        self.tally.close()
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class LogPipeline(_SdkPipeline):
    """Log records in batches. `processor` belongs on a logger provider."""

    def __init__(self, exporter: LogRecordExporter, name: str, redaction: Redaction = NO_REDACTION) -> None:
        limit = _limit("OTEL_BLRP_MAX_QUEUE_SIZE")
        tally = Tally("logs", name, limit)
        counting = CountingLogExporter(exporter, tally, redaction)
        super().__init__(tally, counting)
        self._batches = BatchLogRecordProcessor(counting, max_queue_size=limit)
        self.processor: LogRecordProcessor = _LogGate(self._batches, tally)

    def flush(self) -> None:
        """Send all queued records."""
        self._batches.force_flush()

    def close(self) -> None:
        """Send all queued records and end the thread."""
        self.tally.close()
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class MetricPipeline(_SdkPipeline):
    """Metrics at an interval. Each meter provider gets a reader of its own, all on the one exporter."""

    def __init__(self, exporter: MetricExporter, name: str, redaction: Redaction = NO_REDACTION) -> None:
        tally = Tally("metrics", name, _QUEUE_LIMIT)
        self._counting = CountingMetricExporter(exporter, tally, redaction)
        super().__init__(tally, self._counting)
        self._readers: list[MetricReader] = []

    def another_reader(self) -> MetricReader:
        """A reader for one more meter provider."""
        reader = PeriodicExportingMetricReader(self._counting)
        self._readers.append(reader)
        return reader

    def flush(self) -> None:
        """Collect and send now."""
        for reader in self._readers:
            reader.force_flush()

    def close(self) -> None:
        """Collect and send a last time, and end the threads."""
        self.tally.close()
        for reader in self._readers:
            reader.shutdown()


class _SpanGate(SpanProcessor):
    """Lets spans through while there is room, so that the SDK never has to drop, and log, one by itself."""

    def __init__(self, inner: SpanProcessor, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled and self._tally.admit(_weight_of_span(span)):
            self._inner.on_end(span)


class _LogGate(LogRecordProcessor):
    def __init__(self, inner: LogRecordProcessor, tally: Tally) -> None:
        self._inner = inner
        self._tally = tally

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        if self._tally.admit(_weight_of_record(log_record.log_record)):
            self._inner.on_emit(log_record)

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class _WhileExporting(logging.Filter):
    """Keeps what an exporter logs while we export: the tally says it once, and health() has the text."""

    def filter(self, record: logging.LogRecord) -> bool:
        said: list[str] | None = getattr(_exporting, "said", None)
        if said is None:
            return True  # somebody else's exporter
        if record.levelno >= logging.WARNING:
            said.append(record.getMessage())
        return False


_while_exporting: Final = _WhileExporting()


def listen_to_exporters() -> None:
    """Have failures that exporters log counted instead of printed. For those imported so far; repeatable."""
    for name, logger in list(logging.root.manager.loggerDict.items()):
        ours = name.startswith(("opentelemetry.exporter", "opentelemetry.sdk"))
        if ours and isinstance(logger, logging.Logger) and _while_exporting not in logger.filters:
            # First, because the SDK's own filter swallows a text it saw lately, and the reason with it.
            logger.filters.insert(0, _while_exporting)


@contextmanager
def _quietly() -> Iterator[list[str]]:
    said: list[str] = []
    _exporting.said = said
    try:
        yield said
    finally:
        _exporting.said = None


def _weight_of_span(span: ReadableSpan) -> int:
    parts = [span.attributes, *(event.attributes for event in span.events)]
    return sum(map(weight_of_all, [*parts, *(link.attributes for link in span.links)]))


def _weight_of_record(record: LogRecord) -> int:
    return weight_of(record.body) + weight_of_all(record.attributes)


def _limit(variable: str) -> int:
    given = os.environ.get(variable, "").strip()
    return int(given) if given.isdigit() and int(given) > 0 else _QUEUE_LIMIT


def _data_points(metrics: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in metrics.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
