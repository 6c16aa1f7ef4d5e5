"""What a receiver gets from a host: the telemetry that comes out by itself, over real OTLP."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from common_telemetry.testing import OtlpReceiver, ReceivedSpan
from echo_core import BaseMessage, Filter, Invalid, ProcessingStatus, Router, Sink, Transformer, Validator
from echo_core.errors import TransportError
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, Numbers, World, manifest
from telemetry.faulty import faulty


class Checked(Validator):
    async def validate(self, message: BaseMessage) -> None:
        if message.data is None:
            raise Invalid("nothing in it")


class Shaped(Transformer):
    async def transform(self, message: BaseMessage) -> dict[str, int]:
        with self.context.create_span("shape", {"k": 1}):
            return {"n": message.data}


class Everywhere(Router):
    async def route(self, message: BaseMessage) -> list[str]:
        return ["sink.a", "sink.b"]


class Quiet(Sink):
    async def write(self, message: BaseMessage) -> None:
        self.context.record_counter("written", 1, {"k": "a"})


def orders_pipeline(world: World, items: Sequence[object]) -> None:
    world.add(Numbers(items), manifest("orders", says=("orders.raw",), plugin_type="source"))
    world.add(Checked(), manifest("checked", hears=("orders.raw",), says=("orders.valid",)))
    world.add(Shaped(), manifest("shaped", hears=("orders.valid",), says=("orders.shaped",)))
    world.add(Everywhere(), manifest("everywhere", hears=("orders.shaped",), says=("sink.*",)))
    world.add(Quiet(), manifest("sink_a", hears=("sink.a",)))
    world.add(Quiet(), manifest("sink_b", hears=("sink.b",)))


def run_and_receive(receiver: OtlpReceiver, world: World) -> None:
    asyncio.run(world.run())
    assert world.telemetry.shutdown()


def about_messages(receiver: OtlpReceiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans() if not span.name.startswith("plugin.")]


def test_one_message_is_one_trace_through_all_plugins(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        orders_pipeline(world, [1])
        run_and_receive(receiver, world)
        spans = about_messages(receiver)

    tree = {
        (span.name, span.attributes["plugin.name"]): next(
            (other.name for other in spans if other.span_id == span.parent_span_id), ""
        )
        for span in spans
    }
    assert tree == {
        ("publish orders.raw", "orders"): "",
        ("process orders.raw", "checked"): "publish orders.raw",
        ("publish orders.valid", "checked"): "process orders.raw",
        ("process orders.valid", "shaped"): "publish orders.valid",
        ("shape", "shaped"): "process orders.valid",
        ("publish orders.shaped", "shaped"): "process orders.valid",
        ("process orders.shaped", "everywhere"): "publish orders.shaped",
        ("publish sink.a", "everywhere"): "process orders.shaped",
        ("publish sink.b", "everywhere"): "process orders.shaped",
        ("process sink.a", "sink_a"): "publish sink.a",
        ("process sink.b", "sink_b"): "publish sink.b",
    }
    assert len(spans) == 11
    assert len({span.trace_id for span in spans}) == 1
    roots = {span.attributes["messaging.message.conversation_id"] for span in spans if span.name != "shape"}
    assert len(roots) == 1
    for span in spans:
        assert span.attributes["plugin.version"] == "1.2.3"
        assert span.attributes["plugin.status"] == "running"
        assert {"message.topic", "message.id"} <= set(span.attributes)
        assert span.scope == f"echo.plugin.{span.attributes['plugin.name']}"
        if span.kind == "consumer":
            assert [link.span_id for link in span.links] == [span.parent_span_id]


def test_the_life_of_a_plugin_is_measured_and_counted(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        orders_pipeline(world, [1, 2])
        run_and_receive(receiver, world)
        points = {
            (p.name, p.attributes.get("plugin.name"), p.attributes.get("event")): p
            for p in receiver.metrics()
        }

    for metric in ("plugin.init.duration_ms", "plugin.shutdown.duration_ms"):
        point = points[metric, "checked", None]
        assert (point.kind, point.unit, point.count) == ("histogram", "ms", 1)
        assert (point.attributes["plugin.name"], point.attributes["plugin.version"]) == ("checked", "1.2.3")
        assert not any(key.startswith("message.") for key in point.attributes)
    for event in ("load", "init", "shutdown"):
        counted = points["plugin.lifecycle.events", "checked", event]
        assert (counted.value, counted.monotonic) == (1, True)
    handled = points["plugin.message.processing_time_ms", "checked", None]
    assert handled.count == 2
    assert "message.id" not in handled.attributes


def test_retries_and_the_dead_letter_stay_in_the_trace(tmp_path: Path) -> None:
    def fail(message: BaseMessage) -> None:
        raise ConnectionError("no database")

    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        world.add(Numbers(1), manifest("orders", says=("raw",), plugin_type="source"))
        world.add(Handler(fail), manifest("broken", hears=("raw",)))
        run_and_receive(receiver, world)
        spans = about_messages(receiver)

    attempts = sorted((s for s in spans if s.kind == "consumer"), key=lambda s: s.start_ns)
    assert [span.attributes["echo.delivery.attempt"] for span in attempts] == [1, 2, 3]
    assert {span.status for span in attempts} == {"error"}
    assert {span.attributes["error.type"] for span in attempts} == {"ConnectionError"}
    assert attempts[0].span_id in {link.span_id for link in attempts[1].links}
    (dead,) = [span for span in spans if span.name == "publish dead_letters.broken"]
    assert dead.parent_span_id == attempts[-1].span_id
    assert dead.attributes["echo.dlq.reason"] == "ConnectionError: no database"
    (letter,) = world.dead_letters.newest()
    assert letter.trace_id == dead.trace_id


def test_a_filtered_message_says_so(tmp_path: Path) -> None:
    class Nothing(Filter):
        async def keep(self, message: BaseMessage) -> bool:
            return False

    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        world.add(Numbers(1), manifest("orders", says=("raw",), plugin_type="source"))
        world.add(Nothing(), manifest("nothing", hears=("raw",), says=("kept",)))
        run_and_receive(receiver, world)
        (span,) = [s for s in receiver.spans() if s.name == "process raw"]
    assert span.attributes["echo.message.outcome"] == "filtered"


def test_a_dead_endpoint_changes_nothing_but_the_telemetry(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        otel = receiver.environ(OTEL_EXPORTER_OTLP_TIMEOUT="1")
    world = World(tmp_path, otel=otel)
    orders_pipeline(world, list(range(20)))
    final = asyncio.run(world.run())
    assert final["sink_a"].processed == 20
    assert world.telemetry.health().traces.failed > 0


def test_without_telemetry_the_host_does_the_same(tmp_path: Path) -> None:
    world = World(tmp_path, otel={"OTEL_SDK_DISABLED": "true"})
    orders_pipeline(world, [1, None, 3])
    world.add(Handler(lambda m: ProcessingStatus.FAILED("no")), manifest("strict", hears=("sink.a",)))
    final = asyncio.run(world.run())
    assert (final["checked"].processed, final["checked"].dead_lettered) == (2, 1)
    assert final["strict"].dead_lettered == 2
    assert {letter.trace_id for letter in world.dead_letters.newest()} == {""}


def test_an_endpoint_that_never_answers_holds_up_no_message_and_each_lost_span_is_counted(
    tmp_path: Path,
) -> None:
    """Nothing waits for it, no more is kept than the queue of spans may hold, and the rest is counted."""
    with faulty() as backend:
        backend.answers = [backend.hang]
        told = {
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_BSP_MAX_QUEUE_SIZE": "300",
        }
        world = World(tmp_path, otel=told | {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint})
        orders_pipeline(world, range(300))
        final = asyncio.run(world.run())

        # All have ended, and the first request to the endpoint has not.
        assert final["sink_a"].processed == final["sink_b"].processed == 300
        assert len(backend.posts) == 1
        traces = world.telemetry.health().traces
        assert traces.exported == 0
        assert traces.queued <= 300
        assert not world.telemetry.shutdown(0.2)
        made = 10 * 300  # a message is published and handled five times on its way
    traces = world.telemetry.health().traces
    assert traces.exported + traces.dropped + traces.failed + traces.queued >= made


@pytest.mark.parametrize("many", [False, True])
def test_a_publication_that_is_refused_has_its_exception_once(tmp_path: Path, *, many: bool) -> None:
    class Refusing(MemoryTransport):
        async def publish(self, topic: str, message: BaseMessage) -> None:
            if topic == "out":
                raise TransportError("no room")
            await super().publish(topic, message)

        async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
            raise TransportError("no room")

    async def passing(message: BaseMessage) -> None:
        context = handler.context
        await (context.publish_batch("out", [1, 2]) if many else context.publish("out", 1))

    handler = Handler(passing)
    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ(), transport=Refusing())
        world.add(Numbers(1), manifest("orders", says=("raw",), plugin_type="source"))
        world.add(handler, manifest("handler", hears=("raw",), says=("out",), delivery={"max_attempts": 1}))
        run_and_receive(receiver, world)
        refused = receiver.spans("publish out")

    assert [span.status for span in refused] == ["error"] * (2 if many else 1)
    assert [[event.name for event in span.events] for span in refused] == [["exception"]] * len(refused)
