"""Calling plugin code that may not answer, and may not let itself be cancelled either."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from echo_core.runtime.raised import ends_caller

T = TypeVar("T")

_GRACE_S: Final = 1.0
"""How long what is cancelled may clean up before it is left behind."""


class Late(TimeoutError):
    """There was no answer in time."""


async def answer_within(seconds: float, call: Callable[[], Awaitable[T]], *, name: str) -> T:
    """Call it in a task of its own, so that nobody waits for one that swallows its cancellation.

    Raises what it raises, and `Late` after so many seconds; what does not end then is left behind.
    """
    task = asyncio.create_task(_answer(call), name=name)
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if not done:
        await _end(task)
        raise Late(f"no answer within {seconds:g} s")
    answer, error = task.result()
    if error is not None:
        raise error
    return answer[0]


async def _answer(call: Callable[[], Awaitable[T]]) -> tuple[list[T], BaseException | None]:
    """The answer, or what was raised: of a task, some errors would end the event loop."""
    try:
        return [await call()], None
    except BaseException as error:
        if ends_caller(error):
            raise
        return [], error


async def _end(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.wait([task], timeout=_GRACE_S)
