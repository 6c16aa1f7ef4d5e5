"""The file that the history is kept in: records in blocks, and for each block the keys of what is in it.

A row a record would cost its writer many times what the record itself does, and the interpreter's lock at
every row. So records go in by hundreds, packed; a block is found by looking through the keys of all of them,
twelve bytes an id: some milliseconds among a million records. The oldest blocks go when there is no room.

Any number of processes may write. What `add` returned from is there after the process is killed; a crash of
the machine may take the newest blocks with it (`synchronous=NORMAL`), and never harms the file.
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import EchoCoreError, TopicError
from echo_core.runtime.message_history.records import (
    Kept,
    Needles,
    Records,
    keys_of,
    pack,
    pack_payloads,
    unpack,
    unpack_payloads,
)
from echo_core.topics import TopicPattern
from echo_core.write_ahead import Connection, OpenFiles, keep_write_ahead_log

FILE_NAME: Final = "message_history.sqlite"
VERSION: Final = 3
"""Of the schema: PRAGMA user_version. Files of older ones are set aside: nothing is kept for long anyway."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS hosts (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    pid        INTEGER NOT NULL,
    started_ns INTEGER NOT NULL,
    written_ns INTEGER NOT NULL,
    ended_ns   INTEGER,
    stays      TEXT NOT NULL,
    dropped    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS subscriptions (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    host     INTEGER NOT NULL,
    plugin   TEXT NOT NULL,
    patterns TEXT NOT NULL,
    since_ns INTEGER NOT NULL,
    until_ns INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS blocks (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    host     INTEGER NOT NULL,
    first_ns INTEGER NOT NULL,
    last_ns  INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    dropped  INTEGER NOT NULL,
    size     INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    block INTEGER PRIMARY KEY,
    keys  TEXT NOT NULL,
    crc   INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS contents (
    block    INTEGER PRIMARY KEY,
    clock_ns INTEGER NOT NULL,
    records  BLOB NOT NULL,
    payloads BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS pruned (
    id         INTEGER PRIMARY KEY,
    through_ns INTEGER NOT NULL,
    count      INTEGER NOT NULL
) STRICT;
"""
_BUSY_S: Final = 5.0


class HistoryError(EchoCoreError):
    """The message history cannot be read or written; messages are handled all the same."""

    code = "E-HISTORY"


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A process that wrote."""

    id: int
    pid: int
    started_ns: int
    written_ns: int
    """What happened up to then is written, but for what was dropped."""
    ended_ns: int | None
    """None while it runs, and for one that was killed."""
    stays: tuple[str, ...]
    """Topics whose messages stay in it, and end with it; those of all others wait elsewhere."""
    dropped: int
    """Records for which there was no room, because the disk was too slow or full."""


class Subscribed(msgspec.Struct, frozen=True, kw_only=True):
    """For so long messages on these topics were for this plugin."""

    host: int
    plugin: str
    patterns: tuple[str, ...]
    since_ns: int
    until_ns: int | None


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """Records that were written together."""

    id: int = 0
    host: int
    first_ns: int
    """The oldest message of which something is recorded was made then."""
    last_ns: int
    """When it was written."""
    clock_ns: int
    """What the wall clock was ahead of the host's monotonic clock then."""
    dropped: int = 0
    """Records that were dropped between the block before and this one."""
    records: Records
    payloads: dict[str, Kept] = {}
    """Messages that were kept whole, by id."""


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What there is, and what there is no more."""

    records: int
    bytes: int
    from_ns: int
    """The oldest that is there was written then; 0 when there is nothing."""
    through_ns: int
    pruned_ns: int
    """All that was written up to then is gone, to make room; 0: nothing."""
    pruned: int
    """How many records that were."""
    dropped: int


class HistoryStore:
    """One file. Opened on first use; each thread needs a store of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._file = (0, 0)
        self._files: OpenFiles
        self.damaged = 0
        """Blocks that could not be read."""

    @property
    def exists(self) -> bool:
        """Whether anything was ever written."""
        return self.path.exists()

    # Writing

    def check(self) -> None:
        """Look through the file, if there is one; raises `HistoryError` when it is damaged."""
        if not self.exists:
            return
        try:
            found = self._open(may_make=True).execute("PRAGMA quick_check(1)").fetchone()
            if found != ("ok",):
                raise _Useless(str(found[0]))
        except (sqlite3.Error, OSError) as error:
            raise self._failed("read", error) from error

    def register(self, *, pid: int, stays: Sequence[str]) -> int:
        """The number of a new host. What is known of those that left nothing is forgotten."""
        now = time.time_ns()
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM hosts WHERE ended_ns IS NOT NULL AND id NOT IN "
                "(SELECT host FROM blocks UNION SELECT host FROM subscriptions)"
            )
            number = connection.execute(
                "INSERT INTO hosts (pid, started_ns, written_ns, stays) VALUES (?, ?, ?, ?)",
                (pid, now, now, _as_json(stays)),
            ).lastrowid
        assert number is not None
        return number

    def subscribe(self, subscribed: Subscribed) -> int:
        """From now on messages on these topics are for this plugin; a number to end it by."""
        with self._writing() as connection:
            number = connection.execute(
                "INSERT INTO subscriptions (host, plugin, patterns, since_ns) VALUES (?, ?, ?, ?)",
                (
                    subscribed.host,
                    subscribed.plugin,
                    _as_json(subscribed.patterns),
                    subscribed.since_ns,
                ),
            ).lastrowid
        assert number is not None
        return number

    def unsubscribe(self, number: int, until_ns: int) -> None:
        """It has ended."""
        with self._writing() as connection:
            connection.execute("UPDATE subscriptions SET until_ns = ? WHERE id = ?", (until_ns, number))

    def add(self, block: Block) -> int:
        """Write the block; it is whole, or not there. How many bytes it takes."""
        keys, records = keys_of(block.records, block.payloads), pack(block.records)
        payloads = pack_payloads(block.payloads) if block.payloads else None
        size = len(keys) + len(records) + len(payloads or b"")
        with self._writing() as connection:
            number = connection.execute(
                "INSERT INTO blocks (host, first_ns, last_ns, count, dropped, size) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (block.host, block.first_ns, block.last_ns, len(block.records), block.dropped, size),
            ).lastrowid
            connection.execute(
                "INSERT INTO keys (block, keys, crc) VALUES (?, ?, ?)", (number, keys, _checksum(keys))
            )
            connection.execute(
                "INSERT INTO contents (block, clock_ns, records, payloads) VALUES (?, ?, ?, ?)",
                (number, block.clock_ns, records, payloads),
            )
            connection.execute(
                "UPDATE hosts SET written_ns = ?, dropped = dropped + ? WHERE id = ?",
                (block.last_ns, block.dropped, block.host),
            )
        return size

    def end(self, host: int, now_ns: int) -> None:
        """The host writes nothing more."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE hosts SET written_ns = ?, ended_ns = ? WHERE id = ?", (now_ns, now_ns, host)
            )

    def prune(self, *, before_ns: int, max_bytes: int) -> int:
        """Let go of what was written before then, and of the oldest beyond the bytes; how many records."""
        doomed: list[tuple[int]] = []
        count, through = 0, 0
        with self._writing() as connection:
            excess = connection.execute("SELECT coalesce(sum(size), 0) FROM blocks").fetchone()[0] - max_bytes
            for number, last_ns, records, size in connection.execute(
                "SELECT id, last_ns, count, size FROM blocks ORDER BY id"
            ):
                if last_ns >= before_ns and excess <= 0:
                    break
                doomed.append((number,))
                count, through, excess = count + records, max(through, last_ns), excess - size
            if doomed:
                for statement in (
                    "DELETE FROM contents WHERE block = ?",
                    "DELETE FROM keys WHERE block = ?",
                    "DELETE FROM blocks WHERE id = ?",
                ):
                    connection.executemany(statement, doomed)
                connection.execute(
                    "INSERT INTO pruned VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                    "through_ns = max(through_ns, excluded.through_ns), count = count + excluded.count",
                    (through, count),
                )
                connection.execute(
                    "DELETE FROM subscriptions WHERE until_ns < (SELECT min(first_ns) FROM blocks)"
                )
        return count

    def shrink(self) -> None:
        """Give pages that have become free back to the disk, a part of them at a time."""
        with self._writing() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            if free > pages // 4:
                connection.execute("PRAGMA incremental_vacuum(1000)").fetchall()

    def set_aside(self) -> Path | None:
        """Rename a file that is of no use, so that a new one begins; None if it is another one by now."""
        file = self._file
        self.close()
        try:
            if file != self._identity():
                return None
            aside = self.path.with_name(f"{self.path.name}.aside-{time.time_ns()}")
            for suffix in ("", "-wal", "-shm"):
                old = self.path.with_name(self.path.name + suffix)
                if old.exists():
                    old.rename(aside.with_name(aside.name + suffix))
        except OSError as error:
            raise self._failed("set aside", error) from error
        return aside

    # Reading

    def extent(self) -> Extent:
        """What there is now."""
        # SQLite puts any kind of value into any column: damaged rows are left out.
        row = self._row(
            "SELECT coalesce(sum(count), 0), coalesce(sum(size), 0), coalesce(min(last_ns), 0), "
            "coalesce(max(last_ns), 0) FROM blocks "
            "WHERE typeof(count) = 'integer' AND typeof(size) = 'integer' AND typeof(last_ns) = 'integer'"
        )
        pruned = self._row(
            "SELECT coalesce(max(through_ns), 0), coalesce(sum(count), 0) FROM pruned "
            "WHERE typeof(through_ns) = 'integer' AND typeof(count) = 'integer'"
        )
        (dropped,) = self._row(
            "SELECT coalesce(sum(dropped), 0) FROM hosts WHERE typeof(dropped) = 'integer'"
        )
        return Extent(
            records=row[0],
            bytes=row[1],
            from_ns=row[2],
            through_ns=row[3],
            pruned_ns=pruned[0],
            pruned=pruned[1],
            dropped=dropped,
        )

    def hosts(self) -> dict[int, Host]:
        """All that ever wrote, by number."""
        rows = self._sound(
            self._rows("SELECT id, pid, started_ns, written_ns, ended_ns, stays, dropped FROM hosts"),
            *(int, int, int, int, int | None, str, int),
        )
        return {
            number: Host(
                id=number,
                pid=pid,
                started_ns=started,
                written_ns=written,
                ended_ns=ended,
                stays=_patterns(stays),
                dropped=dropped,
            )
            for number, pid, started, written, ended, stays, dropped in rows
        }

    def subscriptions(self) -> list[Subscribed]:
        """All that are of use still."""
        rows = self._sound(
            self._rows("SELECT host, plugin, patterns, since_ns, until_ns FROM subscriptions ORDER BY id"),
            *(int, str, str, int, int | None),
        )
        return [
            Subscribed(host=host, plugin=plugin, patterns=_patterns(patterns), since_ns=since, until_ns=until)
            for host, plugin, patterns, since, until in rows
        ]

    def keys(self) -> list[tuple[int, str | None]]:
        """The keys of every block; None where they are not as they were written."""
        rows = self._rows("SELECT id, keys, crc FROM blocks LEFT JOIN keys ON block = id")
        return [
            (number, keys if isinstance(keys, str) and crc == _checksum(keys) else None)
            for number, keys, crc in rows
        ]

    def find(self, needles: Needles, keys: Sequence[tuple[int, str | None]]) -> list[int]:
        """The blocks that may hold something of these; one whose keys cannot be told may hold anything."""
        return [number for number, some in keys if some is None or needles.may_be_in(some)]

    def between(self, first_ns: int, last_ns: int) -> list[int]:
        """The blocks that may hold something of messages that were made in that time."""
        rows = self._rows("SELECT id FROM blocks WHERE first_ns <= ? AND last_ns >= ?", (last_ns, first_ns))
        return [number for (number,) in rows]

    def newest(self, count: int) -> list[int]:
        """The newest blocks, the newest first."""
        return [
            number for (number,) in self._rows("SELECT id FROM blocks ORDER BY id DESC LIMIT ?", (count,))
        ]

    def blocks(self, numbers: Sequence[int]) -> Iterator[Block]:
        """Those of these that are still there; damaged ones are left out, and counted in `damaged`."""
        for number in numbers:
            rows = self._rows(
                "SELECT host, first_ns, last_ns, dropped, clock_ns, records, payloads "
                "FROM blocks JOIN contents ON block = id WHERE id = ?",
                (number,),
            )
            kinds = (int, int, int, int, int, bytes, bytes | None)
            for host, first, last, dropped, clock, records, payloads in self._sound(rows, *kinds):
                try:
                    yield Block(
                        id=number,
                        host=host,
                        first_ns=first,
                        last_ns=last,
                        dropped=dropped,
                        clock_ns=clock,
                        records=unpack(records),
                        payloads={} if payloads is None else unpack_payloads(payloads),
                    )
                except ValueError:
                    self.damaged += 1

    def close(self) -> None:
        """Let the file go; using the store again opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _sound(self, rows: Iterable[Sequence[Any]], *kinds: Any) -> Iterator[Any]:
        """Those whose values are of these kinds; the others are damaged, and left out."""
        for row in rows:
            if all(map(isinstance, row, kinds)):
                yield row
            else:
                self.damaged += 1

    def _row(self, statement: str) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._rows(statement)[0]
        return row

    def _rows(self, statement: str, arguments: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._open(may_make=False).execute(statement, arguments).fetchall()
        except (sqlite3.Error, OSError) as error:
            raise self._failed("read", error) from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it holds, or nothing."""
        try:
            connection = self._open(may_make=True)
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._failed("written", error) from error

    def _open(self, *, may_make: bool) -> sqlite3.Connection:
        if self._connection is not None and self._files.moved():
            self.close()  # what is written from now on belongs into the file that is there
            if self._file != self._identity():
                raise _Useless("the file was removed or replaced")
        if self._connection is None:
            if may_make:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if may_make else "rw"
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=_BUSY_S,
                isolation_level=None,
                factory=Connection,
            )
            # Keys that are damaged must not keep the others from being read.
            connection.text_factory = _as_text
            try:
                if self.path.exists():
                    self._file = self._identity()
                self._set_up(connection, may_make=may_make)
                self._file, self._files = self._identity(), OpenFiles(self.path)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _identity(self) -> tuple[int, int]:
        """Of the file that is there; zeros for none."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _set_up(self, connection: sqlite3.Connection, *, may_make: bool) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise sqlite3.DatabaseError(
                f"it was written by a newer Echo Core (schema {version}, not {VERSION})"
            )
        if 0 < version < VERSION:
            raise _Useless(f"it was written by an older Echo Core (schema {version}, not {VERSION})")
        if version == 0 and may_make:
            os.chmod(self.path, 0o600)  # it may hold what messages say
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if may_make:
            keep_write_ahead_log(connection, busy_s=_BUSY_S)
            connection.execute("PRAGMA synchronous = NORMAL")
        if version == 0 and may_make:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")

    def _failed(self, verb: str, error: Exception) -> HistoryError:
        return HistoryError(
            f"the message history cannot be {verb}",
            where=str(self.path),
            why=str(error),
            fix="make room on the disk, or mend the permissions; if the file is damaged, move it away: "
            "a new one begins",
        )


def _patterns(text: str) -> tuple[str, ...]:
    """What `_as_json` was given; nothing when it is damaged."""
    try:
        return tuple(TopicPattern(each).text for each in msgspec.json.decode(text, type=list[str]))
    except (msgspec.MsgspecError, TopicError):
        return ()


def _as_text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _checksum(keys: str) -> int:
    """CRC-32: what is read in thousands of blocks for each question must be quick."""
    return zlib.crc32(keys.encode())


def _as_json(patterns: Sequence[str]) -> str:
    return msgspec.json.encode(patterns).decode()


class _Useless(sqlite3.DatabaseError):
    """The file has an older schema, or is damaged where SQLite alone would not have noticed."""


def is_useless(error: BaseException | None) -> bool:
    """Whether it says that the file itself is broken or outdated, and will not mend."""
    name = getattr(error, "sqlite_errorname", "")
    # All statements are known to be right, so an error in one is one in the schema that the file has.
    is_of_schema = name == "SQLITE_ERROR"
    return isinstance(error, _Useless) or is_of_schema or name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
