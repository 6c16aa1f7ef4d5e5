"""A real transport that remembers what was published."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from echo_core.message import BaseMessage, encode
from echo_core.transports.memory import MemoryTransport


class Published(NamedTuple):
    """One accepted publication."""

    topic: str
    message: BaseMessage


class RecordingTransport(MemoryTransport):
    """`MemoryTransport`, plus `published`: everything it accepted, in order.

    It also refuses what could not travel on a transport that leaves the process (`MessageError`).
    """

    def __init__(self, when_each: Callable[[], object] = lambda: None) -> None:
        """`when_each` is called with each publication, before it counts."""
        super().__init__()
        self.published: list[Published] = []
        self._when_each = when_each
        self._enough: tuple[int, Callable[[], object]] | None = None

    async def publish(self, topic: str, message: BaseMessage) -> None:
        encode(message)
        await super().publish(topic, message)
        self._when_each()
        self.published.append(Published(topic, message))
        if self._enough is not None and len(self.published) == self._enough[0]:
            self._enough[1]()
            await asyncio.sleep(0)  # a publisher that never waits could not be cancelled otherwise

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        for message in messages:
            await self.publish(topic, message)

    def when_published(self, count: int, callback: Callable[[], object]) -> None:
        """Call back once, when `count` messages have been published; replaces an earlier wish."""
        self._enough = (count, callback)
