"""What a transport promises. A new one is a file beside this and a line in `urls.py`.

Accepted: `publish` returned, and the message will be delivered to every subscription that matched then.
Settled: `Delivery.settle` returned, and the message will not be delivered to that subscription again.
Between the two it is the transport's to keep, and comes again after `retry` or a lost connection.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import ClassVar, Self

import msgspec

from echo_core.errors import TransportClosed
from echo_core.message import BaseMessage


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What this kind of transport can do; the table in the docs is made from it."""

    durable: bool
    """Accepted messages survive the end of this process."""
    shared: bool
    """Several hosts can share one subscription's messages."""
    bounded_by_publisher: bool
    """`publish` slows its caller while a subscription's queue is full."""
    delayed_retry: bool
    """`retry(delay)` waits for the delay rather than coming back at once."""
    slows_by_source: bool = False
    """`congestion` tells a source to wait before the queues that its messages fill are full."""
    reports_acceptance: bool = False
    """`on_accept` is called: a source learns how its messages ended, not only that they were accepted."""
    redelivers_to_one: bool = False
    """`redeliver` reaches the one subscription that is meant, and no other."""
    accepted: str = ""
    """What it means that `publish` returned, in a sentence; docs/durability.md has the same."""
    settled: str = ""
    """What it means that `settle` returned."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait in the memory of this process, over all subscriptions."""

    messages: int = 100_000
    bytes: int = 256 * 1024 * 1024


class SubscriptionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot; safe to ask for at any time."""

    waiting: int
    """Accepted, and not yet received."""
    unsettled: int
    """Received, and not yet settled."""


class Delivery(ABC):
    """One message handed to one subscription, once. Exactly one of `settle` and `retry` ends it."""

    __slots__ = ("attempt", "message", "topic")

    def __init__(self, topic: str, message: BaseMessage, attempt: int) -> None:
        self.topic = topic
        self.message = message
        self.attempt = attempt
        """1 for the first delivery of this message to this subscription; one more each time it comes back."""

    @abstractmethod
    def settle(self) -> Awaitable[None]:
        """The message has ended here. Ending it twice changes nothing."""

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        """`settle` each of them, all of one subscription; for a transport that can do it in one go."""
        for delivery in deliveries:
            await delivery.settle()

    @abstractmethod
    async def retry(self, delay: float = 0.0) -> None:
        """Hand the message back: it comes again after `delay` seconds or more, with `attempt` one higher."""


class Subscription(AbstractAsyncContextManager["Subscription"], AsyncIterator[Delivery]):
    """The messages for one subscriber, in the order in which they were accepted."""

    name: str

    @abstractmethod
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        """At least one delivery and at most `limit`; waits for the first, never for the rest.

        Raises `TransportClosed` once the subscription is closed and nothing is left in its queue.
        """

    @abstractmethod
    def statistics(self) -> SubscriptionStatistics:
        """How much is waiting and unsettled now."""

    @abstractmethod
    async def close(self) -> None:
        """Take no new messages. Those that wait can still be received; closing twice is closing once."""

    async def __anext__(self) -> Delivery:
        try:
            return (await self.receive(1))[0]
        except TransportClosed:
            raise StopAsyncIteration from None

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class Transport(ABC):
    """A message bus. Open it before use and close it after; both may be done twice."""

    capabilities: ClassVar[Capabilities]

    on_accept: Callable[[BaseMessage, int], None] | None = None
    """Set by a host that follows messages to their ends: call it with each accepted message, and to how many
    subscriptions of this process it goes, at any time between the acceptance and the return of `publish`.
    Transports that can do so say it in `Capabilities.reports_acceptance`; the others may leave it alone."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `TransportError` when that is not possible."""

    @abstractmethod
    async def close(self) -> None:
        """Refuse further publications, close every subscription, disconnect."""

    @abstractmethod
    async def publish(self, topic: str, message: BaseMessage) -> None:
        """Return once the message is accepted; it has then reached every matching subscription's queue.

        A message that no subscription matches is accepted, and gone. Raises `TopicError` for a malformed
        topic, `TransportClosed` after `close`, `QueueFull` when a hard bound is reached. A caller that is
        cancelled cannot know whether the message was accepted.
        """

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """`publish` each of them, in order; for a transport that can do it in one go.

        Returns once all are accepted. When it raises, those before some point were accepted, and the
        others were not.
        """
        for message in messages:
            await self.publish(topic, message)

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        """`publish` a message that was published before, because `subscriber` is to have it again.

        By default everybody who subscribes to the topic gets it. With `Capabilities.redelivers_to_one` it
        raises `TransportError` when there is no such subscription.
        """
        await self.publish(topic, message)

    @abstractmethod
    def subscribe(self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000) -> Subscription:
        """Begin to collect messages whose topic matches any of `patterns`, each once.

        `name` tells subscribers apart; by convention it is the plugin's. When `queue_limit` messages wait,
        publishers are slowed (see `Capabilities.bounded_by_publisher`).
        """

    def limit(self, bounds: Bounds) -> None:  # noqa: B027  (to keep nothing here is a good default)
        """Hold no more than this in the memory of this process. Called before the first `subscribe`.

        Queues are made shorter where `queue_limit` alone would not hold the bounds. A transport whose
        waiting messages are kept elsewhere has nothing to do.
        """

    def congestion(self, source: str) -> Awaitable[None] | None:
        """What `source` should wait for before it publishes, and then ask again; None: go on.

        A source here is who publishes messages that are made from no other.
        It slows the one source whose messages fill a queue, and does so before that queue is full and makes a
        plugin wait which others need too. The default, for transports that cannot know, lets everybody go on.
        """
        return None

    @abstractmethod
    def unsettled(self) -> int:
        """Messages accepted and not yet settled, over all subscriptions of this process."""

    @abstractmethod
    async def wait_until_settled(self) -> None:
        """Return when `unsettled` is zero."""

    def trouble(self) -> str:
        """What keeps it from working at this moment, in words; empty when nothing does."""
        return ""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
