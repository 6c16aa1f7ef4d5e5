"""Messages at full speed, everything traced, to an OTLP receiver in another process that counts every span.

    python -m benchmarks.telemetry_end_to_end fast --seconds 10

Prints one JSON object: how many messages and spans were made, how many spans arrived, and the CPU time of the
sending process, all its threads, for each span that did.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from benchmarks import ROOT
from common_telemetry import TelemetryConfig, TelemetryContext

_SPANS_PER_MESSAGE: Final = 2


@dataclass(slots=True)
class Message:
    """What telemetry needs to know of a message."""

    id: str
    root_id: str = ""
    parent_ids: tuple[str, ...] = ()
    timestamp: int = field(default_factory=time.time_ns)
    trace_context: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root_id = self.root_id or self.id


class Receiver:
    """A receiver in a process of its own, for the length of a `with` block."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.telemetry_end_to_end", "--receive"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def counts(self) -> dict[str, int]:
        """Spans and requests so far."""
        with urllib.request.urlopen(self.endpoint) as answer:  # noqa: S310 - our own
            found: dict[str, int] = json.load(answer)
        return found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def receive() -> None:
    """Be the receiver: print the port, then count until ended."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    counts, lock = {"spans": 0, "requests": 0}, Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            spans = 0
            if self.path == "/v1/traces":
                request = ExportTraceServiceRequest.FromString(body)
                spans = sum(len(scope.spans) for part in request.resource_spans for scope in part.scope_spans)
            with lock:
                counts["spans"] += spans
                counts["requests"] += 1
            self._answer(b"")

        def do_GET(self) -> None:
            with lock:
                self._answer(json.dumps(counts).encode())

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def send(engine: Any, seconds: float, endpoint: str) -> dict[str, Any]:
    """Publish and process messages for so long, and wait until everything is delivered."""
    environ = {key: value for key, value in os.environ.items() if key.startswith("OTEL_")}
    environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ=environ)
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    count = 0
    cpu, begin = time.process_time(), time.monotonic()
    while time.monotonic() - begin < seconds:
        for _ in range(100):
            name = f"m{count}"
            with plugin.messages.publish("orders.raw", name, name) as publishing:
                headers = publishing.carrier()
            with plugin.messages.process("orders.raw", Message(name, trace_context=headers)):
                plugin.record_counter("orders")
            count += 1
    sending = time.monotonic() - begin
    telemetry.shutdown(60)
    return {
        "messages": count,
        "seconds": sending,
        "spans": count * _SPANS_PER_MESSAGE,
        "cpu_seconds": time.process_time() - cpu,
        "dropped": telemetry.health().traces.dropped,
        "failed": telemetry.health().traces.failed,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Measure one engine, or be the receiver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", nargs="?", choices=("fast", "official"), default="fast")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.receive:
        receive()
        return
    with Receiver() as receiver:
        found = send(arguments.engine, arguments.seconds, receiver.endpoint)
        arrived = receiver.counts()
    found |= {"arrived": arrived["spans"], "requests": arrived["requests"]}
    found["cpu_us_per_span"] = found["cpu_seconds"] / found["arrived"] * 1e6
    json.dump(
        {"python": platform.python_version(), "engine": arguments.engine, **found}, sys.stdout, indent=1
    )


if __name__ == "__main__":
    main()
