"""Feeds plugins: opens their lanes, holds their deadlines, and accounts for what is left when they stop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from echo_core.errors import TransportClosed
from echo_core.runtime.clock import Clock
from echo_core.runtime.context import HostContext
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.lane import BATCH, Lane, Receive, dead_letter
from echo_core.runtime.lanes import Sorter
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.turn import Turn
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery, Subscription, Transport

GRACE_S: Final = 1.0
"""How long what was cancelled may take to end before it is left behind."""
_TICK_S: Final = 0.05
"""How often handlers are held against their deadlines."""


class Dispatcher:
    """The lanes of all plugins of one host."""

    def __init__(self, transport: Transport, dead_letters: DeadLetterStore, clock: Clock) -> None:
        self._transport = transport
        self._dead_letters = dead_letters
        self._clock = clock
        self.turn = Turn()
        self.settlements = Settlements()
        self._lanes: dict[PluginSlot, list[Lane]] = {}
        self._workers: dict[PluginSlot, list[asyncio.Task[None]]] = {}

    def collect(self, slot: PluginSlot) -> None:
        """Subscribe the plugin: messages wait for it from now on."""
        assert slot.manifest is not None
        if slot.manifest.subscriptions:
            slot.subscription = self._transport.subscribe(
                slot.name, slot.manifest.subscriptions, queue_limit=slot.manifest.delivery.queue_limit
            )

    def feed(self, slot: PluginSlot, context: HostContext, lost: Callable[[BaseException], None]) -> None:
        """Open the plugin's lanes. `lost` hears of an error of ours that ended one of them."""
        assert slot.manifest is not None
        if slot.subscription is None:
            return
        delivery = slot.manifest.delivery
        workers: list[asyncio.Task[None]] = []
        receivers: Sequence[Receive] = [slot.subscription.receive] * delivery.lanes
        if delivery.lanes > 1 and delivery.ordering_key:
            sorter = Sorter(slot.subscription, delivery.ordering_key, delivery.lanes, delivery.queue_limit)
            receivers = sorter.receivers
            workers.append(asyncio.create_task(sorter.run(), name=f"{slot.name} sorter"))
        # Lanes that share one queue take one message at a time, so that none sits on what another could do.
        batch = BATCH if delivery.lanes == 1 or delivery.ordering_key else 1
        lanes = [
            Lane(
                slot,
                context,
                receive,
                self._dead_letters,
                self._clock,
                self.turn,
                self.settlements,
                batch=batch,
            )
            for receive in receivers
        ]
        for number, lane in enumerate(lanes):
            workers.append(asyncio.create_task(lane.run(), name=f"{slot.name} lane {number}"))
        for worker in workers:
            worker.add_done_callback(lambda task: _report(task, lost))
        self._lanes[slot] = lanes
        self._workers[slot] = workers

    async def finish(self, slot: PluginSlot) -> None:
        """Take nothing new for the plugin, and return when all that it has is ended."""
        if slot.subscription is not None:
            await slot.subscription.close()
        workers = self._workers.get(slot)
        if workers:
            await asyncio.wait(workers)  # unlike gather, it leaves them alone when it is cancelled

    async def withdraw(self, slot: PluginSlot, reason: str) -> int:
        """End the lanes now. What they had not ended is kept as dead letters, unless the transport keeps it.

        Returns how many messages were left. A handler that will not be cancelled is left behind.
        """
        workers = self._workers.pop(slot, [])
        for worker in workers:
            worker.cancel()
        if workers:
            await asyncio.wait(workers, timeout=GRACE_S)
        left = [delivery for lane in self._lanes.pop(slot, ()) for delivery in lane.abandon()]
        if slot.subscription is not None:
            await slot.subscription.close()
            if self._transport.capabilities.durable:
                for delivery in reversed(left):
                    await delivery.retry()
                return slot.subscription.statistics().waiting
            left += await _remaining(slot.subscription)
        if left:
            letters = [dead_letter(slot, delivery, reason=reason) for delivery in left]
            slot.statistics.received += len(left)  # unfinished, if they cannot even be kept
            await asyncio.to_thread(self._dead_letters.add, letters)
            slot.statistics.dead_lettered += len(left)
            for delivery in left:
                await delivery.settle()
                self.settlements.ended(delivery.message, Ending.DEAD_LETTERED)
        return len(left)

    async def watch(self) -> None:
        """Hold the deadlines of all handlers, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            for lanes in self._lanes.values():
                for lane in lanes:
                    lane.check(now, _TICK_S)


async def _remaining(subscription: Subscription) -> list[Delivery]:
    """Everything that still waits in a closed subscription."""
    left: list[Delivery] = []
    while subscription.statistics().waiting:
        try:
            left.extend(await subscription.receive(BATCH))
        except TransportClosed:
            break
    return left


def _report(task: asyncio.Task[None], lost: Callable[[BaseException], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        lost(error)
