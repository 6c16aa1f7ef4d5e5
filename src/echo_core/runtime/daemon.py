"""Calling what may never return, in a thread that cannot keep the process alive."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from echo_core.errors import PluginLoadError
from echo_core.runtime.raised import named

T = TypeVar("T")


async def in_daemon_thread(function: Callable[[], T], seconds: float) -> T:
    """Call it in a thread that cannot keep the process alive; raises TimeoutError when it takes longer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def call() -> None:
        result: T | None = None
        error: Exception | None = None
        try:
            result = function()
        except Exception as raised:  # noqa: BLE001  (it is raised where it was called)
            error = raised
        except BaseException as raised:  # noqa: BLE001  (a future takes SystemExit for its loop's own)
            error = PluginLoadError(named(raised))
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=call, name="echo-core load", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await answer
