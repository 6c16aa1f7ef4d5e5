"""The official SDK as a careful user sets it up: OTLP over HTTP, in batches, nothing dropped.

The span queue holds the whole run (OTEL_BSP_MAX_QUEUE_SIZE, set by the harness, alike for all contestants):
with the SDK's default of 2,048 most spans of a loaded pipeline are dropped. Batches of 512 to 8,192 spans are
all alike in rate and CPU time.
"""

import os

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

QUEUE_SIZE = 65_536
BATCH_SIZE = 2_048
FLUSH_MS = 300_000


class Telemetry:
    """Both providers, and their end."""

    def __init__(self, service: str) -> None:
        resource = Resource.create({"service.name": service})
        size = int(os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SIZE))
        self.tracer_provider = TracerProvider(resource=resource)
        self.tracer_provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=size, max_export_batch_size=BATCH_SIZE)
        )
        reader = PeriodicExportingMetricReader(OTLPMetricExporter())
        self.meter_provider = MeterProvider([reader], resource=resource)

    def flush(self) -> None:
        """Return when everything recorded so far was sent."""
        self.tracer_provider.force_flush(FLUSH_MS)
        self.meter_provider.force_flush(FLUSH_MS)

    def shutdown(self) -> None:
        """Let the exporters go."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
