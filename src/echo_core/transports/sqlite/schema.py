"""The tables of a store, and how a connection to one is opened."""

import sqlite3
from pathlib import Path
from typing import Final

from echo_core.errors import StoreError

APPLICATION_ID: Final = 0x4563686F
"""`Echo`, in the file's header: what tells a store from any other SQLite file."""
VERSION: Final = 1
"""PRAGMA user_version: the schema below."""

SCHEMA: Final = """
CREATE TABLE messages (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    topic   TEXT NOT NULL,
    crc     INTEGER NOT NULL,
    body    BLOB NOT NULL
) STRICT;
CREATE TABLE subscriptions (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    patterns   TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    seen_ns    INTEGER NOT NULL
) STRICT;
CREATE TABLE deliveries (
    subscription INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    host         INTEGER,
    attempt      INTEGER NOT NULL DEFAULT 0,
    delayed_ns   INTEGER,
    due_ns       INTEGER,
    PRIMARY KEY (subscription, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_delayed ON deliveries (due_ns) WHERE due_ns IS NOT NULL;
CREATE TABLE hosts (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    pid     INTEGER NOT NULL,
    expires REAL NOT NULL
) STRICT;
"""
"""A row of `deliveries` is one message that one subscription has not settled: settling deletes it.

`seq` is the order of acceptance and is never used twice. `crc` is the CRC-32 of the topic and the body.
`host` is who holds the delivery, `attempt` how often it was handed out. A delayed one is due at `due_ns`,
or when the clock shows a time before `delayed_ns`: then it was set back.
"""


def connect(path: Path, *, busy_s: float, create: bool = True) -> sqlite3.Connection:
    """A connection to the store at `path`, which is made if `create` is true and nothing is there.

    Raises `StoreError` for what is no store of ours, and for a file that cannot be opened.
    """
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise failed(path, "opened", error) from error
    elif not path.exists():
        raise StoreError("there is no store", where=str(path), fix="it is made when a host first uses it")
    if repaired_path(path).exists():
        raise StoreError(
            "a repair of the store was interrupted",
            where=str(path),
            why=f"the repaired store is still {repaired_path(path).name}",
            fix="echo-core store repair finishes it",
        )
    connection = None
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=busy_s, cached_statements=256
        )
        _prepare(connection, path, create=create)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise failed(path, "opened", error) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def repaired_path(path: Path) -> Path:
    """Where a repaired store is until it takes its place: nobody may begin an empty one meanwhile."""
    return path.with_name(f"{path.name}-repaired")


def _prepare(connection: sqlite3.Connection, path: Path, *, create: bool) -> None:
    application, version = _identity(connection)
    if (application, version) == (0, 0) and create and _is_empty(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        _create(connection)
        application, version = _identity(connection)
    if application != APPLICATION_ID:
        raise StoreError(
            "the file is no store of messages",
            where=str(path),
            why="it belongs to another program",
            fix="name another file in host.transport, sqlite://PATH",
        )
    if version != VERSION:
        raise StoreError(
            f"the store has schema {version}",
            where=str(path),
            why=f"this Echo Core reads schema {VERSION}",
            fix="use the version of Echo Core that wrote it",
        )


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application, version


def _is_empty(connection: sqlite3.Connection) -> bool:
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables


def _create(connection: sqlite3.Connection) -> None:
    """Make the tables, unless another host does it at this very moment."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _is_empty(connection):
            for statement in SCHEMA.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def failed(path: Path, verb: str, error: Exception) -> StoreError:
    """What SQLite complained of, in our words, with the next step."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    primary = code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        fix = "stop every host that uses it, then: echo-core store repair"
    elif primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        fix = "find the program that holds the file's lock, or raise busy= in host.transport"
    elif primary == sqlite3.SQLITE_FULL:
        fix = "make room on the disk"
    else:
        fix = "check that the folder and the file can be written, and that there is room on the disk"
    return StoreError(f"the store cannot be {verb}", where=str(path), why=str(error), fix=fix)


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, so that trying again cannot help."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return (code & 0xFF) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
