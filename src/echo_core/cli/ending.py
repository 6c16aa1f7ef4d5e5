"""Runs the event loop to its end, whatever plugin code in it does.

A handler that swallows its cancellation, or a thread that never returns, would keep `asyncio.run` and the
interpreter waiting for ever. The host has given such code its time already; here it is left behind.
And code that ends the loop, as `sys.exit()` in a task does, does not end the host: the loop is run again.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NoReturn, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

_GRACE_S: Final = 0.5
"""How long threads may take to notice that nothing more is asked of them."""


def run_loop(
    main: Coroutine[Any, Any, T], loop_factory: Callable[[], asyncio.AbstractEventLoop] | None
) -> tuple[T, Sequence[str]]:
    """As `asyncio.run`; and the names of the tasks and threads that did not end, empty as a rule.

    With some left the loop is not closed, and the process must end by `leave`.
    """
    before = set(threading.enumerate())
    runner = asyncio.Runner(loop_factory=loop_factory)
    threads = ThreadPoolExecutor(thread_name_prefix="echo-core")
    loop = runner.get_loop()
    loop.set_default_executor(threads)
    try:
        result = _run_to_its_end(loop, main)
    except BaseException:
        runner.close()
        raise
    threads.shutdown(wait=False, cancel_futures=True)
    left = [task.get_name() for task in asyncio.all_tasks(loop)]
    left += [thread.name for thread in _alive([t for t in threading.enumerate() if t not in before])]
    if not left:
        runner.close()
    return result, left


def _run_to_its_end(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, T]) -> T:
    asyncio.set_event_loop(loop)  # as `asyncio.run` does
    task = loop.create_task(main, name="host")
    while True:
        try:
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt, RuntimeError) as error:  # the last: `loop.stop()`
            if task.done() or _is_ctrl_c(error):
                raise
            logger.error("a plugin has ended the event loop; it is run again", exc_info=error)


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether it may be the user's: as long as the host listens to the signal, it is not."""
    is_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, KeyboardInterrupt) and is_default


def _alive(threads: Sequence[threading.Thread]) -> list[threading.Thread]:
    """Those that would keep the interpreter from ending, and do not end within the grace."""
    until = time.monotonic() + _GRACE_S
    for thread in threads:
        if not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
    return [thread for thread in threads if thread.is_alive() and not thread.daemon]


def leave(code: int) -> NoReturn:
    """End the process now, whatever still runs in it; what was printed is written out first."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
