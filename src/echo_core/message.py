"""The message: an immutable value that carries its lineage and its trace."""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Self

import msgspec
from uuid_utils import uuid7

from echo_core.errors import MessageError

MAX_RECEIPTS: Final = 32
"""A lineage keeps its first receipt and its newest ones: a cycle must not grow messages for ever."""


def new_id() -> str:
    """A new message id: a UUIDv7 (RFC 9562) as text, so ids sort by the time they were made."""
    return str(uuid7())


_TAILS: Final = tuple(f"{number:02x}" for number in range(256))


def new_ids(count: int) -> list[str]:
    """So many new ids at once, each greater than the one before.

    The last 8 bits count, which UUIDv7 allows of bits that would be random (RFC 9562, section 6.2).
    """
    ids: list[str] = []
    while len(ids) < count:
        head = new_id()[:-2]
        ids += [head + tail for tail in _TAILS[: count - len(ids)]]
    return ids


REPEATABLE: Final = "0ec"
"""The 12 bits after the version of an id that is made again: by chance 1 in 4,096 others have them too."""


_UUID7: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def id_from(origin: str, *parts: bytes) -> str:
    """The same id whenever it is made from the same: from `origin`, a UUIDv7 as text, and the parts.

    Its time is the origin's; where others are random it has a mark and bits of a BLAKE2b digest (RFC 7693).
    """
    digest = hashlib.blake2b(origin.encode(), digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    tail = digest.hexdigest()
    variant = "89ab"[int(tail[0], 16) & 3]
    return f"{origin[:13]}-7{REPEATABLE}-{variant}{tail[1:4]}-{tail[4:]}"


def is_repeatable(message_id: str) -> bool:
    """Whether it was made by `id_from`: then what is made from its message should be, too."""
    return message_id.startswith(REPEATABLE, 15)


REPLAYED: Final = "echo-replayed"
"""Key in `BaseMessage.trace_context` of a message that was replayed: how often, as text."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step of a lineage: a message that this one was made from, and how many steps back it lies."""

    message_id: str
    source: str
    hop: int


class BaseMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message. It never changes, and neither may its `data`: a reply or a split is derived from it."""

    id: str = msgspec.field(default_factory=new_id)
    """UUIDv7 text; unique, and the key under which a sink may recognise a message that comes twice."""
    timestamp: int = msgspec.field(default_factory=time.time_ns)
    """When it was made: nanoseconds since the Unix epoch, UTC."""
    source: str
    """Who made it: a plugin's name, or any name from outside."""
    version: str = ""
    """Version of the plugin that made it; empty when no plugin did."""
    data: Any = None
    """What it says: JSON-like values (and bytes, dates, Structs: whatever msgspec encodes)."""
    schema: str = ""
    """Name of what `data` looks like, where producers and consumers have agreed on one."""
    trace_context: Mapping[str, str] = {}
    """W3C traceparent, tracestate and baggage of the publication; written once, by the host."""
    receipts: tuple[Receipt, ...] = ()
    """The lineage, oldest first: receipts[0] is for the first message of all."""

    def derive(self, data: Any, *, source: str, version: str = "", schema: str = "") -> Self:
        """A new message made from this one: it carries a receipt for it, and so the lineage."""
        return type(self)(
            source=source, version=version, data=data, schema=schema, receipts=self.receipts_for_derived()
        )

    def receipts_for_derived(self) -> tuple[Receipt, ...]:
        """The receipts that a message made from this one must carry."""
        receipts = self.receipts
        hop = receipts[-1].hop + 1 if receipts else 1
        own = Receipt(message_id=self.id, source=self.source, hop=hop)
        if len(receipts) < MAX_RECEIPTS:
            return receipts + (own,)  # noqa: RUF005 - half the time of unpacking one tuple into another
        return (receipts[0], *receipts[2 - MAX_RECEIPTS :], own)

    @property
    def root_id(self) -> str:
        """Id of the first message of the lineage; its own for a message that was made from none."""
        return self.receipts[0].message_id if self.receipts else self.id

    @property
    def root_source(self) -> str:
        """Who made the first message of the lineage."""
        return self.receipts[0].source if self.receipts else self.source

    @property
    def parent_ids(self) -> tuple[str, ...]:
        """Ids of the messages that this one was directly made from."""
        return parent_ids(self.receipts)

    @property
    def time(self) -> datetime:
        """`timestamp` for people."""
        return datetime.fromtimestamp(self.timestamp / 1e9, tz=UTC)


def with_time(message: BaseMessage) -> str:
    """The message's id for `id_from`: one that is no UUIDv7 has the message's time put before it."""
    if _UUID7.fullmatch(message.id):
        return message.id
    moment = f"{message.timestamp // 1_000_000:012x}"
    return f"{moment[:8]}-{moment[8:12]}-{message.id}"


def parent_ids(receipts: tuple[Receipt, ...]) -> tuple[str, ...]:
    """Ids of the messages one step back: several where messages were merged."""
    if not receipts:
        return ()
    newest = receipts[-1].hop
    if len(receipts) == 1 or receipts[-2].hop != newest:
        return (receipts[-1].message_id,)
    return tuple(receipt.message_id for receipt in receipts if receipt.hop == newest)


def derived_receipts(messages: Sequence[BaseMessage]) -> list[tuple[Receipt, ...]]:
    """`receipts_for_derived` of each: for what is made from each of many messages."""
    made: list[tuple[Receipt, ...]] = []
    for message in messages:
        receipts = message.receipts
        if not receipts:
            made.append((Receipt(message_id=message.id, source=message.source, hop=1),))
        elif len(receipts) < MAX_RECEIPTS:
            hop = receipts[-1].hop + 1
            own = Receipt(message_id=message.id, source=message.source, hop=hop)
            made.append(receipts + (own,))  # noqa: RUF005 - as above
        else:
            made.append(message.receipts_for_derived())
    return made


def merged_receipts(messages: Sequence[BaseMessage]) -> tuple[Receipt, ...]:
    """The receipts of a message made from several: one for each, after the lineage of the first.

    However many they are, all are named. What is derived from that message keeps the newest ones only.
    """
    older = messages[0].receipts
    hop = 1 + max((message.receipts[-1].hop for message in messages if message.receipts), default=0)
    own = tuple(Receipt(message_id=message.id, source=message.source, hop=hop) for message in messages)
    room = max(1, MAX_RECEIPTS - len(own))
    if len(older) > room:
        older = (older[0], *older[len(older) - room + 1 :])
    return (*older, *own)


def key_of(path: str) -> Callable[[BaseMessage], str]:
    """A function that reads the key at `path` (`source`, or `data.a.b`) as text; a missing one is empty."""
    first, *rest = path.split(".")

    def read(message: BaseMessage) -> str:
        value: Any = getattr(message, first)
        for part in rest:
            value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
        return "" if value is None else str(value)

    return read


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(BaseMessage)
_NOT_ENCODABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
_MAX_PLACE_DEPTH: Final = 20  # data may contain itself


def encode(message: BaseMessage) -> bytes:
    """The message as MessagePack bytes; raises `MessageError` with the place if its data has no such form."""
    try:
        return _ENCODER.encode(message)
    except _NOT_ENCODABLE as error:
        raise MessageError(
            "the message cannot be encoded",
            where=f"message {message.id} from {message.source}, {_place(message.data)}",
            why=str(error),
            fix="publish JSON-like values, bytes, dates or msgspec Structs",
        ) from error


def encode_data(data: Any) -> bytes | None:
    """What a message says as MessagePack bytes; None if it has no such form."""
    try:
        return _ENCODER.encode(data)
    except _NOT_ENCODABLE:
        return None


def _place(value: Any) -> str:
    """Where in a message's data, as Python writes it, the innermost value is that cannot be encoded."""
    place = "data"
    for _ in range(_MAX_PLACE_DEPTH):
        for key, item in _items(value):
            if not _is_encodable(item):
                place, value = f"{place}[{key!r}]", item
                break
        else:
            break
    return place


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, list | tuple) else ()


def _is_encodable(value: Any) -> bool:
    try:
        _ENCODER.encode(value)
    except _NOT_ENCODABLE:
        return False
    return True


def decode(raw: bytes) -> BaseMessage:
    """The message that `encode` made these bytes from; raises `MessageError` if it did not."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MessageError(
            "the bytes are no message",
            where=f"{len(raw)} bytes that begin with {bytes(raw[:16])!r}",
            why=str(error),
            fix="read only what `echo_core.message.encode` wrote",
        ) from error
