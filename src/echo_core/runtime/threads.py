"""The threads of one plugin, in which what blocks does not hold up the event loop, nor another plugin."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import Final, TypeVar

from echo_core.manifest import Manifest
from echo_core.plugin import Plugin
from echo_core.runtime import stacks

R = TypeVar("R")


_AT_LEAST: Final = 4
"""Threads of a plugin that is no blocking one, and may call several blocking functions at a time."""


def thread_count(manifest: Manifest, plugin: Plugin) -> int:
    """How many threads the plugin may have: one a lane, if that is what its lanes work in."""
    return manifest.delivery.lanes if plugin.blocking else max(manifest.delivery.lanes, _AT_LEAST)


class Threads:
    """A bounded pool. A call that is given up keeps its thread until it returns; the next one waits.

    Python cannot end a thread: a call that never returns costs the plugin one of its `count` for good.
    """

    def __init__(self, name: str, count: int) -> None:
        self.count = count
        self.waiting = 0
        """Calls that wait for a thread."""
        self._given_up = 0
        self._given_up_at = 0.0
        self._prefix = f"{name} thread"
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=self._prefix)
        self._free = asyncio.Semaphore(count)

    async def take(self) -> None:
        """Return when a thread is free; the next `run` is for that one."""
        if not self._free.locked():
            await self._free.acquire()
            return
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1

    async def run(self, function: Callable[[], R]) -> R:
        """Call it in the thread that was taken."""
        loop = asyncio.get_running_loop()
        try:
            future = self._pool.submit(function)
        except BaseException:
            self._free.release()
            raise

        def let_go(_: "Future[R]") -> None:
            with suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(self._free.release)

        future.add_done_callback(let_go)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._give_up(future, loop)
            raise

    def _give_up(self, future: "Future[R]", loop: asyncio.AbstractEventLoop) -> None:
        """Nobody waits for the call any more, which may have a thread for good."""

        def has_ended() -> None:
            self._given_up -= 1

        def let_go(_: "Future[R]") -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(has_ended)

        self._given_up += 1
        self._given_up_at = monotonic()
        future.add_done_callback(let_go)

    @property
    def given_up_since(self) -> float | None:
        """Since when each thread has had a call that nobody waits for any more; None while one has not."""
        return self._given_up_at if self._given_up >= self.count else None

    def place(self) -> str:
        """Where one of the threads that work is; empty if none does."""
        for thread in threading.enumerate():
            if thread.name.startswith(self._prefix) and thread.ident is not None:
                frames = stacks.own_frames(stacks.frames_of_thread(thread.ident))
                if frames := [frame for frame in frames if not _is_pool(frame)]:
                    return stacks.place(frames)
        return ""

    def shutdown(self) -> None:
        """Begin nothing more; what runs is left behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _is_pool(frame: FrameType) -> bool:
    return "concurrent" in frame.f_code.co_filename and "futures" in frame.f_code.co_filename
