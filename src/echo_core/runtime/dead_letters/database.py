"""The SQLite file of dead letters and replays: its schema, and statements in it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final

from echo_core.errors import EchoCoreError
from echo_core.runtime.dead_letters.letter import kind_of
from echo_core.transports.sqlite.schema import is_damaged, repaired_path
from echo_core.write_ahead import Connection, OpenFiles, in_use, keep_write_ahead_log

FILE_NAME: Final = "dead_letters.sqlite"
LARGEST: Final = 2**63 - 1
"""Of SQLite's numbers."""
_BUSY_S: Final = 10.0

FIRST_SCHEMA: Final = """
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
_MIGRATIONS: Final = (
    """
    ALTER TABLE dead_letters ADD COLUMN config_digest TEXT NOT NULL DEFAULT '';
    ALTER TABLE dead_letters ADD COLUMN replays INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE dead_letters ADD COLUMN edited BLOB;
    CREATE INDEX dead_letters_by_root ON dead_letters (root_id);
    CREATE INDEX dead_letters_by_trace ON dead_letters (trace_id);
    CREATE INDEX dead_letters_by_topic ON dead_letters (topic);
    CREATE TABLE replay_jobs (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        created_ns INTEGER NOT NULL,
        wish       BLOB NOT NULL,
        last_id    INTEGER NOT NULL,
        total      INTEGER NOT NULL,
        done       INTEGER NOT NULL DEFAULT 0,
        failed     INTEGER NOT NULL DEFAULT 0,
        seen_id    INTEGER NOT NULL DEFAULT 0,
        state      TEXT NOT NULL DEFAULT 'waiting',
        reason     TEXT NOT NULL DEFAULT '',
        owner      TEXT NOT NULL DEFAULT '',
        alive_ns   INTEGER NOT NULL DEFAULT 0
    ) STRICT
    """,
    "CREATE INDEX dead_letters_by_age ON dead_letters (plugin, time_ns)",
    "ALTER TABLE dead_letters ADD COLUMN crc INTEGER",
)
"""What turns a file of one schema into the next; PRAGMA user_version says how many were done."""


class DeadLetterError(EchoCoreError):
    """The store cannot be read or written; what could not be kept is still with its plugin."""

    code = "E-DEAD-LETTERS"


class Database:
    """One file, made when it is first written; safe to share between threads, and with other processes.

    What was written is on disk, also after a crash of the machine (`synchronous=FULL`).
    """

    def __init__(self, path: Path, *, is_private: bool = False) -> None:
        """`is_private`: no other process knows of the file."""
        self.path = path
        self._is_private = is_private
        self._repaired = repaired_path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._files: OpenFiles

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it holds, or nothing. Raises `DeadLetterError`."""
        with self._lock, self._not_repaired():
            try:
                with self._open() as connection:
                    yield connection
            except (sqlite3.Error, OSError) as error:
                self._forget_connection()
                raise self._failed("written", error) from error

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """Nobody writes during the block; whoever wants to waits. Raises `DeadLetterError`."""
        with self._held(alone=True, why="another process writes or repairs them"):
            yield

    @contextmanager
    def _not_repaired(self) -> Iterator[None]:
        """What is written is in the file that stays."""
        if self._is_private:
            yield
            return
        with self._held(alone=False, why="echo-core dlq repair is at work"):
            yield

    @contextmanager
    def _held(self, *, alone: bool, why: str) -> Iterator[None]:
        with ExitStack() as held:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(in_use(self.path, alone=alone, wait_s=_BUSY_S))
            except BlockingIOError:
                raise DeadLetterError(
                    "the dead letters are in use",
                    where=str(self.path),
                    why=why,
                    fix="wait until it has ended, and try again",
                ) from None
            except OSError as error:
                raise self._failed("written", error) from error
            yield

    def rows(self, statement: str, arguments: tuple[object, ...] = ()) -> list[Any]:
        """What the statement finds; nothing where nothing was ever written. Raises `DeadLetterError`."""
        if not self.exists:
            return []
        with self._lock:
            try:
                return self._open().execute(statement, tuple(map(_that_fits, arguments))).fetchall()
            except (sqlite3.Error, OSError) as error:
                raise self._failed("read", error) from error

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self.path.exists() or self._repaired.exists()

    def topics(self) -> list[str]:
        """All on which dead letters came."""
        found = self.rows("SELECT DISTINCT topic FROM dead_letters")
        return [topic for (topic,) in found if isinstance(topic, str)]  # what is damaged may be anything

    def close(self) -> None:
        """Let the file go; using it again opens it again."""
        with self._lock:
            self._forget_connection()

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and self._files.moved():
            self._forget_connection()  # what is written from now on belongs into the file that is there
        if self._repaired.exists():
            raise DeadLetterError(
                "a repair of the dead letters was interrupted",
                where=str(self.path),
                why=f"the repaired file is still {self._repaired.name}",
                fix="echo-core dlq repair finishes it",
            )
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, check_same_thread=False, timeout=_BUSY_S, factory=Connection
            )
            connection.text_factory = _as_text
            try:
                keep_write_ahead_log(connection, busy_s=_BUSY_S)
                connection.execute("PRAGMA synchronous = FULL")
                connection.create_function(
                    "kind_of", 1, lambda raw: kind_of(_as_text(raw or b"")), deterministic=True
                )
                connection.executescript(FIRST_SCHEMA)
                _migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection, self._files = connection, OpenFiles(self.path)
        return self._connection

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection):
                pass

    def _failed(self, verb: str, error: Exception) -> DeadLetterError:
        fix = "make room on the disk, or mend the permissions"
        if isinstance(error, sqlite3.Error) and is_damaged(error):
            fix = "stop the host, then: echo-core dlq repair"
        return DeadLetterError(
            f"the dead letters cannot be {verb}", where=str(self.path), why=str(error), fix=fix
        )


def _that_fits(argument: object) -> object:
    """A number that SQLite has not is as far away as one can be."""
    return min(max(argument, -LARGEST), LARGEST) if isinstance(argument, int) else argument


def _as_text(raw: bytes) -> str:
    """What is no UTF-8 is damaged, and found by its checksum."""
    return raw.decode("utf-8", "replace")


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema, however many processes try it at once."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= len(_MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for migration in _MIGRATIONS[version:]:
        for statement in migration.split(";\n"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    connection.commit()
