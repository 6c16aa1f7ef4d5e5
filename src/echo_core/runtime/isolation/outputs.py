"""What a plugin publishes in its own process: kept until its message is handled, or sent to the host."""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import ClassVar, Final

import msgspec

from echo_core.errors import MessageError, TransportError
from echo_core.message import BaseMessage, encode
from echo_core.runtime.isolation.wire import MAX_MESSAGE, Output
from echo_core.transports.base import Capabilities, Subscription, Transport


class Outputs(list[Output]):
    """Of one message, while it is handled. Once closed, nothing is added any more."""

    __slots__ = ("is_open", "size")

    def __init__(self) -> None:
        self.is_open = True
        self.size = 0
        """Bytes of the messages in it."""


outputs_in_hand: Final[ContextVar[Outputs | None]] = ContextVar("outputs_in_hand", default=None)
"""Those of the message that is handled here."""


class ProcessTransport(Transport):
    """The message bus as a plugin in a process of its own sees it."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        durable=False, shared=False, bounded_by_publisher=True, delayed_retry=False
    )

    def __init__(self, publish: Callable[[str, list[msgspec.Raw]], Awaitable[None]]) -> None:
        """`publish` has the host publish messages, and returns once they are accepted."""
        self._publish = publish

    async def publish(self, topic: str, message: BaseMessage) -> None:
        """Keep it for the result of the message in hand; without one, return once the transport accepted it.

        Raises `MessageError` for one that cannot be encoded, or is too large to be sent to the host.
        """
        raw = encode(message)
        outputs = outputs_in_hand.get()
        is_kept = outputs is not None and outputs.is_open
        size = len(raw) + (outputs.size if outputs is not None and is_kept else 0)
        if size > MAX_MESSAGE:
            raise _too_much(size, topic)
        if outputs is not None and is_kept:
            outputs.append(Output(topic, msgspec.Raw(raw)))
            outputs.size = size
        else:
            await self._publish(topic, [msgspec.Raw(raw)])

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """`publish` for many."""
        outputs = outputs_in_hand.get()
        if outputs is not None and outputs.is_open:
            await super().publish_batch(topic, messages)
            return
        waiting: list[msgspec.Raw] = []
        size = 0
        for raw in map(encode, messages):
            if len(raw) > MAX_MESSAGE:
                raise _too_much(len(raw), topic)
            if waiting and size + len(raw) > MAX_MESSAGE:
                await self._publish(topic, waiting)
                waiting, size = [], 0
            waiting.append(msgspec.Raw(raw))
            size += len(raw)
        if waiting:
            await self._publish(topic, waiting)

    def subscribe(self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000) -> Subscription:
        raise TransportError(
            f"{name} cannot subscribe by itself",
            why="it runs in a process of its own, which is fed by the host",
            fix='list the patterns in "subscriptions" of its manifest.json, or run it in_process',
        )

    async def open(self) -> None:
        return

    async def close(self) -> None:
        return

    def unsettled(self) -> int:
        return 0

    async def wait_until_settled(self) -> None:
        return


def _too_much(size: int, topic: str) -> MessageError:
    return MessageError(
        f"{size} bytes are too much to be published at a time",
        where=topic,
        why=f"{MAX_MESSAGE} bytes leave a plugin's own process at a time",
        fix="publish less at a time, or run the plugin in_process",
    )
