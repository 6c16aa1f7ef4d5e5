"""What a transport promises. A new one is a file beside this and a line in `urls.py`.

Accepted: `publish` returned, and the message will be delivered to every subscription that matched then.
Settled: `Delivery.settle` returned, and the message will not be delivered to that subscription again.
Between the two it is the transport's to keep, and comes again after `retry` or a lost connection.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import msgspec

from echo_core.errors import TransportClosed
from echo_core.message import BaseMessage
from echo_core.transports.pressure import Pressure


class _Done(Awaitable[None]):
    __slots__ = ()
    __await__: Callable[["_Done"], Iterator[Any]] = ().__iter__  # type: ignore[assignment]


DONE: Final[Awaitable[None]] = _Done()
"""Nothing is left to wait for; costs less than a coroutine that returns at once, and may be awaited again."""


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
    """`on_accept` is called: a source learns how its messages ended, and its state is kept when they have.

    Without it a source learns that they were accepted, and its state is kept then."""
    redelivers_to_one: bool = False
    """`redeliver` reaches the one subscription that is meant, and no other."""
    ordered: bool = False
    """On one host, of messages accepted one after the other the earlier is handled first and ends first, also
    after a connection was lost. A message may come twice, and its first time counts; `retry(delay)` gives up
    its place."""
    ordered_over_hosts: bool = False
    """The same for messages of one key, whichever of several hosts handles them."""
    presence: bool = False
    """`announced` tells of the other hosts."""
    accepted: str = ""
    """What it means that `publish` returned, in a sentence; docs/durability.md has the same."""
    settled: str = ""
    """What it means that `settle` returned."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait in the memory of this process, over all subscriptions."""

    messages: int = 100_000
    bytes: int = 256 * 1024 * 1024


class SubscriptionStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot; safe to ask for at any time, from any thread."""

    waiting: int
    """Accepted, and not yet received."""
    unsettled: int
    """Received, and not yet settled."""


class Delivery:
    """One message handed to one subscription, once. Exactly one of `settle` and `retry` ends it.

    What it knows besides, and how it is made, is the transport's. It is no ABC so that it may be a Struct.
    """

    __slots__ = ()

    topic: str
    message: BaseMessage
    attempt: int
    """1 for the first delivery of this message to this subscription; one more each time it comes back."""

    @abstractmethod
    def settle(self) -> Awaitable[None]:
        """The message has ended here, once the answer was awaited. Ending it twice changes nothing."""

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        """`settle` each of them, all of one subscription; for a transport that can do it in one go."""
        for delivery in deliveries:
            await delivery.settle()

    @abstractmethod
    async def retry(self, delay: float = 0.0) -> None:
        """Hand the message back: it comes again after `delay` seconds or more, with `attempt` one higher."""


class Subscription(ABC):
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

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delivery:
        try:
            return (await self.receive(1))[0]
        except TransportClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

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

    pressure: Pressure | None = None
    """Who waits for whom, where publishers wait in this process; shared with what works beside it."""

    @abstractmethod
    async def open(self) -> None:
        """Connect. Raises `TransportError` when that is not possible."""

    @abstractmethod
    async def close(self) -> None:
        """Refuse further publications, close every subscription, disconnect."""

    @abstractmethod
    def publish(self, topic: str, message: BaseMessage) -> Awaitable[None]:
        """Await the answer: then the message is accepted, and in every matching subscription's queue.

        Most are coroutines. One that has nothing to wait for may do it all in the call, and answer `DONE`.
        The span of the publication is current while the answer is awaited, not in the call.

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

    async def publish_from(self, topic: str, message: BaseMessage, origin: Delivery) -> None:
        """`publish` a message that comes, through others that are not of this transport, from `origin`.

        `origin` has not been settled, and settling it may wait in the place of the caller.
        """
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

    async def wait_until_collecting(self) -> None:  # noqa: B027  (`subscribe` alone is enough by default)
        """Return when what anybody publishes from now on reaches every subscription of this process.

        What this process publishes does so without being waited for.
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

    def keeps(self, delivery: Delivery) -> bool:
        """Whether it comes again after the end of this process, if it is not settled."""
        return self.capabilities.durable

    @abstractmethod
    def unsettled(self) -> int:
        """Messages accepted and not yet settled, over all subscriptions of this process."""

    @abstractmethod
    async def wait_until_settled(self) -> None:
        """Return when `unsettled` is zero."""

    async def announce(self, host: str, document: bytes) -> None:  # noqa: B027  (without `presence`)
        """Let the hosts that share the transport hear of this one. Raises `TransportError` or OSError."""

    async def announced(self) -> Mapping[str, bytes]:
        """The newest document of each host that was heard lately, this one among them.

        How old it may be is the transport's; whoever reads must see for himself whether it changes.
        """
        return {}

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
