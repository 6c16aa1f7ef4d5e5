"""Changing what a dead letter's message says before it is replayed, as JSON."""

import difflib
from collections.abc import Sequence
from typing import Any

import msgspec

from echo_core.errors import BadRequest
from echo_core.message import encode
from echo_core.runtime.dead_letters.letter import DeadLetter


class EditRefused(BadRequest):
    """The message cannot be edited so; nothing was changed."""

    code = "E-EDIT"


def data_as_json(letter: DeadLetter) -> str:
    """The data that a replay would send, as text to be edited.

    Raises `MessageError` when there is no message, `EditRefused` when its data is more than JSON can say.
    """
    data = letter.replayable().data
    text = _laid_out(data)
    if msgspec.json.decode(text) != data:
        raise EditRefused(
            f"the data of dead letter {letter.id} cannot be edited as JSON",
            why="it holds values that JSON has not: bytes, dates, keys that are no text",
            fix="echo-core dlq export, change it there, and echo-core dlq import",
        )
    return text


def data_of(letter: DeadLetter, text: str | bytes) -> Any:
    """The data that the text says; raises `EditRefused` for no JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EditRefused(
            f"dead letter {letter.id} stays as it is",
            why=f"this is no JSON: {error}",
            fix="mend it, try again",
        ) from error


def with_data(letter: DeadLetter, data: Any) -> bytes | None:
    """The letter's message with other data, encoded; all else stays. None where it is the original's."""
    message = letter.replayable()
    if _laid_out(data) == _laid_out(letter.message().data):
        return None
    return encode(msgspec.structs.replace(message, data=data))


def difference(before: str, data: Any) -> Sequence[str]:
    """A unified diff of a text from `data_as_json` and data; empty when they say the same."""
    old, new = before.splitlines(), _laid_out(data).splitlines()
    return list(difflib.unified_diff(old, new, "before", "after", lineterm=""))


def _laid_out(data: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()
