"""Where sources go on: the states that are kept of them, in one SQLite file of the workspace.

A checkpoint is written when everything that was published up to it has ended, and some milliseconds later: a
crash meanwhile costs nothing but that a little is published again, with the ids that it had. So a power cut
may cost the last of them too (`synchronous=NORMAL`), and no commit waits for the disk.
"""

import fcntl
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import NotFound, StateError
from echo_core.write_ahead import Connection, OpenFiles, keep_write_ahead_log

FILE_NAME: Final = "checkpoints.sqlite"
_BUSY_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS checkpoints (
    plugin     TEXT PRIMARY KEY,
    version    TEXT NOT NULL,
    generation TEXT NOT NULL,
    time_ns    INTEGER NOT NULL,
    state      BLOB NOT NULL,
    crc        INTEGER
) STRICT
"""
_ADD_CHECKSUMS: Final = "ALTER TABLE checkpoints ADD COLUMN crc INTEGER"
"""For files from before there were any; their rows have NULL until they are written again."""
_BLANK: Final[dict[str, Any]] = {"plugin": "", "version": "", "generation": "", "time_ns": 0, "state": b""}
"""What stands for a value that is damaged so that it is of another kind."""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far one source has come."""

    plugin: str
    version: str
    """Of the plugin that wrote it."""
    generation: str
    """The UUIDv7 of the moment when the source began anew; its messages' ids are made from it."""
    time_ns: int
    """When it was written: nanoseconds since the Unix epoch."""
    state: bytes
    """MessagePack of what `context.state` said."""
    is_damaged: bool = False
    """It is not as it was written: a source that went on from there could leave something out."""

    def values(self) -> dict[str, Any]:
        """What `context.state` said; raises `StateError` for what is damaged."""
        if self.is_damaged:
            raise self._damaged("its checksum differs")
        try:
            return msgspec.msgpack.decode(self.state, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> StateError:
        return StateError(
            f"the state of {self.plugin} is damaged",
            why=why,
            fix=f"echo-core state reset {self.plugin}, and it starts over",
        )


class CheckpointStore:
    """One SQLite file; safe to share between threads and, for reading, between processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._files: OpenFiles

    def load(self, plugin: str) -> Checkpoint | None:
        """The plugin's; None if it never had one. Raises `StateError`."""
        kept = self.all()
        for each in kept:
            if each.plugin == plugin:
                each.values()  # raises, where it is damaged
                return each
        if damaged := [each.plugin for each in kept if each.is_damaged]:
            raise StateError(
                f"it cannot be told whether a state of {plugin} is kept",
                where=str(self.path),
                why=f"one is damaged, and may be {plugin}'s: {', '.join(damaged)}",
                fix=f"echo-core state reset {damaged[0]}",
            )
        return None

    def get(self, plugin: str) -> Checkpoint:
        """The plugin's, damaged or not; raises `NotFound`, `StateError`."""
        found = self._select("WHERE plugin = ?", (plugin,))
        if not found:
            raise NotFound(f"nothing is kept of {plugin!r}", where=str(self.path), fix="echo-core state list")
        return found[0]

    def all(self) -> list[Checkpoint]:
        """Every plugin's, by name, damaged or not. Raises `StateError`."""
        return self._select("ORDER BY plugin", ())

    def save(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Keep these in the place of earlier ones; all of them, or none. Raises `StateError`."""
        with self._working("written") as connection, connection:
            connection.executemany(
                "INSERT OR REPLACE INTO checkpoints (plugin, version, generation, time_ns, state, crc) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (*row, _checksum(row))
                    for each in checkpoints
                    for row in [(each.plugin, each.version, each.generation, each.time_ns, each.state)]
                ],
            )

    def reset(self, plugin: str) -> Checkpoint:
        """Let the plugin start over; what was kept. Raises `NotFound`, and `StateError` while it runs."""
        found = self.get(plugin)
        with closing(self.claim(plugin)), self._working("written") as connection, connection:
            connection.execute("DELETE FROM checkpoints NOT INDEXED WHERE plugin = ?", (plugin,))
        return found

    def claim(self, plugin: str) -> "Claim":
        """Be the only one who writes the plugin's state; raises `StateError` if somebody is already."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return Claim(self.path.with_name(f"{self.path.name}-{plugin}"))
        except BlockingIOError:
            raise StateError(
                f"a host runs {plugin} and writes its state",
                where=str(self.path),
                fix=f"stop that host, or there: echo-core deactivate {plugin}",
            ) from None
        except OSError as error:
            raise self._failed("written", error) from error

    def close(self) -> None:
        """Let the file go; it is opened anew when it is needed."""
        with self._lock:
            self._disconnect()

    def _select(self, clause: str, arguments: tuple[object, ...]) -> list[Checkpoint]:
        if not self.path.exists():
            return []
        with self._working("read") as connection:
            rows = connection.execute(
                "SELECT plugin, version, generation, time_ns, state, crc "  # noqa: S608
                f"FROM checkpoints NOT INDEXED {clause}",
                arguments,
            ).fetchall()
        return [_checkpoint_of(row) for row in rows]

    @contextmanager
    def _working(self, verb: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connect()
            except (sqlite3.Error, OSError) as error:
                self._disconnect()
                raise self._failed(verb, error) from error

    def _connect(self) -> sqlite3.Connection:
        if self._connection is not None and self._files.moved():
            self._disconnect()  # what is written from now on belongs into the file that is there
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self.path, check_same_thread=False, timeout=_BUSY_S, factory=Connection
            )
            keep_write_ahead_log(self._connection, busy_s=_BUSY_S)
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.text_factory = _as_text
            self._connection.execute(_SCHEMA)
            columns = self._connection.execute("SELECT name FROM pragma_table_info('checkpoints')")
            if ("crc",) not in columns.fetchall():
                with suppress(sqlite3.OperationalError):  # another process does it at this moment
                    self._connection.execute(_ADD_CHECKSUMS)
            self._files = OpenFiles(self.path)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _failed(self, verb: str, error: Exception) -> StateError:
        return StateError(
            f"the states of sources cannot be {verb}",
            where=str(self.path),
            why=str(error),
            fix="make room on the disk, or mend the permissions; if the file is damaged, move it away, and "
            "sources start over",
        )


class Claim:
    """A lock that the kernel lets go when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let it go."""
        os.close(self._file)


def _as_text(raw: bytes) -> str:
    """What is no UTF-8 is damaged, and found by its checksum."""
    return raw.decode("utf-8", "replace")


def _checksum(row: Sequence[object]) -> int:
    """CRC-32 of a row as it is written."""
    return zlib.crc32(msgspec.msgpack.encode(row))


def _checkpoint_of(row: Sequence[Any]) -> Checkpoint:
    *fields, crc = row
    is_damaged = crc is not None and crc != _checksum(fields)
    values = dict(zip(_BLANK, fields, strict=True))
    for name, blank in _BLANK.items():
        if not isinstance(values[name], type(blank)):
            values[name], is_damaged = blank, True
    return Checkpoint(**values, is_damaged=is_damaged)


def checkpoint(plugin: str, version: str, generation: str, state: bytes) -> Checkpoint:
    """As of now."""
    return Checkpoint(
        plugin=plugin, version=version, generation=generation, time_ns=time.time_ns(), state=state
    )
