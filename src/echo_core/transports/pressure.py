"""Slowing publishers down, without ever letting them wait for each other in a circle."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable


class Room:
    """The publishers that wait for one queue."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._waiting)

    async def wait_while(self, is_full: Callable[[], bool]) -> None:
        """Return when the queue is no longer full."""
        while is_full():
            room = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            await room

    def open(self) -> None:
        """Let all of them look again."""
        waiting, self._waiting = self._waiting, deque()
        for room in waiting:
            if not room.done():
                room.set_result(None)


class Pressure:
    """Who waits for whom: a publisher never waits for one that waits, through others even, for itself."""

    def __init__(self) -> None:
        self._waits_for: dict[str, list[str]] = {}

    async def wait(self, publisher: str, subscriber: str, room: Awaitable[None]) -> None:
        """Wait for room in the subscriber's queue; the caller has asked `would_deadlock` before."""
        waits = self._waits_for.setdefault(publisher, [])
        waits.append(subscriber)
        try:
            await room
        finally:
            waits.remove(subscriber)
            if not waits:
                self._waits_for.pop(publisher, None)

    def would_deadlock(self, waiter: str, publisher: str) -> bool:
        """Whether `waiter` is `publisher`, or waits for somebody who is waiting for it."""
        pending, seen = [waiter], set[str]()
        while pending:
            name = pending.pop()
            if name == publisher:
                return True
            if name not in seen:
                seen.add(name)
                pending.extend(self._waits_for.get(name, ()))
        return False
