"""One request brought to the backend, with repetitions, before a deadline."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from random import uniform
from time import monotonic
from typing import Final

from common_telemetry.senders.answers import Answer

# As the OpenTelemetry SDK for Python: 1, 2, 4, ... seconds, each up to a fifth more or less.
_FIRST_PAUSE_S: Final = 1.0
_JITTER: Final = 0.2
# The SDK's limit, before compression: what is larger no backend takes.
MAX_REQUEST_BYTES: Final = 64 * 1024 * 1024


Body = bytes | memoryview
"""A request: a view while it lies where the next one will be written."""


class Sender(ABC):
    """Takes the requests of one signal to one backend. Used by one thread, except for `break_off`."""

    @abstractmethod
    def prepare(self, body: Body) -> Body:
        """The body as it goes over the wire: compressed or not."""

    @abstractmethod
    def attempt(self, prepared: Body, end: float) -> Answer:
        """Send once; return when time.monotonic() is `end` at the latest. Raises nothing."""

    @abstractmethod
    def break_off(self) -> None:
        """End the attempt under way, from another thread, and refuse all later ones."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections. Safe to repeat; a later attempt opens them again."""

    @abstractmethod
    def forget_connection(self) -> None:
        """In the child of a fork: leave the parent's connection to the parent."""


def deliver(
    sender: Sender,
    body: Body,
    end: float,
    *,
    pause: Callable[[float], bool],
    now: Callable[[], float] = monotonic,
) -> Answer:
    """Send until the backend has taken or refused it, or time `now()` is `end`.

    Repeats what OTLP calls retryable after the pause the backend asks for, or else after an exponentially
    growing one with jitter (OTLP specification, "Failures" and "OTLP/HTTP Throttling"). A pause that would
    not end in time is not begun. `pause` waits for so many seconds and returns True if it was broken off.
    The answer `retry` means: not delivered in time.
    """
    if len(body) > MAX_REQUEST_BYTES:
        return Answer("refused", f"{len(body)} bytes are more than any backend takes in one request")
    prepared = sender.prepare(body)
    backoff = _FIRST_PAUSE_S
    while True:
        answer = sender.attempt(prepared, end)
        if answer.outcome != "retry":
            return answer
        wait = answer.retry_after_s
        if wait is None:
            wait = backoff * uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, keeps no secret
            backoff *= 2
        if now() + wait >= end or pause(wait):
            return answer
