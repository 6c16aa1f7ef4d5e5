"""Messages that were accepted together, in one row: how they lie there, and who is to get them.

The row's key is the seq of its last message; the others have the seqs before it, without a gap. The head
says what is in it and has a checksum of its own, which is the row's; each body has one in the head.
"""

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple, Self

import msgspec

MOST_MESSAGES: Final = 256
"""In one block: what their kinds are fits a byte each."""
MOST_BYTES: Final = 65_536
"""Of bodies in one block, unless a single one is longer: more would be lost with one broken page."""


class Kind(msgspec.Struct, frozen=True, eq=False, array_like=True):
    """Messages of one topic that go to the same subscriptions."""

    topic: str
    subscriptions: tuple[int, ...]


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What is in a block."""

    first: int
    kinds: tuple[Kind, ...]
    which: bytes
    """The kind of each message; empty where there is but one."""
    sizes: list[int]
    crcs: list[int]
    """The CRC-32 of each body."""


class Row(NamedTuple):
    """A block as the table has it."""

    seq: int
    size: int
    """How many messages it has: the table's `count`."""
    time_ns: int
    crc: int
    head: bytes
    bodies: bytes


class Block:
    """A block without its bodies."""

    __slots__ = ("_members", "first", "kinds", "last", "which")

    def __init__(self, first: int, last: int, kinds: Sequence[Kind], which: bytes) -> None:
        self.first = first
        self.last = last
        self.kinds = kinds
        self.which = which
        self._members: dict[int, Sequence[int]] = {}

    @classmethod
    def of(cls, head: Head) -> Self:
        """The block that has this head."""
        return cls(head.first, head.first + len(head.sizes) - 1, head.kinds, head.which)

    def members(self, subscription: int) -> Sequence[int]:
        """The seqs of the messages that were accepted for the subscription."""
        found = self._members.get(subscription)
        if found is None:
            found = self._members[subscription] = self._find(subscription)
        return found

    def members_between(self, subscription: int, first: int, last: int) -> Sequence[int]:
        """Those of them that are in that range."""
        members = self.members(subscription)
        return members[bisect_left(members, first) : bisect_right(members, last)]

    def kind(self, seq: int) -> Kind:
        """What the message was published to, and whose it is."""
        return self.kinds[self.which[seq - self.first] if self.which else 0]

    def subscriptions(self) -> Iterable[int]:
        """All that any of the messages was accepted for."""
        return dict.fromkeys(each for kind in self.kinds for each in kind.subscriptions)

    def _find(self, subscription: int) -> Sequence[int]:
        wanted = {number for number, kind in enumerate(self.kinds) if subscription in kind.subscriptions}
        if len(wanted) == len(self.kinds):
            return range(self.first, self.last + 1)
        return [seq for seq, kind in enumerate(self.which, self.first) if kind in wanted]


def cut(bodies: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """From where to where each block goes."""
    start, count = 0, len(bodies)
    if 0 < count <= MOST_MESSAGES and sum(map(len, bodies)) <= MOST_BYTES:
        yield 0, count
        return
    while start < count:
        end = min(start + MOST_MESSAGES, count)
        sizes = list(accumulate(map(len, bodies[start:end])))
        if sizes[-1] > MOST_BYTES:
            end = start + max(1, bisect_right(sizes, MOST_BYTES))
        yield start, end
        start = end


def pack(first: int, time_ns: int, kinds: Sequence[Kind], bodies: Sequence[bytes]) -> tuple[Block, Row]:
    """Make a block of messages, each with its kind; `first` is the seq of the first one."""
    if kinds.count(kinds[0]) == len(kinds):
        which, table = b"", tuple(kinds[:1])
    else:
        numbers: dict[Kind, int] = {}
        which = bytes([numbers.setdefault(kind, len(numbers)) for kind in kinds])
        table = tuple(numbers)
    last = first + len(bodies) - 1
    head = _ENCODER.encode(
        Head(
            first=first,
            kinds=table,
            which=which,
            sizes=list(map(len, bodies)),
            crcs=list(map(zlib.crc32, bodies)),
        )
    )
    row = Row(
        seq=last,
        size=len(bodies),
        time_ns=time_ns,
        crc=zlib.crc32(head),
        head=head,
        bodies=b"".join(bodies),
    )
    return Block(first, last, table, which), row


def read_head(seq: object, count: object, crc: object, head: object) -> Head | None:
    """The head of the row with that key; None where it is not as it was written."""
    if not isinstance(head, bytes) or zlib.crc32(head) != crc:
        return None
    try:
        read = _DECODER.decode(head)
    except msgspec.MsgspecError:
        return None
    is_whole = len(read.sizes) == len(read.crcs) == count and read.first + len(read.sizes) - 1 == seq
    return read if is_whole else None


def bodies_of(head: Head, bodies: object) -> list[bytes | None]:
    """The body of each message; None where it is not as it was written."""
    content = bodies if isinstance(bodies, bytes) else b""
    found: list[bytes | None] = []
    at = 0
    for size, crc in zip(head.sizes, head.crcs, strict=True):
        body = content[at : at + size]
        found.append(body if len(body) == size and zlib.crc32(body) == crc else None)
        at += size
    return found


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Head)
