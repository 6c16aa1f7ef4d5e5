"""The transport inside one process: `memory://`. Fast, ordered, bounded; gone when the process ends.

Publishing puts the message into the queue of every matching subscription, then waits while one of them
is over its limit. Two plugins that publish to each other would wait for ever, so a publisher never waits
for a subscriber that is waiting, directly or through others, for the publisher itself. What such cycles
pile up comes out of a pool for the whole transport: where that is used up `publish` raises `QueueFull`.

The bounds on all queues together are held by the limit of each one; no message is counted for them.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import ClassVar, Final, Self

import msgspec

from echo_core.errors import QueueFull, TransportClosed, TransportError
from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicTrie, check_topic
from echo_core.transports.base import (
    DONE,
    Bounds,
    Capabilities,
    Delivery,
    Subscription,
    SubscriptionStatistics,
    Transport,
)
from echo_core.transports.congestion import Congestion
from echo_core.transports.pressure import Pressure
from echo_core.transports.size import TypicalSize
from echo_core.transports.turn import Turn, Waiter

_REMEMBERED: Final = 10_000
"""Topics whose subscribers are known by heart; a flood of one-off topics must not grow memory."""
_SAMPLED: Final = 16
"""One message in so many is measured, and every one while queues are filling; a power of two."""
_IN_A_ROW: Final = 64
"""After so many accepted messages a publisher asks for the time: one who never waits would keep the loop."""
_IN_A_CROWD: Final = 8
"""The same where queues are filling, because then it is often many who publish."""
_PARTS: Final = 4
"""The bounds are shared out in so many parts. One and a half are the queues: a full one takes half its limit
more from publishers that begin to wait. One and a half are received and unsettled, one is the pool."""
_SPARE: Final = 1.25
"""Shares are made for more subscriptions than there are, so that not every new one changes all of them."""


class MemoryDelivery(Delivery, msgspec.Struct, eq=False):
    """A delivery that knows the subscription to settle it with. A Struct is made in a third of the time."""

    _subscription: "MemorySubscription"
    topic: str
    message: BaseMessage
    attempt: int
    _ended: bool = False

    def settle(self) -> Awaitable[None]:
        if not self._ended:
            self._ended = True
            subscription = self._subscription  # as its `_settled`, which would be one call more
            subscription._received -= 1
            transport = subscription._transport
            transport._unsettled -= 1
            if not transport._unsettled:
                transport._say_all_settled()
        return DONE

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        count = 0
        for delivery in deliveries:
            if not delivery._ended:
                delivery._ended = True
                count += 1
        if count:
            deliveries[0]._subscription._settled(count)

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
        self.typical_size = TypicalSize()
        self._asked_limit = queue_limit
        self._share = Bounds()
        self._transport = transport
        self._queue: deque[MemoryDelivery] = deque()
        self._received = 0
        self._delayed = 0
        self._closed = False
        self._is_congested = False
        self._receivers: list[Waiter] = []
        self._spare: Waiter | None = None
        self._waiting_for_room: deque[Waiter] = deque()
        self._waiting_to_enter: deque[Waiter] = deque()
        self.resize()

    def resize(self, share: Bounds | None = None) -> None:
        """Set the queue's limit anew: the one asked for, or less where its share of the bounds says so."""
        self._share = share = share or self._share
        by_bytes = int(share.bytes / self.typical_size.bytes)
        limit = max(1, min(self._asked_limit, share.messages, by_bytes))
        self.queue_limit = limit
        """Messages that may wait before publishers are slowed."""
        self.crowded_at = max(1, limit // 2) - 1
        """With so many waiting, the next one makes the queue half full."""
        self.calm_at = limit // 4
        """With so many waiting, the sources that filled it may go on."""
        self.overfull_at = limit + limit // 2 + 1
        """With so many waiting, publishers wait before they put a message rather than after."""
        self._most_received = limit + limit // 2
        if self._waiting_for_room or self._waiting_to_enter:
            self._let_publishers_go_on()

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        queue = self._queue
        while not queue:
            if self._closed and not self._delayed:
                raise TransportClosed(f"the subscription {self.name!r} is closed")
            receiver = self._spare or Waiter(Turn.of_running_loop())
            self._spare = None
            self._receivers.append(receiver)
            await receiver
            self._spare = receiver
        if limit > self._most_received - self._received:
            limit = max(1, self._most_received - self._received)
        if self._waiting_to_enter:
            # An empty queue wakes all of them, and they may be thousands: they are let in a few at a time.
            limit = min(limit, max(1, self.queue_limit // 4))
        if limit >= len(queue):
            taken = list(queue)
            queue.clear()
        else:
            taken = [queue.popleft() for _ in range(limit)]
        self._received += len(taken)
        if self._waiting_for_room or self._waiting_to_enter:
            self._let_publishers_go_on()
        if self._is_congested and len(queue) <= self.calm_at:
            self._let_sources_go_on()
        return taken

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(waiting=len(self._queue) + self._delayed, unsettled=self._received)

    async def close(self) -> None:
        self._closed = True
        self._transport._forget(self)
        self._wake_receivers()
        self._let_publishers_go_on()
        self._let_sources_go_on()

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait."""
        return len(self._queue) >= self.queue_limit and not self._closed

    @property
    def is_overfull(self) -> bool:
        """Whether publishers should wait before they put anything."""
        return len(self._queue) >= self.overfull_at and not self._closed

    @property
    def overflow(self) -> int:
        """How many messages it has over its limit."""
        return max(0, len(self._queue) - self.queue_limit)

    async def wait_for_room(self) -> None:
        """Return when the queue is no longer full, or closed."""
        while self.is_full:
            room = Waiter(Turn.of_running_loop())
            self._waiting_for_room.append(room)
            await room

    async def wait_to_enter(self) -> None:
        """Return when it is this publisher's turn and the queue is no longer overfull, or closed."""
        while self.is_overfull:
            entrance = Waiter(Turn.of_running_loop())
            self._waiting_to_enter.append(entrance)
            await entrance

    def _let_publishers_go_on(self) -> None:
        """All that have put their message; of those that have not, as many as there is room for.

        There may be thousands of the latter; an empty queue lets all of them look, so that none of them
        depends on what another one does with its turn.
        """
        waiting = len(self._queue)
        if waiting < self.queue_limit or self._closed:
            _wake(self._waiting_for_room, len(self._waiting_for_room))
        all_of_them = not waiting or self._closed
        _wake(
            self._waiting_to_enter,
            len(self._waiting_to_enter) if all_of_them else self.overfull_at - waiting,
        )

    def congest(self, source: str) -> None:
        """Let `source` wait until there is room again."""
        self._is_congested = True
        self._transport._congestion.begin(self, source)

    def _let_sources_go_on(self) -> None:
        self._is_congested = False
        self._transport._congestion.end(self)

    def put_all(self, deliveries: list[MemoryDelivery]) -> None:
        """Append them, and wake the receiver if it sleeps."""
        self._queue.extend(deliveries)
        if self._receivers:
            self._wake_receivers()

    def _wake_receivers(self) -> None:
        """All of them: one may be cancelled before it gets here; the others look, and go on waiting."""
        for receiver in self._receivers:
            receiver.call()
        self._receivers.clear()

    def _settled(self, count: int = 1) -> None:
        self._received -= count
        transport = self._transport
        transport._unsettled -= count
        if not transport._unsettled:
            transport._say_all_settled()

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


def _wake(waiting: deque[Waiter], count: int) -> None:
    """Wake the `count` that have waited longest; cancelled ones do not count."""
    while waiting and count > 0:
        waiter = waiting.popleft()
        if waiter.is_waiting:
            waiter.call()
            count -= 1


def _overflow(subscription: MemorySubscription, topic: str) -> QueueFull:
    return QueueFull(
        f"the queue of {subscription.name!r} is at its hard bound",
        where=f"topic {topic!r}, {len(subscription._queue)} messages waiting",
        why="plugins that publish to each other make more messages than they finish",
        fix="break the cycle, publish fewer messages for each one handled, "
        "or raise host.max_in_flight_messages and host.max_in_flight_bytes",
    )


class MemoryTransport(Transport):
    """Subscriptions of one event loop, found by a topic trie."""

    capabilities: ClassVar = Capabilities(
        durable=False,
        shared=False,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        reports_acceptance=True,
        redelivers_to_one=True,
        accepted="`publish` returned, and the message is in the queue of every subscription that matched "
        "then; it ends with the process.",
        settled="`settle` returned, and the message does not come to that subscription again.",
    )

    def __init__(self, pressure: Pressure | None = None) -> None:
        self._routes: TopicTrie[MemorySubscription] = TopicTrie()
        self._subscriptions: dict[MemorySubscription, None] = {}
        self._subscribers: dict[str, tuple[MemorySubscription, ...]] = {}
        self._open = False
        self.on_accept = None
        self._accepted = 0
        self._unsettled = 0
        self._all_settled: asyncio.Future[None] | None = None
        self.pressure: Pressure = pressure or Pressure()
        self._congestion = Congestion()
        self._shares = 1
        self.limit(Bounds())

    async def open(self) -> None:
        self._turn = Turn.of_running_loop()
        self._open = True

    async def close(self) -> None:
        self._open = False
        self._subscribers.clear()
        for subscription in list(self._subscriptions):
            await subscription.close()

    def publish(self, topic: str, message: BaseMessage) -> Awaitable[None]:
        subscriptions = self._subscribers.get(topic)
        if subscriptions is None:
            subscriptions = self._find_subscribers(topic)
        for subscription in subscriptions:
            if len(subscription._queue) >= subscription.crowded_at:
                return self._publish_in_a_crowd(topic, message)
        self._put(topic, message, subscriptions)
        accepted = self._accepted
        if accepted % _SAMPLED:
            return DONE
        self._measure(message, subscriptions)
        return DONE if accepted % _IN_A_ROW else self._turn.give_if_over()

    async def _publish_in_a_crowd(self, topic: str, message: BaseMessage) -> None:
        """`publish` where a queue is half full, or more."""
        subscriptions: Sequence[MemorySubscription] = self._subscribers.get(topic, ())
        if not subscriptions:  # they have changed since the call, which a task may have made
            subscriptions = self._find_subscribers(topic)
        if any(subscription.is_overfull for subscription in subscriptions):
            subscriptions = await self._make_room(topic, message.source)
        self._put(topic, message, subscriptions)
        self._measure(message, subscriptions)
        if not self._accepted % _IN_A_CROWD:
            await self._turn.give_if_over()
        self._tell_source(message.root_source, subscriptions)
        await self._slow_down(message.source, subscriptions)

    def _put(self, topic: str, message: BaseMessage, subscriptions: Sequence[MemorySubscription]) -> None:
        """Accept the message."""
        for subscription in subscriptions:
            subscription._queue.append(MemoryDelivery(subscription, topic, message, 1))
            if subscription._receivers:
                subscription._wake_receivers()
        self._unsettled += len(subscriptions)
        self._accepted += 1
        if self.on_accept is not None:
            self.on_accept(message, len(subscriptions))

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        at = 0
        while at < len(messages):
            subscriptions = self._subscribers.get(topic)
            if subscriptions is None:
                subscriptions = self._find_subscribers(topic)
            room = min((s.queue_limit - len(s._queue) for s in subscriptions), default=len(messages))
            if room > 1:
                some = messages[at : at + room]
                self._put_all(topic, some, subscriptions)
                await self._slow_down(some[0].source, subscriptions)
            else:  # as everybody does who finds a queue full
                some = messages[at : at + 1]
                try:
                    await self.publish(topic, some[0])
                except TransportError as error:
                    error.accepted = at
                    raise
            at += len(some)

    def _put_all(
        self, topic: str, messages: Sequence[BaseMessage], subscriptions: Sequence[MemorySubscription]
    ) -> None:
        """What `publish` does with a message that there is room for, with several."""
        for subscription in subscriptions:
            subscription.put_all([MemoryDelivery(subscription, topic, message, 1) for message in messages])
        self._unsettled += len(subscriptions) * len(messages)
        self._accepted += len(messages)
        if self.on_accept is not None:
            for message in messages:
                self.on_accept(message, len(subscriptions))
        sample = messages[:: max(_SAMPLED, len(messages) // _SAMPLED)]
        for subscription in subscriptions:
            for message in sample:
                subscription.typical_size.see(message)
            subscription.resize()
        if any(len(subscription._queue) > subscription.crowded_at for subscription in subscriptions):
            for source in {message.root_source for message in messages}:
                self._tell_source(source, subscriptions)

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        self._find_subscribers(topic)  # refuses what cannot be published
        found = [each for each in self._subscriptions if each.name == subscriber]
        if not found:
            raise TransportError(
                f"nobody subscribes as {subscriber!r}", fix="activate the plugin, and run it"
            )
        subscription = found[-1]
        while subscription.is_full:
            await subscription.wait_for_room()
        subscription.put_all([MemoryDelivery(subscription, topic, message, 1)])
        self._unsettled += 1
        if self.on_accept is not None:
            self.on_accept(message, 1)

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

    async def _make_room(self, topic: str, publisher: str) -> tuple[MemorySubscription, ...]:
        """Who gets the topic, once none of them is overfull.

        Raises `QueueFull` where waiting for that would mean to wait for the publisher itself, and the pool
        for such cycles is used up; nothing has been put anywhere then.
        """
        has_had_a_turn = False
        while True:
            subscriptions = self._find_subscribers(topic)
            for subscription in subscriptions:
                if not subscription.is_overfull:
                    continue
                if self.pressure.would_deadlock(subscription.name, publisher):
                    if self._pool_has_room(subscription):
                        continue
                    if has_had_a_turn:
                        raise _overflow(subscription, topic)
                    # To be refused costs much, and thousands may come here in one round of the loop.
                    has_had_a_turn = True
                    await self._turn.give_if_over()
                    break
                await self.pressure.wait(publisher, subscription.name, subscription.wait_to_enter())
                break
            else:
                return subscriptions

    async def _slow_down(self, publisher: str, subscriptions: Sequence[MemorySubscription]) -> None:
        """Wait until each full subscription has room, unless it is (in)directly waiting for `publisher`."""
        for subscription in subscriptions:
            if subscription.is_full and not self.pressure.would_deadlock(subscription.name, publisher):
                await self.pressure.wait(publisher, subscription.name, subscription.wait_for_room())

    def _pool_has_room(self, subscription: MemorySubscription) -> bool:
        """Whether the queue may grow further beyond its limit.

        It may take as much of the pool as it leaves to others (the dynamic threshold of Choudhury and Hahne,
        1998, with alpha 1), so one cycle without end leaves room for those that have one.
        """
        by_bytes = self._bounds.bytes // _PARTS / subscription.typical_size.bytes
        pool = min(self._bounds.messages // _PARTS, by_bytes)
        used = sum(other.overflow for other in self._subscriptions)
        return subscription.overflow < pool - used

    def _tell_source(self, source: str, subscriptions: Sequence[MemorySubscription]) -> None:
        """Let the source wait that fills a queue; see `congestion`."""
        for subscription in subscriptions:
            if len(subscription._queue) > subscription.crowded_at and not subscription._closed:
                subscription.congest(source)

    def _measure(self, message: BaseMessage, subscriptions: Sequence[MemorySubscription]) -> None:
        """Learn how large messages are; large ones make a queue shorter."""
        for subscription in subscriptions:
            if subscription.typical_size.see(message):
                subscription.resize()

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        compiled = [TopicPattern(pattern) for pattern in patterns]
        subscription = MemorySubscription(self, name, compiled, queue_limit)
        subscription.resize(self._share)
        self._subscriptions[subscription] = None
        for pattern in compiled:
            self._routes.add(pattern, subscription)
        self._subscribers.clear()
        self._share_out()
        return subscription

    def _forget(self, subscription: MemorySubscription) -> None:
        self._subscriptions.pop(subscription, None)
        self._subscribers.clear()
        for pattern in subscription.patterns:
            self._routes.remove(pattern, subscription)
        self._share_out()

    def limit(self, bounds: Bounds) -> None:
        self._bounds = bounds
        parts = _PARTS * self._shares
        self._share = Bounds(messages=bounds.messages // parts, bytes=bounds.bytes // parts)
        for subscription in self._subscriptions:
            subscription.resize(self._share)

    def _share_out(self) -> None:
        """See to it that there are shares for all subscriptions, and not far more."""
        if not len(self._subscriptions) <= self._shares <= 2 * len(self._subscriptions) + 1:
            self._shares = max(1, int(len(self._subscriptions) * _SPARE))
            self.limit(self._bounds)

    def congestion(self, source: str) -> Awaitable[None] | None:
        return self._congestion.wait(source)

    def unsettled(self) -> int:
        return self._unsettled

    def _say_all_settled(self) -> None:
        if self._all_settled is not None and not self._all_settled.done():
            self._all_settled.set_result(None)
        self._all_settled = None

    async def wait_until_settled(self) -> None:
        while self._unsettled:
            if self._all_settled is None or self._all_settled.done():
                self._all_settled = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._all_settled)
