"""A message that goes on in another process: one trace, two instances, however that process ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common_telemetry import PluginTelemetry, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver
from telemetry.conftest import Start
from telemetry.pipeline import Message, publish

WORKER = """
import os, signal, sys, time
from common_telemetry import TelemetryConfig, TelemetryContext
from telemetry.pipeline import Message

telemetry = TelemetryContext.from_config(TelemetryConfig(engine=os.environ["ENGINE"], shutdown_timeout_s=20))
plugin = telemetry.for_plugin("worker", "1.0.0", "running")
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
message = Message("m1", trace_context={"traceparent": os.environ["TRACEPARENT"]})
with plugin.messages.process("orders.raw", message):
    with plugin.create_span("step"):
        plugin.record_counter("orders")
    if os.environ["ENDING"] == "killed":
        print("working", flush=True)
        time.sleep(60)
if os.environ["ENDING"] == "terminated":
    print("working", flush=True)
    time.sleep(60)
"""


@contextmanager
def worker(
    engine: Engine, ending: str, message: Message, receiver: OtlpReceiver
) -> Iterator["subprocess.Popen[str]"]:
    """A process that has the message in hand, or has handled it, when the block begins."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    kept |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "ENGINE": engine,
        "ENDING": ending,
        "TRACEPARENT": message.trace_context["traceparent"],
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WORKER],
        env=kept | receiver.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if ending != "by itself":
        assert process.stdout.readline() == "working\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def host(start: Start) -> TelemetryContext:
    return start()


def published(host: TelemetryContext) -> tuple[PluginTelemetry, Message]:
    source = host.for_plugin("source", "1.0.0", "running")
    return source, publish(source, "orders.raw", "m1")


@pytest.mark.parametrize("ending", ["by itself", "terminated"])
def test_a_process_that_ends_in_order_has_reported_everything_in_the_same_trace(
    ending: str, engine: Engine, host: TelemetryContext, receiver: OtlpReceiver
) -> None:
    _, message = published(host)
    with worker(engine, ending, message, receiver) as process:
        if ending == "terminated":
            process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert host.flush()

    by_name = {span.name: span for span in receiver.spans()}
    publishing, processing, step = (
        by_name[name] for name in ("publish orders.raw", "process orders.raw", "step")
    )
    assert len({span.trace_id for span in by_name.values()}) == 1
    assert processing.parent_span_id == publishing.span_id
    assert step.parent_span_id == processing.span_id
    assert publishing.resource["service.name"] == processing.resource["service.name"]
    for attribute in ("service.instance.id", "process.pid"):
        assert publishing.resource[attribute] != processing.resource[attribute]
    assert processing.resource["process.pid"] == process.pid
    assert [point.value for point in receiver.metrics("orders")] == [1]


def test_the_host_ends_the_trace_of_a_process_that_was_killed_over_a_message(
    engine: Engine, host: TelemetryContext, receiver: OtlpReceiver
) -> None:
    _, message = published(host)
    with worker(engine, "killed", message, receiver) as process:
        process.kill()
        process.communicate(timeout=60)
    host.for_plugin("worker", "1.0.0", "failed").messages.crash("orders.raw", message, process.returncode)
    assert host.flush()

    (publishing,) = receiver.spans("publish orders.raw")
    (span,) = receiver.spans("process orders.raw")
    assert (span.trace_id, span.parent_span_id) == (publishing.trace_id, publishing.span_id)
    assert (span.status, span.attributes["error.type"]) == ("error", "plugin_crash")
    assert (span.attributes["message.id"], span.attributes["echo.plugin.exit_code"]) == (
        "m1",
        -signal.SIGKILL,
    )
    (record,) = receiver.logs("plugin.message.failed")
    assert record.span_id == span.span_id
