"""What is on its way to the broker."""

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from echo_core.transports.broker.subscription import BrokerSubscription


NOT_SENT: Final = 0.0
"""In the place of a time: the broker is not about to answer."""


class Publication:
    """A message on its way to the broker."""

    __slots__ = (
        "accepted",
        "began",
        "due",
        "number",
        "owner",
        "payload",
        "publisher",
        "subscriptions",
        "topic",
    )

    def __init__(
        self,
        number: int,
        topic: str,
        publisher: str,
        payload: bytes,
        owner: "BrokerSubscription | None",
        subscriptions: "tuple[BrokerSubscription, ...]",
    ) -> None:
        self.number = number
        self.topic = topic
        self.publisher = publisher
        """Whose publications are kept in order: the message's source."""
        self.payload = payload
        self.owner = owner
        """Whose settling waits for it; None where `publish` itself waits."""
        self.subscriptions = subscriptions
        self.accepted: asyncio.Future[None] | None = None
        self.began = monotonic()
        self.due = NOT_SENT
        """When to send it again if the broker has not answered, by the monotonic clock."""
