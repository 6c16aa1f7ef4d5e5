"""Topics that stay in this process though the transport is a broker, or a file: `local` in `[host]`.

A message on a local topic goes into a queue in memory, and no further. What the broker delivered is settled
only when everything local that was made from it, directly or through others, has ended, and what that
published was accepted: so a crash loses nothing that came from the broker; it comes again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicSet
from echo_core.transports.base import Bounds, Delivery, Subscription, SubscriptionStatistics, Transport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.merged import Merged


class Flight:
    """A local message that was made from something of the broker's, until its last delivery has ended."""

    __slots__ = ("message_id", "open", "origins")

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.open = 0
        """Deliveries that have not ended, and publications that have not returned."""
        self.origins: tuple[RoutedDelivery, ...] = ()

    def came_from(self, origins: "tuple[RoutedDelivery, ...]") -> None:
        """These are not settled before it has ended."""
        new = [origin for origin in origins if origin not in self.origins]
        for origin in new:
            origin.pending += 1
        self.origins = (*self.origins, *new)


class RoutedDelivery(Delivery):
    """A delivery of the broker's, or of a queue in memory."""

    __slots__ = (
        "_is_ended",
        "_subscription",
        "attempt",
        "flight",
        "message",
        "origins",
        "pending",
        "topic",
        "wrapped",
    )

    def __init__(self, subscription: "RoutedSubscription", wrapped: Delivery, flight: Flight | None) -> None:
        self.topic = wrapped.topic
        self.message = wrapped.message
        self.attempt = wrapped.attempt
        self.wrapped = wrapped
        self.flight = flight
        """Of a local one that was made from something of the broker's."""
        self.origins: tuple[RoutedDelivery, ...] = () if flight is None else flight.origins
        """The broker's deliveries that it comes from; of one of the broker's, itself."""
        self.pending = 0
        """Flights that must have ended before it is settled, where it is one of the broker's."""
        self._subscription = subscription
        self._is_ended = False

    def _end(self) -> bool:
        """Whether it had not ended before."""
        if self._is_ended:
            return False
        self._is_ended = True
        self._subscription.ended(self)
        return True

    async def settle(self) -> None:
        if self._end():
            if not self.pending:
                await self.wrapped.settle()
            if self.flight is not None:
                await self._subscription.flights.one_ended(self.flight)

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        ending = [delivery for delivery in deliveries if delivery._end()]
        ready: dict[type[Delivery], list[Any]] = {}
        for delivery in ending:
            if not delivery.pending:
                ready.setdefault(type(delivery.wrapped), []).append(delivery.wrapped)
        for kind, some in ready.items():
            await kind.settle_batch(some)
        for delivery in ending:
            if delivery.flight is not None:
                await delivery._subscription.flights.one_ended(delivery.flight)

    async def settle_if_over(self) -> None:
        """Called when nothing that was made from it is left."""
        if self._is_ended:
            await self.wrapped.settle()

    async def retry(self, delay: float = 0.0) -> None:
        if not self._end():
            return
        if self.flight is not None and self._subscription.is_closed:
            # Nobody takes it from here any more: the broker delivers again what it was made from.
            for origin in self.origins:
                await origin.wrapped.retry(delay)
            await self.wrapped.settle()
            await self._subscription.flights.one_ended(self.flight)
        else:
            await self.wrapped.retry(delay)


class Flights:
    """The local messages that something of the broker's waits for."""

    def __init__(self) -> None:
        self._by_id: dict[str, Flight] = {}

    def get(self, message_id: str) -> Flight | None:
        """That of a message."""
        return self._by_id.get(message_id)

    def begin(self, message: BaseMessage, origins: tuple[RoutedDelivery, ...]) -> Flight:
        """A publication begins: one that ends with `one_ended`. A message may be published more than once."""
        flight = self._by_id.get(message.id)
        if flight is None:
            flight = self._by_id[message.id] = Flight(message.id)
        flight.came_from(origins)
        flight.open += 1
        return flight

    async def one_ended(self, flight: Flight) -> None:
        """After the last one, what waited for the flight is settled."""
        flight.open -= 1
        if not flight.open:
            del self._by_id[flight.message_id]
            for origin in flight.origins:
                origin.pending -= 1
                if not origin.pending:
                    await origin.settle_if_over()


class RoutedSubscription(Subscription):
    """What a plugin gets from the broker and from this process, as one."""

    def __init__(
        self,
        name: str,
        inside: Subscription | None,
        outside: Subscription | None,
        flights: Flights,
        in_hand: dict[str, RoutedDelivery],
    ) -> None:
        self.name = name
        self.flights = flights
        self.is_closed = False
        self._inside = inside
        self._sources = [source for source in (inside, outside) if source is not None]
        self._merged = Merged(self._sources)
        self._in_hand = in_hand

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        came, source = await self._merged.receive(limit)
        is_local = source is self._inside
        taken: list[Delivery] = []
        for delivery in came:
            message_id = delivery.message.id
            one = RoutedDelivery(self, delivery, self.flights.get(message_id) if is_local else None)
            if not is_local:
                one.origins = (one,)
            if one.origins:
                self._in_hand[message_id] = one
            taken.append(one)
        return taken

    def ended(self, delivery: RoutedDelivery) -> None:
        """It is in hand no more."""
        if self._in_hand.get(delivery.message.id) is delivery:
            del self._in_hand[delivery.message.id]

    def statistics(self) -> SubscriptionStatistics:
        return self._merged.statistics(self._sources)

    async def close(self) -> None:
        self.is_closed = True
        await asyncio.gather(*(source.close() for source in self._sources))


class LocalTransport(Transport):
    """A transport around another one, to which what is on a local topic does not go."""

    def __init__(self, outside: Transport, local: Sequence[str]) -> None:
        self.capabilities = outside.capabilities  # type: ignore[misc]  # those of what keeps the messages
        self.outside: Final = outside
        self.pressure = outside.pressure
        self._patterns = [TopicPattern(pattern) for pattern in local]
        self._is_local = TopicSet(self._patterns)
        self._inside = MemoryTransport(outside.pressure)
        self._inside.on_accept = self._accepted
        self._flights = Flights()
        self._in_hand: dict[str, dict[str, RoutedDelivery]] = {}
        """By subscriber and message id: deliveries that come from the broker, in the end."""
        self._on_accept: Callable[[BaseMessage, int], None] | None = None

    @property
    def on_accept(self) -> Callable[[BaseMessage, int], None] | None:
        """See `Transport.on_accept`; the transport outside calls it too, where it can."""
        return self._on_accept

    @on_accept.setter
    def on_accept(self, call: Callable[[BaseMessage, int], None] | None) -> None:
        self._on_accept = self.outside.on_accept = call

    def _accepted(self, message: BaseMessage, count: int) -> None:
        flight = self._flights.get(message.id)
        if flight is not None:
            flight.open += count
        if self._on_accept is not None:
            self._on_accept(message, count)

    async def open(self) -> None:
        await self.outside.open()
        await self._inside.open()

    async def close(self) -> None:
        await self._inside.close()
        await self.outside.close()

    # -- publishing -----------------------------------------------------------------------------------

    async def publish(self, topic: str, message: BaseMessage) -> None:
        origins = self._origins(message)
        if topic not in self._is_local:
            await self._publish_outside(topic, message, origins)
        elif not origins:
            await self._inside.publish(topic, message)
        else:
            flight = self._flights.begin(message, origins)
            try:
                await self._inside.publish(topic, message)
            finally:
                await self._flights.one_ended(flight)

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        if topic not in self._is_local:
            await self.outside.publish_batch(topic, messages)
            return
        made_from = [(message, self._origins(message)) for message in messages]
        flights = [self._flights.begin(message, origins) for message, origins in made_from if origins]
        try:
            await self._inside.publish_batch(topic, messages)
        finally:
            for flight in flights:
                await self._flights.one_ended(flight)

    async def _publish_outside(
        self, topic: str, message: BaseMessage, origins: tuple[RoutedDelivery, ...]
    ) -> None:
        """Where all that it comes from is in one queue of the broker's, that waits in the caller's place."""
        subscriptions = {id(origin._subscription) for origin in origins}
        if len(subscriptions) == 1 and origins[0].message.id != message.receipts[-1].message_id:
            await self.outside.publish_from(topic, message, origins[0].wrapped)
        else:
            await self.outside.publish(topic, message)

    def _origins(self, message: BaseMessage) -> tuple[RoutedDelivery, ...]:
        """The deliveries of the broker's that it comes from."""
        in_hand = self._in_hand.get(message.source)
        if not in_hand:
            return ()
        found = [in_hand[parent].origins for parent in message.parent_ids if parent in in_hand]
        if len(found) == 1:
            return found[0]
        return tuple(dict.fromkeys(origin for origins in found for origin in origins))

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        inside = topic in self._is_local
        await (self._inside if inside else self.outside).redeliver(subscriber, topic, message)

    def congestion(self, source: str) -> Awaitable[None] | None:
        return self._inside.congestion(source) or self.outside.congestion(source)

    # -- subscribing ----------------------------------------------------------------------------------

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> RoutedSubscription:
        """A plugin that subscribes to nothing but local topics has no queue at the broker."""
        compiled = [TopicPattern(pattern) for pattern in patterns]
        is_inside = any(local.overlaps(pattern) for local in self._patterns for pattern in compiled)
        beyond = [
            pattern.text for pattern in compiled if not any(local.covers(pattern) for local in self._patterns)
        ]
        inside = outside = None
        if is_inside:
            inside = self._inside.subscribe(name, patterns, queue_limit=queue_limit)
        if beyond or not is_inside:
            outside = self.outside.subscribe(name, beyond, queue_limit=queue_limit)
        return RoutedSubscription(name, inside, outside, self._flights, self._in_hand.setdefault(name, {}))

    async def wait_until_collecting(self) -> None:
        await self.outside.wait_until_collecting()

    # -- accounting -----------------------------------------------------------------------------------

    def limit(self, bounds: Bounds) -> None:
        self._inside.limit(bounds)
        self.outside.limit(bounds)

    def keeps(self, delivery: Delivery) -> bool:
        return (
            isinstance(delivery, RoutedDelivery)
            and bool(delivery.origins)
            and self.outside.capabilities.durable
        )

    def unsettled(self) -> int:
        return self._inside.unsettled() + self.outside.unsettled()

    async def wait_until_settled(self) -> None:
        while True:
            await self._inside.wait_until_settled()
            await self.outside.wait_until_settled()
            if not self._inside.unsettled():
                return

    async def announce(self, host: str, document: bytes) -> None:
        await self.outside.announce(host, document)

    async def announced(self) -> Mapping[str, bytes]:
        return await self.outside.announced()

    def trouble(self) -> str:
        return self.outside.trouble()
