"""A plugin without a telemetry context of its own."""

import logging
from collections.abc import Iterator

import pytest

from common_telemetry import TelemetryConfig, get_global_telemetry, plugin_telemetry, set_global_telemetry
from common_telemetry.testing import InMemoryTelemetry
from telemetry.pipeline import Message
from telemetry.test_setup import run_alone


@pytest.fixture(autouse=True)
def no_global_telemetry() -> Iterator[None]:
    set_global_telemetry(None)
    yield
    set_global_telemetry(None)


def test_its_own_context_comes_first(memory: InMemoryTelemetry) -> None:
    with InMemoryTelemetry(TelemetryConfig()) as everyones:
        set_global_telemetry(everyones.context)
        plugin_telemetry(memory.context, "sink", "1.0.0").record_counter("orders")
        assert [point.name for point in memory.metrics()] == ["orders"]
        assert everyones.metrics() == []


def test_the_global_one_is_used_without(memory: InMemoryTelemetry) -> None:
    set_global_telemetry(memory.context)
    assert get_global_telemetry() is memory.context
    plugin = plugin_telemetry(None, "sink", "1.0.0")
    with plugin.messages.process("orders.raw", Message("m1")):
        pass
    (span,) = memory.spans()
    assert span.attributes["plugin.name"] == "sink"


def test_a_global_one_set_later_is_picked_up(
    memory: InMemoryTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = plugin_telemetry(None, "sink", "1.0.0")
    plugin.record_counter("lost")
    set_global_telemetry(memory.context)
    plugin.status = "running"
    plugin.record_counter("orders")
    plugin.logger().info("look")
    (point,) = memory.metrics()
    assert (point.name, point.attributes["plugin.status"]) == ("orders", "running")
    assert [record.body for record in memory.logs()] == ["look"]


NOTHING_SET = """
import logging
logging.basicConfig(format="%(levelname)s %(message)s")
from common_telemetry import plugin_telemetry
for name in ("one", "two"):
    plugin = plugin_telemetry(None, name, "1.0.0")
    messages = plugin.messages
    with plugin.lifecycle("init"), plugin.create_span("step"), messages.publish("t", "m1", "m1") as scope:
        plugin.record_counter("x"); plugin.record_gauge("y", 1); plugin.record_histogram("z", 1)
        plugin.logger().info("look")
        scope.fail("broken")
print("alive")
"""


def test_with_nothing_set_nothing_breaks_and_one_warning_is_logged() -> None:
    ended = run_alone(NOTHING_SET)
    assert ended.stdout.strip() == "alive"
    (line,) = ended.stderr.splitlines()
    assert line.startswith("WARNING telemetry: plugin 'one' reports to nobody")


API_GLOBALS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from common_telemetry import plugin_telemetry

exporter, mine = InMemorySpanExporter(), TracerProvider()
mine.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(mine)
plugin = plugin_telemetry(None, "sink", "1.0.0")
with plugin.create_span("step"):
    plugin.record_counter("x")
(span,) = exporter.get_finished_spans()
print(span.name, span.attributes["plugin.name"])
"""


def test_opentelemetrys_globals_are_used_when_there_is_no_other() -> None:
    ended = run_alone(API_GLOBALS)
    assert (ended.stdout.strip(), ended.stderr) == ("step sink", "")


def test_the_level_of_the_warning_is_one_an_operator_sees(caplog: pytest.LogCaptureFixture) -> None:
    plugin_telemetry(None, "sink", "1.0.0")
    assert all(record.levelno == logging.WARNING for record in caplog.records)
