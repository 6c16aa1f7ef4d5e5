"""How large messages are, without measuring each of them."""

import sys
from typing import Final

import msgspec

from echo_core.message import BaseMessage

OVERHEAD: Final = 1_000
"""Bytes that a message takes beside its data: its own object, id, lineage and trace."""
_RISE: Final = 0.5
_FALL: Final = 1 / 16
_ENCODER: Final = msgspec.msgpack.Encoder()


def size_of(message: BaseMessage) -> int:
    """About how many bytes the message holds in memory: its data as MessagePack, and `OVERHEAD`."""
    try:
        return len(_ENCODER.encode(message.data)) + OVERHEAD
    except (TypeError, ValueError, OverflowError, RecursionError):  # data that cannot leave the process
        return sys.getsizeof(message.data) + OVERHEAD


class TypicalSize:
    """An average over the messages shown to it, in bytes.

    It rises at once and falls slowly: where sizes are mixed it is too high rather than too low, because a
    bound on memory is made from it.
    """

    def __init__(self) -> None:
        self.bytes = float(OVERHEAD)

    def see(self, message: BaseMessage) -> None:
        """Let the message count."""
        size = size_of(message)
        self.bytes += (size - self.bytes) * (_RISE if size > self.bytes else _FALL)
