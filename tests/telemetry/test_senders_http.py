"""Requests over HTTP: what goes over the wire, and every way in which a backend can misbehave."""

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from common_telemetry.senders.http import HttpSender
from common_telemetry.senders.settings import OtlpSettings
from telemetry.faulty import Answering, FaultyBackend, faulty, http_answer, raw, raw_and_close

OTLP = "OTEL_EXPORTER_OTLP"


MakeSender = Callable[..., HttpSender]


@pytest.fixture
def sender() -> Iterator[MakeSender]:
    """Makes senders of traces, and closes them after the test."""
    with ExitStack() as made:

        def make(endpoint: str, **variables: str) -> HttpSender:
            environ = {f"{OTLP}_{name}": value for name, value in {"ENDPOINT": endpoint, **variables}.items()}
            here = HttpSender(OtlpSettings.of("traces", "http/protobuf", environ))
            made.callback(here.close)
            return here

        yield make


@pytest.fixture(autouse=True)
def no_proxy_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def soon() -> float:
    return monotonic() + 20


def test_a_request_is_a_post_with_the_headers_told(sender: MakeSender) -> None:
    with faulty() as backend:
        here = sender(f"{backend.endpoint}/base", HEADERS="authorization=Bearer%20abc,x-two=2")
        assert here.attempt(here.prepare(b"spans"), soon()).outcome == "accepted"
        (post,) = backend.posts
    assert (post.target, post.body) == ("/base/v1/traces", b"spans")
    assert post.headers["content-type"] == "application/x-protobuf"
    assert (post.headers["authorization"], post.headers["x-two"]) == ("Bearer abc", "2")
    assert "content-encoding" not in post.headers


@pytest.mark.parametrize(("compression", "undo"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_a_body_is_compressed_as_told(
    sender: MakeSender, compression: str, undo: Callable[[bytes], bytes]
) -> None:
    body = b"spans and spans " * 1_000
    with faulty() as backend:
        here = sender(backend.endpoint, COMPRESSION=compression)
        here.attempt(here.prepare(body), soon())
        (post,) = backend.posts
    assert post.headers["content-encoding"] == compression
    assert undo(post.body) == body
    assert len(post.body) < len(body) / 10


def test_one_connection_serves_many_requests(sender: MakeSender) -> None:
    with faulty() as backend:
        here = sender(backend.endpoint)
        assert [here.attempt(b"x", soon()).outcome for _ in range(5)] == ["accepted"] * 5
        assert (len(backend.posts), backend.connections) == (5, 1)


def test_what_is_more_than_the_system_takes_at_once_arrives_whole(sender: MakeSender) -> None:
    body = bytes(range(256)) * 100_000
    with faulty() as backend:
        here = sender(backend.endpoint)
        for _ in range(2):
            assert here.attempt(here.prepare(memoryview(body)), soon()).outcome == "accepted"
        assert [post.body == body for post in backend.posts] == [True, True]


def test_a_backend_that_takes_only_a_part_is_left_at_the_deadline(sender: MakeSender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        here = sender(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        begin = monotonic()
        assert here.attempt(bytes(50_000_000), begin + 0.3).outcome == "retry"
        assert monotonic() - begin < 60  # where nothing ends it, it waits for ever


def test_a_partial_success_is_told(sender: MakeSender) -> None:
    part = ExportTracePartialSuccess(rejected_spans=3, error_message="too old")
    body = ExportTraceServiceResponse(partial_success=part).SerializeToString()
    with faulty(http_answer(body=body)) as backend:
        answer = sender(backend.endpoint).attempt(b"x", soon())
    assert (answer.outcome, answer.rejected, answer.message) == ("accepted", 3, "too old")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_status_that_passes_is_worth_another_try(sender: MakeSender, status: int) -> None:
    with faulty(http_answer(f"{status} Later", headers=(("Retry-After", "7"),))) as backend:
        answer = sender(backend.endpoint).attempt(b"x", soon())
    assert (answer.outcome, answer.retry_after_s, answer.message) == ("retry", 7, f"HTTP {status} Later")


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 413, 500, 501])
def test_any_other_status_is_a_refusal(sender: MakeSender, status: int) -> None:
    with faulty(http_answer(f"{status} No", headers=(("location", "http://127.0.0.1:1/"),))) as backend:
        assert sender(backend.endpoint).attempt(b"x", soon()).outcome == "refused"
        assert len(backend.posts) == 1


@pytest.mark.parametrize(
    "answer",
    [
        raw_and_close(b""),
        raw_and_close(b"HTTP/1.1 2"),
        raw_and_close(b"\x00\xff garbage\r\n\r\n"),
        raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n"),
        raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot hex\r\n"),
    ],
    ids=["nothing", "status cut", "garbage", "endless headers", "bad chunks"],
)
def test_what_is_no_http_answer_is_worth_another_try_on_a_new_connection(
    sender: MakeSender, answer: Answering
) -> None:
    with faulty(answer, http_answer()) as backend:
        here = sender(backend.endpoint)
        assert here.attempt(b"x", soon()).outcome == "retry"
        assert here.attempt(b"x", soon()).outcome == "accepted"
        assert backend.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        http_answer(body=b"\xff" * 50),
        raw_and_close(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly a part"),
        raw_and_close(b"HTTP/1.0 200 OK\r\n\r\n"),
    ],
    ids=["garbage", "cut", "empty"],
)
def test_a_success_stays_one_whatever_its_body(sender: MakeSender, answer: Answering) -> None:
    with faulty(answer, http_answer()) as backend:
        here = sender(backend.endpoint)
        assert [here.attempt(b"x", soon()).outcome for _ in range(2)] == ["accepted"] * 2
        assert len(backend.posts) == 2


def test_an_answer_without_end_is_not_read_to_it(sender: MakeSender) -> None:
    with faulty(
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n" + b"x" * 100_000), http_answer()
    ) as backend:
        here = sender(backend.endpoint)
        assert here.attempt(b"x", soon()).outcome == "accepted"
        assert here.attempt(b"x", soon()).outcome == "accepted"
        assert backend.connections == 2


def test_a_connection_closed_while_idle_is_opened_again_without_an_error(sender: MakeSender) -> None:
    with faulty() as backend:
        backend.answers = [http_answer(), raw_and_close(b""), http_answer()]
        here = sender(backend.endpoint)
        assert here.attempt(b"1", soon()).outcome == "accepted"
        assert here.attempt(b"2", soon()).outcome == "accepted"
        assert [post.body for post in backend.posts] == [b"1", b"2", b"2"]


@pytest.mark.parametrize("way", ["hang", "dribble", "stall"])
def test_a_backend_that_does_not_answer_is_left_at_the_deadline(sender: MakeSender, way: str) -> None:
    with faulty() as backend:
        backend.answers = [getattr(backend, way)]
        here = sender(backend.endpoint)

        def took() -> float:
            begin = monotonic()
            assert here.attempt(b"x", begin + 0.2).outcome == "retry"
            return monotonic() - begin

        times = [took()]
        while times[-1] >= 0.33 and len(times) < 30:  # a busy machine may wake us late, but not each time
            times.append(took())
        assert 0.15 < times[-1] < 0.33, times


def test_nobody_listening_is_worth_another_try(sender: MakeSender) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answer = sender(f"http://127.0.0.1:{port}").attempt(b"x", soon())
    assert answer.outcome == "retry"
    assert "ConnectionRefusedError" in answer.message


def test_a_host_without_an_address_is_worth_another_try(
    sender: MakeSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    answer = sender("http://no.such.host:4318").attempt(b"x", soon())
    assert (answer.outcome, "not known" in answer.message) == ("retry", True)


def test_an_attempt_can_be_broken_off_and_none_comes_after(sender: MakeSender) -> None:
    with faulty() as backend:
        backend.answers = [backend.hang]
        here = sender(backend.endpoint)
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(here.attempt(b"x", soon()).outcome))
        thread.start()
        assert backend.arrived.acquire(timeout=20)
        here.break_off()
        thread.join(20)
        assert answers == ["refused"]
        assert here.attempt(b"x", soon()).outcome == "refused"
        assert len(backend.posts) == 1


def test_a_closed_sender_can_be_used_again(sender: MakeSender) -> None:
    with faulty() as backend:
        here = sender(backend.endpoint)
        here.attempt(b"x", soon())
        here.close()
        here.close()
        assert here.attempt(b"x", soon()).outcome == "accepted"
        assert backend.connections == 2


def test_a_proxy_of_the_environment_is_used_and_its_password_is_for_it_alone(
    sender: MakeSender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with faulty() as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint.replace("http://", "http://me:p%40ss@"))
        assert sender("http://backend.example:4318").attempt(b"x", soon()).outcome == "accepted"
        (post,) = proxy.posts
        assert post.target == "http://backend.example:4318/v1/traces"
        assert post.headers["host"] == "backend.example:4318"
        assert post.headers["proxy-authorization"] == "Basic bWU6cEBzcw=="


def test_a_host_in_no_proxy_is_reached_directly(sender: MakeSender, monkeypatch: pytest.MonkeyPatch) -> None:
    with faulty() as proxy, faulty() as backend:
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert sender(backend.endpoint).attempt(b"x", soon()).outcome == "accepted"
        assert (len(proxy.posts), len(backend.posts)) == (0, 1)


@pytest.fixture
def tls_backend(certificates: Path) -> Iterator[FaultyBackend]:
    """A backend behind TLS that asks for, and insists on, a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with faulty() as backend:
        backend.tls = context
        yield backend


def test_tls_with_a_client_certificate(
    sender: MakeSender, certificates: Path, tls_backend: FaultyBackend
) -> None:
    here = sender(
        tls_backend.endpoint.replace("http://", "https://"),
        CERTIFICATE=str(certificates / "cert.pem"),
        CLIENT_CERTIFICATE=str(certificates / "cert.pem"),
        CLIENT_KEY=str(certificates / "key.pem"),
    )
    assert [here.attempt(b"x", soon()).outcome for _ in range(2)] == ["accepted"] * 2
    assert (len(tls_backend.posts), tls_backend.connections) == (2, 1)


def test_a_backend_nobody_vouches_for_is_sent_nothing(sender: MakeSender, tls_backend: FaultyBackend) -> None:
    here = sender(tls_backend.endpoint.replace("http://", "https://"))
    answer = here.attempt(b"x", soon())
    assert (answer.outcome, "CERTIFICATE_VERIFY_FAILED" in answer.message) == ("refused", True)
    assert tls_backend.posts == []


def test_a_certificate_that_cannot_be_read_is_a_fault_at_the_start(
    sender: MakeSender, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No such file"):
        sender("https://backend:4318", CERTIFICATE=str(tmp_path / "none.pem"))
