"""Two subscriptions of one subscriber, received from as one."""

import asyncio
from collections import deque
from collections.abc import Sequence

from echo_core.errors import TransportClosed
from echo_core.transports.base import Delivery, Subscription, SubscriptionStatistics


class Merged:
    """Receives from whichever has something; what one has brought and nobody has taken is kept."""

    def __init__(self, sources: Sequence[Subscription]) -> None:
        self._sources = deque(sources)
        self._receiving: dict[Subscription, asyncio.Task[Sequence[Delivery]]] = {}
        self._kept: deque[tuple[Subscription, Delivery]] = deque()

    async def receive(self, limit: int) -> tuple[Sequence[Delivery], Subscription]:
        """As `Subscription.receive`, and which of them it came from."""
        if len(self._sources) == 1 and not self._receiving and not self._kept:
            return await self._sources[0].receive(limit), self._sources[0]
        while not self._kept:
            self._collect(limit)
            if self._kept:
                break
            if not self._receiving:
                raise TransportClosed("the subscription is closed")
            await asyncio.wait(self._receiving.values(), return_when=asyncio.FIRST_COMPLETED)
        source = self._kept[0][0]
        taken: list[Delivery] = []
        while self._kept and self._kept[0][0] is source and len(taken) < limit:
            taken.append(self._kept.popleft()[1])
        return taken, source

    def _collect(self, limit: int) -> None:
        """Keep what has come, and have all of them receive; the one that brought something comes last."""
        for source in list(self._sources):
            task = self._receiving.get(source)
            if task is not None and task.done():
                del self._receiving[source]
                if isinstance(task.exception(), TransportClosed):
                    self._sources.remove(source)
                    continue
                self._kept.extend((source, delivery) for delivery in task.result())
                self._sources.rotate(-1)
            if source not in self._receiving and not self._kept:
                task = self._receiving[source] = asyncio.create_task(_receive(source, limit))
                task.add_done_callback(_looked_at)

    def statistics(self, sources: Sequence[Subscription]) -> SubscriptionStatistics:
        """Of all of them; what nobody has taken waits."""
        tasks = [task for task in self._receiving.copy().values() if task.done() and not task.cancelled()]
        done = [task for task in tasks if not task.exception()]
        brought = len(self._kept) + sum(len(task.result()) for task in done)
        each = [source.statistics() for source in sources]
        return SubscriptionStatistics(
            waiting=sum(one.waiting for one in each) + brought,
            unsettled=sum(one.unsettled for one in each) - brought,
        )


async def _receive(source: Subscription, limit: int) -> Sequence[Delivery]:
    return await source.receive(limit)


def _looked_at(task: asyncio.Task[Sequence[Delivery]]) -> None:
    """Nobody may ask any more; then nobody else looks at its error."""
    if not task.cancelled():
        task.exception()
