"""What a message must offer to be observed."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol


class ObservedMessage(Protocol):
    """Any message with these properties can be observed; nothing has to be inherited."""

    @property
    def id(self) -> str:
        """Unique id of this message."""

    @property
    def root_id(self) -> str:
        """Id of the first message of its lineage; its own id if it is the first."""

    @property
    def parent_ids(self) -> tuple[str, ...]:
        """Ids of the messages it was made from; empty for a first one."""

    @property
    def timestamp(self) -> int:
        """When it was made, Unix time in nanoseconds."""

    @property
    def trace_context(self) -> Mapping[str, str]:
        """W3C headers of its publish span (traceparent, tracestate, baggage); may be empty."""


class Outgoing(NamedTuple):
    """One of several messages that are about to be published together."""

    id: str
    root_id: str
    parent_ids: tuple[str, ...]
    origin: ObservedMessage | None
    """The one message it was made from; None if it was made from all that is being handled."""
