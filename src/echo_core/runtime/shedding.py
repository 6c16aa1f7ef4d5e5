"""Shedding: a plugin that would rather lose messages than slow those that send them.

Between the subscription and the lanes stands a queue that takes whatever comes. When it is full it gives up
the newest message or the oldest, as the manifest says (`delivery.when_full`), and says so.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic
from typing import Final

from echo_core.errors import TransportClosed
from echo_core.runtime.lane import Receive
from echo_core.runtime.message_history.recorder import PluginRecorder
from echo_core.runtime.message_history.records import SHED
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.slot import PluginSlot
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery

logger = logging.getLogger(__name__)

QUEUE_FULL: Final = "queue_full"
"""The reason under which these messages are counted."""
_TAKEN: Final = 64
"""Deliveries taken from the subscription at a time."""


class Shedder:
    """Empties a subscription as fast as it fills, and keeps `limit` messages of it."""

    def __init__(
        self,
        slot: PluginSlot,
        receive: Receive,
        settlements: Settlements,
        *,
        limit: int,
        oldest: bool,
        history: PluginRecorder | None = None,
    ) -> None:
        self._slot = slot
        self._receive = receive
        self._settlements = settlements
        self._limit = limit
        self._oldest = oldest
        self._history = history
        self._queue = slot.kept
        self._taken: deque[Delivery] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._closed = False
        self._is_shedding = False

    async def run(self) -> None:
        """Until the subscription is closed and all is handed on; what is still here at a cancel goes back."""
        taken = self._taken
        try:
            try:
                while True:
                    taken.extend(await self._receive(_TAKEN))
                    while taken:
                        await self._take_in(taken.popleft())
            except TransportClosed:
                self._closed = True
                self._filled.set()
            while self._queue:
                self._emptied.clear()
                await self._emptied.wait()
        except asyncio.CancelledError:
            for delivery in reversed(self.leave()):  # each goes back to the head
                await delivery.retry()
            raise

    def leave(self) -> list[Delivery]:
        """Take nothing in any more, the caller cancels `run`; returns what no lane has taken, in order."""
        held = [*self._queue, *self._taken]
        self._queue.clear()
        self._taken.clear()
        return held

    async def _take_in(self, delivery: Delivery) -> None:
        if len(self._queue) < self._limit:
            self._queue.append(delivery)
        elif self._oldest:
            self._queue.append(delivery)
            await self._give_up(self._queue.popleft())
        else:
            await self._give_up(delivery)
        self._filled.set()

    async def _give_up(self, delivery: Delivery) -> None:
        slot = self._slot
        if not self._is_shedding:
            self._is_shedding = True
            which = "oldest" if self._oldest else "newest"
            said = "%s is too slow, %d messages wait: the %s are shed"
            logger.warning(said, slot.name, self._limit, which, extra=slot.about)
        slot.statistics.shed[QUEUE_FULL] = slot.statistics.shed.get(QUEUE_FULL, 0) + 1
        slot.telemetry.shed(delivery.topic, QUEUE_FULL)
        await delivery.settle()
        if self._history is not None:
            now = monotonic()
            self._history.done(delivery, delivery.attempt, SHED, now, now)
        if self._settlements.open:
            self._settlements.ended(delivery.message, Ending.SHED)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        """As `Subscription.receive`."""
        while not self._queue:
            if self._closed:
                raise TransportClosed("the queue is closed")
            self._is_shedding = False  # it has caught up
            self._filled.clear()
            await self._filled.wait()
        taken = [self._queue.popleft() for _ in range(min(limit, len(self._queue)))]
        if not self._queue:
            self._emptied.set()
        return taken
