"""Finished spans in the same process."""

from common_telemetry import SpanRecord
from common_telemetry.testing import InMemoryTelemetry
from telemetry.pipeline import run_pipeline


def test_a_tap_sees_what_the_backend_sees(memory: InMemoryTelemetry) -> None:
    tapped: list[SpanRecord] = []
    memory.context.tap(tapped.append)
    run_pipeline(memory.context)
    for mine, theirs in zip(tapped, memory.spans(), strict=True):
        for field in SpanRecord.__dataclass_fields__:
            assert getattr(mine, field) == getattr(theirs, field), field


def test_a_tap_taken_away_sees_no_more(memory: InMemoryTelemetry) -> None:
    seen: list[SpanRecord] = []
    plugin = memory.for_plugin("sink")
    stops = [memory.context.tap(seen.append) for _ in range(2)]
    for stop in stops:
        with plugin.create_span("step"):
            pass
        stop()
        stop()
    with plugin.create_span("step"):
        pass
    assert len(seen) == 3


def test_a_tap_that_raises_hurts_neither_the_plugin_nor_other_taps(memory: InMemoryTelemetry) -> None:
    seen: list[SpanRecord] = []

    def broken(span: SpanRecord) -> None:
        raise RuntimeError("no screen")

    memory.context.tap(broken)
    memory.context.tap(seen.append)
    with memory.for_plugin("sink").create_span("step"):
        pass
    assert len(seen) == len(memory.spans()) == 1
    assert memory.context.health().faults == {"tap": 1}
