"""The part of a Kafka queue that this process reads: the partitions it was given, and what is open in them.

A partition is another host's as soon as Kafka says so. Until then its deliveries may be settled here; after
that whatever is still in hand is settled there, and what is said of it here goes unheard.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError

from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.recovery import backoff, end_task, plain
from echo_core.transports.broker.subscription import BrokerSubscription
from echo_core.transports.kafka.client import ANSWER_S, stop
from echo_core.transports.kafka.progress import Progress

if TYPE_CHECKING:
    from echo_core.transports.kafka.transport import KafkaTransport

logger = logging.getLogger(__name__)

TOPIC_HEADER: Final = "topic"
"""The header of a record that names the message's topic."""
_WAIT_MS: Final = 1_000
_GRACE_S: Final = 1.0
"""How long what is in hand may take to end before its partition is given up."""
_PAUSE_S: Final = 0.2
_FAILURES: Final = 20
"""In a row, after which a consumer is given up, and another one made."""
_JOIN_S: Final = 8.0
"""How long closing waits for the group to hand out its partitions, where messages wait in them."""
_FOR_EVER_MS: Final = 2**31 - 1
_OURS: Final = True
_LOST: Final = False


class KafkaSubscription(BrokerSubscription):
    """A queue of Kafka's, and the consumer that reads it."""

    _transport: "KafkaTransport"

    def __init__(self, transport: "KafkaTransport", name: str, *more: Any) -> None:
        super().__init__(transport, name, *more)
        self.queue: Final = transport.queue(name)
        """The topic at Kafka, and the group."""
        self.consumer: AIOKafkaConsumer | None = None
        self.wanted_more = asyncio.Event()
        self.for_others: dict[BrokerDelivery, bytes] = {}
        """What hosts with another version of the plugin are to have, and its bytes; open until then."""
        self._finished: dict[int, int] = {}
        self._reader: asyncio.Task[None] | None = None
        self._progress: dict[int, Progress] = {}
        self._has_none = False
        """Whether the group has handed out its partitions, and none to us."""
        self._generation = 0
        """Counts how often the partitions were handed out."""
        self._taking_in = asyncio.Lock()
        self._beginning = asyncio.Lock()
        self._leaving = asyncio.Lock()
        self._committing = asyncio.Lock()

    # -- reading --------------------------------------------------------------------------------------

    async def begin_reading(self) -> None:
        """Join the group, in a task; what was read so far is read again, and known."""
        async with self._beginning:
            await self.stop_reading()
            self._reader = asyncio.create_task(self._read(), name=f"{self.name} reader")

    @property
    def is_reading(self) -> bool:
        """Whether it still does."""
        return self._reader is not None and not self._reader.done()

    async def stop_reading(self) -> None:
        """Leave the group, after telling how far everything was handled."""
        await asyncio.shield(self._leave())  # whoever is cancelled here must not leave half of it behind

    async def _leave(self) -> None:
        async with self._leaving:
            await end_task(self._reader)
            self._reader = None
            consumer, self.consumer = self.consumer, None
            if consumer is not None:
                await self._commit_through(consumer)
                self._forget_partitions()
                await stop(consumer)

    async def stop_fetching(self) -> None:
        """Take nothing more, and stay in the group, until everything is settled."""
        async with self._taking_in:
            await end_task(self._reader)
            self._reader = None
        self._transport._begin(self._leave_when_done())

    async def _leave_when_done(self) -> None:
        while self._held and self.consumer is not None:  # noqa: ASYNC110  (rare, and nobody waits for it)
            await asyncio.sleep(0.02)
        await self.stop_reading()

    async def _read(self) -> None:
        """Be a member of the group, and take records as long as there is room for them."""
        for delay in backoff():
            consumer = self.consumer = self._transport.new_consumer(self.queue, _Rebalancing(self))
            try:
                await consumer.start()
                await self._read_from(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                self._transport.cannot_read(self, plain(error))
            self._forget_partitions()
            await stop(consumer)
            await asyncio.sleep(delay)

    async def _read_from(self, consumer: AIOKafkaConsumer) -> None:
        """Until it fails again and again: what runs in its background may have come to an end."""
        failures = 0
        while failures < _FAILURES:
            if self.asked <= 0:
                self.wanted_more.clear()
                await self.wanted_more.wait()
                continue
            try:
                # It waits while partitions are handed out; what it returns is of those that are ours now.
                records = await consumer.getmany(timeout_ms=_WAIT_MS, max_records=self.asked)
            except KafkaError as error:
                failures += 1
                self._transport.cannot_read(self, plain(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                failures = 0
                await self._take_in_at_last(records, self._generation)

    async def _take_in_at_last(
        self, records: Mapping[TopicPartition, Sequence[ConsumerRecord]], generation: int
    ) -> None:
        """The consumer does not give records twice: try until it works, or they are another host's."""
        while records and generation == self._generation:
            try:
                await self._take_in(records, generation)
            except (KafkaError, OSError, TimeoutError) as error:
                self._transport.cannot_read(self, plain(error))
                await asyncio.sleep(_PAUSE_S)
            else:
                self._transport.can_read(self)
                return

    async def _take_in(
        self, records: Mapping[TopicPartition, Sequence[ConsumerRecord]], generation: int
    ) -> None:
        """Count the attempts where the next host finds them, and only then hand the messages on."""
        async with self._taking_in:
            await self._take_in_alone(records, generation)

    async def _take_in_alone(
        self, records: Mapping[TopicPartition, Sequence[ConsumerRecord]], generation: int
    ) -> None:
        await self._know(place.partition for place in records)
        if generation != self._generation:
            return  # given up meanwhile: whoever has them now reads them again
        attempts: list[tuple[ConsumerRecord, int]] = []
        for place, some in records.items():
            progress = self._progress_of(place.partition, some[0].offset)
            for record in some:
                if (record.partition, record.offset) in self._held:
                    if record.offset >= progress.next:  # its note was not heard
                        progress.deliver(record.offset)
                    self.arrived((record.partition, record.offset), "", b"", 1, _OURS, self._behind)
                elif attempt := progress.deliver(record.offset):
                    attempts.append((record, attempt))
        await self.commit()
        if generation != self._generation:
            return
        behind = self._still_there() + len(attempts)
        for record, attempt in attempts:
            behind -= 1
            self._arrived(record, attempt, behind)

    async def _know(self, partitions: Iterable[int]) -> None:
        """Have the notes of partitions that were just given to us."""
        missing = [number for number in partitions if number not in self._progress]
        if missing:
            committed = await self._transport.administration.committed(self.queue, self.queue, missing)
            for number in missing:
                if number in committed:
                    self._progress[number] = Progress(committed[number].offset, committed[number].metadata)

    def _progress_of(self, partition: int, offset: int) -> Progress:
        progress = self._progress.get(partition)
        if progress is None or offset < progress.committed:  # the first, or of another topic of that name
            progress = self._progress[partition] = Progress(offset)
        return progress

    def _arrived(self, record: ConsumerRecord, attempt: int, behind: int) -> None:
        topic = next((value for name, value in record.headers if name == TOPIC_HEADER), b"")
        key = (record.partition, record.offset)
        surplus = self.arrived(
            key, topic.decode(errors="replace"), record.value or b"", attempt, _OURS, behind
        )
        if surplus is not None:
            self.settled(surplus)

    def assigned(self) -> set[int]:
        """The partitions that are ours at this moment."""
        consumer = self.consumer
        return {place.partition for place in consumer.assignment()} if consumer is not None else set()

    def _still_there(self) -> int:
        """What waits at the broker, as far as the last answers told."""
        consumer, waiting = self.consumer, 0
        if consumer is not None:
            for place in consumer.assignment():
                end, progress = consumer.highwater(place), self._progress.get(place.partition)
                if end is not None and progress is not None:
                    waiting += max(0, end - progress.next)
        return waiting

    # -- settling -------------------------------------------------------------------------------------

    def settled(self, delivery: BrokerDelivery) -> None:
        """It has ended; said to Kafka with the next commit."""
        partition, offset = _place_of(delivery)
        if delivery.handle is not _LOST and partition in self._progress:
            self._progress[partition].settle(offset)

    def again(self, delivery: BrokerDelivery, delay: float) -> None:
        """Deliver it once more: here, for the partition is ours; elsewhere, if we are about to leave."""
        if delivery.handle is not _LOST and not self._is_closing:
            asyncio.get_running_loop().call_later(delay, self._redeliver, delivery, self._generation)

    def _redeliver(self, delivery: BrokerDelivery, generation: int) -> None:
        if generation == self._generation and not self._is_closing:
            self._put_when_due(delivery)

    def _count_again(self, delivery: BrokerDelivery) -> int | None:
        partition, offset = _place_of(delivery)
        if delivery.handle is None:
            return super()._count_again(delivery)
        if delivery.handle is _LOST or partition not in self._progress:
            return None  # the partition was given up, and the message is read again where it is now
        return self._progress[partition].deliver(offset)

    async def commit(self) -> None:
        """Tell Kafka how far everything is. What it does not hear is told again with the next commit."""
        if self.consumer is not None:
            await self._commit_through(self.consumer)

    async def _commit_through(self, consumer: AIOKafkaConsumer) -> None:
        async with self._committing:
            told = {number: one for number, one in self._progress.items() if one.is_dirty}
            if not told:
                return
            offsets = {TopicPartition(self.queue, number): one.commit() for number, one in told.items()}
            try:
                async with asyncio.timeout(ANSWER_S):
                    await consumer.commit(offsets)
            except (KafkaError, IllegalStateError, OSError, TimeoutError) as error:
                logger.debug("%s: %s", self.queue, plain(error))
                for one in told.values():
                    one.is_dirty = True
            else:
                self._finished.update({place.partition: offset for place, (offset, _) in offsets.items()})

    def finished(self) -> dict[int, int]:
        """By partition, the offset before which everything is settled, as Kafka was told; asked once."""
        finished, self._finished = self._finished, {}
        return finished

    # -- partitions come and go -----------------------------------------------------------------------

    async def give_up(self) -> None:
        """The group hands out its partitions anew: let what is in hand end, and tell how far all is."""
        self._generation += 1
        for delivery in self._buffer:
            partition, offset = _place_of(delivery)
            self._held.pop(delivery.key, None)
            if partition in self._progress:
                self._progress[partition].take_back(offset)
        self._buffer.clear()
        for delivery in self.for_others:
            partition, offset = _place_of(delivery)
            if partition in self._progress:
                self._progress[partition].take_back(offset)
        until = monotonic() + _GRACE_S
        while self._held and monotonic() < until:  # noqa: ASYNC110  (rare and short)
            await asyncio.sleep(0.005)
        await self.commit()
        self._forget_partitions()

    def _forget_partitions(self) -> None:
        self._generation += 1
        self._progress.clear()
        self._finished.clear()
        self.for_others.clear()

    async def given(self, partitions: Iterable[int]) -> None:
        """These are ours now. What is in hand of others is no longer ours to settle."""
        ours = set(partitions)
        for key, delivery in list(self._held.items()):
            if _place_of(delivery)[0] not in ours:
                delivery.handle = _LOST
                del self._held[key]
        still_ours = [delivery for delivery in self._buffer if delivery.handle is not _LOST]
        self._buffer.clear()
        self._buffer.extend(still_ours)
        self._has_none = not ours
        if self._has_none:  # other hosts have them all, and hear what is published here
            self._on_the_way.clear()
            self._behind = 0
            self._made_room()
        self._transport.can_read(self)

    def expects(self, message_id: str) -> None:
        if not self._has_none:
            super().expects(message_id)

    def forget_queue(self) -> None:
        super().forget_queue()
        self._forget_partitions()

    # -- ending ---------------------------------------------------------------------------------------

    async def close(self) -> None:
        until = monotonic() + _JOIN_S
        while (  # noqa: ASYNC110  (once, where the group is not formed yet)
            self._on_the_way
            and self._transport.is_connected
            and not (self.consumer is not None and self.consumer.assignment())
            and self.is_reading
            and monotonic() < until
        ):
            await asyncio.sleep(0.01)
        await super().close()

    async def hand_everything_back(self) -> None:
        for delivery in self._buffer:
            partition, offset = _place_of(delivery)
            if partition in self._progress:
                self._progress[partition].take_back(offset)
        await super().hand_everything_back()


def _place_of(delivery: BrokerDelivery) -> tuple[int, int]:
    """The partition and the offset, which are its key."""
    return cast("tuple[int, int]", delivery.key)


class _Rebalancing(ConsumerRebalanceListener):  # type: ignore[misc]  # it has no types
    """Tells a subscription which partitions it has."""

    def __init__(self, subscription: KafkaSubscription) -> None:
        self._subscription = subscription

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        if list(revoked):
            await self._subscription.give_up()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._subscription.given(place.partition for place in assigned)
