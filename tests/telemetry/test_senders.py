"""One request on its way: what is repeated, when, and what ends it."""

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import DebugInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from common_telemetry.senders import answers, delivery
from common_telemetry.senders.answers import Answer
from common_telemetry.senders.delivery import Body, Sender, deliver

BUSY = Answer("retry", "busy")
TAKEN = Answer("accepted")


class Scripted(Sender):
    """Answers as told, on a clock that only pauses move."""

    def __init__(self, *script: Answer) -> None:
        self._script = list(script)
        self.sent: list[Body] = []
        self.pauses: list[float] = []
        self.time = 0.0

    def prepare(self, body: Body) -> Body:
        return body[::-1]

    def attempt(self, prepared: Body, end: float) -> Answer:
        self.sent.append(prepared)
        return self._script.pop(0)

    def break_off(self) -> None: ...

    def close(self) -> None: ...

    def forget_connection(self) -> None: ...

    def pause(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.time += seconds
        return False

    def deliver(self, end: float) -> Answer:
        return deliver(self, b"body", end, pause=self.pause, now=lambda: self.time)


def test_what_is_taken_at_once_is_sent_once() -> None:
    sender = Scripted(TAKEN)
    assert sender.deliver(10) == TAKEN
    assert (sender.sent, sender.pauses) == ([b"ydob"], [])


def test_what_is_refused_is_not_repeated() -> None:
    sender = Scripted(Answer("refused", "no"))
    assert sender.deliver(10) == Answer("refused", "no")
    assert sender.pauses == []


def test_pauses_double_and_are_spread_by_a_fifth() -> None:
    sender = Scripted(BUSY, BUSY, BUSY, BUSY, TAKEN)
    assert sender.deliver(100) == TAKEN
    for pause, middle in zip(sender.pauses, (1, 2, 4, 8), strict=True):
        assert 0.8 * middle <= pause <= 1.2 * middle
    assert len({pause / middle for pause, middle in zip(sender.pauses, (1, 2, 4, 8), strict=True)}) == 4


def test_the_pause_the_backend_asks_for_is_kept_to_the_second() -> None:
    sender = Scripted(
        Answer("retry", "busy", retry_after_s=7), Answer("retry", "busy", retry_after_s=0), TAKEN
    )
    assert sender.deliver(100) == TAKEN
    assert sender.pauses == [7, 0]


def test_a_pause_that_would_not_end_in_time_is_not_begun() -> None:
    sender = Scripted(Answer("retry", "busy", retry_after_s=30))
    assert sender.deliver(10) == Answer("retry", "busy", retry_after_s=30)
    assert sender.pauses == []


def test_repetitions_end_before_the_deadline() -> None:
    sender = Scripted(*[BUSY] * 20)
    assert sender.deliver(10) == BUSY
    assert len(sender.sent) in (3, 4)
    assert sender.time < 10


def test_a_pause_broken_off_is_the_end() -> None:
    sender = Scripted(BUSY, TAKEN)
    answer = deliver(sender, b"body", 10, pause=lambda seconds: True, now=lambda: 0)
    assert answer == BUSY
    assert len(sender.sent) == 1


def test_a_request_larger_than_any_backend_takes_is_refused_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "MAX_REQUEST_BYTES", 3)
    sender = Scripted(TAKEN)
    assert sender.deliver(10).outcome == "refused"
    assert sender.sent == []


def partial_success(rejected: int, message: str) -> bytes:
    part = ExportTracePartialSuccess(rejected_spans=rejected, error_message=message)
    return ExportTraceServiceResponse(partial_success=part).SerializeToString()


@given(st.integers(0, 2**62), st.text())
def test_a_partial_success_is_read_as_protobuf_reads_it(rejected: int, message: str) -> None:
    assert answers.accepted(partial_success(rejected, message)) == Answer("accepted", message, rejected)


@given(st.binary())
def test_an_answer_of_any_bytes_is_read_without_an_error(body: bytes) -> None:
    assert answers.accepted(body).outcome == "accepted"
    answers.retry_delay(body)
    answers.retry_delay_of_status(body)


@given(st.integers(0, 10_000), st.integers(0, 999_999_999))
def test_the_delay_in_a_status_is_found_among_its_details(seconds: int, nanos: int) -> None:
    info = RetryInfo(retry_delay=Duration(seconds=seconds, nanos=nanos))
    details = [AnyMessage(), AnyMessage()]
    details[0].Pack(DebugInfo(detail="why"))
    details[1].Pack(info)
    status = Status(code=14, message="busy", details=details).SerializeToString()
    assert answers.retry_delay_of_status(status) == pytest.approx(seconds + nanos / 1e9)
    assert answers.retry_delay(info.SerializeToString()) in (pytest.approx(seconds + nanos / 1e9), None)


def test_a_status_without_retry_info_names_no_delay() -> None:
    assert answers.retry_delay_of_status(Status(code=14).SerializeToString()) is None
    assert answers.retry_delay(RetryInfo().SerializeToString()) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120),
        (" 0 ", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("-3", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert answers.retry_after(header) == seconds


def test_retry_after_of_a_date_to_come_is_the_time_until_then() -> None:
    seconds = answers.retry_after("Fri, 31 Dec 2999 23:59:59 GMT")
    assert seconds is not None
    assert seconds > 3e10
