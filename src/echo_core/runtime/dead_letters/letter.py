"""One message that ended unfinished in one plugin."""

import re
from typing import Final

import msgspec

from echo_core.errors import MessageError
from echo_core.message import REPLAYED, BaseMessage, decode

MOST_REPLAYS: Final = 3
"""A message that was replayed so often and is a dead letter again stays one, unless a replay is forced."""
_LONGEST_KIND: Final = 200
_VALUES: Final = (
    (re.compile(r"""(?<=['"]:\s)(['"])(?:(?!\1).)*\1"""), "…"),
    (re.compile(r"""(?<!\w)(['"`])(?![A-Za-z_.-]{1,32}\1)(?:(?!\1).)*\1(?!\w)"""), r"\1…\1"),
    (re.compile(r"\b[0-9a-f]{8}(?:-?[0-9a-f]{4}){2,6}[0-9a-f]*\b", re.IGNORECASE), "…"),
    (re.compile(r"\d+(?:[.,:]\d+)*"), "…"),
)
"""What in a reason is a value of the message rather than the kind of its fault: what stands behind a quoted
key, quoted text that is no plain word (a word may be a field's name), ids, numbers."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    number: int
    time_ns: int
    """When it ended: nanoseconds since the Unix epoch."""
    error_type: str
    error: str
    traceback: str = ""
    """The plugin's part of it, where an exception was raised."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message, and why it could not be handled."""

    id: int = 0
    """Given by the store."""
    time_ns: int
    plugin: str
    version: str
    topic: str
    message_id: str
    root_id: str
    trace_id: str
    reason: str
    attempts: tuple[Attempt, ...]
    original: bytes
    """The message as it came, encoded; `message()` is it."""
    config_digest: str = ""
    """SHA-256 of the plugin's effective configuration."""
    replays: int = 0
    """How often the message was replayed to the plugin before it became this letter."""
    edited: bytes | None = None
    """The message as it is to be replayed, where that is not the original."""
    is_damaged: bool = False
    """It is not as it was written: what can be read of it is here, and may be wrong."""

    def message(self) -> BaseMessage:
        """The original; raises `MessageError` when its data had no encoding and only its text was kept."""
        return decode(self.original)

    def replayable(self) -> BaseMessage:
        """What a replay sends: the edited message, else the original.

        Raises `MessageError` as `message`, and where it is not what was written.
        """
        if self.is_damaged:
            raise MessageError(
                f"dead letter {self.id} is not as it was written",
                why="its checksum differs",
                fix="echo-core dlq show, and discard; echo-core dlq check finds all of them",
            )
        return decode(self.original if self.edited is None else self.edited)

    @property
    def is_quarantined(self) -> bool:
        """Whether it has come back too often to be replayed without force."""
        return self.replays >= MOST_REPLAYS


def replays_of(message: BaseMessage) -> int:
    """How often the message was replayed."""
    text = message.trace_context.get(REPLAYED, "0")
    return int(text) if text.isdecimal() else 0


def kind_of(reason: str) -> str:
    """The first line of a reason, with … for the message's own values: what letters are grouped by."""
    kind = reason.partition("\n")[0][: 4 * _LONGEST_KIND]
    for pattern, instead in _VALUES:
        kind = pattern.sub(instead, kind)
    return kind[:_LONGEST_KIND]
