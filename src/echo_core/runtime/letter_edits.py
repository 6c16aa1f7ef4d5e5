"""Changing what a dead letter's message says before it is replayed, as JSON."""

import difflib
from collections.abc import Sequence

import msgspec

from echo_core.errors import EchoCoreError
from echo_core.message import encode
from echo_core.runtime.dead_letters import DeadLetter


class EditRefused(EchoCoreError):
    """The message cannot be edited so; nothing was changed."""

    code = "E-EDIT"
    exit_code = 2


def data_as_json(letter: DeadLetter) -> str:
    """The data that a replay would send, as text to be edited.

    Raises `MessageError` when there is no message, `EditRefused` when its data is more than JSON can say.
    """
    data = letter.replayable().data
    text = msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
    if msgspec.json.decode(text) != data:
        raise EditRefused(
            f"the data of dead letter {letter.id} cannot be edited as JSON",
            why="it holds values that JSON has not: bytes, dates, keys that are no text",
            fix="echo-core dlq export, change it there, and echo-core dlq import",
        )
    return text


def with_data(letter: DeadLetter, text: str | bytes) -> bytes:
    """The letter's message with other data, encoded; all else stays. Raises `EditRefused` for no JSON."""
    message = letter.replayable()
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise EditRefused(
            f"dead letter {letter.id} stays as it is",
            why=f"this is no JSON: {error}",
            fix="mend it, try again",
        ) from error
    return encode(msgspec.structs.replace(message, data=data))


def difference(before: str, after: str) -> Sequence[str]:
    """A unified diff of two texts of JSON, laid out alike; empty when they say the same."""
    old, new = (
        msgspec.json.format(msgspec.json.encode(msgspec.json.decode(text)), indent=2).decode().splitlines()
        for text in (before, after)
    )
    return list(difflib.unified_diff(old, new, "original", "edited", lineterm=""))
