"""A backend that fails in every way it can, and a process that ends in every way it can.

With either engine nothing of it reaches a handler, memory stays bounded, and what was lost is counted.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.engines.fast import exports
from common_telemetry.health import SignalHealth
from common_telemetry.senders.answers import Answer
from common_telemetry.senders.delivery import deliver
from common_telemetry.testing import OtlpReceiver
from support.ports import free_port
from telemetry.conftest import Start
from telemetry.faulty import Answering, FaultyBackend, faulty, http_answer, raw_and_close
from telemetry.pipeline import Message
from telemetry.sdk import VERSION

SPANS_ALONE = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
SOON = {
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_BLRP_SCHEDULE_DELAY": "20",
    "OTEL_METRIC_EXPORT_INTERVAL": "50",
}


@contextmanager
def reporting(engine: Engine, endpoint: str, **environ: str) -> Iterator[TelemetryContext]:
    """A context that sends spans alone, and hurries."""
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **SPANS_ALONE, **SOON, **environ}
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ=told)
    try:
        yield telemetry
    finally:
        telemetry.shutdown(0.2)


def handle(telemetry: TelemetryContext, count: int, prefix: str = "m") -> None:
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    for number in range(count):
        with plugin.messages.process("orders.raw", Message(f"{prefix}{number}")):
            pass


def wait_until(condition: Callable[[], bool], timeout_s: float = 50.0) -> None:
    end = monotonic() + timeout_s
    waiting = threading.Event()
    while not condition():
        assert monotonic() < end, "not within time"
        waiting.wait(0.005)


GARBAGE: list[Answering] = [
    raw_and_close(b""),
    raw_and_close(b"\x16\x03\x01 garbage"),
    raw_and_close(b"HTTP/1.1 2"),
    http_answer("503 Busy", headers=(("retry-after", "0"),)),
    http_answer("429 Slow down", headers=(("retry-after", "0"),)),
]


@pytest.mark.parametrize("answer", GARBAGE, ids=["nothing", "garbage", "cut", "503", "429"])
def test_spans_arrive_once_a_backend_that_answered_badly_comes_to_its_senses(
    answer: Answering, engine: Engine, request: pytest.FixtureRequest
) -> None:
    if engine == "official" and VERSION < (1, 45) and "429" in request.node.name:
        pytest.skip("the SDK repeats after a 429 since 1.45")
    with faulty(answer, http_answer()) as backend, reporting(engine, backend.endpoint) as telemetry:
        handle(telemetry, 3)
        wait_until(lambda: telemetry.health().traces.exported == 3)
        assert len(backend.posts) >= 2
        assert backend.posts[0].body == backend.posts[1].body  # the same request again
        assert telemetry.health().traces.failed == 0


def test_a_slow_backend_delays_nobody_but_itself(engine: Engine) -> None:
    answer_now = threading.Event()

    def slowly(connection: socket.socket) -> None:
        answer_now.wait(100)
        http_answer()(connection)

    with faulty(slowly) as backend:
        told = {"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100", "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
        with reporting(engine, backend.endpoint, **told) as telemetry:
            handle(telemetry, 500)
            assert backend.arrived.acquire(timeout=50)
            handle(telemetry, 500)  # while the backend is at the first
            assert telemetry.health().traces.exported == 0
            answer_now.set()
            wait_until(lambda: telemetry.health().traces.exported == 1_000)
            assert telemetry.health().traces.dropped == 0


def test_a_full_queue_drops_and_counts_and_holds_no_more_than_it_may(engine: Engine) -> None:
    with faulty() as backend:
        backend.answers = [backend.hang]
        told = {"OTEL_BSP_MAX_QUEUE_SIZE": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
        with reporting(engine, backend.endpoint, **told) as telemetry:
            handle(telemetry, 10)
            assert backend.arrived.acquire(timeout=50)
            handle(telemetry, 1_000)
            health = telemetry.health().traces
            assert health.dropped == 910
            assert health.queued == 100
            assert health.exported + health.failed == 0
    assert accounted(telemetry.health().traces) == 1_010


def accounted(health: SignalHealth) -> int:
    return health.exported + health.failed + health.dropped + health.queued


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_backend_that_was_away_is_reported_to_again(
    protocol: str, engine: Engine, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "common_telemetry")
    port = free_port()
    with reporting(
        engine,
        f"http://127.0.0.1:{port}",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="0.3",
    ) as telemetry:
        handle(telemetry, 5, "away")
        wait_until(lambda: telemetry.health().traces.failed == 5)
        assert telemetry.health().traces.failing_since_ns is not None
        with OtlpReceiver(**{protocol.partition("/")[0] + "_port": port}) as receiver:

            def arrives() -> bool:
                handle(telemetry, 1, "back")
                return bool(receiver.spans())

            wait_until(arrives)
            wait_until(lambda: telemetry.health().traces.failing_since_ns is None)
            assert all(span.attributes["message.id"].startswith("back") for span in receiver.spans())
            assert telemetry.shutdown(5)
    told = [record.getMessage() for record in caplog.records if record.name == "common_telemetry"]
    assert [("do not reach" in line, "again" in line) for line in told] == [(True, False), (False, True)]
    assert capfd.readouterr().err == ""


def test_a_hundred_thousand_messages_at_a_dead_backend_cost_no_memory_and_end_in_time(engine: Engine) -> None:
    """Check 19: the messages go on, memory is bounded, drops are counted, the end keeps its deadline."""
    count = 100_000 if engine == "fast" else 5_000
    told = {"OTEL_BSP_MAX_QUEUE_SIZE": "2000", "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
    with reporting(engine, f"http://127.0.0.1:{free_port()}", **told) as telemetry:
        handle(telemetry, count)
        health = telemetry.health().traces
        assert health.queued <= 2_000
        assert health.dropped + health.failed > 0  # which of them depends on how soon the exporter gives up
        begin = monotonic()
        assert not telemetry.shutdown(1.0)
        assert monotonic() - begin < 50  # and not the minutes of an exporter left to itself
    # What the exporting thread was writing when it was given up is counted as soon as that thread gets there.
    end = monotonic() + 10
    while accounted(telemetry.health().traces) != count and monotonic() < end:
        sleep(0.01)
    assert accounted(telemetry.health().traces) == count


def test_what_a_rejecting_backend_did_not_store_is_counted_and_told_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTracePartialSuccess,
        ExportTraceServiceResponse,
    )

    part = ExportTracePartialSuccess(rejected_spans=2, error_message="too old")
    answer = http_answer(body=ExportTraceServiceResponse(partial_success=part).SerializeToString())
    with faulty(answer) as backend, reporting("fast", backend.endpoint) as telemetry:
        for _ in range(2):
            handle(telemetry, 3)
            assert not telemetry.flush()
        traces = telemetry.health().traces
        assert (traces.exported, traces.failed, traces.last_error) == (2, 4, "too old")
    (record,) = caplog.records
    assert "did not store 2 of 3 (too old)" in record.getMessage()


def test_a_backend_that_asks_for_rest_gets_it_and_loses_nothing_by_it() -> None:
    busy = http_answer("503 Busy", headers=(("retry-after", "60"),))
    with faulty(busy) as backend, reporting("fast", backend.endpoint) as telemetry:
        handle(telemetry, 3)
        wait_until(lambda: telemetry.health().traces.failed == 3)  # it may not wait that long
        handle(telemetry, 4, "later")
        assert not telemetry.flush(0.2)
        assert len(backend.posts) == 1
        assert telemetry.health().traces.queued == 4


def test_one_signal_that_hangs_holds_up_no_other(receiver: OtlpReceiver) -> None:
    with faulty() as backend:
        backend.answers = [backend.hang]
        told = {
            **receiver.environ(),
            **SOON,
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{backend.endpoint}/v1/traces",
        }
        telemetry = TelemetryContext.from_config(TelemetryConfig(engine="fast"), environ=told)
        handle(telemetry, 1)
        telemetry.for_plugin("sink", "1.0.0").logger().warning("look")
        assert backend.arrived.acquire(timeout=50)
        receiver.wait_for(lambda: receiver.metrics() and receiver.logs(), 50)
        telemetry.shutdown(0.2)


@pytest.mark.parametrize("way", ["hanging", "busy"])
def test_shutdown_ends_the_exporting_thread_in_whatever_it_is_doing(way: str) -> None:
    with faulty(http_answer("503 Busy")) as backend:
        if way == "hanging":
            backend.answers = [backend.hang]
        with reporting("fast", backend.endpoint) as telemetry:
            (pipeline,) = telemetry._pipelines
            handle(telemetry, 1)
            assert backend.arrived.acquire(timeout=50)
            telemetry.shutdown(0.2)
            assert isinstance(pipeline, exports.BufferPipeline)
            wait_until(lambda: not pipeline._worker.is_alive, 0.5)


def test_an_error_in_the_exporting_thread_does_not_end_it(
    receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("a bug of ours")])

    def broken_once(*arguments: Any, **keywords: Any) -> Answer:
        for failure in failures:
            raise failure
        return deliver(*arguments, **keywords)

    monkeypatch.setattr("common_telemetry.engines.fast.exports.deliver", broken_once)
    with reporting("fast", receiver.http_endpoint) as telemetry:
        handle(telemetry, 1)
        wait_until(lambda: bool(caplog.records))
        handle(telemetry, 1, "later")
        assert receiver.wait_for_spans(1, 50)[0].attributes["message.id"] == "later0"
    assert "an export failed" in caplog.text


PRELUDE = """
import os, signal, sys, threading, time
from common_telemetry import TelemetryConfig, TelemetryContext
from telemetry.pipeline import Message
from telemetry.sdk import VERSION
config = TelemetryConfig(engine=os.environ["ENGINE"], shutdown_timeout_s=float(os.environ.get("END_S", "20")))
telemetry = TelemetryContext.from_config(config)
plugin = telemetry.for_plugin("sink", "1.0.0", "running")
def handle(prefix, count=10):
    for number in range(count):
        with plugin.messages.process("orders.raw", Message(f"{prefix}{number}")):
            plugin.record_counter("orders")
"""


def in_a_process(script: str, engine: Engine, **environ: str) -> "subprocess.Popen[str]":
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script],
        env=kept | {"ENGINE": engine, **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ids(receiver: OtlpReceiver) -> list[str]:
    return sorted(span.attributes["message.id"] for span in receiver.spans())


def expected(*prefixes: str) -> list[str]:
    return sorted(f"{prefix}{number}" for prefix in prefixes for number in range(10))


ENDINGS = {
    "falling off the end": "",
    "sys.exit": "sys.exit(0)",
    "an exception": "raise SystemExit(0)",
    "a daemon thread still working": (
        "threading.Thread(target=lambda: [handle('d', 1) or time.sleep(0.001) for _ in iter(int, 1)], "
        "daemon=True).start()"
    ),
    "shutdown, then os._exit": "telemetry.shutdown(); os._exit(0)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_a_process_ends_by_itself_its_spans_arrive(
    ending: str, engine: Engine, receiver: OtlpReceiver
) -> None:
    told = receiver.environ() | ({"END_S": "5"} if "daemon" in ending else {})  # it uses up its time
    process = in_a_process(f"handle('m')\n{ENDINGS[ending]}", engine, **told)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    # What is made while telemetry shuts down is counted as lost, and said in one line.
    assert len(errors.splitlines()) <= ("daemon" in ending)
    assert set(expected("m")) <= set(ids(receiver))
    assert any(point.value >= 10 for point in receiver.metrics("orders"))


def test_sigterm_with_a_handler_that_exits_loses_nothing_that_was_recorded(
    engine: Engine, receiver: OtlpReceiver
) -> None:
    script = """
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(3))
handle('m')
print("ready", flush=True)
while True:
    handle('n', 1)
"""
    process = in_a_process(script, engine, **receiver.environ())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    # The span that was being recorded when the signal came may have been broken off: it is counted, and said.
    broken_off = (
        "telemetry: shut down with 1 spans, data points and log records not delivered (no time left)\n"
    )
    assert errors in ("", broken_off)
    assert set(expected("m")) <= set(ids(receiver))


def test_shutting_down_inside_a_signal_handler_does_not_lock_up(
    engine: Engine, receiver: OtlpReceiver
) -> None:
    script = """
def stop(number, frame):
    with telemetry.for_plugin("other", "1.0.0").create_span("stopping"):
        plugin.record_counter("orders")
        plugin.record_counter("new")
    telemetry.health()
    telemetry.shutdown()
    os._exit(4)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True:
    handle('m')
"""
    process = in_a_process(script, engine, **receiver.environ())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (4, "")


def test_a_signal_handler_may_report_whatever_lock_was_taken_when_it_came(receiver: OtlpReceiver) -> None:
    with reporting("fast", receiver.http_endpoint, OTEL_METRICS_EXPORTER="otlp") as telemetry:
        plugin = telemetry.for_plugin("sink", "1.0.0", "running")
        inside: Any = telemetry
        providers = inside._providers
        meter = providers.meter.get_meter("echo.plugin.sink", "1.0.0")
        taken = [meter._lock_of_made, meter.metrics.lock, providers.meter._lock, providers.tracer._lock]
        taken += [inside._faults._lock, inside._tap._lock]
        taken += [pipeline.tally._lock for pipeline in telemetry._pipelines]
        for number, lock in enumerate(taken):
            with lock:
                with plugin.messages.process(f"topic.{number}", Message("m1")):
                    plugin.record_counter(f"counter.{number}")
                    plugin.record_counter("refused", -1)
                telemetry.for_plugin(f"other_{number}", "1.0.0")
                telemetry.tap(lambda span: None)()
                telemetry.health()
        assert telemetry.flush()
    assert len(receiver.spans()) == len(taken)


FORKING_LATER = """
handle('parent')
assert telemetry.flush(30)
child = os.fork()
if child == 0:
    handle('child')
    assert telemetry.flush(30)
    print(telemetry.health().traces.exported, flush=True)
    os._exit(0)
os.waitpid(child, 0)
handle('after')
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_the_child_of_a_fork_has_a_connection_and_counts_of_its_own() -> None:
    with faulty() as backend:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, **SPANS_ALONE}
        process = in_a_process(FORKING_LATER, "fast", **told, PYTHONWARNINGS="ignore")
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output.strip()) == (0, "10"), errors
        assert (len(backend.posts), backend.connections) == (3, 2)


FORKING = """
handle('parent')
child = os.fork()
if child == 0:
    handle('child')
    sys.exit(0 if telemetry.flush(30) else 9)
assert os.waitpid(child, 0)[1] == 0
handle('after')
"""


FORKING_WHILE_BUSY = """
from opentelemetry import trace
def look():
    while True:
        with plugin.messages.process("orders.raw", Message("m")):
            trace.get_current_span()
for _ in range(3):
    threading.Thread(target=look, daemon=True).start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        with plugin.messages.process("orders.raw", Message("c")):
            trace.get_current_span().set_attribute("k", 1)
            plugin.record_counter("orders")
            plugin.record_counter("refused", -1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
telemetry.shutdown(1)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_is_not_locked_up_by_what_other_threads_held_in_the_moment_of_the_fork() -> None:
    with faulty() as backend:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, **SPANS_ALONE}
        process = in_a_process(FORKING_WHILE_BUSY, "fast", **told, PYTHONWARNINGS="ignore")
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_parent_and_child_of_a_fork_report_each_their_own(receiver: OtlpReceiver) -> None:
    process = in_a_process(FORKING, "fast", **receiver.environ(), PYTHONWARNINGS="ignore")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert ids(receiver) == expected("after", "child", "parent")
    pids = {span.attributes["message.id"][:5]: span.resource["process.pid"] for span in receiver.spans()}
    assert pids["paren"] == pids["after"] == process.pid != pids["child"]
    everything: list[Any] = [*receiver.spans(), *receiver.metrics()]
    instances = {(one.resource["process.pid"], one.resource["service.instance.id"]) for one in everything}
    assert len(instances) == len({instance for _, instance in instances}) == 2
    counts = {point.resource["process.pid"]: point.value for point in receiver.metrics("orders")}
    assert counts == {process.pid: 20, pids["child"]: 10}  # the SDK lets the child begin with its parent's


def test_a_process_at_a_dead_backend_says_it_in_one_line_a_signal(engine: Engine) -> None:
    told = SOON | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "END_S": "2"}
    # The SDK's reader of metrics begins before its provider knows it, and complains when it is too soon.
    told["OTEL_METRIC_EXPORT_INTERVAL"] = "2000"
    process = in_a_process("handle('m', 3_000)", engine, **told)
    _, errors = process.communicate(timeout=60)  # it ends by itself
    assert process.returncode == 0
    lines = errors.splitlines()
    assert 1 <= len(lines) <= 4  # one when each signal begins to fail, and one at the end
    assert [line for line in lines if not line.startswith("telemetry: ")] == []


def test_the_backend_of_the_tests_counts_what_it_is_told() -> None:
    with faulty(http_answer("503 Busy"), http_answer()) as backend:
        assert isinstance(backend, FaultyBackend)
        for status in (b"503", b"200", b"200"):
            with socket.create_connection(
                ("127.0.0.1", int(backend.endpoint.rpartition(":")[2]))
            ) as connection:
                connection.sendall(b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nok")
                assert status in connection.recv(100)
        assert [post.body for post in backend.posts] == [b"ok"] * 3


@pytest.mark.parametrize("signal", ["traces", "logs"])
def test_huge_values_do_not_fill_the_memory_while_a_backend_is_away(signal: str, engine: Engine) -> None:
    told = {
        f"OTEL_{other}_EXPORTER": "otlp" if other == signal.upper() else "none"
        for other in ("TRACES", "METRICS", "LOGS")
    }
    told |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "30", "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with (
        faulty() as backend,
        reporting(engine, backend.endpoint, **told, OTEL_BLRP_SCHEDULE_DELAY="3600000") as telemetry,
    ):
        plugin = telemetry.for_plugin("sink", "1.0.0", "running")
        huge = "x" * 1_000_000

        def make(count: int) -> SignalHealth:
            for _ in range(count):
                if signal == "traces":
                    with plugin.create_span("step", {"k": huge}):
                        pass
                    with plugin.create_span("small"):
                        pass
                else:
                    plugin.logger().warning("look", extra={"k": [huge]})
                    plugin.logger().warning("small")
            health: SignalHealth = getattr(telemetry.health(), signal)
            return health

        health = make(100)
        assert health.dropped == 100 - 67  # as many as 64 MB hold
        assert health.queued == 100 + 67  # and all of the small ones
        telemetry.flush(20)
        health = make(20)
        assert health.dropped == 100 - 67  # there is room again
        telemetry.flush(20)
        assert getattr(telemetry.health(), signal).exported == 200 - 33 + 40
