"""How large messages are, without measuring each of them."""

import sys
from typing import Final

import msgspec

from echo_core.message import BaseMessage

OVERHEAD: Final = 1_000
"""Bytes that a message takes beside its data: its own object, id, lineage and trace."""
_RISE: Final = 0.5
_FALL: Final = 1 / 16
_NOTABLE: Final = 0.1
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
        self._announced = self.bytes

    def see(self, message: BaseMessage) -> bool:
        """Let the message count; whether the average has changed by more than a tenth since that was said."""
        size = size_of(message)
        self.bytes += (size - self.bytes) * (_RISE if size > self.bytes else _FALL)
        if abs(self.bytes - self._announced) < self._announced * _NOTABLE:
            return False
        self._announced = self.bytes
        return True
