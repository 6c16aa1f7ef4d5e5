"""How a plugin's deliveries are shared out over its lanes.

One lane, or several without an ordering key: each takes from the subscription by itself. Several with a
key: a sorter puts messages of the same key into the same lane, where they stay in order.
"""

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from echo_core.errors import TransportClosed
from echo_core.message import key_of
from echo_core.runtime.lane import BATCH, Receive
from echo_core.transports.base import Delivery


class Backlog:
    """A feed that gives first what was taken from it before, and not begun."""

    def __init__(self, waiting: deque[Delivery], receive: Receive) -> None:
        self._waiting = waiting
        self._receive = receive

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`."""
        if not self._waiting:
            return await self._receive(limit)
        return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]


class Sorter:
    """Moves deliveries from a subscription into the lane that their key belongs to."""

    def __init__(self, receive: Receive, path: str, lanes: int, limit: int) -> None:
        self._receive = receive
        self._key_of = key_of(path)
        self._inboxes = [Inbox(self) for _ in range(lanes)]
        self._limit = limit
        self._held = 0
        self._leaving = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def receivers(self) -> Sequence[Receive]:
        """One for each lane."""
        return [inbox.receive for inbox in self._inboxes]

    async def run(self) -> None:
        """Until the subscription is closed and all is handed on; what is still here at a cancel goes back."""
        try:
            await self._sort()
            for inbox in self._inboxes:
                inbox.close()
            while self._held:
                self._room.clear()
                await self._room.wait()
        except asyncio.CancelledError:
            for inbox in () if self._leaving else self._inboxes:
                await inbox.hand_back()
            raise

    async def _sort(self) -> None:
        with contextlib.suppress(TransportClosed):
            while True:
                await self._room.wait()
                for delivery in await self._receive(min(BATCH, self._limit - self._held)):
                    key = self._key_of(delivery.message)
                    self._inboxes[zlib.crc32(key.encode("utf-8", "surrogatepass")) % len(self._inboxes)].put(
                        delivery
                    )
                    self._held += 1
                if self._held >= self._limit:
                    self._room.clear()

    def leave(self) -> list[Delivery]:
        """Sort no more, the caller cancels `run`; returns what no lane has taken, each key in order."""
        self._leaving = True
        return [delivery for inbox in self._inboxes for delivery in inbox.empty()]

    def taken(self, count: int) -> None:
        """A lane took some; go on sorting if there is room again."""
        self._held -= count
        if self._held < self._limit:
            self._room.set()


class TellsOfRoom(Protocol):
    """Who fills an inbox."""

    def taken(self, count: int) -> None:
        """So many were taken out of it."""


class Inbox:
    """The queue of one lane."""

    def __init__(self, sorter: "TellsOfRoom") -> None:
        self._sorter = sorter
        self._queue: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self._closed = False

    def put(self, delivery: Delivery) -> None:
        """Append."""
        self._queue.append(delivery)
        self._filled.set()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """As `Subscription.receive`."""
        while not self._queue:
            if self._closed:
                raise TransportClosed("the lane is closed")
            self._filled.clear()
            await self._filled.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        self._sorter.taken(len(taken))
        return taken

    def __len__(self) -> int:
        return len(self._queue)

    def empty(self) -> list[Delivery]:
        """Take all that waits, without telling the sorter."""
        waiting = list(self._queue)
        self._queue.clear()
        return waiting

    def close(self) -> None:
        """Let the lane end once it is empty."""
        self._closed = True
        self._filled.set()

    async def hand_back(self) -> None:
        """Return what waits to the subscription."""
        while self._queue:
            await self._queue.pop().retry()
