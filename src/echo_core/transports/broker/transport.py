"""The transport that all transports over a broker are made of."""

import asyncio
import contextlib
import logging
import math
import random
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from functools import partial
from time import monotonic
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from echo_core.errors import MessageError, MessageTooLarge, TransportClosed, TransportError
from echo_core.message import BaseMessage, decode, encode
from echo_core.topics import TopicPattern, TopicTrie, check_topic
from echo_core.transports.base import Delivery
from echo_core.transports.broker.connection import CONNECT_S, TRANSIENT, ConnectedTransport
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.peers import SAY_S, document_of
from echo_core.transports.broker.publication import NOT_SENT, Publication
from echo_core.transports.broker.recovery import backoff, end_task, plain, within
from echo_core.transports.broker.subscription import IN_FLIGHT, TICK_S, Backlog, BrokerSubscription
from echo_core.transports.broker.waiters import Waiters
from echo_core.transports.congestion import Congestion
from echo_core.transports.endpoint import Endpoint
from echo_core.transports.pressure import Pressure

logger = logging.getLogger(__name__)

OPTIONS: Final = frozenset({"prefix", "create", "lease"})
"""Those that every transport over a broker knows."""
LEASE_S: Final = 8.0
"""After so long without a sign of life from a host, the broker gives its deliveries to others."""
RESEND_S: Final = 5.0
"""A publication that the broker has not answered for so long is sent again."""
_PUBLISHING: Final = "publishing"
_UNANSWERED_S: Final = 5.0
"""A publication that has waited for an answer for so long is a trouble."""
_CLOSING_S: Final = 3.0
"""How long closing a transport waits for the broker's answers."""
_AGREE_S: Final = 1.0
"""So soon every host has heard of a new one, and has answered."""
_HANDED_ON_S: Final = (0.1, 0.3)
"""What another host is to have is offered again after a time between these. Not always after the same: a
broker that offers in turn would offer the same messages to the same hosts for ever."""
_FAULT_S: Final = 5.0
"""Before the queues are looked after again, where something went wrong that nobody has thought of."""
_AWAY_S: Final = 60.0
"""So long after a lost connection the hosts that were there before it are waited for."""
_TOPICS: Final = 10_000
"""Whose subscribers are remembered."""


class BrokerTransport(ConnectedTransport):
    """A transport whose messages are kept by a broker outside this process."""

    payload_limit: int = 2**20
    """Bytes that one encoded message may have."""
    subscription_type: type[BrokerSubscription] = BrokerSubscription
    resend_s: float = RESEND_S
    """When to send again what was not answered, while the connection stands."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.prefix = endpoint.text("prefix", "echo")
        check_topic(self.prefix)
        self.lease_s = endpoint.number("lease", LEASE_S, float, least=1)
        self.last_number = 0
        """Of the publications; each has one of its own."""
        self._trie: TopicTrie[BrokerSubscription] = TopicTrie()
        self._subscribers: dict[str, tuple[BrokerSubscription, ...]] = {}
        self._by_name: dict[str, BrokerSubscription] = {}
        self._subscriptions: dict[BrokerSubscription, None] = {}
        self._ever: list[BrokerSubscription] = []
        self._outbox: dict[int, Publication] = {}
        """By number, and so in the order in which they are to be accepted."""
        self._is_behind = False
        """Whether the outbox is to be sent before anything new: there is a new connection, or none."""
        self._catching_up = 0
        """How many are busy with that: one, or one more where a connection was lost again."""
        self._held_back: dict[str, float] = {}
        """Publishers of whom the broker did not take a publication, and when it is sent again, with all that
        they have published since; inf while that is being done."""
        self._establishing: set[asyncio.Task[None]] = set()
        self.pressure: Pressure = Pressure()
        self.congested = Congestion()
        self._ended = Waiters()
        self._connections = 0
        """Made after the first one."""
        self._others_before: dict[str, list[str]] = {}
        """The queues of other hosts when the connection was lost."""
        self._watching: asyncio.Task[None] | None = None
        self._asked_peers = 0

    # -- what a broker's own transport adds -----------------------------------------------------------

    @abstractmethod
    async def _resume(self, subscription: BrokerSubscription) -> None:
        """Listen on a new connection to a queue that was established; raises what `_connect` does."""

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

    async def _hand_on(self, delivery: BrokerDelivery, payload: bytes) -> None:
        """It is not for our version of the plugin: let a host have it that runs, or may run, another one."""
        await self._hand_back(delivery, random.uniform(*_HANDED_ON_S))  # noqa: S311  (no secret)

    async def _collect_again(self, subscription: BrokerSubscription) -> None:
        """See whether the queue still collects what this host wants of it; have it do so otherwise.

        A host with another version of the plugin that began in the same moment may have known nothing of it.
        """

    async def _look_after(self, subscription: BrokerSubscription) -> None:
        """Called every now and then; for what only this broker needs."""

    # -- life -----------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._open:
            return
        await self._connect_first()
        self._open = self.is_connected = True
        self._watching = asyncio.create_task(self._watch(), name=f"{self.endpoint.scheme} transport")

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._subscribers.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_S):
                await asyncio.gather(*(one.close() for one in list(self._subscriptions)))
                if self.is_connected:
                    await self._say_what_is_wanted_if_possible()
                while self._outbox and self.is_connected:  # noqa: ASYNC110  (once, at the end)
                    await asyncio.sleep(0.005)
        with contextlib.suppress(*TRANSIENT):
            async with asyncio.timeout(_CLOSING_S):
                for subscription in self._ever:
                    await subscription.hand_everything_back()
        await self._end_reconnecting()
        await asyncio.gather(*(end_task(task) for task in (self._watching, *self._establishing)))
        self._watching = None
        self._give_up_publications()
        self.is_connected = False
        await self._disconnect()
        self._ever.clear()
        self._ended.wake()

    async def _collect_again_if_possible(self) -> None:
        for subscription in list(self._subscriptions):
            own = [pattern.text for pattern in subscription.patterns]
            if subscription.is_ready and self.may_create and self.peers.want_more(subscription.name, own):
                with contextlib.suppress(*self._unreachable):  # it is looked at again soon
                    await self._collect_again(subscription)

    def _wants_document(self) -> bytes:
        return document_of(
            {one.name: [pattern.text for pattern in one.patterns] for one in self._subscriptions},
            self._asked_peers,
        )

    async def _say_what_is_wanted_if_possible(self) -> None:
        with contextlib.suppress(*self._unreachable):  # it is said again soon
            await self._say_what_is_wanted()

    async def _agree_with_peers(self, subscription: BrokerSubscription) -> list[str]:
        """The patterns that the queue is to have: ours, and those of hosts that run other versions.

        Before the queue gets ours, the others must know of us: they are given what is for us from then on.
        """
        self._asked_peers += 1
        await self._say_what_is_wanted_if_possible()
        await asyncio.sleep(_AGREE_S)
        return self._patterns_of(subscription)

    def _patterns_of(self, subscription: BrokerSubscription) -> list[str]:
        own = [pattern.text for pattern in subscription.patterns]
        return list(dict.fromkeys([*own, *self.peers.patterns(subscription.name)]))

    def _queues_of_others(self) -> dict[str, list[str]]:
        """The queues that other hosts take from, as far as is known, and what each is to collect.

        A broker that has lost them takes what is published for them, and keeps it for nobody.
        """
        return {**self._others_before, **self.peers.queues()}

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
        await self._publish_for(self._owner_of(message), topic, message)

    async def publish_from(self, topic: str, message: BaseMessage, origin: Delivery) -> None:
        owner = origin.subscription if isinstance(origin, BrokerDelivery) else None
        await self._publish_for(owner, topic, message)

    async def _publish_for(self, owner: BrokerSubscription | None, topic: str, message: BaseMessage) -> None:
        """Return when it is accepted, or where the settling of what `owner` has in hand waits for that."""
        publication = await self._prepare(topic, message, owner)
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
            last = await self._prepare(topic, message, self._owner_of(message))
            if last.owner is None:
                last.accepted = asyncio.get_running_loop().create_future()
                waits_for.append(last.accepted)
            await self._hand_over(last)
        for accepted in waits_for:
            await accepted
        if last is not None:
            await self._slow_down(messages[-1], last.subscriptions)

    def _owner_of(self, message: BaseMessage) -> BrokerSubscription | None:
        """Whose delivery in hand it is made from."""
        owner = self._by_name.get(message.source)
        return owner if owner is not None and owner.has_in_hand(message) else None

    async def _prepare(
        self, topic: str, message: BaseMessage, owner: BrokerSubscription | None
    ) -> Publication:
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
        if owner is not None and len(owner.unconfirmed) >= IN_FLIGHT:
            await owner.wait_for_answers()
        if not self._open:
            raise self._closed_error(topic)
        self.last_number = number = self.last_number + 1
        publication = Publication(number, topic, message.source, payload, owner, subscriptions)
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
            if subscription.is_full and not self.pressure.would_deadlock(subscription.name, publisher):
                await self.pressure.wait(publisher, subscription.name, subscription.wait_for_room())

    def congestion(self, source: str) -> Awaitable[None] | None:
        return self.congested.wait(source)

    async def _hand_over(self, publication: Publication) -> None:
        """Send it, or leave it in the outbox, behind what is to be sent before it."""
        if self._is_behind or publication.publisher in self._held_back:
            return
        publication.due = monotonic() + self.resend_s
        await self._send(publication)

    def _find_subscribers(self, topic: str) -> tuple[BrokerSubscription, ...]:
        """Who gets the topic here. Asked once a topic, until a subscription comes or goes, or the end."""
        if not self._open:
            raise self._closed_error(topic)
        check_topic(topic)
        if len(self._subscribers) >= _TOPICS:
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
        if self._troubles:
            self._troubles.end(f"publishing to {publication.topic}")
            self._troubles.end(_PUBLISHING)

    def _refused(self, number: int, why: str) -> None:
        """The broker will not have it now: it is sent again, later, before what its publisher says next."""
        publication = self._outbox.get(number)
        if publication is not None:
            publication.due = NOT_SENT
            self._hold_back(publication.publisher, random.uniform(0.2, 1.0))  # noqa: S311  (no secret)
            self._troubles.begin(f"publishing to {publication.topic}", why)

    def _hold_back(self, publisher: str, seconds: float) -> None:
        if self._held_back.get(publisher, math.inf) == math.inf:
            self._held_back[publisher] = monotonic() + seconds

    def _connection_lost(self, why: str) -> None:
        self._is_behind = True
        self._others_before = self._queues_of_others()
        self.peers.none_heard()
        super()._connection_lost(why)

    async def _send_everything_again(self) -> None:
        """After a new connection: what was not answered on the old one may not have got there."""
        self._held_back.clear()
        for publication in self._outbox.values():
            publication.due = NOT_SENT
        self._catching_up += 1
        try:
            if await self._catch_up(lambda one: one.publisher not in self._held_back):
                self._is_behind = False
        finally:
            self._catching_up -= 1

    async def _catch_up(self, wanted: Callable[[Publication], bool]) -> bool:
        """Send what is in the outbox, in order, and what is put into it meanwhile behind that.

        Returns whether it got to the end: no connection was lost on the way.
        """
        connection, last = self._connections, 0
        while behind := [one for one in self._outbox.values() if one.number > last and wanted(one)]:
            for publication in behind:
                if connection != self._connections or not self.is_connected:
                    return False
                last = publication.number
                if last in self._outbox and wanted(publication):
                    publication.due = monotonic() + self.resend_s
                    await self._send(publication)
        return connection == self._connections and self.is_connected

    async def _send_what_is_due(self, now: float) -> None:
        """Send again what was refused, or not answered, and what its publishers have published since."""
        for publication in self._outbox.values():
            if NOT_SENT < publication.due < now:
                publication.due = NOT_SENT
                self._hold_back(publication.publisher, 0.0)
        if not self._held_back:
            return
        # What was sent after the one that was refused may be accepted, or refused too: then it is sent once.
        awaited = {one.publisher for one in self._outbox.values() if one.due > NOT_SENT}
        for publisher, due in list(self._held_back.items()):
            if due <= now and publisher not in awaited:
                await self._send_again(publisher)

    async def _send_again(self, publisher: str) -> None:
        self._held_back[publisher] = math.inf

        def is_next(publication: Publication) -> bool:
            return publication.publisher == publisher and self._held_back.get(publisher) == math.inf

        is_done = False
        try:
            is_done = await self._catch_up(is_next)
        finally:
            if self._held_back.get(publisher) == math.inf:
                self._held_back[publisher] = monotonic()
                if is_done:
                    del self._held_back[publisher]

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
        self._begin_listening(subscription, partial(self._establish_or_fail, subscription))
        return subscription

    async def wait_until_collecting(self) -> None:
        for subscription in list(self._subscriptions):
            await subscription.until_ready()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._establishing.add(task)
        task.add_done_callback(self._establishing.discard)
        return task

    def _begin_listening(
        self, subscription: BrokerSubscription, work: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Establish or resume it, in place of what was begun before: two at a time would both listen."""
        before = subscription.listening

        async def after_it() -> None:
            await end_task(before)
            await work()

        subscription.listening = self._begin(after_it())

    async def _establish_for_good(self, subscription: BrokerSubscription) -> None:
        """`_establish`, and ConnectionError where connection or queue were lost since it began."""
        connection = self._connections
        subscription.is_lost = False
        await within(CONNECT_S, self._establish(subscription))
        if connection != self._connections or not self.is_connected or subscription.is_lost:
            raise ConnectionError("it was lost again")
        subscription.ready()
        for what in _troubles_of(subscription):
            self._troubles.end(what)
        await subscription.ask_again()

    async def _establish_or_fail(self, subscription: BrokerSubscription) -> None:
        for delay in backoff():
            try:
                await self._establish_for_good(subscription)
                return
            except TransportError as error:
                subscription.fail(error)
                return
            except TRANSIENT as error:
                logger.warning("the queue of %s cannot be made yet: %s", subscription.name, plain(error))
                await asyncio.sleep(delay)

    def _lost(self, subscription: BrokerSubscription, why: str) -> None:
        """The broker's queue is gone: make it anew, if need be again and again."""
        if subscription._is_closing:
            return
        what, _ = _troubles_of(subscription)
        self._troubles.begin(what, why)
        is_being_made = not subscription.is_ready
        subscription.forget_queue()
        if not is_being_made:
            self._begin_listening(subscription, partial(self._establish_again, subscription))

    async def _establish_again(self, subscription: BrokerSubscription) -> None:
        what, _ = _troubles_of(subscription)
        for delay in backoff():
            if subscription._is_closing:
                return
            try:
                await self._establish_for_good(subscription)
                return
            except (TransportError, *TRANSIENT) as error:
                self._troubles.begin(what, plain(error))
                await asyncio.sleep(delay)

    async def _connection_made(self) -> None:
        await super()._connection_made()
        self._connections += 1
        for subscription in list(self._subscriptions):
            if subscription.is_ready:
                self._resume_soon(subscription)
        await self._send_everything_again()

    def _resume_soon(self, subscription: BrokerSubscription) -> None:
        self._begin_listening(
            subscription, partial(self._resume_when_possible, subscription, self._connections)
        )

    async def _resume_when_possible(self, subscription: BrokerSubscription, connection: int) -> None:
        """On its own: a queue that the broker cannot serve holds up no other."""
        _, what = _troubles_of(subscription)
        for delay in backoff():
            if connection != self._connections or not self.is_connected or subscription._is_closing:
                return
            try:
                await within(CONNECT_S, self._resume(subscription))
            except self._unreachable as error:
                self._troubles.begin(what, plain(error))
                await asyncio.sleep(delay)
            else:
                self._troubles.end(what)
                subscription.asked = 0
                await subscription.ask_again()
                return

    def _forget(self, subscription: BrokerSubscription) -> None:
        self._subscriptions.pop(subscription, None)
        for what in _troubles_of(subscription):
            self._troubles.forget(what)
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
        was_empty = False
        while self._open:
            while self._open and self.unsettled():
                await self._ended.wait()
                was_empty = False
            is_empty = False
            with contextlib.suppress(TransportError, *TRANSIENT):
                is_empty = self.is_connected and await self._is_nothing_left()
            # Twice, for queues are asked one after another, and a message may go from one to the other
            # meanwhile; and a broker may say a moment late what has come.
            if is_empty and was_empty:
                return
            was_empty = is_empty
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
            await asyncio.sleep(TICK_S)
            if not self.is_connected:
                continue
            try:
                await self._tick(monotonic())
            except self._unreachable as error:
                logger.debug("%s: %s", self.endpoint.public, plain(error))
            except Exception:
                logger.exception(
                    "the %s transport looks after its queues again in %g s", self.endpoint.scheme, _FAULT_S
                )
                await asyncio.sleep(_FAULT_S)

    async def _tick(self, now: float) -> None:
        self.peers.look()
        for subscription in self._ever:
            overdue = subscription.neglected(now)
            if overdue:
                await self._keep_alive(overdue)
        oldest = next(iter(self._outbox.values()), None)
        if oldest is not None and now - oldest.began > _UNANSWERED_S:
            self._troubles.begin(_PUBLISHING, "the broker accepts nothing; is it short of memory or disk?")
        if not self._is_behind:
            await self._send_what_is_due(now)
        elif not self._catching_up:  # it met with an error
            await self._send_everything_again()
        if now - self._connected_at > _AWAY_S:
            self._others_before = {}
        if now - self._wants_said > SAY_S:
            self._wants_said = now
            self._begin(self._say_what_is_wanted_if_possible())
            self._begin(self._collect_again_if_possible())
        for subscription in list(self._subscriptions):
            await self._look_after(subscription)
            if subscription.is_ready:
                await subscription.top_up()
            if subscription.is_ready and subscription.is_quiet:
                subscription.correct(await self._backlog(subscription))
        if self._ended and not self.unsettled():
            self._ended.wake()


def _troubles_of(subscription: BrokerSubscription) -> tuple[str, str]:
    """What may not work: there is no queue, or no listening to it."""
    return f"the queue of {subscription.name}", f"listening for {subscription.name}"
