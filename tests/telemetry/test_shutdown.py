"""Backends that refuse, hang or are gone: nothing waits beyond the deadline, everything lost is counted."""

import logging
import threading
from time import monotonic

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.pipelines import TracePipeline
from common_telemetry.testing import OtlpReceiver
from support.ports import free_port
from telemetry.conftest import Start
from telemetry.test_setup import run_alone

PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
"""An exporter that is left to itself goes on for ten minutes."""
AT_ONCE_S = 50
"""A second and a little on a machine that is busy, and far less than that."""


def nobody_listens() -> str:
    return f"http://127.0.0.1:{free_port()}"


def report(telemetry: TelemetryContext, spans: int) -> None:
    plugin = telemetry.for_plugin("sink", "1.0.0")
    for _ in range(spans):
        with plugin.create_span("step"):
            plugin.record_counter("orders")
    plugin.logger().info("look")


def test_what_arrived_is_counted_per_signal(start: Start, protocol: str, receiver: OtlpReceiver) -> None:
    telemetry = start(protocol)
    report(telemetry, 3)
    assert telemetry.flush()
    health = telemetry.health()
    assert (health.traces.exported, health.metrics.exported, health.logs.exported) == (3, 1, 1)
    assert health.traces.failing_since_ns is None
    assert telemetry.shutdown()
    assert telemetry.shutdown()  # again changes nothing


def test_a_refusal_is_counted_and_told_once(
    start: Start, protocol: str, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = start(protocol, environ={"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"})
    receiver.answer(400)
    for _ in range(2):
        report(telemetry, 3)
        assert not telemetry.flush()
    traces = telemetry.health().traces
    assert (traces.exported, traces.failed) == (0, 6)
    assert traces.failing_since_ns is not None
    assert traces.last_error
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("common_telemetry", logging.WARNING)


def test_the_reason_is_known_though_the_sdk_has_said_it_before(
    start: Start, protocol: str, receiver: OtlpReceiver
) -> None:
    receiver.answer(400)
    for _ in range(2):
        telemetry = start(protocol)
        report(telemetry, 1)
        assert not telemetry.flush()
        assert telemetry.health().traces.last_error


def test_a_backend_that_comes_back_is_used_again(
    start: Start, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = start()
    receiver.answer(400)
    report(telemetry, 1)
    assert not telemetry.flush()
    receiver.accept()
    report(telemetry, 2)
    assert telemetry.flush()
    assert (telemetry.health().traces.exported, telemetry.health().traces.failing_since_ns) == (2, None)
    assert len(receiver.spans()) == 2


@pytest.mark.parametrize("way", ["gone", "hanging", "busy"])
def test_a_dead_backend_does_not_hold_the_end_beyond_the_deadline(
    way: str, start: Start, protocol: str, receiver: OtlpReceiver, capfd: pytest.CaptureFixture[str]
) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": nobody_listens()} if way == "gone" else {}
    telemetry = start(protocol, environ=environ | PATIENT)
    if way == "hanging":
        receiver.hang()
    if way == "busy":
        receiver.answer(503)
    report(telemetry, 1_500)

    begin = monotonic()
    assert not telemetry.shutdown(1.0)
    assert monotonic() - begin < AT_ONCE_S
    health = telemetry.health()
    assert health.traces.failed + health.traces.dropped == 1_500
    assert health.metrics.failed + health.metrics.dropped >= 1
    assert health.logs.failed + health.logs.dropped == 1
    assert (health.traces.queued, health.traces.exported) == (0, 0)
    assert "Traceback" not in capfd.readouterr().err


def test_all_signals_share_one_deadline(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ=PATIENT)
    report(telemetry, 1)
    receiver.hang()
    begin = monotonic()
    assert not telemetry.flush(3.0)
    assert 2.9 < monotonic() - begin < AT_ONCE_S
    assert receiver.requests == 3  # none waited for another


def test_a_second_shutdown_waits_for_the_first_and_says_the_same(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start()
    report(telemetry, 1)
    receiver.hang()
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(telemetry.shutdown(0.4))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [False, False]


def test_reporting_after_the_end_is_harmless_and_counted(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start()
    plugin = telemetry.for_plugin("sink", "1.0.0")
    assert telemetry.shutdown()
    with plugin.create_span("late"):
        plugin.record_counter("orders")
    assert telemetry.health().traces.dropped == 1
    assert receiver.spans() == []


def test_a_process_with_a_dead_backend_ends_in_time_and_says_it_in_few_words() -> None:
    script = """
from time import monotonic
from common_telemetry import TelemetryConfig, TelemetryContext
telemetry = TelemetryContext.from_config(TelemetryConfig(shutdown_timeout_s=1))
plugin = telemetry.for_plugin("sink", "1.0.0")
for _ in range(2_000):
    with plugin.create_span("step"):
        plugin.record_counter("x")
"""
    begin = monotonic()
    ended = run_alone(script, OTEL_EXPORTER_OTLP_ENDPOINT=nobody_listens(), **PATIENT)
    assert ended.returncode == 0
    assert monotonic() - begin < AT_ONCE_S
    lines = ended.stderr.splitlines()
    assert len(lines) <= 3
    assert all(line.startswith("telemetry: ") for line in lines)


def test_what_other_exporters_log_is_not_swallowed(
    engine: Engine, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ=receiver.environ())
    logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").error("somebody else's")
    assert [record.getMessage() for record in caplog.records] == ["somebody else's"]
    telemetry.shutdown()


def test_an_exporter_given_up_is_not_called_again() -> None:
    exporter = InMemorySpanExporter()
    pipeline = TracePipeline(exporter, "memory")
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(pipeline.processor)
    provider.get_tracer("a").start_span("step").end()
    pipeline.abandon()
    exporter._stopped = False  # as one that pays no heed to shutdown
    pipeline.close()
    assert exporter.get_finished_spans() == ()
    assert pipeline.tally.health().failed == 1
