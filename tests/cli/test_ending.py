"""The event loop is run to its end, whatever ends it before."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable

import pytest

from echo_core.cli.ending import run_loop


def stop() -> None:
    asyncio.get_running_loop().stop()


def leave() -> None:
    sys.exit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


async def end_loop(how: Callable[[], None]) -> str:
    async def plugin() -> None:
        how()

    background = asyncio.create_task(plugin())
    await asyncio.sleep(0.01)
    assert background.done()
    background.exception()
    return "the end"


@pytest.mark.parametrize("how", [stop, leave, interrupt])
def test_what_ends_the_loop_does_not_end_the_host(
    how: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as while a host listens to it
    try:
        assert run_loop(end_loop(how), None) == ("the end", [])
    finally:
        signal.signal(signal.SIGINT, before)
    assert "a plugin has ended the event loop; it is run again" in caplog.text


def test_a_ctrl_c_that_nobody_listens_to_ends_it() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_loop(end_loop(interrupt), None)
    finally:
        signal.signal(signal.SIGINT, before)
    gc.collect()  # the task that was interrupted is told of here, and not in the midst of another test


@pytest.mark.parametrize("error", [SystemExit(3), RuntimeError("no"), ValueError("no")])
def test_what_the_host_raises_is_raised(error: BaseException) -> None:
    async def main() -> None:
        raise error

    with pytest.raises(type(error)):
        run_loop(main(), None)
