"""What all SQLite files here have in common: how a log is begun, who uses them, and are they still there."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

_PAUSE_S: Final = 0.005


class Damaged(sqlite3.DatabaseError):
    """SQLite reads it without a complaint, and it is not what was written."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    sqlite_errorname = "SQLITE_CORRUPT"


class Connection(sqlite3.Connection):
    """Python's module cannot read what SQLite says of a schema that is no text any more."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        try:
            return super().execute(*arguments)
        except UnicodeDecodeError as error:
            raise Damaged(f"its schema is damaged: {error}") from error

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        try:
            return super().executescript(script)
        except UnicodeDecodeError as error:
            raise Damaged(f"its schema is damaged: {error}") from error


def keep_write_ahead_log(connection: sqlite3.Connection, *, busy_s: float) -> None:
    """Have the file of `connection` keep a write-ahead log, from now on and for everybody.

    SQLite does not wait for those who are beginning the same log, whatever its busy timeout says
    (https://www.sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode"), so this does,
    for `busy_s` seconds. Raises `sqlite3.Error`.
    """
    until = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(_PAUSE_S)


@contextmanager
def in_use(path: Path, *, alone: bool = False, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the file for the block: with any number of others, or `alone`, to put another one in its place.

    Without it, what is written to a file while its successor is being made would be in neither. Waits
    `wait_s` seconds, and raises `BlockingIOError` when others hold it still. The lock is one on a file
    beside it, which stays; the kernel lets it go when the process ends.
    """
    until = time.monotonic() + wait_s
    file = os.open(f"{path}-lock", os.O_RDONLY | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(file)


class OpenFiles:
    """The file of an open connection, with its log and index, told from what lies in their places later.

    SQLite goes on writing to a file that was removed or replaced, and says nothing: whatever is written then
    is gone with the connection. Closing a connection whose log alone was removed saves what was in it.
    """

    def __init__(self, path: Path) -> None:
        """Those of a connection that has read or written something, so that all of them are there."""
        self._known = {name: _file_at(name) for name in (str(path), f"{path}-wal", f"{path}-shm")}

    def moved(self) -> str:
        """The names of those that were removed or replaced; empty when none was."""
        moved = [
            name for name, known in self._known.items() if known and _file_at(name) not in (known, _HIDDEN)
        ]
        return ", ".join(map(os.path.basename, moved))


_HIDDEN: Final = (-1, -1)
"""Stands for a file that may be there: nobody may look."""


def _file_at(name: str) -> tuple[int, int] | None:
    try:
        status = os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return _HIDDEN
    return status.st_dev, status.st_ino
