"""The transport over a store: what the event loop sees. No call here touches the disk."""

import asyncio
import copy
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

import msgspec

from echo_core.errors import MessageError, QueueFull, TransportClosed, TransportError
from echo_core.message import BaseMessage, decode, encode
from echo_core.topics import TopicPattern, TopicTrie, check_topic
from echo_core.transports.base import (
    DONE,
    Capabilities,
    Delivery,
    Subscription,
    SubscriptionStatistics,
    Transport,
)
from echo_core.transports.congestion import Congestion
from echo_core.transports.pressure import Pressure, Room
from echo_core.transports.sqlite import leases
from echo_core.transports.sqlite.settings import StoreSettings, settings_from_url
from echo_core.transports.sqlite.store import Arrival
from echo_core.transports.sqlite.writer import Outcome, Redelivery, Turn, Writer

logger = logging.getLogger(__name__)

HARD_LIMIT_FACTOR: Final = 10
_MOST_HELD: Final = 1_024
_LEAST_HELD: Final = 64
"""Deliveries that a subscription holds in memory; what waits beyond them stays on disk."""
_REMEMBERED: Final = 10_000
_PART: Final = 512
"""Messages of a batch that are accepted together."""
_UNWRITTEN: Final = 1_024
"""Publications that nobody waits for; with so many unwritten, the next one is waited for."""


class SqliteDelivery(Delivery, msgspec.Struct, eq=False):
    """A delivery that the store keeps until it is settled. A Struct is made in a third of the time."""

    _subscription: "SqliteSubscription"
    seq: int
    """The message's place in the order of acceptance."""
    topic: str
    message: BaseMessage
    attempt: int
    following: "SqliteDelivery | None" = None
    """The next of those that were received together: in hand once this one has ended."""
    _is_ended: bool = False

    def settle(self) -> Awaitable[None]:
        if not self._is_ended:
            self._is_ended = True
            self._subscription._settle(self)
        return DONE

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        ending = [delivery for delivery in deliveries if not delivery._is_ended]
        for delivery in ending:
            delivery._is_ended = True
        if ending:
            ending[0]._subscription._settle_batch(ending)

    async def retry(self, delay: float = 0.0) -> None:
        if not self._is_ended:
            self._is_ended = True
            self._subscription._give_back(self, delay)


class SqliteSubscription(Subscription):
    """A durable subscription: while nobody listens, messages wait for it on disk."""

    def __init__(
        self, transport: "SqliteTransport", name: str, patterns: Sequence[TopicPattern], queue_limit: int
    ) -> None:
        self.name = name
        self.id = 0
        self.patterns = tuple(patterns)
        self.queue_limit = queue_limit
        self.capacity = min(_MOST_HELD, max(_LEAST_HELD, queue_limit))
        self._transport = transport
        self._returned: deque[SqliteDelivery] = deque()
        """Handed back, to be had again at once."""
        self._arrived: deque[Arrival] = deque()
        """What this host holds and has not handed out."""
        self._taken = 0
        """So many of the first of them are handed out."""
        self._on_disk = 0
        self.waiting = 0
        """Held and not handed out, on disk, or given back with a delay and not yet on disk."""
        self.crowded_at = (queue_limit + 1) // 2
        """With so many waiting, publishers may have to wait: see `is_crowded`, `is_full`."""
        self._received = 0
        self.in_hand: set[str] = set()
        """Ids of the messages that were received and have not ended."""
        self._is_closing = False
        self._is_closed = False
        self._receivers: list[asyncio.Future[None]] = []
        self._room = Room()
        self.attached: asyncio.Future[None]
        """Done when the store knows of it. This process's publications come after that in any case."""

    async def __aenter__(self) -> Self:
        """Return when what other processes publish is collected too."""
        await asyncio.shield(self.attached)
        self._transport._check_sound()
        return self

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(pattern.text for pattern in self.patterns)

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        while True:
            while not (self._returned or self._arrived):
                self._transport._check_sound()
                if self._is_closed:
                    raise TransportClosed(f"the subscription {self.name!r} is closed")
                receiver = asyncio.get_running_loop().create_future()
                self._receivers.append(receiver)
                await receiver
            taken = self._take(limit)
            if taken:
                return taken

    def _take(self, limit: int) -> list[SqliteDelivery]:
        writer = self._transport._writer_or_closed()
        taken: list[SqliteDelivery] = []
        while self._returned and len(taken) < limit:
            taken.append(self._returned.popleft())
            self.waiting -= 1
        while self._arrived and len(taken) < limit:
            arrival, start = self._arrived[0], self._taken
            end = start + limit - len(taken)
            if end < len(arrival.seqs):
                self._taken = end
            else:
                end = len(arrival.seqs)
                self._taken = 0
                self._arrived.popleft()
            self.waiting -= end - start
            taken += self._read(arrival, start, end)
        self._received += len(taken)
        if taken:
            self.in_hand.update([delivery.message.id for delivery in taken])
            before = taken[0]
            for delivery in taken:
                before.following = delivery
                before = delivery
            before.following = None
            writer.begin_turn().handed.setdefault(self, []).append(taken[0].seq)
        self._let_publishers_go_on()
        return taken

    def _read(self, arrival: Arrival, start: int, end: int) -> list[SqliteDelivery]:
        seqs, topics, bodies, attempt = arrival
        attempt += 1
        try:
            return [
                SqliteDelivery(self, seq, topic, decode(body), attempt)
                for seq, topic, body in zip(
                    seqs[start:end], topics[start:end], bodies[start:end], strict=True
                )
            ]
        except MessageError:
            if end - start > 1:
                return [each for at in range(start, end) for each in self._read(arrival, at, at + 1)]
        logger.exception("message %d for %s cannot be read, and is left in the store", seqs[start], self.name)
        self._transport._changed(-1)
        return []

    def statistics(self) -> SubscriptionStatistics:
        return SubscriptionStatistics(waiting=self.waiting, unsettled=self._received)

    async def close(self) -> None:
        """What is on disk stays there, and what comes from now on too, until it is subscribed anew."""
        if not self._is_closing:
            self._is_closing = True
            self._transport._forget(self)
            await self._transport._detach(self)
            self._is_closed = True
            self._transport._changed(-self._on_disk)
            self._transport._check_settled()
            self.waiting -= self._on_disk
            self._on_disk = 0
            self._let_publishers_go_on()
            self.wake()

    @property
    def is_full(self) -> bool:
        """Whether publishers should wait."""
        return self.waiting >= self.queue_limit and not self._is_closing

    @property
    def is_crowded(self) -> bool:
        """Whether the source whose messages fill it should wait: it is half full."""
        return self.waiting * 2 >= self.queue_limit and not self._is_closing

    @property
    def is_overflowing(self) -> bool:
        """Whether nothing more may be accepted for it."""
        return self.waiting >= self.queue_limit * HARD_LIMIT_FACTOR

    async def wait_for_room(self) -> None:
        """Return when the queue is no longer full, or closed."""
        await self._room.wait_while(lambda: self.is_full)

    def _let_publishers_go_on(self) -> None:
        if self._room and not self.is_full:
            self._room.open()
        if self.waiting * 4 <= self.queue_limit or self._is_closing:
            self._transport._congestion.end(self)

    def _settle(self, delivery: SqliteDelivery) -> None:
        turn = self._transport._turn()
        turn.settled.setdefault(self, []).append(delivery.seq)
        self.in_hand.discard(delivery.message.id)
        self._has_settled(turn, delivery, 1)

    def _settle_batch(self, deliveries: Sequence[SqliteDelivery]) -> None:
        turn = self._transport._turn()
        turn.settled.setdefault(self, []).extend([delivery.seq for delivery in deliveries])
        self.in_hand.difference_update([delivery.message.id for delivery in deliveries])
        self._has_settled(turn, deliveries[-1], len(deliveries))

    def _has_settled(self, turn: Turn, last: SqliteDelivery, count: int) -> None:
        if last.following is not None:
            turn.handed.setdefault(self, []).append(last.following.seq)
        self._received -= count
        self._transport._changed(-count)
        self._transport._check_settled()

    def _give_back(self, delivery: SqliteDelivery, delay: float) -> None:
        turn = self._transport._turn()
        self.in_hand.discard(delivery.message.id)
        self._received -= 1
        self.waiting += 1
        if delay > 0:
            turn.delayed.append((self, delivery.seq, delay))
            return
        again = SqliteDelivery(self, delivery.seq, delivery.topic, delivery.message, delivery.attempt + 1)
        self._returned.appendleft(again)
        self.wake()

    # What the writer reports, by way of the transport

    def arrive(self, arrival: Arrival) -> None:
        """Deliveries that this host holds from now on."""
        count = len(arrival.seqs)
        self._arrived.append(arrival)
        self.waiting += count
        self._transport._changed(count)
        if self._receivers:
            self.wake()

    def returned(self) -> None:
        """A delayed delivery has reached the disk; `count` will speak of it, or another host has it."""
        self.waiting -= 1
        self._transport._changed(-1)

    def count(self, on_disk: int) -> None:
        """So many wait on disk."""
        if not self._is_closed:
            self._transport._changed(on_disk - self._on_disk)
            self.waiting += on_disk - self._on_disk
            self._on_disk = on_disk
            self._let_publishers_go_on()

    def drop(self) -> list[int]:
        """What it holds and has not handed out is others' now; the seqs."""
        seqs = [delivery.seq for delivery in self._returned]
        for arrival in self._arrived:
            seqs += arrival.seqs[self._taken :]
            self._taken = 0
        self._returned.clear()
        self._arrived.clear()
        self.waiting -= len(seqs)
        self._transport._changed(-len(seqs))
        return seqs

    def wake(self) -> None:
        """All receivers: one may be cancelled before it gets here; the others look, and go on waiting."""
        receivers, self._receivers = self._receivers, []
        for receiver in receivers:
            if not receiver.done():
                receiver.set_result(None)


class SqliteTransport(Transport):
    """Messages in one file on disk, shared by the hosts of one machine."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        presence=True,
        reports_acceptance=True,
        redelivers_to_one=True,
        accepted="`publish` returned, and the message is on disk, for every subscription that matched then, "
        "whether a host listens to it or not; inside a handler it is on its way there, and the message in "
        "hand is not settled before it.",
        settled="`settle` returned, and the message does not come to that subscription again, unless the "
        "process or the machine ends before the next write, which follows at once, or others took this host "
        "for dead before.",
    )

    def __init__(self, settings: StoreSettings, *, time_ns: Callable[[], int] = time.time_ns) -> None:
        self.settings = settings
        self._time_ns = time_ns
        self._writer: Writer | None = None
        self._loop: asyncio.AbstractEventLoop
        self._subscriptions: dict[SqliteSubscription, SqliteSubscription] = {}
        self._by_name: dict[str, SqliteSubscription] = {}
        self._is_refusing = False
        """Whether the last transaction refused publications: then everybody waits for an answer."""
        self._closed: dict[str, list[SqliteSubscription]] = {}
        """By name, until there is a new one that takes what they still hold."""
        self._routes: TopicTrie[SqliteSubscription] = TopicTrie()
        self._subscribers: dict[str, tuple[SqliteSubscription, ...]] = {}
        """Of topics that were published to and are in order: who hears them in this process."""
        self._attaching = 0
        self._unsettled = 0
        self._in_flight = 0
        """Publications that are on their way to the disk."""
        self._unwritten = 0
        """Those of them that nobody waits for."""
        self._all_settled: asyncio.Future[None] | None = None
        self.pressure: Pressure = Pressure()
        self._congestion = Congestion()
        self._broken: TransportError | None = None

    async def open(self) -> None:
        if self._writer is None:
            self._loop = asyncio.get_running_loop()
            writer = Writer(self.settings, self._loop, self._report, time_ns=self._time_ns)
            await writer.start()
            self._writer = writer
            self._broken = None
            self._in_flight = self._unwritten = 0

    async def close(self) -> None:
        if self._writer is None:
            return
        await asyncio.gather(*(subscription.close() for subscription in list(self._subscriptions)))
        writer, self._writer = self._writer, None
        self._subscribers.clear()
        await writer.stop()

    def publish(self, topic: str, message: BaseMessage) -> Awaitable[None]:
        subscriptions = self._subscribers.get(topic)
        if subscriptions is None:
            subscriptions = self._find_subscribers(topic)
        at_most = self._in_flight + 1
        for subscription in subscriptions:
            if subscription.waiting + at_most >= subscription.crowded_at:
                return self._publish_in_a_crowd(topic, message, subscriptions)
        return self._put(topic, message, subscriptions)

    def _put(
        self, topic: str, message: BaseMessage, subscriptions: Sequence[SqliteSubscription]
    ) -> Awaitable[None]:
        """Have the message written; who needs to know when it is awaits the answer."""
        body = encode(message)
        turn = self._turn()
        self._in_flight += 1
        if message.receipts and self._need_not_wait(message):
            turn.unawaited.append((topic, body, message))
            self._unwritten += 1
            self._changed(1)
            if self.on_accept is not None:
                self.on_accept(message, len(subscriptions))
            return DONE
        accepted: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        turn.answers.append(accepted)
        turn.awaited.append((topic, body, message))
        return accepted

    async def _publish_in_a_crowd(
        self, topic: str, message: BaseMessage, subscriptions: Sequence[SqliteSubscription]
    ) -> None:
        """`publish` where half a queue may be full when all that is on its way has arrived."""
        for subscription in subscriptions:
            if subscription.is_overflowing:
                await self._wait_for_less(topic, message.source, subscription)
        await self._put(topic, message, subscriptions)
        for subscription in subscriptions:
            if subscription.waiting >= subscription.crowded_at:
                await self._slow_down(message, subscription)

    async def _slow_down(self, message: BaseMessage, subscription: SqliteSubscription) -> None:
        """Where half the queue is full: whoever fills it waits, now or before the next message."""
        if subscription.is_crowded:
            self._congestion.begin(subscription, message.root_source)
        if subscription.is_full and not self.pressure.would_deadlock(subscription.name, message.source):
            await self.pressure.wait(message.source, subscription.name, subscription.wait_for_room())

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """Each part for which the queues have room is accepted as a whole, in one transaction."""
        at = 0
        while at < len(messages):
            subscriptions = self._subscribers.get(topic)
            if subscriptions is None:
                subscriptions = self._find_subscribers(topic)
            room = min((each.queue_limit - each.waiting for each in subscriptions), default=_PART)
            some = messages[at : at + min(room, _PART)] if room > 1 else ()
            try:
                if some:
                    await self._publish_part(topic, some)
                else:  # at a limit: one by one, so that cycles go on and hard bounds hold
                    some = messages[at : at + 1]
                    await self.publish(topic, some[0])
            except TransportError as error:
                told = copy.copy(error)  # others are told the same, and have others accepted
                told.accepted = at
                raise told from error.__cause__
            at += len(some)

    async def _publish_part(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        publications = [(topic, encode(message), message) for message in messages]
        turn = self._turn()
        turn.awaited += publications
        self._in_flight += len(publications)
        accepted = self._loop.create_future()
        turn.answers.append(accepted)
        await accepted

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        """The subscription need not be of this process; it gets the message behind what waits for it."""
        self._find_subscribers(topic)  # refuses what cannot be published
        accepted = self._loop.create_future()
        redelivery = Redelivery(subscriber, topic, encode(message), message, accepted)
        self._turn().redeliveries.append(redelivery)
        await accepted

    def _need_not_wait(self, message: BaseMessage) -> bool:
        """Whether it is made from a message that its publisher has not settled: then nobody need wait.

        The settlement comes into the store after it, so the two can only be lost together, and what it was
        made from comes again.
        """
        owner = self._by_name.get(message.source)
        is_made_in_hand = owner is not None and message.receipts[-1].message_id in owner.in_hand
        return is_made_in_hand and self._unwritten < _UNWRITTEN and not self._is_refusing

    async def _wait_for_less(self, topic: str, publisher: str, subscription: SqliteSubscription) -> None:
        """A store may be left with any number of messages; only a cycle between plugins is an error."""
        if self.pressure.would_deadlock(subscription.name, publisher):
            raise QueueFull(
                f"the queue of {subscription.name!r} is at its hard bound",
                where=f"topic {topic!r}, {subscription.waiting} messages waiting",
                why="plugins that publish to each other make more messages than they finish",
                fix="break the cycle, publish less for each message handled, or raise delivery.queue_limit",
            )
        await self.pressure.wait(publisher, subscription.name, subscription.wait_for_room())

    def _find_subscribers(self, topic: str) -> tuple[SqliteSubscription, ...]:
        self._writer_or_closed()
        check_topic(topic)
        if len(self._subscribers) >= _REMEMBERED:
            self._subscribers.clear()
        found = self._subscribers[topic] = self._routes.match(topic)
        return found

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> SqliteSubscription:
        compiled = [TopicPattern(pattern) for pattern in patterns]
        self._writer_or_closed()
        subscription = SqliteSubscription(self, name, compiled, queue_limit)
        self._subscriptions[subscription] = self._by_name[name] = subscription
        for pattern in compiled:
            self._routes.add(pattern, subscription)
        self._subscribers.clear()
        subscription.attached = self._loop.create_future()
        subscription.attached.add_done_callback(lambda _: self._attached())
        self._attaching += 1
        turn = self._turn()
        for closed in self._closed.pop(name, ()):
            if seqs := closed.drop():
                turn.given_back[closed] = seqs
        turn.readers.append((subscription, True, subscription.attached))
        return subscription

    def _attached(self) -> None:
        self._attaching -= 1
        self._check_settled()

    async def _detach(self, subscription: SqliteSubscription) -> None:
        if self._writer is not None:
            detached = self._loop.create_future()
            self._writer.begin_turn().readers.append((subscription, False, detached))
            await asyncio.shield(detached)

    def _forget(self, subscription: SqliteSubscription) -> None:
        if subscription in self._subscriptions:
            del self._subscriptions[subscription]
            self._closed.setdefault(subscription.name, []).append(subscription)
            if self._by_name.get(subscription.name) is subscription:
                del self._by_name[subscription.name]
            self._subscribers.clear()
            for pattern in subscription.patterns:
                self._routes.remove(pattern, subscription)

    def congestion(self, source: str) -> Awaitable[None] | None:
        return self._congestion.wait(source)

    async def announce(self, host: str, document: bytes) -> None:
        self._writer_or_closed().announcement = document

    async def announced(self) -> Mapping[str, bytes]:
        return await asyncio.to_thread(leases.said, self.settings.path)

    def unsettled(self) -> int:
        return self._unsettled

    async def wait_until_settled(self) -> None:
        while self._unsettled or self._attaching:
            self._check_sound()
            if self._all_settled is None or self._all_settled.done():
                self._all_settled = self._loop.create_future()
            await asyncio.shield(self._all_settled)

    def _changed(self, by: int) -> None:
        """So many more deliveries are unsettled."""
        self._unsettled += by

    def _check_settled(self) -> None:
        if self._all_settled is not None and not self._unsettled and not self._attaching:
            if not self._all_settled.done():
                self._all_settled.set_result(None)
            self._all_settled = None

    def _writer_or_closed(self) -> Writer:
        if self._writer is None:
            raise TransportClosed(
                "the sqlite transport is closed",
                where=str(self.settings.path),
                fix="open it, or publish earlier",
            )
        self._check_sound()
        return self._writer

    def _turn(self) -> Turn:
        """What is asked for in this turn of the loop."""
        writer = self._writer
        if writer is None or self._broken is not None:
            writer = self._writer_or_closed()
        return writer.turn or writer.begin_turn()

    def trouble(self) -> str:
        """See `Transport.trouble`."""
        return self._writer.trouble if self._writer is not None else ""

    def _check_sound(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _report(self, outcome: Outcome) -> None:
        """Called on the loop after each transaction."""
        if outcome.is_lease_lost:
            for subscription in self._subscriptions:
                subscription.drop()
        self._is_refusing = bool(outcome.refused)
        if self.on_accept is not None:
            self._tell_accepted(self.on_accept, outcome)
        for answer in outcome.answers:
            if not answer.done():
                answer.set_result(None)
        for redelivery in outcome.redelivered:
            if not redelivery.accepted.done():
                redelivery.accepted.set_result(None)
        for reader, arrival in outcome.arrivals:
            reader.arrive(arrival)
        for reader, count in outcome.on_disk:
            reader.count(count)
        for reader in outcome.returned:
            reader.returned()
        self._in_flight -= outcome.ended
        self._unwritten -= outcome.unawaited
        self._unsettled -= outcome.unawaited  # their deliveries are counted now
        for answer, error in outcome.refused:
            if not answer.done():
                answer.set_exception(error)
        if outcome.broken is not None:
            self._break(outcome.broken)
        self._check_settled()

    def _tell_accepted(self, tell: Callable[[BaseMessage, int], None], outcome: Outcome) -> None:
        for topic, _, message in outcome.awaited:
            readers = self._subscribers.get(topic)
            tell(message, len(self._routes.match(topic) if readers is None else readers))
        for redelivery in outcome.redelivered:
            tell(redelivery.message, int(redelivery.subscriber in self._by_name))

    def _break(self, error: TransportError) -> None:
        """Whoever waits for something hears that it will not come."""
        self._broken = error
        for subscription in list(self._subscriptions):
            subscription.wake()
        if self._all_settled is not None and not self._all_settled.done():
            self._all_settled.set_result(None)


def open_from_url(url: str, folder: Path | None = None) -> SqliteTransport:
    """The transport that a `sqlite://` URL means; raises `SettingsError` for what it cannot mean."""
    return SqliteTransport(settings_from_url(url, folder))
