"""A tiny message and a tiny pipeline, moved by hand: what a host does with MessageTelemetry."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from common_telemetry import ObservedMessage, PluginTelemetry, TelemetryContext


@dataclass(frozen=True)
class Message:
    id: str
    root_id: str = ""
    parent_ids: tuple[str, ...] = ()
    timestamp: int = field(default_factory=time.time_ns)
    trace_context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.root_id:
            object.__setattr__(self, "root_id", self.id)


class ManualClock:
    """Stands still until told to advance."""

    def __init__(self) -> None:
        self._elapsed = 0
        self._epoch = time.time_ns()

    def advance(self, milliseconds: float) -> None:
        self._elapsed += int(milliseconds * 1e6)

    def time_ns(self) -> int:
        return self._epoch + self._elapsed

    def perf_counter_ns(self) -> int:
        return self._elapsed


def publish(
    plugin: PluginTelemetry, topic: str, message_id: str, made_from: ObservedMessage | None = None
) -> Message:
    root_id = made_from.root_id if made_from else message_id
    parents = (made_from.id,) if made_from else ()
    with plugin.messages.publish(topic, message_id, root_id, parents) as scope:
        return Message(message_id, root_id, parents, trace_context=scope.carrier())


def run_pipeline(telemetry: TelemetryContext) -> dict[str, Message]:
    """Messages by id, from a source through a validator, a transformer and a router to two sinks."""
    plugins = {
        name: telemetry.for_plugin(name, "1.2.3", "running")
        for name in ("source", "validator", "transformer", "router", "sink_a", "sink_b")
    }
    m1 = publish(plugins["source"], "orders.raw", "m1")
    with plugins["validator"].messages.process("orders.raw", m1):
        m2 = publish(plugins["validator"], "orders.valid", "m2", m1)
    with plugins["transformer"].messages.process("orders.valid", m2):
        m3 = publish(plugins["transformer"], "orders.shaped", "m3", m2)
    with plugins["router"].messages.process("orders.shaped", m3):
        m4 = publish(plugins["router"], "sink.a", "m4", m3)
        m5 = publish(plugins["router"], "sink.b", "m5", m3)
    with plugins["sink_a"].messages.process("sink.a", m4):
        pass
    with plugins["sink_b"].messages.process("sink.b", m5):
        pass
    return {message.id: message for message in (m1, m2, m3, m4, m5)}


# name of the span -> (kind, name of its parent, plugin, message), as the trace is drawn in docs/telemetry.md
EXPECTED_TREE = {
    "publish orders.raw": ("producer", "", "source", "m1"),
    "process orders.raw": ("consumer", "publish orders.raw", "validator", "m1"),
    "publish orders.valid": ("producer", "process orders.raw", "validator", "m2"),
    "process orders.valid": ("consumer", "publish orders.valid", "transformer", "m2"),
    "publish orders.shaped": ("producer", "process orders.valid", "transformer", "m3"),
    "process orders.shaped": ("consumer", "publish orders.shaped", "router", "m3"),
    "publish sink.a": ("producer", "process orders.shaped", "router", "m4"),
    "process sink.a": ("consumer", "publish sink.a", "sink_a", "m4"),
    "publish sink.b": ("producer", "process orders.shaped", "router", "m5"),
    "process sink.b": ("consumer", "publish sink.b", "sink_b", "m5"),
}
