"""What telemetry costs the thread that handles a message: each operation, and the whole message.

The same calls on the engines "fast" and "official", and a message traced by hand with the OpenTelemetry SDK.
They take turns, because the speed of a shared machine changes while one looks. What counts is the CPU
time of the calling thread; nothing is exported while it runs. Prints one JSON object.

    python -m benchmarks.telemetry_operations [--rounds 15]
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from benchmarks.telemetry_end_to_end import Message, Receiver
from common_telemetry import PluginTelemetry, TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.engines.fast.metrics import Metrics
from common_telemetry.engines.fast.wire import Origin

_CALLS: Final = 1_000
_SERIES: Final = 500
_PROCESS: Final = "process: extract, span, three histograms"
_SPAN: Final = "create_span, 1 attribute"
_QUIET: Final = {  # nothing is exported before it is asked for
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    "OTEL_BSP_MAX_QUEUE_SIZE": "100000",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100000",
    "OTEL_BLRP_MAX_QUEUE_SIZE": "100000",
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "100000",
}
Run = Callable[[], None]
"""Does one operation _CALLS times."""


@dataclass
class Contender:
    """One way to do it: its operations, and how to empty its buffers between rounds."""

    name: str
    operations: dict[str, Run]
    empty: Callable[[], object]


@contextmanager
def contender(engine: Engine, endpoint: str) -> Iterator[Contender]:
    """The operations through common_telemetry."""
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **_QUIET} if engine != "off" else {}
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ=told)
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    yield Contender(engine, operations(plugin), lambda: None if telemetry.flush(60) else sys.exit("lost"))
    telemetry.shutdown(60)


def operations(plugin: PluginTelemetry) -> dict[str, Run]:
    """Everything a message, or a plugin, does."""
    sampled = [Message(f"m{number}", trace_context=traceparent(1)) for number in range(_CALLS)]
    unsampled = [Message(f"m{number}", trace_context=traceparent(0)) for number in range(_CALLS)]
    logger = plugin.logger()

    def whole(messages: Sequence[Message]) -> None:
        for message in messages:
            with plugin.messages.process("orders.raw", message):
                with plugin.messages.publish("orders.valid", message.id, message.root_id) as publishing:
                    publishing.carrier()
                plugin.record_counter("orders")

    def process() -> None:
        for message in sampled:
            with plugin.messages.process("orders.raw", message):
                pass

    def publish() -> None:
        for message in sampled:
            with plugin.messages.publish("orders.valid", message.id, message.root_id) as publishing:
                publishing.carrier()

    def span() -> None:
        for _ in sampled:
            with plugin.create_span("step", {"k": "a"}):
                pass

    def counter() -> None:
        for _ in sampled:
            plugin.record_counter("things", 1, {"k": "a"})

    def gauge() -> None:
        for _ in sampled:
            plugin.record_gauge("depth", 3, {"k": "a"})

    def histogram() -> None:
        for _ in sampled:
            plugin.record_histogram("size", 3.5, {"k": "a"})

    def log() -> None:
        for _ in sampled:
            logger.info("looked at %s", "it")

    return {
        "whole message, sampled": lambda: whole(sampled),
        "whole message, not sampled": lambda: whole(unsampled),
        _PROCESS: process,
        "publish: span, inject": publish,
        _SPAN: span,
        "record_counter, 1 attribute": inside(plugin, counter),
        "record_gauge, 1 attribute": inside(plugin, gauge),
        "record_histogram, 1 attribute": inside(plugin, histogram),
        "logger().info": inside(plugin, log),
    }


def inside(plugin: PluginTelemetry, run: Run) -> Run:
    """`run` while a message is handled."""

    def run_inside() -> None:
        with plugin.messages.process("orders.raw", Message("m", trace_context=traceparent(1))):
            run()

    return run_inside


def traceparent(flags: int) -> dict[str, str]:
    """The header of a message published elsewhere."""
    return {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-{flags:02x}"}


class _Nowhere(SpanExporter):
    """Takes spans and keeps the last of them."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans = [*self.spans[-_CALLS:], *spans]
        return SpanExportResult.SUCCESS


@contextmanager
def by_hand() -> Iterator[Contender]:
    """A message as people trace it with the SDK: five attributes a span, a histogram, a counter."""
    processor = BatchSpanProcessor(
        _Nowhere(), max_queue_size=100_000, max_export_batch_size=100_000, schedule_delay_millis=3_600_000
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    reader = InMemoryMetricReader()
    metering = MeterProvider([reader], shutdown_on_exit=False)
    tracer, meter = provider.get_tracer("hand"), metering.get_meter("hand")
    histogram, counter = meter.create_histogram("time", "ms"), meter.create_counter("orders")

    def whole(headers: dict[str, str]) -> None:
        for number in range(_CALLS):
            about = {
                "plugin.name": "sink",
                "plugin.version": "1.0.0",
                "plugin.status": "running",
                "message.topic": "orders.raw",
            }
            attributes = {**about, "message.id": f"m{number}"}
            context = propagate.extract(headers, context=Context())
            with tracer.start_as_current_span(
                "process orders.raw", context, SpanKind.CONSUMER, attributes=attributes
            ):
                propagate.inject({})
                histogram.record(1.5, about)
                counter.add(1, about)

    runs: dict[str, Run] = {
        "whole message, sampled": lambda: whole(traceparent(1)),
        "whole message, not sampled": lambda: whole(traceparent(0)),
    }
    yield Contender("by hand", runs, processor.force_flush)
    provider.shutdown()
    metering.shutdown()


@contextmanager
def encoding() -> Iterator[tuple[dict[str, Run], dict[str, Run]]]:
    """Writing OTLP: what the exporting thread does, holding the interpreter. Fast, and the SDK's exporter."""
    with ExitStack() as stack:
        kept = _Nowhere()
        from common_telemetry.pipelines import TracePipeline
        from common_telemetry.providers import Exporters

        pipeline = TracePipeline(kept, "kept")
        official = TelemetryContext._assemble(
            TelemetryConfig(engine="official"), Exporters(traces=[pipeline])
        )
        stack.callback(official.shutdown)
        operations(official.for_plugin("sink", "1.0.0", "running"))[_SPAN]()
        official.flush(60)
        spans = kept.spans[-_CALLS:]

        from common_telemetry.engines.fast.trace_bytes import span_buffer

        exporters = Exporters()
        buffer = exporters.spans = span_buffer(100_000, exporters.faults, batch=100_000)
        fast = TelemetryContext._assemble(TelemetryConfig(engine="fast"), exporters)
        stack.callback(fast.shutdown)
        fill = operations(fast.for_plugin("sink", "1.0.0", "running"))[_SPAN]
        fill()
        items = list(buffer._items)

        def encode_fast() -> None:
            buffer._items.extend(items)
            drained = buffer.drain(_CALLS)
            assert drained is not None
            assert drained[1] == _CALLS

        def encode_official() -> None:
            encode_spans(spans).SerializeToString()

        metrics = Metrics()
        instrument = metrics.scope(lambda: Origin({}, "", "bench", "")).instrument("size", "histogram")
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], resource=Resource({}), shutdown_on_exit=False)
        histogram = provider.get_meter("bench").create_histogram("size")
        for number in range(_SERIES):
            instrument.record(number, {"k": number})
            histogram.record(number, {"k": number})

        def collect_official() -> None:
            for _ in range(_CALLS // _SERIES):
                data = reader.get_metrics_data()
                assert data is not None
                encode_metrics(data).SerializeToString()

        def collect_fast() -> None:
            for _ in range(_CALLS // _SERIES):
                metrics.collect()

        yield (
            {"encode, an ordinary span": encode_fast, "collect and encode, a histogram": collect_fast},
            {
                "encode, an ordinary span": encode_official,
                "collect and encode, a histogram": collect_official,
            },
        )
        provider.shutdown()


def measure(contenders: Sequence[Contender], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """CPU time in microseconds a call: the best and the middle of the rounds, by operation and contender."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds + 1):  # the first warms up
        for one in contenders:
            for operation, run in one.operations.items():
                gc.collect()
                gc.disable()
                begin = time.thread_time()
                run()
                spent = time.thread_time() - begin
                gc.enable()
                found.setdefault(operation, {}).setdefault(one.name, []).append(spent / _CALLS * 1e6)
            one.empty()
    return {
        operation: {
            name: {"best": min(times[1:]), "median": statistics.median(times[1:])}
            for name, times in by_name.items()
        }
        for operation, by_name in found.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    os.environ.pop("OTEL_SDK_DISABLED", None)
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        contenders = [
            stack.enter_context(contender("fast", receiver.endpoint)),
            stack.enter_context(contender("official", receiver.endpoint)),
            stack.enter_context(by_hand()),
            stack.enter_context(contender("off", receiver.endpoint)),
        ]
        fast, official = stack.enter_context(encoding())
        contenders += [
            Contender("fast", fast, lambda: None),
            Contender("official", official, lambda: None),
        ]
        measured = measure(contenders, rounds)
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "opentelemetry": version("opentelemetry-sdk"),
        "rounds": rounds,
        "operations": measured,
    }
    json.dump(result, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
