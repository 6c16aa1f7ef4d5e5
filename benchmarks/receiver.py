"""An OTLP/HTTP receiver in a process of its own: counts every span and every measurement that arrives.

No span is decoded, and none counted before somebody asks, so that the receiver takes as little of the machine
as it can while a run lasts. `Receiver` starts and asks it.
"""

import gzip
import http.client
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from benchmarks import ROOT

_KEPT_BYTES: Final = 256 * 1024 * 1024
"""Bodies not yet counted may take this much memory; then they are counted at once."""

# Field numbers of ExportTraceServiceRequest, ResourceSpans and ScopeSpans in opentelemetry-proto.
_RESOURCE_SPANS: Final = 1
_SCOPE_SPANS: Final = 2
_SPANS: Final = 2
_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2


class Counts:
    """What has arrived since the last reset."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._traces: list[bytes] = []
            self._kept = 0
            self._spans = 0
            self._bytes = 0
            self._measured: dict[tuple[str, ...], int] = {}
            self._requests = {"traces": 0, "metrics": 0, "logs": 0}

    def add(self, signal: str, body: bytes) -> None:
        """Take in one request."""
        with self._lock:
            self._requests[signal] = self._requests.get(signal, 0) + 1
            self._bytes += len(body)
            if signal == "traces":
                self._traces.append(body)
                self._kept += len(body)
                if self._kept > _KEPT_BYTES:
                    self._count_spans()
            elif signal == "metrics":
                self._measured.update(histogram_counts(body))

    def report(self) -> dict[str, Any]:
        """Spans, requests and bytes; measurements by histogram, over all its series."""
        with self._lock:
            self._count_spans()
            measured: dict[str, int] = {}
            for (name, *_), count in self._measured.items():
                measured[name] = measured.get(name, 0) + count
            return {
                "spans": self._spans,
                "bytes": self._bytes,
                "requests": dict(self._requests),
                "measured": measured,
            }

    def _count_spans(self) -> None:
        bodies, self._traces, self._kept = self._traces, [], 0
        self._spans += sum(span_count(body) for body in bodies)


def span_count(body: bytes) -> int:
    """How many spans an ExportTraceServiceRequest holds, without decoding any of them."""
    view = memoryview(body)
    return sum(
        1
        for resource in _fields(view, _RESOURCE_SPANS)
        for scope in _fields(resource, _SCOPE_SPANS)
        for _ in _fields(scope, _SPANS)
    )


def _fields(view: memoryview, wanted: int) -> Iterator[memoryview]:
    """The length-delimited fields of that number in a protobuf message."""
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _LENGTH:
            length, position = _varint(view, position)
            if number == wanted:
                yield view[position : position + length]
            position += length
        elif wire_type == _VARINT:
            _, position = _varint(view, position)
        else:
            position += 8 if wire_type == _FIXED64 else 4


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def histogram_counts(body: bytes) -> dict[tuple[str, ...], int]:
    """Count of each histogram series in an ExportMetricsServiceRequest; these are cumulative by default."""
    found: dict[tuple[str, ...], int] = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.histogram.data_points:
                    series = (metric.name, scope.scope.name, *sorted(map(str, point.attributes)))
                    found[series] = point.count
    return found


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # exporters keep their connection
    counts = Counts()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/reset":
            self.counts.reset()
        else:
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            self.counts.add(self.path.removeprefix("/v1/"), body)
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(json.dumps(self.counts.report()).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class _Server(http.server.ThreadingHTTPServer):
    """Says nothing of a program that was ended while it sent."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _serve() -> None:
    """Listen on a free port, say which, and serve until standard input is closed."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()  # its end says that the one who started us is gone
    server.shutdown()


class Receiver:
    """The receiver's process, as long as the context lasts."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receiver"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Count from zero."""
        self._ask("POST", "/reset")

    def report(self) -> dict[str, Any]:
        """See `Counts.report`."""
        found: dict[str, Any] = json.loads(self._ask("GET", "/counts"))
        return found

    def _ask(self, method: str, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=b"")
            return connection.getresponse().read()
        finally:
            connection.close()


if __name__ == "__main__":
    _serve()
