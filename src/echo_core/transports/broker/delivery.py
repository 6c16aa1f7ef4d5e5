"""A delivery, and what the broker knows it by."""

from collections.abc import Hashable
from time import monotonic
from typing import TYPE_CHECKING, Any

from echo_core.message import BaseMessage
from echo_core.transports.base import Delivery

if TYPE_CHECKING:
    from echo_core.transports.broker.subscription import BrokerSubscription


class BrokerDelivery(Delivery):
    """A message that the broker has delivered to this process."""

    __slots__ = (
        "_ended",
        "attempt",
        "handle",
        "kept_alive",
        "key",
        "message",
        "number",
        "subscription",
        "topic",
    )

    def __init__(
        self,
        subscription: "BrokerSubscription",
        topic: str,
        message: BaseMessage,
        attempt: int,
        key: Hashable,
        handle: Any,
        number: int = 0,
    ) -> None:
        self.topic = topic
        self.message = message
        self.attempt = attempt
        self.subscription = subscription
        self.key = key
        """The same whenever the broker delivers the message again."""
        self.handle = handle
        """What this one delivery is answered with."""
        self.number = number
        """Its place among all that came for the subscription; the same when it comes again from here."""
        self.kept_alive = monotonic()
        self._ended = False

    async def settle(self) -> None:
        if not self._ended:
            self._ended = True
            await self.subscription._settle(self)

    async def retry(self, delay: float = 0.0) -> None:
        if not self._ended:
            self._ended = True
            await self.subscription._hand_back(self, delay)
