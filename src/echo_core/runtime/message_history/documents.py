"""What is told of messages: objects of JSON, the same on the command line and over the control API."""

from typing import Any

import msgspec

from echo_core.runtime.message_history.differences import Difference
from echo_core.runtime.message_history.store import Extent


class Handled(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin did with a message at one time."""

    number: int
    version: str
    """Of the plugin."""
    outcome: str
    """One of `records.OUTCOMES`."""
    time_ns: int
    """When it began."""
    wait_ms: float
    """Since the message was made, or since the attempt before."""
    work_ms: float
    batch: int
    """How many messages were handled together, and took this time; 0: it was alone."""
    error_type: str
    error: str


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """One message in one plugin."""

    plugin: str
    state: str
    """processed, filtered, dead-lettered or shed; waiting, when it has not ended; unknown, when the host was
    killed or records were dropped."""
    attempts: tuple[Handled, ...]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the path."""

    id: str
    topic: str
    source: str
    version: str
    time_ns: int
    """When it was made; 0: not known."""
    trace_id: str
    root_id: str
    parents: tuple[str, ...]
    only: str
    """The one plugin that it was sent to, by a replay."""
    is_replay: bool
    """It says what its parent says, which was sent again."""
    is_known: bool
    """Whether it is recorded how it came about; if not, that was before what is kept, or elsewhere."""
    visits: tuple[Visit, ...]
    is_kept: bool
    """Whether its payload was kept."""
    masked: tuple[str, ...]
    """Fields of the payload that are not as they were."""
    data: Any
    """The payload, if it was kept."""
    differences: tuple[Difference, ...]
    """From the payload of its first parent, where both were kept."""


class MessagePath(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of one message and its relatives."""

    asked: str
    """The id that was found, whole."""
    kind: str
    """What it is the id of: message or trace."""
    messages: tuple[Step, ...]
    """The oldest first; a message comes after those that it was made from."""
    more: int
    """Messages that are not shown, because they were too many."""
    total_ms: float
    """From the making of the first message to the end of the last attempt."""
    as_of_ns: int
    """What happened later is not in it."""
    gaps: int
    """Records that were dropped while this happened: what is missing may have been there."""
    damaged: int
    """Blocks of records that could not be read."""
    extent: Extent


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was made from no other, and what became of it, in short."""

    id: str
    topic: str
    source: str
    time_ns: int
    messages: int
    """How many there are on its path."""
    total_ms: float
    states: dict[str, int]
    """How often a plugin ended a message of the path so."""


class Newest(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of them, the newest first."""

    origins: tuple[Origin, ...]
    extent: Extent
