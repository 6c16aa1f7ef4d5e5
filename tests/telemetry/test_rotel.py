"""The main checks again, with a real collector in between: rotel takes OTLP in and passes OTLP on."""

import importlib.util
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver
from support.ports import free_port
from telemetry.pipeline import EXPECTED_TREE, Message, run_pipeline

MANY = 5_000


def _program() -> Path | None:
    installed = importlib.util.find_spec("rotel")
    if installed is None or installed.origin is None:
        return None
    program = Path(installed.origin).parent / "rotel-agent"
    program.chmod(program.stat().st_mode | stat.S_IXUSR)  # a wheel does not say that it is a program
    return program


def _why_not() -> str:
    if PROGRAM is None:
        return "rotel is not installed; it is in requirements/dev.txt where it has a build"
    # It needs the shared library of the Python it was built for, which not every build of Python has.
    tried = subprocess.run([str(PROGRAM), "--version"], capture_output=True, text=True, check=False)
    return f"rotel does not run here: {tried.stderr.strip()}" if tried.returncode else ""


PROGRAM = _program()
_WHY_NOT = _why_not()
pytestmark = pytest.mark.skipif(bool(_WHY_NOT) and not os.environ.get("CI"), reason=_WHY_NOT)


@contextmanager
def collector(receiver: OtlpReceiver, folder: Path) -> Iterator[dict[str, str]]:
    """A collector that passes on to the receiver; its endpoints by OTLP protocol."""
    assert not _WHY_NOT, f"CI must run this test: {_WHY_NOT}"
    ports = {"grpc": free_port(), "http/protobuf": free_port()}
    command = [
        str(PROGRAM),
        "start",
        f"--otlp-grpc-endpoint=127.0.0.1:{ports['grpc']}",
        f"--otlp-http-endpoint=127.0.0.1:{ports['http/protobuf']}",
        "--exporter=otlp",
        f"--otlp-exporter-endpoint={receiver.http_endpoint}",
        "--otlp-exporter-protocol=http",
        f"--pid-file={folder / 'rotel.pid'}",
        f"--log-file={folder / 'rotel.log'}",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports.values():
            wait_until_listening(port, process)
        yield {protocol: f"http://127.0.0.1:{port}" for protocol, port in ports.items()}
    finally:
        process.terminate()
        process.wait(20)


def wait_until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "rotel did not start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("rotel does not listen")


def start(engine: Engine, protocol: str, endpoint: str, **environ: str) -> TelemetryContext:
    return TelemetryContext.from_config(
        TelemetryConfig(engine=engine),
        environ={"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **environ},
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_a_collector_passes_on_is_what_was_sent(engine: Engine, protocol: str, tmp_path: Path) -> None:
    with OtlpReceiver() as receiver, collector(receiver, tmp_path) as endpoints:
        telemetry = start(
            engine,
            protocol,
            endpoints[protocol],
            OTEL_SERVICE_NAME="shop",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        )
        run_pipeline(telemetry)
        plugin = telemetry.for_plugin("sink", "1.0.0", "running")
        for number in range(MANY):
            with plugin.messages.process("orders.raw", Message(f"n{number}")):
                pass
        plugin.record_counter("x", 2, {"k": "a"})
        plugin.record_gauge("y", 7)
        plugin.record_histogram("z", 3)
        with plugin.messages.process("orders.raw", Message("inside")):
            plugin.record_counter("inside", 1, {"k": "a"})
        assert telemetry.shutdown(20)
        spans = receiver.wait_for_spans(len(EXPECTED_TREE) + MANY + 1, 20)
        points = receiver.wait_for(
            lambda: {
                point.name: point
                for point in receiver.metrics()
                if point.attributes.get("plugin.name") == "sink"
            },
            20,
        )

    by_name = {span.name: span for span in spans if span.attributes["message.id"].startswith("m")}
    for name, (kind, parent, owner, message_id) in EXPECTED_TREE.items():
        span = by_name[name]
        assert span.kind == kind
        assert span.parent_span_id == (by_name[parent].span_id if parent else "")
        assert (span.attributes["plugin.name"], span.attributes["message.id"]) == (owner, message_id)
        assert span.resource["service.name"] == "shop"
        assert span.resource["deployment.environment"] == "test"
        if kind == "consumer":
            assert [link.span_id for link in span.links] == [span.parent_span_id]
    handled = points["plugin.message.processing_time_ms"]
    assert handled.count == MANY + 1
    assert "message.id" not in handled.attributes
    ids = {(span.trace_id, span.span_id): span.attributes["message.id"] for span in spans}
    assert handled.exemplars
    for exemplar in handled.exemplars:
        assert exemplar.attributes["message.id"] == ids[exemplar.trace_id, exemplar.span_id]
    plugin_is = {"plugin.name": "sink", "plugin.version": "1.0.0", "plugin.status": "running", "k": "a"}
    assert (points["x"].kind, points["x"].value, points["x"].attributes) == ("sum", 2, plugin_is)
    assert points["inside"].attributes == {**plugin_is, "message.topic": "orders.raw"}
    assert (points["y"].kind, points["y"].value) == ("gauge", 7)
    assert (points["z"].kind, points["z"].count, points["z"].sum) == ("histogram", 1, 3)
