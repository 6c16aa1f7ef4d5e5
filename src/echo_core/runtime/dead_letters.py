"""Messages that no attempt could finish, kept on disk with everything that is known of them."""

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import EchoCoreError, NotFound
from echo_core.message import BaseMessage, decode

FILE_NAME: Final = "dead_letters.sqlite"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS dead_letters (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns    INTEGER NOT NULL,
    plugin     TEXT NOT NULL,
    version    TEXT NOT NULL,
    topic      TEXT NOT NULL,
    message_id TEXT NOT NULL,
    root_id    TEXT NOT NULL,
    trace_id   TEXT NOT NULL,
    reason     TEXT NOT NULL,
    attempts   BLOB NOT NULL,
    original   BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS dead_letters_by_plugin ON dead_letters (plugin, id);
CREATE INDEX IF NOT EXISTS dead_letters_by_message ON dead_letters (message_id);
"""
_COLUMNS: Final = (
    "id, time_ns, plugin, version, topic, message_id, root_id, trace_id, reason, attempts, original"
)


class DeadLetterError(EchoCoreError):
    """The store cannot be read or written; what could not be kept is still with its plugin."""

    code = "E-DEAD-LETTERS"


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
    """A message that ended unfinished in one plugin."""

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

    def message(self) -> BaseMessage:
        """The original; raises `MessageError` when its data had no encoding and only its text was kept."""
        return decode(self.original)


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one plugin that have the same reason."""

    plugin: str
    reason: str
    count: int
    first_ns: int
    """When the oldest was kept: nanoseconds since the Unix epoch."""
    last_ns: int


class DeadLetterStore:
    """One SQLite file; safe to share between threads and, for reading, between processes.

    What `add` returned from is on disk, also after a crash of the machine (`synchronous=FULL`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep all of them, or none; raises `DeadLetterError` when the disk will not."""
        rows = [
            (
                letter.time_ns,
                letter.plugin,
                letter.version,
                letter.topic,
                letter.message_id,
                letter.root_id,
                letter.trace_id,
                letter.reason,
                msgspec.msgpack.encode(letter.attempts),
                letter.original,
            )
            for letter in letters
        ]
        columns = _COLUMNS.removeprefix("id, ")
        places = ", ".join("?" * len(columns.split(", ")))
        with self._lock:
            try:
                with self._open() as connection:
                    connection.executemany(
                        f"INSERT INTO dead_letters ({columns}) VALUES ({places})",  # noqa: S608
                        rows,
                    )
            except (sqlite3.Error, OSError) as error:
                self._forget_connection()
                raise self._failed("written", error) from error

    def newest(self, *, plugin: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The newest first, at most `limit`, of one plugin or of all. Empty when nothing was ever kept."""
        where, arguments = _of(plugin)
        return self._select(f"{where} ORDER BY id DESC LIMIT ?", (*arguments, limit))

    def get(self, letter_id: int) -> DeadLetter:
        """The one with this id; raises `NotFound`."""
        found = self._select("WHERE id = ?", (letter_id,))
        if not found:
            raise NotFound(
                f"there is no dead letter {letter_id}",
                where=str(self.path),
                fix="echo-core dlq list shows those there are",
            )
        return found[0]

    def count(self, *, plugin: str | None = None) -> int:
        """How many are kept, of one plugin or of all."""
        where, arguments = _of(plugin)
        rows = self._rows(f"SELECT count(*) FROM dead_letters {where}", arguments)  # noqa: S608
        return int(rows[0][0]) if rows else 0

    def kinds(self, *, plugin: str | None = None, limit: int = 100) -> list[Kind]:
        """All that are kept, counted by plugin and reason: the most frequent `limit` kinds."""
        where, arguments = _of(plugin)
        rows = self._rows(
            "SELECT plugin, reason, count(*) AS count, min(time_ns), max(time_ns) FROM dead_letters "  # noqa: S608
            f"{where} GROUP BY plugin, reason ORDER BY count DESC, max(id) DESC LIMIT ?",
            (*arguments, limit),
        )
        return [Kind(**dict(zip(Kind.__struct_fields__, row, strict=True))) for row in rows]

    def close(self) -> None:
        """Let the file go; using the store again opens it again."""
        with self._lock:
            self._forget_connection()

    def _select(self, clause: str, arguments: tuple[object, ...]) -> list[DeadLetter]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM dead_letters {clause}", arguments)  # noqa: S608
        return [_letter(row) for row in rows]

    def _rows(self, statement: str, arguments: tuple[object, ...]) -> list[Any]:
        """What the statement finds; nothing when nothing was ever kept."""
        if not self.path.exists():
            return []
        with self._lock:
            try:
                return self._open().execute(statement, arguments).fetchall()
            except sqlite3.Error as error:
                raise self._failed("read", error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, check_same_thread=False, timeout=10)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection):
                pass

    def _failed(self, verb: str, error: Exception) -> DeadLetterError:
        return DeadLetterError(
            f"the dead letters cannot be {verb}",
            where=str(self.path),
            why=str(error),
            fix="make room on the disk, or mend the permissions; if the file is damaged, move it away",
        )


def _of(plugin: str | None) -> tuple[str, tuple[str, ...]]:
    """The clause, and its arguments, for the letters of one plugin or of all."""
    return ("WHERE plugin = ?", (plugin,)) if plugin is not None else ("", ())


def _letter(row: Sequence[Any]) -> DeadLetter:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["attempts"] = msgspec.msgpack.decode(values["attempts"], type=tuple[Attempt, ...])
    return DeadLetter(**values)
