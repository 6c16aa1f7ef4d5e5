"""The transport inside one process: `memory://`. Fast, ordered, bounded; gone when the process ends.

Publishing puts the message into the queue of every matching subscription, then waits while one of them
is over its limit. Two plugins that publish to each other would wait for ever, so a publisher never waits
for a subscriber that is waiting, directly or through others, for the publisher itself. What such a cycle
can pile up is bounded too: at `HARD_LIMIT_FACTOR` times the limit `publish` raises `QueueFull`.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import ClassVar, Final

from echo_core.errors import QueueFull, TransportClosed
from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicTrie, check_topic
from echo_core.transports.base import Capabilities, Delivery, Subscription, SubscriptionStatistics, Transport

HARD_LIMIT_FACTOR: Final = 10
_REMEMBERED: Final = 10_000
"""Topics whose subscribers are known by heart; a flood of one-off topics must not grow memory."""


class MemoryDelivery(Delivery):
    """A delivery that knows the subscription to settle it with."""

    __slots__ = ("_ended", "_subscription")

    def __init__(
        self, subscription: "MemorySubscription", topic: str, message: BaseMessage, attempt: int
    ) -> None:
        self.topic = topic
        self.message = message
        self.attempt = attempt
        self._subscription = subscription
        self._ended = False

    async def settle(self) -> None:
        if not self._ended:
            self._ended = True
            self._subscription._settled()

    async def retry(self, delay: float = 0.0) -> None:
        if not self._ended:
            self._ended = True
            self._subscription._returned(self, delay)


class MemorySubscription(Subscription):
    """A queue in this process."""

    def __init__(
        self, transport: "MemoryTransport", name: str, patterns: Sequence[TopicPattern], queue_limit: int
    ) -> None:
        self.name = name
        self.patterns = tuple(patterns)
        self.queue_limit = queue_limit
        self._hard_limit = queue_limit * HARD_LIMIT_FACTOR
        self._transport = transport
        self._queue: deque[MemoryDelivery] = deque()
        self._received = 0
        self._delayed = 0
        self._closed = False
        self._receivers: list[asyncio.Future[None]] = []
        self._waiting_for_room: deque[asyncio.Future[None]] = deque()

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        queue = self._queue
        while not queue:
            if self._closed and not self._delayed:
                raise TransportClosed(f"the subscription {self.name!r} is closed")
            await self._wait_for_delivery()
        if limit >= len(queue):
            taken = list(queue)
            queue.clear()
        else:
            taken = [queue.popleft() for _ in range(limit)]
        self._received += len(taken)
        if self._waiting_for_room and len(queue) < self.queue_limit:
            self._let_publishers_go_on()
        return taken

    async def _wait_for_delivery(self) -> None:
        receiver = asyncio.get_running_loop().create_future()
        self._receivers.append(receiver)
        await receiver

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(waiting=len(self._queue) + self._delayed, unsettled=self._received)

    async def close(self) -> None:
        self._closed = True
        self._transport._forget(self)
        self._wake_receivers()
        self._let_publishers_go_on()

    def put(self, delivery: MemoryDelivery) -> None:
        """Append, and wake the receiver if it sleeps."""
        self._queue.append(delivery)
        if self._receivers:
            self._wake_receivers()

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait."""
        return len(self._queue) >= self.queue_limit and not self._closed

    @property
    def is_overflowing(self) -> bool:
        """Whether nothing more may be put."""
        return len(self._queue) >= self._hard_limit

    async def wait_for_room(self) -> None:
        """Return when the queue is no longer full, or closed."""
        while self.is_full:
            room = asyncio.get_running_loop().create_future()
            self._waiting_for_room.append(room)
            await room

    def _let_publishers_go_on(self) -> None:
        waiting, self._waiting_for_room = self._waiting_for_room, deque()
        for room in waiting:
            if not room.done():
                room.set_result(None)

    def _wake_receivers(self) -> None:
        """All of them: one may be cancelled before it gets here; the others look, and go on waiting."""
        receivers, self._receivers = self._receivers, []
        for receiver in receivers:
            if not receiver.done():
                receiver.set_result(None)

    def _settled(self) -> None:
        self._received -= 1
        self._transport._ended()

    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        self._received -= 1
        again = MemoryDelivery(self, delivery.topic, delivery.message, delivery.attempt + 1)
        if delay <= 0:
            self._queue.appendleft(again)
            self._wake_receivers()
            return
        self._delayed += 1
        asyncio.get_running_loop().call_later(delay, self._due, again)

    def _due(self, delivery: MemoryDelivery) -> None:
        self._delayed -= 1
        self._queue.appendleft(delivery)
        self._wake_receivers()


def _overflow(subscription: MemorySubscription, topic: str) -> QueueFull:
    return QueueFull(
        f"the queue of {subscription.name!r} is at its hard bound",
        where=f"topic {topic!r}, {len(subscription._queue)} messages waiting",
        why="plugins that publish to each other make more messages than they finish",
        fix="break the cycle, publish fewer messages for each one handled, or raise delivery.queue_limit",
    )


class MemoryTransport(Transport):
    """Subscriptions of one event loop, found by a topic trie."""

    capabilities: ClassVar = Capabilities(
        durable=False, shared=False, bounded_by_publisher=True, delayed_retry=True
    )

    def __init__(self) -> None:
        self._routes: TopicTrie[MemorySubscription] = TopicTrie()
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._subscribers: dict[str, tuple[MemorySubscription, ...]] = {}
        self._open = False
        self._unsettled = 0
        self._all_settled: asyncio.Future[None] | None = None
        self._waits_for: dict[str, list[str]] = {}

    async def open(self) -> None:
        self._open = True

    async def close(self) -> None:
        self._open = False
        self._subscribers.clear()
        for subscription in list(self._subscriptions):
            await subscription.close()

    async def publish(self, topic: str, message: BaseMessage) -> None:
        subscriptions = self._subscribers.get(topic)
        if subscriptions is None:
            subscriptions = self._find_subscribers(topic)
        crowded = False
        for subscription in subscriptions:
            if len(subscription._queue) + 1 >= subscription.queue_limit:
                crowded = True
                if subscription.is_overflowing:
                    raise _overflow(subscription, topic)
        for subscription in subscriptions:
            subscription.put(MemoryDelivery(subscription, topic, message, 1))
        self._unsettled += len(subscriptions)
        if crowded:
            await self._slow_down(message.source, subscriptions)

    def _find_subscribers(self, topic: str) -> tuple[MemorySubscription, ...]:
        """Who gets the topic. Asked once a topic, until a subscription comes or goes, or the end."""
        if not self._open:
            raise TransportClosed(
                "the memory transport is closed", where=f"topic {topic!r}", fix="open it, or publish earlier"
            )
        check_topic(topic)
        if len(self._subscribers) >= _REMEMBERED:
            self._subscribers.clear()
        found = self._subscribers[topic] = self._routes.match(topic)
        return found

    async def _slow_down(self, publisher: str, subscriptions: Sequence[MemorySubscription]) -> None:
        """Wait until each full subscription has room, unless it is (in)directly waiting for `publisher`."""
        for subscription in subscriptions:
            if not subscription.is_full or self._is_waiting_for(subscription.name, publisher):
                continue
            waits = self._waits_for.setdefault(publisher, [])
            waits.append(subscription.name)
            try:
                await subscription.wait_for_room()
            finally:
                waits.remove(subscription.name)
                if not waits:
                    self._waits_for.pop(publisher, None)

    def _is_waiting_for(self, waiter: str, publisher: str) -> bool:
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

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        compiled = [TopicPattern(pattern) for pattern in patterns]
        subscription = MemorySubscription(self, name, compiled, queue_limit)
        self._subscriptions[subscription] = None
        for pattern in compiled:
            self._routes.add(pattern, subscription)
        self._subscribers.clear()
        return subscription

    def _forget(self, subscription: MemorySubscription) -> None:
        self._subscriptions.pop(subscription, None)
        self._subscribers.clear()
        for pattern in subscription.patterns:
            self._routes.remove(pattern, subscription)

    def unsettled(self) -> int:
        return self._unsettled

    def _ended(self) -> None:
        self._unsettled -= 1
        if self._unsettled == 0 and self._all_settled is not None:
            if not self._all_settled.done():
                self._all_settled.set_result(None)
            self._all_settled = None

    async def wait_until_settled(self) -> None:
        while self._unsettled:
            if self._all_settled is None or self._all_settled.done():
                self._all_settled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_settled)
