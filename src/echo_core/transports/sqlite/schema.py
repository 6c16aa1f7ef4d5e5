"""The tables of a store, and how a connection to one is opened."""

import sqlite3
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from echo_core.errors import StoreError, TopicError
from echo_core.topics import TopicSet
from echo_core.transports.sqlite.blocks import MOST_MESSAGES
from echo_core.write_ahead import Connection, Damaged, keep_write_ahead_log

APPLICATION_ID: Final = 0x4563686F
"""`Echo`, in the file's header: what tells a store from any other SQLite file."""
VERSION: Final = 2
"""PRAGMA user_version: the schema below."""

SCHEMA: Final = """
CREATE TABLE blocks (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    count   INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    crc     INTEGER NOT NULL,
    head    BLOB NOT NULL,
    bodies  BLOB NOT NULL
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
    first        INTEGER NOT NULL,
    last         INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    host         INTEGER,
    attempt      INTEGER NOT NULL DEFAULT 0,
    delayed_ns   INTEGER,
    due_ns       INTEGER,
    PRIMARY KEY (subscription, first)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_delayed ON deliveries (due_ns) WHERE due_ns IS NOT NULL;
CREATE TABLE hosts (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    pid     INTEGER NOT NULL,
    expires REAL NOT NULL
) STRICT;
"""
"""A row of `blocks` is some messages that were accepted together; see `blocks`. The seq of a message is its
place in the order of acceptance and is never used twice; a block's is that of its last message.

A row of `deliveries` is what one subscription has not settled of one block: those of its messages that
were accepted for it and lie between `first` and `last`, which are two of them, or one; `count` is how many.
Settling deletes the row, or cuts it into what is left. `host` is who holds them, `attempt` how often each was
handed out. What is delayed is due at `due_ns`, or when the clock shows a time before `delayed_ns`: then it
was set back.

Each subscription also has one row of `deliveries` that stands for nothing: its mark, `first` 0. A page that
got lost, in whose place another lies, would else read as if all were settled.
"""


MOST_DELAYED_NS: Final = 10 * 365 * 86_400 * 10**9
"""Ten years: a delivery that is delayed for longer is damaged."""
NEVER_NS: Final = 2**62
"""When a mark is due: so that the index has an entry too, and its page cannot pass for one without rows."""
MARK: Final = (
    "INSERT INTO deliveries (subscription, first, last, count, delayed_ns, due_ns) "  # noqa: S608
    f"VALUES (?, 0, 0, 0, 0, {NEVER_NS})"
)
"""In SQL: how a subscription gets its mark."""
IS_MARKED: Final = (
    f"EXISTS (SELECT 1 FROM deliveries WHERE subscription = id AND first = 0 AND due_ns = {NEVER_NS})"  # noqa: S608
)
"""In SQL: whether a row of `subscriptions` has its mark."""
MOST_ATTEMPTS: Final = 1_000_000_000
SET_ASIDE: Final = -1
"""Stands for the host of a delivery that cannot be delivered, because its message is damaged."""
SOUND_TIMES: Final = (
    "(due_ns IS NULL AND delayed_ns IS NULL) OR coalesce(due_ns - delayed_ns "
    f"BETWEEN 0 AND {MOST_DELAYED_NS} AND due_ns > 0 AND host IS NULL, 0)"
)
_OWNED: Final = f"(host IS NULL OR host = {SET_ASIDE} OR host IN (SELECT id FROM hosts))"  # noqa: S608
SOUND_RANGE: Final = f"first > 0 AND count BETWEEN 1 AND last - first + 1 AND last - first < {MOST_MESSAGES}"
SOUND_DELIVERY: Final = (
    f"attempt BETWEEN 0 AND {MOST_ATTEMPTS} AND ({SOUND_TIMES}) AND {_OWNED} AND {SOUND_RANGE}"
)
"""In SQL: what a row of `deliveries` may say."""


def connect(path: Path, *, busy_s: float, create: bool = True, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the store at `path`, which is made if `create` is true and nothing is there.

    One that is `read_only` leaves a log as it is; others move it into the store when they close.
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
            f"file:{quote(str(path))}{'?mode=ro' if read_only and _has_log(path) else ''}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=busy_s,
            cached_statements=256,
            factory=Connection,
        )
        connection.text_factory = _text
        # Debian's SQLite writes zeros over each page that gets free: as much again as was published.
        connection.execute("PRAGMA secure_delete = FAST")
        _prepare(connection, path, busy_s=busy_s, create=create)
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise failed(path, "opened", error) from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _has_log(path: Path) -> bool:
    """Whether there is a log to be kept, and nothing of the store's making to be undone first."""
    log, undo = (path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "journal"))
    return log.exists() and log.stat().st_size > 0 and not undo.exists()


def _text(raw: bytes) -> str:
    """What is no UTF-8 is damaged, and seen by what it says."""
    return raw.decode("utf-8", "replace")


def patterns_from(text: str) -> tuple[str, ...]:
    """The patterns of a subscription as they are kept; raises `Damaged`."""
    try:
        patterns = msgspec.json.decode(text, type=tuple[str, ...])
        TopicSet(patterns)
    except (msgspec.MsgspecError, TypeError, TopicError) as error:
        raise Damaged(f"the patterns of a subscription are damaged: {error}") from error
    return patterns


def repaired_path(path: Path) -> Path:
    """Where a repaired store is until it takes its place: nobody may begin an empty one meanwhile."""
    return path.with_name(f"{path.name}-repaired")


def _prepare(connection: sqlite3.Connection, path: Path, *, busy_s: float, create: bool) -> None:
    application, version, empty = _identity(connection)
    if empty and create:
        keep_write_ahead_log(connection, busy_s=busy_s)
        _create(connection)
        application, version, empty = _identity(connection)
    if application != APPLICATION_ID:
        raise StoreError(
            "the file is no store of messages",
            where=str(path),
            why="it is empty" if empty else "it belongs to another program",
            fix="name another file in host.transport, sqlite://PATH",
        )
    if version != VERSION:
        raise StoreError(
            f"the store has schema {version}",
            where=str(path),
            why=f"this Echo Core reads schema {VERSION}",
            fix="run the version that wrote it until all is settled, then move the file away",
        )


def _identity(connection: sqlite3.Connection) -> tuple[int, int, bool]:
    """Whose it is, which version, and whether it is empty; of one moment, as another may be making it."""
    connection.execute("BEGIN")
    try:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    return application, version, (tables, application, version) == (0, 0, 0)


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


_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""The last says that a table or a column is not there: our statements are right, so it is the schema."""


def failed(path: Path, verb: str, error: Exception) -> StoreError:
    """What SQLite complained of, in our words, with the next step."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    primary = code & 0xFF
    if primary in _DAMAGED:
        fix = "stop every host that uses it, then: echo-core store repair"
    elif primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        fix = "find the program that holds the file's lock, or raise busy= in host.transport"
    elif primary == sqlite3.SQLITE_FULL:
        fix = "make room on the disk"
    else:
        fix = "check that the folder and the file can be written, and that there is room on the disk"
    failure = StoreError(f"the store cannot be {verb}", where=str(path), why=str(error), fix=fix)
    failure.may_pass = isinstance(error, sqlite3.Error) and primary not in _DAMAGED
    return failure


def is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, so that trying again cannot help."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return (code & 0xFF) in _DAMAGED


_SURROUNDINGS: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
)
_UNREADABLE: Final = (
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
)


def is_of_surroundings(error: sqlite3.Error) -> bool:
    """Whether the disk is full, or something is not allowed: nothing that a repair of the file could mend."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    primary = code & 0xFF
    return primary in _SURROUNDINGS or (primary == sqlite3.SQLITE_IOERR and code not in _UNREADABLE)
