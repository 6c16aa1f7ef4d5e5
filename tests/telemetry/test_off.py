"""Telemetry switched off."""

from typing import Any

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from telemetry.pipeline import Message, run_pipeline


def off() -> TelemetryContext:
    return TelemetryContext.from_config(TelemetryConfig(engine="off"), environ={})


def test_scopes_are_shared_objects_that_do_nothing() -> None:
    messages = off().for_plugin("sink", "1.0.0").messages
    scope = messages.process("orders.raw", Message("m1"))
    with scope as entered:
        entered.fail("broken")
        entered.outcome("retry")
    assert scope is entered is messages.process("orders.valid", Message("m2"))
    assert (scope.trace_id_hex, scope.traceparent, scope.topic, scope.ended_ns) == ("", "", "", 0)
    assert messages.publish("a", "1", "1") is messages.dead_letter("b", Message("m1"), "broken", scope)


def test_what_is_raised_in_a_block_passes_through() -> None:
    messages = off().for_plugin("sink", "1.0.0").messages
    with pytest.raises(KeyError), messages.process("orders.raw", Message("m1")):
        raise KeyError
    with pytest.raises(ValueError, match="full"), messages.publish("orders.raw", "m1", "m1"):
        raise ValueError("full")


def test_nothing_recorded_is_looked_at() -> None:
    telemetry = off()
    plugin = telemetry.for_plugin("sink", "1.0.0")
    anything: Any = object()
    plugin.record_counter(anything, anything, anything)
    plugin.record_gauge(anything, anything, anything)
    plugin.record_histogram(anything, anything, anything)
    assert telemetry.health().faults == {}


def test_everything_can_be_called() -> None:
    telemetry = off()
    tapped: list[object] = []
    stop = telemetry.tap(tapped.append)
    run_pipeline(telemetry)
    plugin = telemetry.for_plugin("sink", "1.0.0")
    with plugin.lifecycle("init"), plugin.create_span("step") as span:
        span.set_attribute("k", 1)
        plugin.record_counter("x")
    with plugin.messages.batch("orders.raw", [Message("m1")]):
        plugin.logger().info("look")
    plugin.messages.crash("orders.raw", Message("m1"), 1)
    telemetry.install_globals()
    stop()
    assert tapped == []
    assert telemetry.flush()
    assert telemetry.shutdown()
    assert telemetry.health().pipelines == ()
