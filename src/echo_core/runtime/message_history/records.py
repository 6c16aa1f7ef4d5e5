"""What is recorded: that a message was accepted, and each thing that a plugin did with it.

A record is made for every message while it is handled, so it is as little as can be: a Struct of values that
are at hand, unknown to the garbage collector. What can be found out later is found out by who reads it.
"""

import zlib
from collections.abc import Collection
from typing import Final

import msgspec

PROCESSED: Final = 0
FILTERED: Final = 1
FAILED: Final = 2
"""One attempt; another one, or a dead letter, follows."""
DEAD_LETTERED: Final = 3
SHED: Final = 4
RETURNED: Final = 5
"""Handed back to the transport, because the plugin or the host stopped."""
OUTCOMES: Final = ("processed", "filtered", "failed", "dead-lettered", "shed", "returned")
"""By number."""
ENDS: Final = frozenset({PROCESSED, FILTERED, DEAD_LETTERED, SHED})
"""After these the plugin is done with the message."""


class Accepted(msgspec.Struct, array_like=True, gc=False):
    """A message was accepted by the transport."""

    message_id: str
    root_id: str
    topic: str
    timestamp: int
    """When the message was made: nanoseconds since the epoch."""
    source: str
    version: str
    """Of the plugin that made it."""
    parents: tuple[str, ...]
    """Ids of the messages that it was directly made from."""
    trace_id: str
    """Of its publication; empty when it carries none that W3C knows."""
    only: str = ""
    """The one plugin that it was sent to, where not all who subscribe to its topic were meant."""
    is_replay: bool = False
    """It says what its parent says, which was sent again."""


class Done(msgspec.Struct, array_like=True, gc=False):
    """A plugin made an attempt, or is done with the message otherwise."""

    message_id: str
    plugin: str
    version: str
    attempt: int
    outcome: int
    began: float
    """Of the attempt, and its end: seconds of the host's monotonic clock."""
    ended: float
    batch: int = 0
    """How many messages were handled together, and took this time; 0: it was alone."""
    error_type: str = ""
    error: str = ""


class Records(msgspec.Struct, array_like=True, gc=False):
    """What is written together."""

    accepted: list[Accepted]
    done: list[Done]

    def __len__(self) -> int:
        return len(self.accepted) + len(self.done)


class Kept(msgspec.Struct, array_like=True, gc=False):
    """A message that was kept whole."""

    message: bytes
    """As `echo_core.message.encode` has it."""
    masked: tuple[str, ...] = ()
    """Fields that are not as they were."""


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Records)
_KEPT: Final = msgspec.msgpack.Decoder(dict[str, Kept])
_LEVEL: Final = 1
"""Of zlib: a fifth of the size, for the time it takes to write the rest to a disk."""


def pack(records: Records) -> bytes:
    """The records as bytes; `unpack` is the way back."""
    return zlib.compress(_ENCODER.encode(records), _LEVEL)


def unpack(packed: bytes) -> Records:
    """What `pack` was given; raises ValueError for bytes that are none of its."""
    try:
        return _DECODER.decode(zlib.decompress(packed))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"records cannot be read: {error}") from error


def pack_payloads(payloads: dict[str, Kept]) -> bytes:
    """Messages, by id, as bytes."""
    return zlib.compress(_ENCODER.encode(payloads), _LEVEL)


def unpack_payloads(packed: bytes) -> dict[str, Kept]:
    """What `pack_payloads` was given; raises ValueError for bytes that are none of its."""
    try:
        return _KEPT.decode(zlib.decompress(packed))
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(f"payloads cannot be read: {error}") from error


def keys_of(records: Records, kept: Collection[str] = ()) -> str:
    """The ends of all ids under which these records can be asked for, one after another, without order.

    `kept` are the ids of messages kept whole. An end that is there says that the id may be, one that is not
    says that it is not. The beginnings of ids are moments, and much alike.
    """
    accepted = records.accepted
    ids = {record.message_id for record in accepted}
    ids.update(kept)
    ids.update([record.message_id for record in records.done])
    ids.update([record.root_id for record in accepted])
    ids.update([record.trace_id for record in accepted])
    ids.update([parent for record in accepted if len(record.parents) > 1 for parent in record.parents])
    return _BETWEEN.join([each[-_END:] for each in ids])


_END: Final = 12
_BETWEEN: Final = "\n"
_FEW: Final = 32
"""So many are looked for one by one; to take the keys apart takes as long as for these."""


class Needles:
    """Ids, to be looked for in the keys of many blocks."""

    def __init__(self, ids: Collection[str]) -> None:
        self._ends = [each[-_END:] for each in ids]
        self._set = frozenset(self._ends)
        self._are_few = len(self._ends) <= _FEW or _BETWEEN in "".join(self._ends)

    def may_be_in(self, keys: str) -> bool:
        """Whether one of them may be among these; never False for one that is."""
        if self._are_few:
            return any(end in keys for end in self._ends)
        return not self._set.isdisjoint(keys.split(_BETWEEN))
