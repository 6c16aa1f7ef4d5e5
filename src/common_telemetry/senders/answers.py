"""What came of one attempt to send, and what backends say in their answers.

The few protobuf messages read here (ExportTraceServiceResponse and its siblings, google.rpc.Status,
google.rpc.RetryInfo) have two or three fields; reading them by hand keeps the protobuf runtime out of
processes that only send.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final, Literal

Outcome = Literal["accepted", "refused", "retry"]

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10


@dataclass(frozen=True, slots=True)
class Answer:
    """`accepted`, for good `refused`, or worth another try.

    `rejected` of what was accepted were not stored (a partial success); `retry_after_s` is how long the
    backend asks to be left alone, in seconds.
    """

    outcome: Outcome
    message: str = ""
    rejected: int = 0
    retry_after_s: float | None = None


def accepted(body: bytes) -> Answer:
    """The answer of a backend that took the request: all of it, or a part.

    Source of the format: opentelemetry-proto, Export*ServiceResponse.partial_success. A body that is no such
    message changes nothing: the status has already said that the request was taken.
    """
    try:
        return _partial_success(body)
    except ValueError:
        return Answer("accepted")


def retry_delay_of_status(status: bytes) -> float | None:
    """Seconds to wait by the RetryInfo among the details of a google.rpc.Status; None if it has none."""
    try:
        for number, detail in fields(status):
            if number == 3 and isinstance(detail, bytes):
                found = dict(fields(detail))
                url, value = found.get(1, b""), found.get(2, b"")
                if isinstance(url, bytes) and url.endswith(b"google.rpc.RetryInfo"):
                    return retry_delay(value) if isinstance(value, bytes) else None
    except ValueError:
        return None
    return None


def retry_delay(retry_info: bytes) -> float | None:
    """Seconds to wait by a google.rpc.RetryInfo; None if it does not say."""
    try:
        duration = dict(fields(retry_info)).get(1)
        if not isinstance(duration, bytes):
            return None
        parts = dict(fields(duration))
    except ValueError:
        return None
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if isinstance(seconds, int) and isinstance(nanos, int):
        return max(0.0, seconds + nanos / 1e9)
    return None


def retry_after(header: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, number or date (RFC 9110, 10.2.3); None if neither."""
    text = (header or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time())


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message, each with its number. Raises ValueError if it is none."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind, number = tag & 7, tag >> 3
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _LENGTH:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"no protobuf message: wire type {kind}")
        if at + size > len(message):
            raise ValueError("no protobuf message: it ends too early")
        yield number, message[at : at + size]
        at += size


def _partial_success(body: bytes) -> Answer:
    rejected, message = 0, ""
    for number, partial in fields(body):
        if number == 1 and isinstance(partial, bytes):
            parts = dict(fields(partial))
            count, text = parts.get(1, 0), parts.get(2, b"")
            rejected = count if isinstance(count, int) else 0
            message = text.decode("utf-8", "replace") if isinstance(text, bytes) else ""
    return Answer("accepted", message, rejected)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MAX_VARINT_BYTES):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << (7 * shift)
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("no protobuf message: a number does not end")
