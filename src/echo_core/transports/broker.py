"""What all transports over a broker share: accounting, back pressure, and what is settled when.

A broker keeps the messages of each subscription in a queue of its own, under the subscription's name; hosts
that subscribe with the same name share it. This module holds everything that does not depend on which
broker it is; a transport adds how that broker is spoken to (the methods of `BrokerTransport` that are
abstract).

Publications are pipelined. `publish` returns when the broker has accepted the message, except inside the
handling of another: there it returns when the message is on its way, and it is the settling of the delivery
in hand that waits for the broker. So many are in flight at a time, and still nothing is settled before
what was made from it has been accepted. What the broker does not accept is sent again until it does.
"""

import asyncio
import contextlib
import logging
import random
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Coroutine, Hashable, Iterable, Sequence
from time import monotonic
from typing import Any, Final, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from echo_core.errors import MessageError, MessageTooLarge, TransportClosed, TransportError
from echo_core.message import BaseMessage, decode, encode
from echo_core.topics import TopicPattern, TopicSet, TopicTrie, check_topic
from echo_core.transports.base import Delivery, Subscription, SubscriptionStatistics, Transport
from echo_core.transports.congestion import Congestion
from echo_core.transports.endpoint import Endpoint
from echo_core.transports.pressure import Pressure

logger = logging.getLogger(__name__)

PREFETCH: Final = 512
"""At most so many deliveries of a subscription wait in this process; the rest stays with the broker."""
IN_FLIGHT: Final = 1_024
"""Publications of one plugin that the broker has not accepted yet; one more waits."""
OPTIONS: Final = frozenset({"prefix", "create", "lease"})
"""Those that every transport over a broker knows."""
LEASE_S: Final = 8.0
"""After so long without a sign of life from a host, the broker gives its deliveries to others."""
_SIGNS: Final = 4
"""Signs of life in a lease: some may be late."""
RESEND_S: Final = 5.0
"""A publication that the broker has not answered for so long is sent again."""
_TICK_S: Final = 0.25
"""Time between two looks at what may need attention."""
_QUIET_S: Final = 1.0
"""When nothing came for so long though something should, the broker is asked how much it has."""
_ON_THE_WAY_S: Final = 1.0
"""How long closing a subscription waits for what was published before and must be about to arrive."""
_CLOSING_S: Final = 3.0
"""How long closing a transport waits for the broker's answers."""
_REMEMBERED: Final = 10_000
_TRANSIENT: Final = (OSError, TimeoutError)


class Backlog(NamedTuple):
    """What the broker says of a queue: of all hosts together."""

    waiting: int
    """Never delivered to anybody."""
    unsettled: int
    """Delivered, or waiting to be delivered again."""


class Waiters:
    """Tasks that wait for something to happen; all are woken, and look again."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def wait(self) -> None:
        """Return after the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        await future

    def wake(self) -> None:
        """Let all go on: one may be cancelled before it gets there; the others look, and wait again."""
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


class Publication:
    """A message on its way to the broker."""

    __slots__ = ("accepted", "due", "number", "owner", "payload", "subscriptions", "topic")

    def __init__(
        self,
        number: int,
        topic: str,
        payload: bytes,
        owner: "BrokerSubscription | None",
        subscriptions: "tuple[BrokerSubscription, ...]",
    ) -> None:
        self.number = number
        self.topic = topic
        self.payload = payload
        self.owner = owner
        """Whose settling waits for it; None where `publish` itself waits."""
        self.subscriptions = subscriptions
        self.accepted: asyncio.Future[None] | None = None
        self.due = 0.0
        """When to send it again, by the monotonic clock."""


class BrokerDelivery(Delivery):
    """A delivery, and what the broker knows it by."""

    __slots__ = ("_ended", "handle", "kept_alive", "key", "subscription")

    def __init__(
        self,
        subscription: "BrokerSubscription",
        topic: str,
        message: BaseMessage,
        attempt: int,
        key: Hashable,
        handle: Any,
    ) -> None:
        self.topic = topic
        self.message = message
        self.attempt = attempt
        self.subscription = subscription
        self.key = key
        """The same whenever the broker delivers the message again."""
        self.handle = handle
        """What this one delivery is answered with."""
        self.kept_alive = monotonic()
        self._ended = False

    async def settle(self) -> None:
        if not self._ended:
            self._ended = True
            await self.subscription._settle(self)

    async def retry(self, delay: float = 0.0) -> None:
        if not self._ended:
            self._ended = True
            await self.subscription._hand_back(self, delay)


class Recent:
    """The newest few thousand of the keys that were added."""

    __slots__ = ("_limit", "_new", "_old")

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._new: set[Hashable] = set()
        self._old: set[Hashable] = set()

    def add(self, key: Hashable) -> None:
        """Remember it."""
        self._new.add(key)
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._new or key in self._old


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
        self.congests = False
        """Whether sources wait because of it."""
        self._transport = transport
        self._buffer: deque[BrokerDelivery] = deque()
        self._held: dict[Hashable, BrokerDelivery] = {}
        self._in_hand = 0
        self._ids_in_hand: set[str] = set()
        self._on_the_way: dict[str, None] = {}
        self._behind = 0
        self._returned = 0
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
        if self.is_ready and self.asked + len(self._buffer) <= self.prefetch // 2:
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
        heard, or where the topic is none of those that were asked for.
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
        if attempt > 1:
            self._returned = max(0, self._returned - 1)
        elif message.id in self._on_the_way:
            self._count_up_to(message.id)
        delivery = BrokerDelivery(self, topic, message, attempt, key, handle)
        if (attempt > 1 and key in self._settled) or topic not in self.wanted:
            return delivery
        self._held[key] = delivery
        self._buffer.append(delivery)
        if self._receivers:
            self._receivers.wake()
        return None

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
        if delivery.handle is None:  # its queue is gone, and nobody else has it
            delivery = BrokerDelivery(
                self, delivery.topic, delivery.message, delivery.attempt + 1, delivery.key, None
            )
            asyncio.get_running_loop().call_later(delay, self._put, delivery)
            self._returned += 1
            return
        self._held.pop(delivery.key, None)
        if not self._is_closing:
            self._returned += 1
        self._transport.one_ended()
        await self._transport._hand_back(delivery, delay)

    def _put(self, delivery: BrokerDelivery) -> None:
        self._returned = max(0, self._returned - 1)
        self._buffer.appendleft(delivery)
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
        return self._waiting + self._in_hand

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
        return not self._buffer and bool(waits) and quiet_for > (_TICK_S if self._publishers else _QUIET_S)

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
        self._settled = Recent()
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
        until = monotonic() + _ON_THE_WAY_S
        while (  # noqa: ASYNC110  (rare and short, unlike an event at each arrival)
            self._on_the_way and self.asked and self._transport.is_connected and monotonic() < until
        ):
            await asyncio.sleep(0.001)
        await self._transport._stop(self)
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
        for delivery in list(self._held.values()):
            delivery._ended = True
            await self._transport._hand_back(delivery, 0.0)
        self._held.clear()
        self._in_hand = 0
        self._deferred.clear()


class BrokerTransport(Transport):
    """A transport whose messages are kept by a broker outside this process."""

    payload_limit: int = 2**20
    """Bytes that one encoded message may have."""
    subscription_type: type[BrokerSubscription] = BrokerSubscription
    resend_s: float = RESEND_S
    """When to send again what was not answered, while the connection stands."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.prefix = endpoint.text("prefix", "echo")
        check_topic(self.prefix)
        self.may_create = endpoint.switch("create", default=True)
        self.lease_s = endpoint.number("lease", LEASE_S, float, least=1)
        self.is_connected = False
        self.last_number = 0
        """Of the publications; each has one of its own."""
        self._open = False
        self._trie: TopicTrie[BrokerSubscription] = TopicTrie()
        self._subscribers: dict[str, tuple[BrokerSubscription, ...]] = {}
        self._by_name: dict[str, BrokerSubscription] = {}
        self._subscriptions: dict[BrokerSubscription, None] = {}
        self._ever: list[BrokerSubscription] = []
        self._outbox: dict[int, Publication] = {}
        self._establishing: set[asyncio.Task[None]] = set()
        self._pressure = Pressure()
        self.congested = Congestion()
        self._ended = Waiters()
        self._trouble: dict[str, str] = {}
        self._watch_task: asyncio.Task[None] | None = None

    # -- what a broker's own transport adds -----------------------------------------------------------

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and make what is missing; raises `TransportError` when that is not possible."""

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go, whatever state the connection is in."""

    @abstractmethod
    async def _establish(self, subscription: BrokerSubscription) -> None:
        """Have the broker keep messages for it from now on, and begin to listen.

        Raises `TransportError` where the broker refuses, OSError or TimeoutError where it cannot be reached.
        """

    @abstractmethod
    async def _stop(self, subscription: BrokerSubscription) -> None:
        """Ask for nothing more, and return when what was sent to us has arrived. The queue stays."""

    @abstractmethod
    async def _send(self, publication: Publication) -> None:
        """Hand it to the broker without waiting for the answer, which goes to `_accepted` or `_refused`."""

    @abstractmethod
    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        """Let so many more deliveries come."""

    @abstractmethod
    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        """Tell the broker that it is settled. Without a connection nothing is told; it comes again then."""

    @abstractmethod
    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        """Have it delivered again, to anybody, after `delay` seconds."""

    @abstractmethod
    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        """Tell the broker that they are still being worked on."""

    @abstractmethod
    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        """Ask how much the queue holds."""

    async def _look_after(self, subscription: BrokerSubscription) -> None:
        """Called every now and then; for what only this broker needs."""

    # -- life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._open:
            return
        await self._connect()
        self._open = self.is_connected = True
        self._watch_task = asyncio.create_task(self._watch(), name=f"{self.endpoint.scheme} transport")

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._subscribers.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await asyncio.gather(*(one.close() for one in list(self._subscriptions)))
                while self._outbox and self.is_connected:  # noqa: ASYNC110  (once, at the end)
                    await asyncio.sleep(0.005)
        with contextlib.suppress(*_TRANSIENT):
            async with asyncio.timeout(_CLOSING_S):
                for subscription in self._ever:
                    await subscription.hand_everything_back()
        tasks = [*self._establishing, *([self._watch_task] if self._watch_task else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._give_up_publications()
        self.is_connected = False
        await self._disconnect()
        self._ever.clear()
        self._ended.wake()

    def _give_up_publications(self) -> None:
        for publication in self._outbox.values():
            if publication.accepted is not None and not publication.accepted.done():
                publication.accepted.set_exception(self._closed_error(publication.topic))
            if publication.owner is not None:
                publication.owner.unconfirmed.clear()
        self._outbox.clear()

    def _closed_error(self, topic: str) -> TransportClosed:
        return TransportClosed(
            f"the {self.endpoint.scheme} transport is closed",
            where=f"topic {topic!r}",
            fix="open it, or publish earlier",
        )

    # -- publishing -----------------------------------------------------------------------------------

    async def publish(self, topic: str, message: BaseMessage) -> None:
        publication = await self._prepare(topic, message)
        if publication.owner is not None:
            await self._hand_over(publication)
        else:
            publication.accepted = asyncio.get_running_loop().create_future()
            await self._hand_over(publication)
            await publication.accepted
        for subscription in publication.subscriptions:
            if subscription.is_crowded:
                await self._slow_down(message, publication.subscriptions)
                break

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """`publish` each of them, in order; returns once all are accepted."""
        last: Publication | None = None
        waits_for: list[asyncio.Future[None]] = []
        for message in messages:
            last = await self._prepare(topic, message)
            if last.owner is None:
                last.accepted = asyncio.get_running_loop().create_future()
                waits_for.append(last.accepted)
            await self._hand_over(last)
        for accepted in waits_for:
            await accepted
        if last is not None:
            await self._slow_down(messages[-1], last.subscriptions)

    async def _prepare(self, topic: str, message: BaseMessage) -> Publication:
        """Enter the message into the books; raises what `publish` raises."""
        subscriptions = self._subscribers.get(topic)
        if subscriptions is None:
            subscriptions = self._find_subscribers(topic)
        payload = encode(message)
        if len(payload) > self.payload_limit:
            raise self._too_large(topic, message, len(payload))
        for subscription in subscriptions:
            if not subscription.is_ready:
                await subscription.until_ready()
        owner = self._by_name.get(message.source)
        if owner is not None:
            if not owner.has_in_hand(message):
                owner = None
            elif len(owner.unconfirmed) >= IN_FLIGHT:
                await owner.wait_for_answers()
        if not self._open:
            raise self._closed_error(topic)
        self.last_number = number = self.last_number + 1
        publication = Publication(number, topic, payload, owner, subscriptions)
        self._outbox[number] = publication
        if owner is not None:
            owner.unconfirmed[number] = publication
        for subscription in subscriptions:
            subscription.expects(message.id)
        return publication

    async def _slow_down(self, message: BaseMessage, subscriptions: Sequence[BrokerSubscription]) -> None:
        """Wait for room in each full queue, unless it waits, through others even, for this publisher."""
        publisher = message.source
        for subscription in subscriptions:
            if subscription.is_crowded:
                subscription.congests = True
                self.congested.begin(subscription, message.root_source)
            if subscription.is_full and not self._pressure.would_deadlock(subscription.name, publisher):
                await self._pressure.wait(publisher, subscription)

    def congestion(self, source: str) -> Awaitable[None] | None:
        return self.congested.wait(source)

    async def _hand_over(self, publication: Publication) -> None:
        publication.due = monotonic() + self.resend_s
        if self.is_connected:
            await self._send(publication)

    def _find_subscribers(self, topic: str) -> tuple[BrokerSubscription, ...]:
        """Who gets the topic here. Asked once a topic, until a subscription comes or goes, or the end."""
        if not self._open:
            raise self._closed_error(topic)
        check_topic(topic)
        if len(self._subscribers) >= _REMEMBERED:
            self._subscribers.clear()
        found = self._subscribers[topic] = self._trie.match(topic)
        return found

    def _too_large(self, topic: str, message: BaseMessage, size: int) -> MessageTooLarge:
        return MessageTooLarge(
            f"the message has {size:,} bytes, and {self.endpoint.scheme} takes {self.payload_limit:,}",
            where=f"message {message.id} from {message.source}, topic {topic!r}",
            fix="publish a reference to the data, split it, or raise the broker's limit",
        )

    async def _accepted(self, number: int) -> None:
        """The broker has it."""
        publication = self._outbox.pop(number, None)
        if publication is None:
            return
        if publication.accepted is not None:
            if not publication.accepted.done():
                publication.accepted.set_result(None)
        elif publication.owner is not None:
            await publication.owner.confirmed(number)
        if self._trouble:
            self._over(f"publishing to {publication.topic}")

    def _refused(self, number: int, why: str) -> None:
        """The broker will not have it now: it is sent again, later."""
        publication = self._outbox.get(number)
        if publication is not None:
            publication.due = monotonic() + random.uniform(0.2, 1.0)  # noqa: S311  (no secret)
            self._troubled(f"publishing to {publication.topic}", why)

    async def _resend_everything(self) -> None:
        """After a new connection: what was not answered on the old one may not have got there."""
        for publication in list(self._outbox.values()):
            await self._hand_over(publication)

    # -- subscribing ----------------------------------------------------------------------------------

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> BrokerSubscription:
        compiled = [TopicPattern(pattern) for pattern in patterns]
        if not self._open:
            raise TransportClosed(
                f"the {self.endpoint.scheme} transport is closed", where=f"subscription {name!r}"
            )
        subscription = self.subscription_type(self, name, compiled, queue_limit)
        self._subscriptions[subscription] = None
        self._ever.append(subscription)
        self._by_name[name] = subscription
        for pattern in compiled:
            self._trie.add(pattern, subscription)
        self._subscribers.clear()
        self._begin(self._establish_or_fail(subscription))
        return subscription

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._establishing.add(task)
        task.add_done_callback(self._establishing.discard)

    async def _establish_or_fail(self, subscription: BrokerSubscription) -> None:
        for delay in backoff():
            try:
                await self._establish(subscription)
                subscription.ready()
                await subscription.ask_again()
                return
            except TransportError as error:
                subscription.fail(error)
                return
            except _TRANSIENT as error:
                logger.warning("the queue of %s cannot be made yet: %s", subscription.name, plain(error))
                await asyncio.sleep(delay)

    def _lost(self, subscription: BrokerSubscription, why: str) -> None:
        """The broker's queue is gone: make it anew, if need be again and again."""
        if subscription._is_closing or self._trouble.get(f"the queue of {subscription.name}"):
            return
        self._troubled(f"the queue of {subscription.name}", why)
        subscription.forget_queue()
        self._begin(self._establish_again(subscription))

    async def _establish_again(self, subscription: BrokerSubscription) -> None:
        what = f"the queue of {subscription.name}"
        for delay in backoff():
            if subscription._is_closing:
                return
            try:
                await self._establish(subscription)
                self._over(what)
                subscription.ready()
                await subscription.ask_again()
                return
            except (TransportError, *_TRANSIENT) as error:
                self._troubled(what, plain(error))
                await asyncio.sleep(delay)

    def _forget(self, subscription: BrokerSubscription) -> None:
        self._subscriptions.pop(subscription, None)
        self._subscribers.clear()
        for pattern in subscription.patterns:
            self._trie.remove(pattern, subscription)

    # -- accounting -----------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether the broker keeps messages for every subscription of this process."""
        return all(subscription.is_ready for subscription in self._subscriptions)

    def unsettled(self) -> int:
        return sum(subscription.unsettled for subscription in self._ever)

    def one_ended(self) -> None:
        """Something was settled or handed back."""
        if self._ended and not self.unsettled():
            self._ended.wake()

    async def wait_until_settled(self) -> None:
        pause = 0.01
        while self._open:
            while self._open and self.unsettled():
                await self._ended.wait()
            with contextlib.suppress(TransportError, *_TRANSIENT):
                if self.is_connected and await self._is_nothing_left():
                    return
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)

    async def _is_nothing_left(self) -> bool:
        """Ask the broker: other hosts, and earlier runs, have left or taken what we know nothing of."""
        left = 0
        for subscription in list(self._subscriptions):
            if not subscription.is_ready:
                return False
            backlog = await self._backlog(subscription)
            subscription.correct(backlog)
            left += backlog.waiting + backlog.unsettled
        return left == 0

    def message_from(self, payload: bytes, subscription: BrokerSubscription, key: Hashable) -> BaseMessage:
        """The message in these bytes. What was written by somebody else is handed on as it is, as bytes."""
        try:
            return decode(payload)
        except MessageError:
            # Its id must be the same at every delivery.
            message_id = str(uuid5(NAMESPACE_URL, f"{self.endpoint.public}/{subscription.name}/{key}"))
            return BaseMessage(id=message_id, source=self.endpoint.scheme, data=payload)

    # -- watching -------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            if not self.is_connected:
                continue
            try:
                await self._tick(monotonic())
            except (TransportError, *_TRANSIENT) as error:
                logger.debug("%s: %s", self.endpoint.public, plain(error))
            except Exception:
                logger.exception("the %s transport looks after its queues no more", self.endpoint.scheme)
                raise

    async def _tick(self, now: float) -> None:
        for subscription in self._ever:
            overdue = subscription.neglected(now)
            if overdue:
                await self._keep_alive(overdue)
        for publication in list(self._outbox.values()):
            if publication.due < now:
                await self._hand_over(publication)
        for subscription in list(self._subscriptions):
            await self._look_after(subscription)
            await subscription.top_up()
            if subscription.is_ready and subscription.is_quiet:
                subscription.correct(await self._backlog(subscription))
        if self._ended and not self.unsettled():
            self._ended.wake()

    # -- the state of it ------------------------------------------------------------------------------

    def trouble(self) -> str:
        return "; ".join(f"{what}: {why}" for what, why in self._trouble.items())

    def _troubled(self, what: str, why: str) -> None:
        """Say once that something does not work; it is tried again."""
        if self._trouble.get(what) != why:
            self._trouble[what] = why
            logger.warning("%s: %s: %s; trying again", self.endpoint.public, what, why)

    def _over(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            logger.warning("%s: %s: works again", self.endpoint.public, what)

    def _connection_lost(self, why: str) -> None:
        """Called by the broker's transport, as `_connection_made` is when there is a new one."""
        self.is_connected = False
        if self._open:
            self._troubled("connection", why)

    async def _connection_made(self) -> None:
        self.is_connected = True
        self._over("connection")
        await self._resend_everything()
        for subscription in list(self._subscriptions):
            subscription.asked = 0
            await subscription.ask_again()


def backoff(first: float = 0.1, most: float = 5.0) -> Iterable[float]:
    """Seconds to wait before each further attempt: twice as long each time, with full jitter."""
    bound = first
    while True:
        yield random.uniform(0.0, bound)  # noqa: S311  (no secret)
        bound = min(2 * bound, most)


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancel it and wait for its end. Again and again: client libraries lose a cancellation now and then."""
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.2)


def plain(error: BaseException) -> str:
    """An error in one line."""
    return str(error) or type(error).__name__
