"""The metrics of a plugin through both engines, by the same public calls: what arrives must be the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common_telemetry import PluginTelemetry, TelemetryConfig
from common_telemetry.config import Engine, MessageIdOnMetrics, Semconv
from common_telemetry.testing import InMemoryTelemetry
from common_telemetry.testing.received import ReceivedPoint
from telemetry.pipeline import ManualClock, Message
from telemetry.sdk import since_1_45


@dataclass(frozen=True)
class Recorded:
    """One call of record_counter, record_gauge or record_histogram."""

    kind: str
    name: str
    value: Any
    attributes: Mapping[str, Any] | None


@dataclass(frozen=True)
class Handled:
    """A message, how it ended, and what was recorded meanwhile."""

    topic: str
    milliseconds: float
    attempt: int
    failure: str
    headers: Mapping[str, str]
    recorded: list[Recorded] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """A moment in the life of the plugin."""

    event: str
    milliseconds: float
    status: str


PUBLISHED = f"00-{'ab' * 16}-{'cd' * 8}"
Step = Recorded | Handled | Moment

keys = st.sampled_from(["k", "n", "plugin.name", "message.topic", "message.id", "other.key"])
values = st.one_of(
    st.sampled_from(["a", "b", True, False, 1, 0, 1.0, 0.5, "running", "orders.raw"]),
    st.lists(st.sampled_from(["a", "b"]), max_size=2),
)
recorded = st.builds(
    Recorded,
    st.sampled_from(["counter", "gauge", "histogram"]),
    st.sampled_from(["one", "two", "Two", "plugin.lifecycle.events", "not a name"]),
    st.one_of(st.integers(-2, 50), st.floats(0, 50), st.sampled_from([float("nan"), "3", True, None])),
    st.none() | st.dictionaries(keys, values, max_size=2),
)
handled = st.builds(
    Handled,
    st.sampled_from(["orders.raw", "orders.valid"]),
    st.floats(0, 100),
    st.integers(1, 3),
    st.sampled_from(["", "", "Timeout", "ValueError"]),
    st.sampled_from([{}, {"traceparent": f"{PUBLISHED}-01"}, {"traceparent": f"{PUBLISHED}-00"}]),
    st.lists(recorded, max_size=3),
)
moment = st.builds(
    Moment,
    st.sampled_from(["init", "health_check", "shutdown"]),
    st.floats(0, 100),
    st.sampled_from(["a", "b"]),
)


def do(step: Step, plugin: PluginTelemetry, clock: ManualClock, number: int) -> None:
    if isinstance(step, Recorded):
        record = getattr(plugin, f"record_{step.kind}")
        record(step.name, step.value, step.attributes)
    elif isinstance(step, Moment):
        plugin.status = step.status
        with plugin.lifecycle(step.event):
            clock.advance(step.milliseconds)
    else:
        message = Message(f"m{number}", timestamp=clock.time_ns(), trace_context=step.headers)
        clock.advance(step.milliseconds / 2)
        with plugin.messages.process(step.topic, message, attempt=step.attempt) as scope:
            clock.advance(step.milliseconds)
            for recorded in step.recorded:
                do(recorded, plugin, clock, number)
            if step.failure:
                scope.fail("broken", step.failure)


def normal(point: ReceivedPoint) -> str:
    # Which span is an exemplar differs by its random ids; which measurement, in a sum or gauge, by chance.
    exemplars = [replace(exemplar, trace_id="", span_id="") for exemplar in point.exemplars]
    kept = [(one.value, sorted(one.attributes.items())) for one in exemplars]
    known = kept if point.kind == "histogram" else len(kept)
    return repr(
        (
            replace(point, attributes={}, exemplars=(), resource={}),
            sorted(point.attributes.items(), key=str),
            known,
        )
    )


@since_1_45
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(recorded | handled | moment, max_size=8), min_size=1, max_size=3),
    st.sampled_from(["both", "echo", "otel"]),
    st.sampled_from(["exemplar", "off"]),
)
def test_whatever_a_plugin_does_both_engines_measure_the_same(
    rounds: list[list[Step]], semconv: Semconv, ids: MessageIdOnMetrics
) -> None:
    def arrived(engine: Engine) -> list[list[str]]:
        clock = ManualClock()
        config = TelemetryConfig(engine=engine, semconv=semconv, message_id_on_metrics=ids)
        with InMemoryTelemetry(config, clock=clock) as telemetry:
            plugin = telemetry.for_plugin("sink")
            found = []
            for steps in rounds:
                for number, step in enumerate(steps):
                    do(step, plugin, clock, number)
                found.append(sorted(map(normal, telemetry.metrics())))
            faults = telemetry.context.health().faults
            found.append([repr(sorted(faults.items()))])
        return found

    assert arrived("fast") == arrived("official")
