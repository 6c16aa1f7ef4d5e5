"""Dead letters as a file: JSON Lines, one letter a line, to be kept, sent to somebody, and read back."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from echo_core.errors import BadRequest
from echo_core.runtime.dead_letters.letter import DeadLetter

SCHEMA: Final = "echo-core.dead-letter/1"
"""Said by every line. Bytes (`original`, `edited`) are base64."""


class LetterFileError(BadRequest):
    """A line is no dead letter; nothing was imported."""

    code = "E-LETTER-FILE"


def write_letters(letters: Iterable[DeadLetter]) -> Iterator[str]:
    """A line for each, with its end."""
    for letter in letters:
        fields = msgspec.structs.asdict(letter)
        if not letter.is_damaged:
            del fields["is_damaged"]
        yield msgspec.json.encode({"schema": SCHEMA, **fields}).decode() + "\n"


def read_letters(lines: Iterable[str], *, where: str) -> Iterator[DeadLetter]:
    """The letters that the lines hold, without their numbers; raises `LetterFileError` with the line's."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read(line, f"{where}, line {number}")


def _read(line: str, where: str) -> DeadLetter:
    try:
        document: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        schema = document.pop("schema", None)
        if schema != SCHEMA:
            raise LetterFileError(f"this is no {SCHEMA}", where=where, why=f"its schema is {schema!r}")
        letter = msgspec.convert(document | {"id": 0}, DeadLetter)
        if letter.is_damaged:
            raise LetterFileError(
                f"dead letter {document.get('id')} was damaged when it was exported",
                where=where,
                fix="take the line out, or mend it and its is_damaged",
            )
        return letter
    except msgspec.MsgspecError as error:
        raise LetterFileError(
            "this is no dead letter",
            where=where,
            why=str(error),
            fix="read what `echo-core dlq export` wrote",
        ) from error
