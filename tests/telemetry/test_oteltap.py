"""The main checks again, read by a receiver that is not ours: oteltap, written in Rust."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing.received import attributes
from support.ports import free_port
from telemetry.pipeline import EXPECTED_TREE, Message, run_pipeline

if os.environ.get("CI"):
    import oteltap
else:
    oteltap = pytest.importorskip("oteltap", reason="oteltap is not installed; it is in requirements/dev.txt")

MANY = 5_000


class Heard:
    """Everything the tap has decoded, as the OTLP messages it hands out."""

    def __init__(self, tap: Any) -> None:
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.logs: list[Any] = []
        streams = (
            (tap.stream_traces(), self.spans),
            (tap.stream_metrics(), self.metrics),
            (tap.stream_logs(), self.logs),
        )
        self._changed = asyncio.Event()
        self.tasks = [asyncio.create_task(self._listen(stream, heard)) for stream, heard in streams]

    async def _listen(self, stream: AsyncIterator[Any], heard: list[Any]) -> None:
        async for one in stream:
            heard.append(one)
            self._changed.set()

    async def until(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not enough():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def tapped(engine: Engine, **environ: str) -> AsyncIterator[tuple[TelemetryContext, Heard]]:
    port = free_port()
    settings = oteltap.OtelTapHttpProtobufReceiverSettings(http_port=port, listen_on_all_interfaces=False)
    async with oteltap.OtelTapHttpProtobufReceiver(settings) as tap:
        heard = Heard(tap)
        await asyncio.sleep(0)  # let the streams subscribe
        telemetry = TelemetryContext.from_config(
            TelemetryConfig(engine=engine),
            environ={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", **environ},
        )
        try:
            yield telemetry, heard
        finally:
            await asyncio.to_thread(telemetry.shutdown)
    await asyncio.gather(*heard.tasks)


def test_one_message_through_the_pipeline_is_one_trace_as_drawn(engine: Engine) -> None:
    async def check() -> None:
        async with tapped(engine) as (telemetry, heard):
            run_pipeline(telemetry)
            assert await asyncio.to_thread(telemetry.flush)
            await heard.until(lambda: len(heard.spans) >= len(EXPECTED_TREE))

        spans = {span.name: span for span in heard.spans}
        assert len(heard.spans) == len(spans) == len(EXPECTED_TREE)
        assert len({span.trace_id for span in heard.spans}) == 1
        for name, (kind, parent, plugin, message_id) in EXPECTED_TREE.items():
            span = spans[name]
            assert (
                span.kind == {"producer": Span.SPAN_KIND_PRODUCER, "consumer": Span.SPAN_KIND_CONSUMER}[kind]
            )
            assert span.parent_span_id == (spans[parent].span_id if parent else b"")
            carried = attributes(span.attributes)
            assert (carried["plugin.name"], carried["message.id"]) == (plugin, message_id)
            assert [link.span_id for link in span.links] == (
                [span.parent_span_id] if kind == "consumer" else []
            )

    asyncio.run(check())


def test_five_thousand_messages_are_one_series_with_their_ids_on_exemplars(engine: Engine) -> None:
    async def check() -> None:
        async with tapped(engine) as (telemetry, heard):
            plugin = telemetry.for_plugin("sink", "1.0.0", "running")
            for number in range(MANY):
                with plugin.messages.process("orders.raw", Message(f"m{number}")):
                    pass
            assert await asyncio.to_thread(telemetry.flush, 20)
            await heard.until(lambda: len(heard.spans) >= MANY and len(heard.metrics) >= 3)

        ids = {
            (span.trace_id, span.span_id): attributes(span.attributes)["message.id"] for span in heard.spans
        }
        # The shutdown sends it once more.
        metric, *_ = (one for one in heard.metrics if one.name == "plugin.message.processing_time_ms")
        (point,) = metric.histogram.data_points
        assert point.count == MANY
        assert "message.id" not in attributes(point.attributes)
        assert point.exemplars
        for exemplar in point.exemplars:
            filtered = attributes(exemplar.filtered_attributes)
            assert filtered["message.id"] == ids[exemplar.trace_id, exemplar.span_id]

    asyncio.run(check())


def test_what_a_plugin_records_has_the_standard_attributes(engine: Engine) -> None:
    async def check() -> None:
        async with tapped(engine) as (telemetry, heard):
            plugin = telemetry.for_plugin("sink", "1.0.0", "running")

            def record() -> None:
                plugin.record_counter("orders", 2, {"k": "a"})
                plugin.record_gauge("depth", 7, {"k": "a"})
                plugin.record_histogram("size", 3.5, {"k": "a"})

            record()
            with plugin.messages.process("orders.raw", Message("m1")):
                record()
                record()
            plugin.record_gauge("orders", 1)
            assert await asyncio.to_thread(telemetry.flush)
            await heard.until(lambda: {"orders", "depth", "size"} <= {one.name for one in heard.metrics})

        def points(name: str) -> tuple[Any, Any]:
            metric, *_ = (one for one in heard.metrics if one.name == name)  # the shutdown sends it once more
            found = getattr(metric, metric.WhichOneof("data")).data_points
            outside, inside = sorted(found, key=lambda point: len(point.attributes))
            common = {"plugin.name": "sink", "plugin.version": "1.0.0", "plugin.status": "running", "k": "a"}
            assert attributes(outside.attributes) == common
            assert attributes(inside.attributes) == {**common, "message.topic": "orders.raw"}
            return outside, inside

        assert [point.as_int for point in points("orders")] == [2, 4]
        assert [point.as_int for point in points("depth")] == [7, 7]
        assert [(point.count, point.sum) for point in points("size")] == [(1, 3.5), (2, 7.0)]
        assert telemetry.health().faults == {"instrument conflict": 1}

    asyncio.run(check())


NOTHING = {
    "disabled": {"OTEL_SDK_DISABLED": "true"},
    "none": {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")},
}


@pytest.mark.parametrize("way", [*NOTHING, "metrics alone"])
def test_only_what_is_asked_for_is_sent(way: str, engine: Engine) -> None:
    async def check() -> None:
        alone = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "LOGS")}
        async with tapped(engine, **NOTHING.get(way, alone)) as (telemetry, heard):
            run_pipeline(telemetry)
            telemetry.for_plugin("sink", "1.0.0").logger().warning("look")
            assert await asyncio.to_thread(telemetry.flush)
            if way not in NOTHING:
                await heard.until(lambda: bool(heard.metrics))
        assert (heard.spans, heard.logs) == ([], [])
        assert bool(heard.metrics) == (way not in NOTHING)

    asyncio.run(check())


def test_a_record_in_a_message_is_correlated(engine: Engine) -> None:
    async def check() -> None:
        async with tapped(engine) as (telemetry, heard):
            plugin = telemetry.for_plugin("sink", "1.0.0", "running")
            with plugin.messages.process("orders.raw", Message("m1")):
                plugin.logger().info("stored")
            plugin.logger().info("idle")
            assert await asyncio.to_thread(telemetry.flush)
            await heard.until(lambda: len(heard.logs) >= 2 and len(heard.spans) >= 1)

        inside, outside = heard.logs
        (span,) = heard.spans
        assert (inside.body.string_value, inside.severity_text) == ("stored", "INFO")
        assert attributes(inside.attributes)["message.id"] == "m1"
        assert (inside.trace_id, inside.span_id) == (span.trace_id, span.span_id)
        assert not any(outside.trace_id)
        assert "message.id" not in attributes(outside.attributes)

    asyncio.run(check())
