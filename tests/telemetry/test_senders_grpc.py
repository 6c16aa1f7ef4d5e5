"""Requests over gRPC, against a server of gRPC itself."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceResponse,
)

from common_telemetry.health import Signal
from common_telemetry.senders.grpc import GrpcSender
from common_telemetry.senders.settings import OtlpSettings

Code = grpc.StatusCode
RETRY_INFO = RetryInfo(retry_delay=Duration(seconds=3, nanos=500_000_000))


class Backend(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call as told, and remembers it."""

    def __init__(self, credentials: Any = None) -> None:
        self.answer: Callable[[Any], bytes] = lambda context: b""
        self.calls: list[tuple[str, bytes, dict[str, str]]] = []
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        if credentials is None:
            self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
            self.endpoint = f"https://127.0.0.1:{port}"
        self._server.start()

    def service(self, details: Any) -> Any:
        def call(request: bytes, context: Any) -> bytes:
            self.calls.append((details.method, request, dict(context.invocation_metadata())))
            return self.answer(context)

        return grpc.unary_unary_rpc_method_handler(call)

    def fail(self, code: Any, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        def answer(context: Any) -> bytes:
            context.set_trailing_metadata(trailers)
            context.abort(code, "no")
            raise AssertionError

        self.answer = answer

    def close(self) -> None:
        self._server.stop(grace=None).wait()


@pytest.fixture
def backend() -> Iterator[Backend]:
    listening = Backend()
    yield listening
    listening.close()


MakeSender = Callable[..., GrpcSender]


@pytest.fixture
def sender(backend: Backend) -> Iterator[MakeSender]:
    with ExitStack() as made:

        def make(signal: Signal = "traces", **variables: str) -> GrpcSender:
            told = {"ENDPOINT": backend.endpoint, **variables}
            environ = {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in told.items()}
            here = GrpcSender(OtlpSettings.of(signal, "grpc", environ))
            made.callback(here.close)
            return here

        yield make


def soon() -> float:
    return monotonic() + 20


@pytest.mark.parametrize(
    ("signal", "service"),
    [
        ("traces", "trace.v1.TraceService"),
        ("metrics", "metrics.v1.MetricsService"),
        ("logs", "logs.v1.LogsService"),
    ],
)
def test_a_request_calls_export_of_its_service_with_the_bytes_as_they_are(
    signal: Signal, service: str, backend: Backend, sender: MakeSender
) -> None:
    here = sender(signal, HEADERS="authorization=Bearer%20abc")
    assert here.attempt(here.prepare(b"\x0a\x00"), soon()).outcome == "accepted"
    ((method, body, metadata),) = backend.calls
    assert method == f"/opentelemetry.proto.collector.{service}/Export"
    assert body == b"\x0a\x00"
    assert metadata["authorization"] == "Bearer abc"


def test_gzip_is_left_to_grpc(backend: Backend, sender: MakeSender) -> None:
    here = sender(COMPRESSION="gzip")
    assert here.attempt(here.prepare(b"spans" * 1_000), soon()).outcome == "accepted"
    assert backend.calls[0][1] == b"spans" * 1_000


def test_a_partial_success_is_told(backend: Backend, sender: MakeSender) -> None:
    part = ExportLogsPartialSuccess(rejected_log_records=2, error_message="too long")
    backend.answer = lambda context: ExportLogsServiceResponse(partial_success=part).SerializeToString()
    answer = sender("logs").attempt(b"", soon())
    assert (answer.outcome, answer.rejected, answer.message) == ("accepted", 2, "too long")


# https://opentelemetry.io/docs/specs/otlp/#failures
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (Code.CANCELLED, "retry"),
        (Code.UNKNOWN, "refused"),
        (Code.INVALID_ARGUMENT, "refused"),
        (Code.DEADLINE_EXCEEDED, "retry"),
        (Code.NOT_FOUND, "refused"),
        (Code.ALREADY_EXISTS, "refused"),
        (Code.PERMISSION_DENIED, "refused"),
        (Code.UNAUTHENTICATED, "refused"),
        (Code.RESOURCE_EXHAUSTED, "refused"),
        (Code.FAILED_PRECONDITION, "refused"),
        (Code.ABORTED, "retry"),
        (Code.OUT_OF_RANGE, "retry"),
        (Code.UNIMPLEMENTED, "refused"),
        (Code.INTERNAL, "refused"),
        (Code.UNAVAILABLE, "retry"),
        (Code.DATA_LOSS, "retry"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_status_is_repeated_or_not_as_the_specification_says(
    code: Any, outcome: str, backend: Backend, sender: MakeSender
) -> None:
    backend.fail(code)
    answer = sender().attempt(b"", soon())
    assert (answer.outcome, answer.retry_after_s) == (outcome, None)
    assert code.name in answer.message


def detail() -> bytes:
    packed = AnyMessage()
    packed.Pack(RETRY_INFO)
    found: bytes = Status(code=8, details=[packed]).SerializeToString()
    return found


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED], ids=lambda code: code.name)
@pytest.mark.parametrize(
    "trailer",
    [("grpc-status-details-bin", detail()), ("google.rpc.retryinfo-bin", RETRY_INFO.SerializeToString())],
    ids=["details", "alone"],
)
def test_retry_info_says_when_to_come_again(
    code: Any, trailer: tuple[str, bytes], backend: Backend, sender: MakeSender
) -> None:
    backend.fail(code, (trailer,))
    answer = sender().attempt(b"", soon())
    assert (answer.outcome, answer.retry_after_s) == ("retry", 3.5)


def test_a_backend_that_hangs_is_left_at_the_deadline(backend: Backend, sender: MakeSender) -> None:
    released = threading.Event()

    def hang(context: Any) -> bytes:
        released.wait()
        return b""

    backend.answer = hang
    begin = monotonic()
    assert sender().attempt(b"", begin + 0.2).outcome == "retry"
    assert 0.15 < monotonic() - begin < 60  # where nothing ends it, it hangs for ever
    released.set()


def test_an_attempt_can_be_broken_off_and_none_comes_after(backend: Backend, sender: MakeSender) -> None:
    arrived, released = threading.Event(), threading.Event()

    def hang(context: Any) -> bytes:
        arrived.set()
        released.wait()
        return b""

    backend.answer = hang
    here = sender()
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(here.attempt(b"", soon()).outcome))
    thread.start()
    assert arrived.wait(20)
    here.break_off()
    thread.join(20)
    released.set()
    assert answers == ["refused"]
    assert here.attempt(b"", soon()).outcome == "refused"
    assert len(backend.calls) == 1


def test_nobody_listening_is_worth_another_try(backend: Backend, sender: MakeSender) -> None:
    here = sender()
    backend.close()
    answer = here.attempt(b"", soon())
    assert (answer.outcome, "UNAVAILABLE" in answer.message) == ("retry", True)


def test_a_header_grpc_cannot_send_is_refused_not_raised(sender: MakeSender) -> None:
    assert sender(HEADERS="x-key=caf%C3%A9%0A").attempt(b"", soon()).outcome == "refused"


def test_tls_with_a_client_certificate(certificates: Path, sender: MakeSender) -> None:
    key, certificate = ((certificates / name).read_bytes() for name in ("key.pem", "cert.pem"))
    demanding = grpc.ssl_server_credentials([(key, certificate)], certificate, require_client_auth=True)
    secure = Backend(demanding)
    trusted = {"ENDPOINT": secure.endpoint, "CERTIFICATE": str(certificates / "cert.pem")}
    mine = {
        "CLIENT_CERTIFICATE": str(certificates / "cert.pem"),
        "CLIENT_KEY": str(certificates / "key.pem"),
    }
    assert sender(**trusted, **mine).attempt(b"spans", soon()).outcome == "accepted"
    assert sender(**trusted).attempt(b"spans", monotonic() + 1).outcome == "retry"  # nobody vouches for us
    assert sender(**{**trusted, "CERTIFICATE": ""}).attempt(b"spans", monotonic() + 1).outcome == "retry"
    assert [body for _, body, _ in secure.calls] == [b"spans"]
    secure.close()


def test_a_closed_sender_can_be_used_again(sender: MakeSender) -> None:
    here = sender()
    here.attempt(b"", soon())
    here.close()
    here.close()
    assert here.attempt(b"", soon()).outcome == "accepted"
