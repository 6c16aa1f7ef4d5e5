"""Changes to a running host: one at a time for each plugin, and to their end whoever asked for them."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from echo_core.errors import HostStopping
from echo_core.transports.turn import Turn

T = TypeVar("T")

_GRACE_S: Final = 1.0


class Changes:
    """Owns the task of every change. An asker that goes away does not leave a plugin half changed."""

    def __init__(self) -> None:
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = True
        self.begun = 0
        """How many there were, ended or not."""

    def open(self) -> None:
        """Let changes be made from now on."""
        self._closed = False

    async def make(self, name: str, change: Coroutine[Any, Any, T]) -> T:
        """Make the change once every earlier one of this plugin has ended; its result, or what it raises.

        Raises `HostStopping` when the host does not run, or stops before the change is made.
        """
        if self._closed:
            change.close()
            raise HostStopping(f"{name} stays as it is", why="the host is starting or stopping")
        self.begun += 1
        task = asyncio.create_task(self._in_turn(name, change), name=f"{name} change")
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._ended, change))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise HostStopping(f"{name} was not changed", why="the host is stopping") from None
            raise

    async def _in_turn(self, name: str, change: Coroutine[Any, Any, T]) -> T:
        async with self._locks[name]:
            # A thousand may be asked for at once, and each takes as long as many messages.
            await Turn.of_running_loop().give()
            return await change

    def _ended(self, change: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
        change.close()  # it may never have begun, and neither may the task
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever asked has it, if they are still there

    async def settled(self) -> None:
        """Return when no change is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Take no more, and end those that are under way where they stand."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE_S)
