"""What is on its way to a queue: in order, in batches, again and again until Kafka has it."""

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from echo_core.transports.broker.publication import Publication
from echo_core.transports.kafka.reading import TOPIC_HEADER

if TYPE_CHECKING:
    from echo_core.transports.kafka.transport import KafkaTransport

_AT_A_TIME: Final = 2_048
"""Messages that are sent before the answers are waited for."""


class Outlet:
    """The way to a queue. Its task lives while something is on it."""

    def __init__(self, transport: "KafkaTransport", queue: str) -> None:
        self.queue: Final = queue
        self.partitions = 0
        """How many the queue has; 0 where that is to be asked."""
        self.task: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Publication, bytes]] = deque()
        self._transport = transport

    def put(self, publication: Publication, key: bytes) -> None:
        """Have it sent after what waits; what has the same key keeps its order."""
        self._waiting.append((publication, key))
        if self.task is None:
            self.task = asyncio.create_task(self._pour(), name=f"{self.queue} outlet")

    async def _pour(self) -> None:
        while self._waiting:
            try:
                if not self.partitions:
                    self.partitions = await self._transport.partitions_of(self.queue)
                await self._send_some()
            except (KafkaError, OSError, TimeoutError) as error:
                if await self._transport.is_still_wanted(self.queue, self._waiting[0][0], error):
                    await asyncio.sleep(random.uniform(0.1, 0.5))  # noqa: S311  (no secret)
                else:
                    await self._give_up()
        self.task = None

    async def _send_some(self) -> None:
        """Send a batch to each partition; raises the first error, and keeps what was not accepted."""
        batches, members = self._batches()
        producer: Any = self._transport.producer
        answers = await asyncio.gather(
            *(_sent(producer, batch, self.queue, partition) for partition, batch in batches.items()),
            return_exceptions=True,
        )
        failed: list[tuple[Publication, bytes]] = []
        errors = dict(zip(batches, answers, strict=True))
        for (publication, key), partition in members:
            if errors[partition] is None:
                await self._transport.copied(publication, self.queue)
            else:
                failed.append((publication, key))
        self._waiting.extendleft(reversed(failed))
        for error in answers:
            if error is not None:
                raise error

    def _batches(self) -> tuple[dict[int, Any], list[tuple[tuple[Publication, bytes], int]]]:
        """Take from what waits until a batch is full: the batches, and who went to which partition."""
        batches: dict[int, Any] = {}
        members: list[tuple[tuple[Publication, bytes], int]] = []
        while self._waiting and len(members) < _AT_A_TIME:
            publication, key = self._waiting[0]
            partition = (murmur2(key) & 0x7FFFFFFF if key else publication.number) % self.partitions
            batch = batches.get(partition)
            if batch is None:
                batch = batches[partition] = self._transport.producer.create_batch()
            headers = [(TOPIC_HEADER, publication.topic.encode())]
            if (
                batch.append(key=key or None, value=publication.payload, timestamp=None, headers=headers)
                is None
            ):
                break
            members.append((self._waiting.popleft(), partition))
        return batches, members

    async def _give_up(self) -> None:
        while self._waiting:
            publication, _ = self._waiting.popleft()
            await self._transport.copied(publication, self.queue)


async def _sent(producer: Any, batch: Any, queue: str, partition: int) -> None:
    """Return when Kafka has the batch."""
    accepted = await producer.send_batch(batch, queue, partition=partition)
    await accepted
