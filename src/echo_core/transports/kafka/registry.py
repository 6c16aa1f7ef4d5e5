"""Which plugin wants what: a topic of Kafka that is compacted, so that the newest word of each is kept.

The topic has the name of the prefix and one partition. The key of a record is a subscription's name, its
value the patterns as JSON; a record without a value takes the subscription out. Every host reads it all, and
follows it: a publication goes to the queues of all whose patterns mean its topic. Beside it, with the same
client, it follows the topic on which hosts say how they are.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from echo_core.errors import TopicError
from echo_core.topics import TopicPattern, TopicTrie
from echo_core.transports.broker.recovery import end_task
from echo_core.transports.kafka.client import ANSWER_S, stop

_WAIT_MS: Final = 1_000
_PAUSE_S: Final = 0.2


class Registry:
    """What the topic says, as of a moment ago."""

    def __init__(
        self,
        topic: str,
        hosts: str,
        can_be_queue: Callable[[str], bool],
        heard_of: Callable[[bytes], None],
        options: Mapping[str, Any],
    ) -> None:
        self.position = 0
        """The offset up to which it was read."""
        self._place: Final = TopicPartition(topic, 0)
        self._hosts: Final = TopicPartition(hosts, 0)
        self._can_be_queue = can_be_queue
        self._heard_of = heard_of
        self._options: Final = options
        self._consumer: Any = None
        self._patterns: dict[str, list[str]] = {}
        self._wants: TopicTrie[str] = TopicTrie()
        self._news = asyncio.Condition()
        self._follower: asyncio.Task[None] | None = None

    async def start(self, end: int, hosts_end: int) -> None:
        """Read all up to the offset `end`, and follow; of hosts, what is said from now on.

        Raises `KafkaError`, OSError or TimeoutError.
        """
        self._consumer = AIOKafkaConsumer(
            auto_offset_reset="earliest", request_timeout_ms=int(ANSWER_S * 1_000), **self._options
        )
        self._consumer.assign([self._place, self._hosts])
        await self._consumer.start()
        self._consumer.seek(self._place, 0)
        self._consumer.seek(self._hosts, hosts_end)
        self._follower = asyncio.create_task(self._follow(), name="kafka registry")
        await self.until(end)

    async def stop(self) -> None:
        """Follow no more."""
        await end_task(self._follower)
        consumer, self._consumer = self._consumer, None
        await stop(consumer)

    async def until(self, offset: int) -> None:
        """Return when everything before `offset` was read."""
        async with self._news:
            await self._news.wait_for(lambda: self.position >= offset)

    def begin_anew(self) -> None:
        """Forget what was read: the topic is another one."""
        self._forget()
        self._consumer.seek(self._place, 0)

    def _forget(self) -> None:
        self.position = 0
        self._patterns.clear()
        self._rebuild()

    async def _follow(self) -> None:
        while True:
            try:
                answer = await self._consumer.getmany(timeout_ms=_WAIT_MS)
            except KafkaError:
                await asyncio.sleep(_PAUSE_S)
                continue
            for record in answer.get(self._hosts, ()):
                self._heard_of(record.value or b"")
            # Between the records may lie some that are none: the end of what was read is the client's to say.
            position = await self._consumer.position(self._place)
            records = answer.get(self._place, [])
            if not records and position == self.position:
                continue
            if position < self.position or (records and records[0].offset < self.position):
                self._forget()  # the topic was deleted, and is another one
            for record in records:
                self._note((record.key or b"").decode(errors="replace"), record.value)
            self._rebuild()
            async with self._news:
                self.position = position
                self._news.notify_all()

    def _note(self, name: str, value: bytes | None) -> None:
        if not value:
            self._patterns.pop(name, None)
            return
        try:
            patterns = msgspec.json.decode(value, type=list[str])
            for pattern in patterns:
                TopicPattern(pattern)
        except (msgspec.DecodeError, TopicError):
            return  # somebody else's; ours are well-formed
        if self._can_be_queue(name):  # for any other Kafka has no topic, and nothing could be written to it
            self._patterns[name] = patterns

    def _rebuild(self) -> None:
        self._wants = TopicTrie()
        for name, patterns in self._patterns.items():
            for pattern in patterns:
                self._wants.add(TopicPattern(pattern), name)

    def patterns(self, name: str) -> list[str] | None:
        """What the subscription wants; None when there is no such subscription."""
        return self._patterns.get(name)

    def wanting(self, topic: str) -> tuple[str, ...]:
        """The names of the subscriptions that want the topic."""
        return self._wants.match(topic)
