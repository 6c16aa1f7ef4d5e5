"""The frames that a host and the process of a plugin exchange over their socket.

A frame is a header (length of the body: u32; incarnation: u32; kind: u8; little-endian) and a body of
MessagePack. The incarnation is the number of the process among those of its plugin, so that nothing of an
earlier one is ever taken for the present one's. A frame that cannot be one ends the conversation: neither
side waits for, or makes room for, more than `MAX_FRAME`.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from echo_core.errors import EchoCoreError
from echo_core.message import BaseMessage

MAX_FRAME: Final = 8 * 1024 * 1024
"""Bytes in a body, at most."""
MAX_MESSAGE: Final = MAX_FRAME - 64 * 1024
"""Bytes of an encoded message that a frame has room for, with what goes along."""
_HEADER: Final = struct.Struct("<IIB")

WORK, CANCEL, RECALL, ACCEPTED, ASK, STATUS = range(1, 7)
HELLO, RESULTS, PUBLISH, ANSWER, LOG = range(11, 16)

ACKNOWLEDGED, FILTERED, RETRY_LATER, REFUSED, RAISED = range(5)
"""How a message went in the process: the outcomes, and an exception."""


class ProtocolError(EchoCoreError):
    """The other side sent what no side of ours sends."""


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error on its way to the other side: its class, its text, and the plugin's own frames."""

    error_type: str
    text: str
    traceback: str = ""
    delay: float = 0.0
    span: str = ""
    """The span of the attempt that failed, as a W3C traceparent."""
    batch: int = 0
    """The first message of the batch that failed as a whole, by its `seq`; 0: it was this message."""


class Item(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A message to be handled. `message` is encoded already."""

    seq: int
    topic: str
    attempt: int
    previous: str
    """The span of the attempt before, as a traceparent; empty for a first one."""
    message: msgspec.Raw


class ReceivedItem(Item, array_like=True, frozen=True, gc=False):
    """An `Item` as the process reads it."""

    message: BaseMessage  # type: ignore[assignment]


class Work(msgspec.Struct, array_like=True, frozen=True):
    """Messages for one lane, in order. After a failure a lane does nothing until the epoch is another."""

    lane: int
    epoch: int
    items: list[Item]


class ReceivedWork(Work, array_like=True, frozen=True):
    """`Work` as the process reads it."""

    items: list[ReceivedItem]  # type: ignore[assignment]


class Cancel(msgspec.Struct, array_like=True, frozen=True):
    """Stop handling this message, and do nothing more of its epoch."""

    lane: int
    epoch: int
    seq: int
    reason: str


class Recall(msgspec.Struct, array_like=True, frozen=True):
    """Do not begin what came for the lane after this message."""

    lane: int
    seq: int


class Output(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Something published while a message was handled; it is published for real with the result."""

    topic: str
    message: msgspec.Raw


class ReceivedOutput(Output, array_like=True, frozen=True, gc=False):
    """An `Output` as the host reads it."""

    message: BaseMessage  # type: ignore[assignment]


class Result(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How one message went, and everything that was published for it: all of it, or nothing."""

    seq: int
    outcome: int
    outputs: list[Output] = []
    failure: Failure | None = None


class ReceivedResult(Result, array_like=True, frozen=True, gc=False):
    """A `Result` as the host reads it."""

    outputs: list[ReceivedOutput] = []  # type: ignore[assignment]


class Publication(msgspec.Struct, array_like=True, frozen=True):
    """Something published while no message is handled: by a source, or in the background."""

    id: int
    topic: str
    messages: list[msgspec.Raw]
    state: bytes | None = None
    """What a source's state says that holds once all of these have ended; None where it keeps none."""


class ReceivedPublication(Publication, array_like=True, frozen=True):
    """A `Publication` as the host reads it."""

    messages: list[BaseMessage]  # type: ignore[assignment]


class Ask(msgspec.Struct, array_like=True, frozen=True):
    """Please do this, and answer when it is done."""

    id: int
    what: str
    detail: dict[str, Any] = {}


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """The answer to an `Ask`, or to a `Publication`."""

    id: int
    value: Any = None
    failure: Failure | None = None


class LogRecord(msgspec.Struct, array_like=True, frozen=True):
    """Something that was logged in the process: what of it the host shows."""

    level: int
    logger: str
    created: float
    text: str
    fields: dict[str, str] = {}


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first words of a process."""

    pid: int
    api_version: str
    python: str


FROM_HOST: Final[Mapping[int, msgspec.msgpack.Decoder[Any]]] = {
    WORK: msgspec.msgpack.Decoder(ReceivedWork),
    CANCEL: msgspec.msgpack.Decoder(Cancel),
    RECALL: msgspec.msgpack.Decoder(Recall),
    ACCEPTED: msgspec.msgpack.Decoder(Answer),
    ASK: msgspec.msgpack.Decoder(Ask),
    STATUS: msgspec.msgpack.Decoder(str),
}
"""What a process understands."""
FROM_PROCESS: Final[Mapping[int, msgspec.msgpack.Decoder[Any]]] = {
    HELLO: msgspec.msgpack.Decoder(Hello),
    RESULTS: msgspec.msgpack.Decoder(list[ReceivedResult]),
    PUBLISH: msgspec.msgpack.Decoder(ReceivedPublication),
    ANSWER: msgspec.msgpack.Decoder(Answer),
    LOG: msgspec.msgpack.Decoder(LogRecord),
}
"""What a host understands."""

_ENCODER: Final = msgspec.msgpack.Encoder()


def frame(kind: int, body: object, incarnation: int) -> bytearray:
    """The bytes of a frame; raises `ProtocolError` for a body that is too large."""
    buffer = bytearray(_HEADER.size)
    _ENCODER.encode_into(body, buffer, _HEADER.size)
    length = len(buffer) - _HEADER.size
    if length > MAX_FRAME:
        raise ProtocolError(f"{length} bytes do not fit into a frame", why=f"it holds {MAX_FRAME}")
    _HEADER.pack_into(buffer, 0, length, incarnation, kind)
    return buffer


class FrameReader:
    """Cuts a stream of bytes into frames. Those of another incarnation are dropped, and counted."""

    def __init__(self, known: Mapping[int, msgspec.msgpack.Decoder[Any]], incarnation: int) -> None:
        self._known = known
        self._incarnation = incarnation
        self._buffer = bytearray()
        self.stale = 0
        """Frames of another incarnation."""

    def read(self, data: bytes) -> Iterator[tuple[int, Any]]:
        """The frames that are complete by now: kind and body. Raises `ProtocolError` for what is none."""
        buffer = self._buffer
        buffer += data
        position, size = 0, len(buffer)
        view = memoryview(buffer)
        try:
            while size - position >= _HEADER.size:
                length, incarnation, kind = _HEADER.unpack_from(view, position)
                if length > MAX_FRAME:
                    raise ProtocolError(f"a frame claims {length} bytes", why=f"it holds {MAX_FRAME} at most")
                end = position + _HEADER.size + length
                if end > size:
                    break
                body = view[position + _HEADER.size : end]
                try:
                    decoded = self._decode(kind, body)
                finally:
                    body.release()
                position = end
                if incarnation != self._incarnation:
                    self.stale += 1
                else:
                    yield kind, decoded
        finally:
            view.release()
            del buffer[:position]

    def _decode(self, kind: int, body: memoryview) -> Any:
        decoder = self._known.get(kind)
        if decoder is None:
            raise ProtocolError(f"there is no frame of kind {kind}")
        try:
            return decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(f"a frame of kind {kind} is not what it should be", why=str(error)) from error


Handle = Callable[[int, Any], None]
"""What is done with a frame: its kind, its body."""
