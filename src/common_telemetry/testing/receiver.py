"""An OTLP receiver on free loopback ports: HTTP with protobuf, and gRPC."""

import gzip
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from types import TracebackType
from typing import Any, Final, Self

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from common_telemetry.testing.store import Received, Request

_HOST: Final = "127.0.0.1"
_OK: Final = 200
# The gRPC status for an HTTP one (OTLP specification, "Failures"); only the first two groups may be retried.
_GRPC_STATUS: Final = {
    429: grpc.StatusCode.UNAVAILABLE,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
}
_HTTP: Final[dict[str, tuple[type[Request], Callable[[], Any]]]] = {
    "/v1/traces": (
        trace_service_pb2.ExportTraceServiceRequest,
        trace_service_pb2.ExportTraceServiceResponse,
    ),
    "/v1/metrics": (
        metrics_service_pb2.ExportMetricsServiceRequest,
        metrics_service_pb2.ExportMetricsServiceResponse,
    ),
    "/v1/logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
}


class OtlpReceiver(Received):
    """Listens from its making until `close`, on 127.0.0.1 only.

    It accepts everything until told otherwise: `answer(503)` refuses, `hang()` lets senders wait, and
    `accept()` ends both.
    """

    def __init__(self, http_port: int = 0, grpc_port: int = 0) -> None:
        """Listen on these ports; 0 is any that is free."""
        super().__init__()
        self._status = _OK
        self._go_on = Event()
        self._go_on.set()
        self.requests = 0
        self._http = _HttpServer((_HOST, http_port), _HttpHandler)
        self._http.receiver = self
        self._thread = Thread(
            target=self._http.serve_forever, args=(0.02,), name="otlp-receiver", daemon=True
        )
        self._thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(4, thread_name_prefix="otlp-receiver-grpc"))
        _serve_grpc(self._grpc, self)
        self._grpc_port = self._grpc.add_insecure_port(f"{_HOST}:{grpc_port}")
        self._grpc.start()

    @property
    def http_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT must be for http/protobuf."""
        return f"http://{_HOST}:{self._http.server_address[1]}"

    @property
    def grpc_endpoint(self) -> str:
        """What OTEL_EXPORTER_OTLP_ENDPOINT must be for grpc."""
        return f"http://{_HOST}:{self._grpc_port}"

    def environ(self, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
        """The OTEL_* variables that lead here by `protocol`, http/protobuf or grpc, and `more` of them."""
        return {
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.grpc_endpoint if protocol == "grpc" else self.http_endpoint,
            **more,
        }

    def answer(self, status: int) -> None:
        """Refuse everything from now on with this HTTP status, or the gRPC status that means the same."""
        self._status = status

    def hang(self) -> None:
        """Take requests from now on, and answer none of them before `accept` or `close`."""
        self._go_on.clear()

    def accept(self) -> None:
        """Accept everything again, requests left hanging too."""
        self._status = _OK
        self._go_on.set()

    def receive(self, request: Request) -> int:
        """Take in one request, and return the HTTP status to answer. For the two servers."""
        self.requests += 1
        self._go_on.wait()
        if self._status == _OK:
            self.add(request)
        return self._status

    def close(self) -> None:
        """Stop listening. Safe to repeat; what was received stays."""
        self._go_on.set()
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(grace=None).wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    receiver: OtlpReceiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a sender that did not wait for its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        known = _HTTP.get(self.path)
        if known is None:
            self._reply(404, b"")
            return
        request, response = known
        status = self.server.receiver.receive(request.FromString(self._decoded(body)))
        self._reply(status, response().SerializeToString())

    def _decoded(self, body: bytes) -> bytes:
        encoding = self.headers.get("content-encoding", "")
        if encoding == "gzip":
            return gzip.decompress(body)
        return zlib.decompress(body) if encoding == "deflate" else body

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the test's output is not the place."""


def _serve_grpc(server: Any, receiver: OtlpReceiver) -> None:
    class Service:
        def __init__(self, response: Callable[[], Any]) -> None:
            self._response = response

        def Export(self, request: Request, context: Any) -> Any:  # noqa: N802 - the name in the service definition
            status = receiver.receive(request)
            if status != _OK:
                context.abort(
                    _GRPC_STATUS.get(status, grpc.StatusCode.INTERNAL), f"answered as HTTP {status}"
                )
            return self._response()

    services: list[tuple[Callable[..., Any], Callable[[], Any]]] = [
        (
            trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
            trace_service_pb2.ExportTraceServiceResponse,
        ),
        (
            metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
            metrics_service_pb2.ExportMetricsServiceResponse,
        ),
        (logs_service_pb2_grpc.add_LogsServiceServicer_to_server, logs_service_pb2.ExportLogsServiceResponse),
    ]
    for add_to_server, response in services:
        add_to_server(Service(response), server)
