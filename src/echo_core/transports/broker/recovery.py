"""Trying again, and what is said about it."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

_CANCELLATIONS: Final = 15
_BETWEEN_CANCELLATIONS_S: Final = 0.2


def backoff(first: float = 0.1, most: float = 5.0) -> Iterable[float]:
    """Seconds to wait before each further attempt: twice as long each time, with full jitter."""
    bound = first
    while True:
        yield random.uniform(0.0, bound)  # noqa: S311  (no secret)
        bound = min(2 * bound, most)


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancel it and wait for its end. Again and again: client libraries lose a cancellation now and then.

    One that does not end in 3 seconds is left to itself; what comes of it is of no interest.
    """
    if task is None:
        return
    for _ in range(_CANCELLATIONS):
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task], timeout=_BETWEEN_CANCELLATIONS_S)
    task.add_done_callback(_ignore)


def _ignore(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` comes to. TimeoutError after so long, even where it does not heed its cancellation.

    ConnectionError where it is cancelled by itself: client libraries break off so what waits for an answer on
    a connection that ends. Nobody has cancelled the caller then, who is to try again.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.cancelled():
            raise ConnectionError("it was broken off")
        if task.done():
            return task.result()
        raise TimeoutError(f"no answer within {seconds:g} s")
    finally:
        await end_task(task)


def plain(error: BaseException) -> str:
    """An error in one line."""
    return str(error) or type(error).__name__


class Troubles:
    """What does not work at the moment, each thing said once in the log, and once that it is over."""

    def __init__(self, where: str, logger: logging.Logger) -> None:
        self._where = where
        self._logger = logger
        self._now: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._now)

    def __contains__(self, what: str) -> bool:
        return what in self._now

    def __str__(self) -> str:
        return "; ".join(f"{what}: {why}" for what, why in self._now.items())

    def begin(self, what: str, why: str) -> None:
        """It does not work, and is tried again."""
        if self._now.get(what) != why:
            self._now[what] = why
            self._logger.warning("%s: %s: %s; trying again", self._where, what, why)

    def end(self, what: str) -> None:
        """It works."""
        if self._now.pop(what, None) is not None:
            self._logger.warning("%s: %s: works again", self._where, what)

    def forget(self, what: str) -> None:
        """Nobody wants it to work any more."""
        self._now.pop(what, None)
