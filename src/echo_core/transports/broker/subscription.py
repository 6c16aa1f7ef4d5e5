"""The part of a broker's queue that a process holds: what came, what is in hand, what waits for an answer."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from echo_core.errors import TransportClosed, TransportError
from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicSet
from echo_core.transports.base import Delivery, Subscription, SubscriptionStatistics
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import Publication
from echo_core.transports.broker.recent import Recent
from echo_core.transports.broker.recovery import end_task
from echo_core.transports.broker.waiters import Waiters

if TYPE_CHECKING:
    from echo_core.transports.broker.transport import BrokerTransport

PREFETCH: Final = 512
"""At most so many deliveries of a subscription wait in this process; the rest stays with the broker."""
IN_FLIGHT: Final = 1_024
"""Publications of one plugin that the broker has not accepted yet; one more waits."""
TICK_S: Final = 0.25
"""Time between two looks at what may need attention."""
_SIGNS: Final = 4
"""Signs of life in a lease: some may be late."""
_QUIET_S: Final = 1.0
"""When nothing came for so long though something should, the broker is asked how much it has."""
_ON_THE_WAY_S: Final = 1.0
"""How long closing a subscription waits for what was published before and must be about to arrive."""


class Backlog(NamedTuple):
    """What the broker says of a queue: of all hosts together."""

    waiting: int
    """Never delivered to anybody."""
    unsettled: int
    """Delivered, or waiting to be delivered again."""


class BrokerSubscription(Subscription):
    """The part of a broker's queue that this process holds."""

    def __init__(
        self,
        transport: "BrokerTransport",
        name: str,
        patterns: Sequence[TopicPattern],
        queue_limit: int,
    ) -> None:
        self.name = name
        self.patterns = tuple(patterns)
        self.queue_limit = queue_limit
        self.prefetch = min(queue_limit, PREFETCH)
        self.wanted = TopicSet(patterns)
        self.asked = 0
        """Deliveries the broker was asked for, and that have not come."""
        self.last_arrival = monotonic()
        self.unconfirmed: dict[int, Publication] = {}
        self.is_ready = False
        """Whether the broker keeps messages for it."""
        self.is_lost = False
        """Whether its queue is gone that was made last."""
        self.congests = False
        """Whether sources wait because of it."""
        self.listening: asyncio.Task[None] | None = None
        """Makes the queue, or listens to it on a new connection: begun last, and perhaps done."""
        self._transport = transport
        self._buffer: deque[BrokerDelivery] = deque()
        self._aside: deque[BrokerDelivery] = deque()
        """What came while something older may still be on its way."""
        self._arriving = self._buffer
        """Where arrivals are put: the buffer, or aside."""
        self._held: dict[Hashable, BrokerDelivery] = {}
        self._in_hand = 0
        self._ids_in_hand: set[str] = set()
        self._on_the_way: dict[str, None] = {}
        self._behind = 0
        self._returned = 0
        self._arrivals = 0
        """Counts what came, for the order of what is handed back."""
        self._returning: list[BrokerDelivery] = []
        """Handed back while the subscription closes, and not yet given to the broker."""
        self._giving_back = asyncio.Lock()
        self._settled = Recent()
        self._deferred: deque[tuple[int, BrokerDelivery]] = deque()
        self._is_closing = False
        self._closed = False
        self._failure: TransportError | None = None
        self._receivers = Waiters()
        self._publishers = Waiters()
        self._handlers = Waiters()

    # -- receiving ------------------------------------------------------------------------------------

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        buffer = self._buffer
        while True:
            while not buffer:
                if self._failure is not None:
                    raise self._failure
                if self._closed:
                    raise TransportClosed(f"the subscription {self.name!r} is closed")
                await self._receivers.wait()
            if not self._is_closing and self.asked + len(buffer) - limit <= self.prefetch // 2:
                # Before anything is taken: whoever is cancelled while it waits here has nothing to lose.
                await self._ask(max(0, len(buffer) - limit))
            if buffer:
                return self._take(limit)

    def _take(self, limit: int) -> Sequence[Delivery]:
        buffer = self._buffer
        if limit >= len(buffer):
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(limit)]
        self._in_hand += len(taken)
        for delivery in taken:
            self._ids_in_hand.add(delivery.message.id)
        self._made_room()
        return taken

    def _made_room(self) -> None:
        if self._publishers and not self.is_full:
            self._publishers.wake()
        if self.congests and not self.is_crowded:
            self.end_congestion()

    def end_congestion(self) -> None:
        """The sources that fill this queue may go on."""
        self.congests = False
        self._transport.congested.end(self)

    async def _ask(self, kept: int) -> None:
        """Fill up to the prefetch what the broker was asked for; `kept` stay in the buffer."""
        missing = self.prefetch - self.asked - kept
        if missing > 0 and self._transport.is_connected:
            self.asked += missing
            await self._transport._ask(self, missing)

    async def top_up(self) -> None:
        """Ask for more where what came was nothing to hand on."""
        if self.asked + len(self._buffer) <= self.prefetch // 2:
            await self.ask_again()

    async def ask_again(self) -> None:
        """Ask for as much as there is room for; after the broker has forgotten that it was asked."""
        if not self._is_closing:
            await self._ask(len(self._buffer))

    def arrived(
        self, key: Hashable, topic: str, payload: bytes, attempt: int, handle: Any, behind: int
    ) -> BrokerDelivery | None:
        """Put what the broker delivered into the buffer. `behind` is what waits there after this one.

        Returns a delivery to settle at once where this process has settled it before, and the broker never
        heard, or where no version of the plugin wants the topic.
        """
        self.last_arrival = monotonic()
        if self.asked > 0:
            self.asked -= 1
        self._behind = behind
        held = self._held.get(key)
        if held is not None:
            held.handle = handle  # the broker thought us dead; the answer goes to its newest delivery
            return None
        message = self._transport.message_from(payload, self, key)
        is_settled = False
        if attempt > 1:
            self._returned = max(0, self._returned - 1)
            is_settled = key in self._settled
            if self._transport.peers.decline(self.name, topic):
                attempt = 1  # it may have been given to hosts that only handed it on
        elif message.id in self._on_the_way:
            self._count_up_to(message.id)
        self._arrivals += 1
        delivery = BrokerDelivery(self, topic, message, attempt, key, handle, self._arrivals)
        if is_settled:
            return delivery
        if topic not in self.wanted:
            if self._transport.peers.is_surplus(self.name, topic):
                return delivery
            self._transport._begin(self._transport._hand_on(delivery, payload))
            return None
        self._held[key] = delivery
        self._arriving.append(delivery)
        if self._receivers:
            self._receivers.wake()
        return None

    def put_arrivals_aside(self) -> None:
        """Hand nothing on of what comes from now on, until `sort_in`."""
        self._arriving = self._aside

    def sort_in(self, order: Callable[[BrokerDelivery], Any]) -> None:
        """Hand on what was put aside, in this order; what came before it goes first."""
        for delivery in sorted(self._aside, key=order):
            self._arrivals += 1
            delivery.number = self._arrivals
            self._buffer.append(delivery)
        self._aside.clear()
        self._arriving = self._buffer
        self._receivers.wake()

    def collects(self, patterns: Iterable[str]) -> bool:
        """Whether a queue with these patterns collects all that this host wants of it."""
        return {pattern.text for pattern in self.patterns} <= {*patterns}

    def _count_up_to(self, message_id: str) -> None:
        """A queue is in order: what we published before this one is here, or with another host."""
        on_the_way = self._on_the_way
        while True:
            first = next(iter(on_the_way))
            del on_the_way[first]
            if first == message_id:
                return

    # -- ending deliveries ----------------------------------------------------------------------------

    async def _settle(self, delivery: BrokerDelivery) -> None:
        self._ids_in_hand.discard(delivery.message.id)
        if self.unconfirmed:
            self._deferred.append((self._transport.last_number, delivery))
        else:
            await self._acknowledge(delivery)

    async def confirmed(self, number: int) -> None:
        """The broker has accepted that publication of this plugin: settle what waited for it."""
        self.unconfirmed.pop(number, None)
        if self._handlers and len(self.unconfirmed) < IN_FLIGHT:
            self._handlers.wake()
        deferred = self._deferred
        if not deferred:
            return
        oldest = next(iter(self.unconfirmed), None)
        while deferred and (oldest is None or deferred[0][0] < oldest):
            await self._acknowledge(deferred.popleft()[1])

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        self._in_hand -= 1
        if delivery.handle is not None:
            self._held.pop(delivery.key, None)
            self._settled.add(delivery.key)
            await self._transport._acknowledge(delivery)
        self._transport.one_ended()

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        self._ids_in_hand.discard(delivery.message.id)
        self._in_hand -= 1
        if not delay and not self._is_closing:
            # What came after it is here, and must not go first: the broker would send it after these.
            self._put(delivery)
            return
        if delivery.handle is None:  # its queue is gone, and nobody else has it
            asyncio.get_running_loop().call_later(delay, self._put_when_due, delivery)
            self._returned += 1
            return
        self._held.pop(delivery.key, None)
        if not self._is_closing:
            self._returned += 1
        self._transport.one_ended()
        if delay:
            await self._transport._hand_back(delivery, delay)
        else:
            self._returning.append(delivery)
            if len(self._returning) == 1:
                self._transport._begin(self._return())

    async def _return(self) -> None:
        """Give the broker what was handed back in one turn of the loop, in the order in which it came."""
        async with self._giving_back:
            returning, self._returning = self._returning, []
            for delivery in sorted(returning, key=_place):
                await self._transport._hand_back(delivery, 0.0)

    def _count_again(self, delivery: BrokerDelivery) -> int | None:
        """Which attempt it is when it is received again; None where it is not ours to receive."""
        return delivery.attempt + 1

    def _put_when_due(self, delivery: BrokerDelivery) -> None:
        self._returned = max(0, self._returned - 1)
        self._put(delivery)

    def _put(self, delivery: BrokerDelivery) -> None:
        """Have it received again, before all that came after it."""
        attempt = self._count_again(delivery)
        if attempt is None:
            self._held.pop(delivery.key, None)
            return
        again = BrokerDelivery(
            self,
            delivery.topic,
            delivery.message,
            attempt,
            delivery.key,
            delivery.handle,
            delivery.number,
        )
        if delivery.handle is not None:
            self._held[delivery.key] = again
        buffer = self._buffer
        at = next((at for at, other in enumerate(buffer) if other.number > again.number), len(buffer))
        buffer.insert(at, again)
        self._receivers.wake()

    def has_in_hand(self, message: BaseMessage) -> bool:
        """Whether this plugin is handling the message that `message` was made from."""
        receipts = message.receipts
        return bool(receipts) and receipts[-1].message_id in self._ids_in_hand

    async def wait_for_answers(self) -> None:
        """Return when one more publication may be in flight."""
        while len(self.unconfirmed) >= IN_FLIGHT:
            await self._handlers.wait()

    # -- accounting and pressure ----------------------------------------------------------------------

    async def until_ready(self) -> None:
        """Return when the broker keeps what is published for it, or when it is closed."""
        while not self.is_ready and not self._is_closing:
            await self._publishers.wait()

    @property
    def is_listening(self) -> bool:
        """Whether somebody is busy making its queue, or beginning to listen to it."""
        return self.listening is not None and not self.listening.done()

    def ready(self) -> None:
        """The broker keeps messages for it from now on."""
        self.is_ready = True
        self._publishers.wake()

    def expects(self, message_id: str) -> None:
        """A message was published here that this subscription will get."""
        if not self._is_closing:
            self._on_the_way[message_id] = None

    @property
    def _waiting(self) -> int:
        return len(self._buffer) + max(self._behind, len(self._on_the_way)) + self._returned

    @property
    def unsettled(self) -> int:
        """As far as this process knows, all that is not settled yet."""
        return self._waiting + len(self._aside) + self._in_hand

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(waiting=self._waiting, unsettled=self._in_hand)

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait."""
        return not self._is_closing and self._waiting >= self.queue_limit

    @property
    def is_crowded(self) -> bool:
        """Whether the sources whose messages fill it should wait: it is half full."""
        return not self._is_closing and 2 * self._waiting >= self.queue_limit

    async def wait_for_room(self) -> None:
        """Return when the queue is no longer full, or closed."""
        while self.is_full:
            await self._publishers.wait()

    @property
    def is_quiet(self) -> bool:
        """Whether something should have come by now."""
        quiet_for = monotonic() - self.last_arrival
        waits = self._behind or self._on_the_way or self._returned
        return not self._buffer and bool(waits) and quiet_for > (TICK_S if self._publishers else _QUIET_S)

    def correct(self, backlog: Backlog) -> None:
        """Believe the broker rather than our own counting: other hosts take from the same queue."""
        self._behind = backlog.waiting
        if not self.unconfirmed and backlog.waiting < len(self._on_the_way):
            self._on_the_way.clear()
        self._returned = min(self._returned, max(0, backlog.unsettled - len(self._held)))
        self.last_arrival = monotonic()
        self._made_room()

    def neglected(self, now: float) -> list[BrokerDelivery]:
        """The deliveries of which the broker has heard nothing for a while; it is told now."""
        limit = self._transport.lease_s / _SIGNS
        overdue = [d for d in self._held.values() if now - d.kept_alive > limit]
        for delivery in overdue:
            delivery.kept_alive = now
        return overdue

    # -- beginning and ending -------------------------------------------------------------------------

    def fail(self, error: TransportError) -> None:
        """There is no queue, and there will be none: whoever receives is told."""
        self._failure = error
        self._is_closing = self._closed = True
        self._on_the_way.clear()
        self._transport._forget(self)
        self.end_congestion()
        self._wake_all()

    def forget_queue(self) -> None:
        """The broker's queue is gone, with what it held. What we hold nobody else has, nor wants answered."""
        self.is_ready = False
        self.is_lost = True
        self._settled = Recent()
        self.sort_in(_place)
        for delivery in self._held.values():
            delivery.handle = None
        self._held.clear()
        self._on_the_way.clear()
        self._behind = self._returned = self.asked = 0

    async def close(self) -> None:
        if self._is_closing:
            return
        with contextlib.suppress(TimeoutError):  # messages are kept for it from now on, as was asked
            async with asyncio.timeout(_ON_THE_WAY_S if self._transport.is_connected else 0):
                await self.until_ready()
        if self._is_closing:
            return
        self._is_closing = True
        self._transport._forget(self)
        self._publishers.wake()
        self.end_congestion()
        await end_task(self.listening)  # it would begin to listen after we have stopped
        until = monotonic() + _ON_THE_WAY_S
        while (  # noqa: ASYNC110  (rare and short, unlike an event at each arrival)
            self._on_the_way and self.asked and self._transport.is_connected and monotonic() < until
        ):
            await asyncio.sleep(0.001)
        await self._transport._stop(self)
        self.sort_in(_place)
        self._on_the_way.clear()
        self._behind = self._returned = 0
        self._closed = True
        self._wake_all()
        self._transport.one_ended()

    def _wake_all(self) -> None:
        for waiters in (self._receivers, self._publishers, self._handlers):
            waiters.wake()

    async def hand_everything_back(self) -> None:
        """What is still held goes to others, now rather than when we are missed."""
        self._buffer.clear()
        self._aside.clear()
        self._returning += self._held.values()
        for delivery in self._held.values():
            delivery._ended = True
        self._held.clear()
        await self._return()
        self._in_hand = 0
        self._deferred.clear()


def _place(delivery: BrokerDelivery) -> int:
    return delivery.number
