"""The transport over Kafka: publications go to the queues of all that want them."""

import asyncio
import contextlib
import random
import re
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any, ClassVar, Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    AuthenticationFailedError,
    BrokerResponseError,
    KafkaError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage, key_of
from echo_core.transports.base import Capabilities
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import Publication
from echo_core.transports.broker.recovery import backoff, end_task, plain, within
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from echo_core.transports.broker.transport import OPTIONS as COMMON_OPTIONS
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.endpoint import Endpoint, parse_endpoint
from echo_core.transports.kafka.client import ANSWER_S, Administration, client_options, stop
from echo_core.transports.kafka.outlet import Outlet
from echo_core.transports.kafka.progress import Progress
from echo_core.transports.kafka.reading import TOPIC_HEADER, KafkaSubscription
from echo_core.transports.kafka.registry import Registry

PORT: Final = 9092
OPTIONS: Final = COMMON_OPTIONS | {"partitions", "replicas", "ordering_key", "sasl"}
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
"""What Kafka takes as a topic's name."""
_KEY: Final = re.compile(r"source|data(\.[^.]+)*")
"""A path into a message, as `delivery.ordering_key` is."""
_SHORTEST_LEASE_S: Final = 6.0
"""Kafka's group.min.session.timeout.ms, unless configured."""
_HEARTBEAT_MS: Final = 500
"""So soon a host hears that another has joined or left."""
_OVERHEAD: Final = 512
"""Bytes that a batch and a record may have around a message: headers, lengths, a topic's name."""
_FOR_EVER_MS: Final = 2**31 - 1
_AT_A_TIME: Final = 256 * 1024
"""Bytes of a batch."""
_LOOK_S: Final = 1.0
"""Time between two looks whether everything is still there."""
_DELETE_S: Final = 60.0
"""Time between two deletions of what was settled."""
_QUEUE: Final = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
"""A queue keeps what is not settled; what is settled we delete ourselves."""
_HOSTS: Final = {"cleanup.policy": "delete", "retention.ms": "60000", "segment.ms": "60000"}
"""Who was not there to hear it need not hear it later."""
_REGISTRY: Final = {"cleanup.policy": "compact"}


class KafkaTransport(BrokerTransport):
    """Messages in topics of Kafka."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        ordered_over_hosts=True,
        presence=True,
        accepted="Kafka has it in the queue of each plugin that wants it, on all replicas that are in sync.",
        settled="This host knows it, and Kafka is told within a quarter of a second.",
    )
    broker = "Kafka"
    client_errors = (KafkaError,)
    subscription_type = KafkaSubscription
    resend_s = float("inf")  # an outlet tries by itself until Kafka has it

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._options: Final = client_options(endpoint)
        self._partitions: Final = endpoint.number("partitions", 1, int, least=1)
        self._replicas: Final = endpoint.number("replicas", 0, int, least=1)
        key = endpoint.text("ordering_key", "")
        if key and not _KEY.fullmatch(key):
            raise SettingsError(
                f"the option ordering_key={key} is wrong",
                where="host.transport",
                fix='write "source" or "data.speaker"',
            )
        self._key_of: Final = key_of(key) if key else None
        self._keys: dict[int, bytes] = {}
        """The partition key of each publication that is on its way and has one."""
        self._owed: dict[int, set[str]] = {}
        """The queues that a publication is on its way to."""
        self._outlets: dict[str, Outlet] = {}
        self._hosts: Final = f"{self.prefix}-hosts"
        """The topic on which hosts hear of each other."""
        self._looking: asyncio.Task[None] | None = None
        self._last_deletion = monotonic()
        self.administration = Administration(self._options)
        self.producer: Any = None
        self._registry = self._new_registry()

    def queue(self, name: str) -> str:
        """The name of a subscription's queue at Kafka; raises `TransportError` where it cannot have one."""
        queue = f"{self.prefix}.{name}"
        if not self._can_be_queue(name):
            raise TransportError(
                f"{queue!r} is no name of a topic of Kafka's",
                where=f"subscription {name!r}",
                fix="use letters, digits, _ and -, at most 249 with the prefix",
            )
        return queue

    def _can_be_queue(self, name: str) -> bool:
        return bool(name) and _NAME.fullmatch(f"{self.prefix}.{name}") is not None

    def new_consumer(self, queue: str, listener: ConsumerRebalanceListener) -> AIOKafkaConsumer:
        """A member of the queue's group, not yet started."""
        session_ms = int(max(self.lease_s, _SHORTEST_LEASE_S) * 1_000)
        consumer = AIOKafkaConsumer(
            group_id=queue,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=_HEARTBEAT_MS,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=_FOR_EVER_MS,
            # One for each consumer: it remembers in its class what it was given.
            partition_assignment_strategy=[type("Sticky", (StickyPartitionAssignor,), {})],
            # Joining a group waits for members who have died and are not given up yet.
            request_timeout_ms=2 * session_ms,
            max_partition_fetch_bytes=max(2**20, self.payload_limit + 2 * _OVERHEAD),
            **self._options,
        )
        consumer.subscribe([queue], listener=listener)
        return consumer

    # -- connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        await self._let_go()
        self.administration = Administration(self._options)
        await self.administration.start()
        await self._ensure(self.prefix, partitions=1, configs=_REGISTRY)
        await self._ensure(self._hosts, partitions=1, configs=_HOSTS)
        self.payload_limit = await self.administration.largest(self.prefix) - _OVERHEAD
        self.producer = AIOKafkaProducer(
            acks="all",
            request_timeout_ms=int(ANSWER_S * 1_000),
            max_batch_size=min(_AT_A_TIME, self.payload_limit),
            max_request_size=2**31 - 1,  # what is too large was refused before
            **self._options,
        )
        await self.producer.start()
        self._registry = self._new_registry()
        await self._registry.start(await self._end_of(self.prefix), await self._end_of(self._hosts))
        self._looking = asyncio.create_task(self._look(), name="kafka look")

    async def _end_of(self, topic: str) -> int:
        """The offset after the last record of a topic with one partition; 0 where there is none."""
        leaders = (await self.administration.leaders([topic])).get(topic, {})
        return (await self.administration.ends(topic, leaders)).get(0, 0)

    def _new_registry(self) -> Registry:
        return Registry(self.prefix, self._hosts, self._can_be_queue, self._heard_of, self._options)

    async def announce(self, host: str, document: bytes) -> None:
        if self.producer is not None and self.is_connected:
            with contextlib.suppress(KafkaError):
                await self.producer.send_and_wait(
                    self._hosts, b"%b\n%b" % (host.encode(), document), partition=0
                )

    async def _let_go(self) -> None:
        """End what stands on the old connection; consumers find their own way back."""
        await asyncio.gather(*(end_task(outlet.task) for outlet in self._outlets.values()))
        self._outlets.clear()
        self._owed.clear()
        if self._looking is not asyncio.current_task():
            await end_task(self._looking)
        producer, self.producer = self.producer, None
        await asyncio.gather(self._registry.stop(), self.administration.stop(), stop(producer))

    async def _disconnect(self) -> None:
        await end_task(self._looking)  # it would have queues read again
        subscriptions = [one for one in self._ever if isinstance(one, KafkaSubscription)]
        await asyncio.gather(*(subscription.stop_reading() for subscription in subscriptions))
        await self._let_go()
        self._keys.clear()

    def _advice(self, error: Exception) -> str:
        refused = isinstance(error, AuthenticationFailedError | UnsupportedSaslMechanismError)
        return "mend user and password, or the option sasl" if refused else super()._advice(error)

    async def _ensure(self, name: str, *, partitions: int, configs: Mapping[str, str]) -> None:
        """See that a topic is there."""
        if name in await self.administration.leaders([name]):
            return
        if not self.may_create:
            raise self._missing(f"the topic {name}")
        await self.administration.make(name, partitions, self._replicas, configs)
        for delay in backoff(most=0.2):  # the brokers hear of it one after the other
            if name in await self.administration.leaders([name]):
                break
            await asyncio.sleep(delay)

    async def _look(self) -> None:
        """See that Kafka is there, and all that is ours at it."""
        while True:
            await asyncio.sleep(_LOOK_S)
            ready = [one for one in self._kafka_subscriptions() if one.is_ready]
            queues = {self.queue(one.name): one for one in ready}
            try:
                names = {self.prefix, *queues, *self._outlets}
                there = await within(ANSWER_S, self.administration.leaders(names))
                if await within(ANSWER_S, self._end_of(self.prefix)) < self._registry.position:
                    self._registry.begin_anew()
            except (KafkaError, OSError, TimeoutError) as error:
                self._cut_off(plain(error))
                return
            for queue, outlet in self._outlets.items():
                outlet.partitions = len(there.get(queue, ()))  # an operator may have added some
            for queue, subscription in queues.items():
                known = self.prefix in there and self._registry.patterns(subscription.name) is not None
                if queue not in there or not known:
                    self._lost(subscription, "it is gone")
                elif not subscription.is_reading and not subscription.is_listening:
                    # Its task has met with what nobody thought of.
                    self._resume_soon(subscription)
            if monotonic() - self._last_deletion > _DELETE_S:
                self._last_deletion = monotonic()
                await self._delete_what_is_settled()

    def _kafka_subscriptions(self) -> list[KafkaSubscription]:
        return [one for one in self._subscriptions if isinstance(one, KafkaSubscription)]

    async def _delete_what_is_settled(self) -> None:
        """A queue keeps nothing for ever; where we may not delete, it is for its retention to do so."""
        for subscription in self._kafka_subscriptions():
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await within(
                    ANSWER_S, self.administration.delete_before(subscription.queue, subscription.finished())
                )

    # -- subscriptions --------------------------------------------------------------------------------

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, KafkaSubscription)
        try:
            await self._ensure(self.prefix, partitions=1, configs=_REGISTRY)
            await self._ensure(subscription.queue, partitions=self._partitions, configs=_QUEUE)
            await self._register(subscription)
        except KafkaError as error:
            if isinstance(error, BrokerResponseError) and not error.retriable:
                raise TransportError(
                    f"Kafka refuses the queue of {subscription.name}",
                    where=self.endpoint.public,
                    why=plain(error),
                ) from None
            raise ConnectionError(plain(error)) from None  # it was the client that gave up
        await subscription.begin_reading()

    async def _register(self, subscription: KafkaSubscription) -> None:
        patterns = self._patterns_of(subscription)
        known = self._registry.patterns(subscription.name)
        if known is not None and set(known) == set(patterns):
            return
        if not self.may_create:
            if known is None:
                raise self._missing(f"the subscription of {subscription.name}")
            return  # the operator's patterns; what we do not want is passed over
        if known is not None:
            patterns = await self._agree_with_peers(subscription)
        await self._write_down(subscription, patterns)

    async def _collect_again(self, subscription: BrokerSubscription) -> None:
        known = self._registry.patterns(subscription.name)
        if known is not None and not subscription.collects(known):
            await self._write_down(subscription, self._patterns_of(subscription))

    async def _write_down(self, subscription: BrokerSubscription, patterns: list[str]) -> None:
        """Have publishers know what its queue collects."""
        if self.producer is None:
            raise ConnectionError("there is no connection")
        written = await self.producer.send_and_wait(
            self.prefix, msgspec.json.encode(patterns), key=subscription.name.encode(), partition=0
        )
        await within(ANSWER_S, self._registry.until(written.offset + 1))

    async def _resume(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, KafkaSubscription)
        if self._registry.patterns(subscription.name) is None:
            self._lost(subscription, "it is gone")
        elif not subscription.is_reading:
            await subscription.begin_reading()

    async def _stop(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, KafkaSubscription)
        await subscription.stop_fetching()

    def cannot_read(self, subscription: KafkaSubscription, why: str) -> None:
        """Its consumer says so; it is tried again."""
        self._troubles.begin(f"reading {subscription.queue}", why)

    def can_read(self, subscription: KafkaSubscription) -> None:
        """Its consumer is a member of the group."""
        self._troubles.end(f"reading {subscription.queue}")

    # -- messages -------------------------------------------------------------------------------------

    async def _prepare(
        self, topic: str, message: BaseMessage, owner: BrokerSubscription | None
    ) -> Publication:
        publication = await super()._prepare(topic, message, owner)
        if self._key_of is not None and (key := self._key_of(message)):
            self._keys[publication.number] = key.encode()
        return publication

    async def _send(self, publication: Publication) -> None:
        number = publication.number
        if number in self._owed:
            return
        queues = {self.queue(name) for name in self._registry.wanting(publication.topic)}
        if not queues:
            await self._accepted(number)
            return
        self._owed[number] = queues
        key = self._keys.get(number, b"")
        for queue in queues:
            outlet = self._outlets.get(queue)
            if outlet is None:
                outlet = self._outlets[queue] = Outlet(self, queue)
            outlet.put(publication, key)

    async def copied(self, publication: Publication, queue: str) -> None:
        """The queue has it; accepted is what all queues have."""
        number = publication.number
        owed = self._owed.get(number)
        if owed is not None:
            owed.discard(queue)
            if not owed:
                del self._owed[number]
                await self._accepted(number)

    async def _accepted(self, number: int) -> None:
        self._keys.pop(number, None)
        await super()._accepted(number)

    async def partitions_of(self, queue: str) -> int:
        """How many the queue has; raises `UnknownTopicOrPartitionError` where there is no such queue."""
        return len(await self._leaders_of(queue))

    async def _leaders_of(self, queue: str) -> dict[int, int]:
        found = await self.administration.leaders([queue])
        if queue not in found:
            raise UnknownTopicOrPartitionError(queue)
        return found[queue]

    async def is_still_wanted(self, queue: str, publication: Publication, error: Exception) -> bool:
        """Something could not be sent to a queue: whether to try again."""
        name = queue.removeprefix(f"{self.prefix}.")
        own = next((one for one in publication.subscriptions if one.name == name and one.is_ready), None)
        if own is None and self._registry.patterns(name) is None:
            return False
        self._troubles.begin(f"publishing to {publication.topic}", plain(error))
        if isinstance(error, UnknownTopicOrPartitionError):
            if own is not None:
                self._lost(own, "it is gone")
            else:  # its plugin runs elsewhere, or will again: it finds there what it missed
                with contextlib.suppress(KafkaError, TransportError, OSError, TimeoutError):
                    await self._ensure(queue, partitions=self._partitions, configs=_QUEUE)
        return True

    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        assert isinstance(subscription, KafkaSubscription)
        subscription.wanted_more.set()

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        assert isinstance(delivery.subscription, KafkaSubscription)
        delivery.subscription.settled(delivery)

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        assert isinstance(delivery.subscription, KafkaSubscription)
        delivery.subscription.again(delivery, delay)

    async def _hand_on(self, delivery: BrokerDelivery, payload: bytes) -> None:
        assert isinstance(delivery.subscription, KafkaSubscription)
        delivery.subscription.for_others[delivery] = payload

    async def _write_for_others(self, subscription: KafkaSubscription) -> None:
        """Write what is for another version of the plugin to a partition that another host reads.

        Where all partitions are ours it stays open, until we give them up, or nobody wants it any more.
        """
        theirs = set(await self._leaders_of(subscription.queue)) - subscription.assigned()
        for delivery, payload in list(subscription.for_others.items()):
            if self.peers.want(subscription.name, delivery.topic):
                if not theirs or self.producer is None:
                    continue
                await self.producer.send_and_wait(
                    subscription.queue,
                    payload,
                    partition=random.choice(sorted(theirs)),  # noqa: S311  (no secret)
                    headers=[(TOPIC_HEADER, delivery.topic.encode())],
                )
            elif not self.peers.is_surplus(subscription.name, delivery.topic):
                continue
            if subscription.for_others.pop(delivery, None) is not None:
                subscription.settled(delivery)

    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        """The consumer's heartbeat says that we live."""

    async def _look_after(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, KafkaSubscription)
        if subscription.for_others:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._write_for_others(subscription)
            except KafkaError as error:
                raise ConnectionError(plain(error)) from None
        await subscription.commit()

    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        assert isinstance(subscription, KafkaSubscription)
        await subscription.commit()
        queue, waiting, unsettled = subscription.queue, 0, 0
        try:
            async with asyncio.timeout(ANSWER_S):
                leaders = await self._leaders_of(queue)
                ends = await self.administration.ends(queue, leaders)
                committed = await self.administration.committed(queue, queue, leaders)
        except KafkaError as error:
            raise ConnectionError(plain(error)) from None
        for partition, end in ends.items():
            offset, note = committed.get(partition, (0, ""))
            progress = Progress(offset, note)
            waiting += max(0, end - progress.next)
            unsettled += progress.open
        return Backlog(waiting, unsettled)


def open_kafka(url: str) -> KafkaTransport:
    """The transport that a kafka:// URL names, not yet open; raises `SettingsError` for a wrong one."""
    return KafkaTransport(parse_endpoint(url, port=PORT, options=OPTIONS))
