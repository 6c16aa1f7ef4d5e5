"""Telemetry never fails a message, whatever breaks inside it."""

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import InMemoryTelemetry
from telemetry.pipeline import Message


class Broken(SpanProcessor):
    """Somebody's span processor, with a bug."""

    def __init__(self, when: Sequence[str]) -> None:
        self._when = when

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "start" in self._when:
            raise RuntimeError("broken at the start")

    def on_end(self, span: ReadableSpan) -> None:
        if "end" in self._when:
            raise RuntimeError("broken at the end")


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_broken_span_processor_does_not_reach_the_message(when: str, engine: Engine) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken([when]))
    telemetry = TelemetryContext.from_config(
        TelemetryConfig(engine=engine), tracer_provider=provider, environ={}
    )
    plugin = telemetry.for_plugin("sink", "1.0.0")
    handled = []
    with plugin.lifecycle("init"), plugin.messages.publish("t", "m1", "m1") as scope:
        scope.carrier()
        handled.append("published")
    with plugin.messages.process("t", Message("m1")):
        handled.append("processed")
    assert handled == ["published", "processed"]
    assert telemetry.health().faults == {"lifecycle": 1, "message": 2}
    telemetry.shutdown()


@pytest.mark.parametrize("attributes", [["no mapping"], {"k": object()}, {1: "no name"}])
def test_senseless_attributes_do_not_reach_the_plugin(attributes: Any, memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.create_span("step", attributes):
        plugin.record_counter("orders", 1, attributes)
    (span,) = memory.spans()
    assert span.attributes["plugin.name"] == "sink"


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "value", [Unreadable(), [Unreadable()], {"part": (Unreadable(),)}], ids=lambda _: "value"
)
def test_a_value_that_cannot_be_read_is_left_out_alone(value: Any, memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.create_span("step", {"k": value, "other": 1}):
        plugin.record_counter("orders", 1, {"k": value})
        plugin.logger().info("look", extra={"k": value})
    (span,) = memory.spans()
    assert ("k" in span.attributes, span.attributes["other"]) == (False, 1)


def test_an_exception_whose_text_raises_is_still_told(memory: InMemoryTelemetry) -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("not even that")

    plugin = memory.for_plugin("sink")
    with pytest.raises(UnprintableError), plugin.messages.process("t", Message("m1")):
        raise UnprintableError
    (span,) = memory.spans()
    assert span.status == "error"
    assert span.attributes["error.type"].endswith("UnprintableError")
