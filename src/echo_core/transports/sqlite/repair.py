"""Saving what can be read of a damaged store into a new one.

Rows are read by their keys, range by range; where SQLite meets a broken page the range is halved until
only what lies on it is missing. What of the deliveries cannot be read is due again: better twice than never.
The old file is kept. An end at any moment leaves a store that is whole, or one that says how to go on.
"""

import os
import sqlite3
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import StoreError
from echo_core.topics import TopicSet
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.inspection import MOST_FINDINGS, fault_of

_CHUNK: Final = 1_024
_BUSY_S: Final = 10.0
_PAGE: Final = 4_096
"""SQLite's default since 2016, and so of every store."""
_HEADER: Final = 100


class RepairReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a store."""

    path: str
    damaged: str
    """Where the old file is kept."""
    messages: int
    deliveries: int
    due_again: int
    """Deliveries of which it could not be read whether they were settled: they come again."""
    lost: tuple[str, ...]
    """Messages that somebody had still to settle and that cannot be read; at most some are listed."""
    lost_count: int
    unknown_count: int = 0
    """At most so many more messages cannot be read, and neither can who had still to settle them."""


def repair(path: Path) -> RepairReport:
    """Put a whole store in the place of the damaged one, which is kept beside it.

    Raises `StoreError` while hosts use the store, and when not even its tables can be found; nothing has
    been changed then.
    """
    leases.refuse_while_used(path)
    repaired = schema.repaired_path(path)
    if repaired.exists():  # an earlier repair had done everything but the last step
        damaged = _swap(path, repaired)
        with closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
            messages, deliveries = (
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("messages", "deliveries")
            )
        return RepairReport(
            path=str(path),
            damaged=str(damaged),
            messages=messages,
            deliveries=deliveries,
            due_again=0,
            lost=(),
            lost_count=0,
        )
    building, copy = (path.with_name(f"{path.name}-{what}") for what in ("repairing", "copy"))
    _remove(building, copy)
    salvage = _salvage(path, building, copy)
    _remove(copy)
    _sync(building)
    os.replace(building, repaired)
    damaged = _swap(path, repaired)
    return RepairReport(
        path=str(path),
        damaged=str(damaged),
        messages=salvage.messages,
        deliveries=salvage.deliveries,
        due_again=salvage.due_again,
        lost=tuple(salvage.lost[:MOST_FINDINGS]),
        lost_count=len(salvage.lost),
        unknown_count=len(salvage.unknown),
    )


def _salvage(path: Path, building: Path, copy: Path) -> "Salvage":
    """Read the store into a new one: as it lies there, else with its first page put right."""
    error: Exception | None = None
    for put_right in (0, _HEADER, _PAGE):
        _remove(building)
        try:
            source = _with_first_page(path, copy, put_right) if put_right else path
            with (
                closing(schema.connect(source, busy_s=_BUSY_S, create=False)) as old,
                closing(schema.connect(building, busy_s=_BUSY_S)) as new,
            ):
                salvage = Salvage(old, new)
                salvage.run()
                new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return salvage
        except sqlite3.Error as damage:
            error = damage
        except StoreError as refusal:
            if not isinstance(refusal.__cause__, sqlite3.Error) or not schema.is_damaged(refusal.__cause__):
                raise
            error = refusal.__cause__
    _remove(building, copy)
    raise _beyond_repair(path, error) from error


def _with_first_page(path: Path, copy: Path, size: int) -> Path:
    """A copy whose first `size` bytes, the header or the first page, are those of an empty store.

    In the header, at 28 the number of pages, at 32 the free list, both counted
    anew; at 92 the change counter of 24 says that the count holds (sqlite.org/fileformat2.html, 1.3).
    """
    _remove(copy)
    with closing(schema.connect(copy, busy_s=_BUSY_S)) as fresh:
        fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    first = bytearray(copy.read_bytes()[:_PAGE])
    _remove(copy)
    content = path.read_bytes()
    first[28:40] = struct.pack(">III", len(content) // _PAGE, 0, 0)
    first[92:96] = first[24:28]
    copy.write_bytes(bytes(first[:size]) + content[size:])
    log = _beside(path)[0]
    if log.exists():
        _beside(copy)[0].write_bytes(log.read_bytes())
    return copy


class Salvage:
    """Reads one connection and writes the other."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._old = old
        self._new = new
        self.messages = 0
        self.deliveries = 0
        self.due_again = 0
        self.lost: list[str] = []
        self.unknown: set[int] = set()
        self._spoilt: set[int] = set()
        """Messages that are there, or may be, and cannot be read."""
        self._sound: dict[int, str] = {}
        """Topics of the messages that were saved."""

    def run(self) -> None:
        """Save everything that can be read; raises `sqlite3.Error` when the subscriptions cannot."""
        subscriptions = self._old.execute(
            "SELECT id, name, patterns, created_ns, seen_ns FROM subscriptions"
        ).fetchall()
        last = self._last_seq()
        self._new.execute("BEGIN")
        self._new.executemany("INSERT INTO subscriptions VALUES (?, ?, ?, ?, ?)", subscriptions)
        self._save_messages(last)
        for number, name, patterns, _, _ in subscriptions:
            self._save_deliveries(number, name, msgspec.json.decode(patterns), last)
        for table, highest in (("messages", last), ("hosts", self._sequence("hosts"))):
            self._new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self._new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, highest))
        if not self._sound and not self.lost and not _is_sound(self._old):
            raise sqlite3.DatabaseError("there is damage, and no message can be found")
        self._new.execute("COMMIT")

    def _sequence(self, table: str) -> int:
        with suppress(sqlite3.Error):
            row = self._old.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
            return int(row[0]) if row else 0
        return 0

    def _last_seq(self) -> int:
        """The highest seq that was ever given, by whatever still tells it."""
        found = [self._sequence("messages")]
        for table in ("messages", "deliveries"):
            with suppress(sqlite3.Error):
                (highest,) = self._old.execute(f"SELECT max(seq) FROM {table}").fetchone()  # noqa: S608
                found.append(highest or 0)
        return max(found)

    def _save_messages(self, last: int) -> None:
        def read(low: int, high: int) -> list[Any]:
            return self._old.execute(
                "SELECT seq, time_ns, CAST(topic AS BLOB), crc, body FROM messages WHERE seq BETWEEN ? AND ?",
                (low, high),
            ).fetchall()

        is_doubtful = not _is_sound(self._old, "messages")
        for (low, high), rows, unreadable in _pieces(read, 1, last):
            sound = [
                (seq, time_ns, topic.decode(), crc, body)
                for seq, time_ns, topic, crc, body in rows
                if not fault_of(topic, crc, body)
            ]
            self._new.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?)", sound)
            self._sound.update((seq, topic) for seq, _, topic, _, _ in sound)
            self.messages += len(sound)
            # A tree that is broken somewhere may leave rows out without a word.
            known = {row[0] for row in rows} if not is_doubtful else set(range(low, high + 1))
            self._spoilt.update(known.union(unreadable).difference(self._sound))

    def _save_deliveries(self, number: int, name: str, patterns: Sequence[str], last: int) -> None:
        def read(low: int, high: int) -> list[Any]:
            return self._old.execute(
                "SELECT seq, attempt, delayed_ns, due_ns FROM deliveries "
                "WHERE subscription = ? AND seq BETWEEN ? AND ?",
                (number, low, high),
            ).fetchall()

        wanted = TopicSet(patterns)
        is_doubtful = not _is_sound(self._old, "deliveries")
        for (low, high), rows, unreadable in _pieces(read, 1, last):
            due = {row[0]: (number, *row) for row in rows}
            self.lost += [f"{seq} for {name}" for seq in due if seq not in self._sound]
            doubtful = range(low, high + 1) if is_doubtful else unreadable
            self.unknown.update(seq for seq in doubtful if seq in self._spoilt and seq not in due)
            again = [
                (number, seq, 0, None, None)
                for seq in doubtful
                if seq in self._sound and seq not in due and self._sound[seq] in wanted
            ]
            kept = [row for seq, row in due.items() if seq in self._sound]
            self._new.executemany(
                "INSERT INTO deliveries (subscription, seq, attempt, delayed_ns, due_ns) "
                "VALUES (?, ?, ?, ?, ?)",
                kept + again,
            )
            self.deliveries += len(kept) + len(again)
            self.due_again += len(again)


def _is_sound(connection: sqlite3.Connection, table: str = "100") -> bool:
    """Whether SQLite finds nothing wrong with the table's pages, or with any."""
    try:
        (answer,) = connection.execute(f"PRAGMA integrity_check({table})").fetchone()
    except sqlite3.Error:
        return False
    return bool(answer == "ok")


def _pieces(
    read: Callable[[int, int], list[Any]], first: int, last: int
) -> Iterator[tuple[tuple[int, int], list[Any], Iterable[int]]]:
    """From `first` to `last`, piece by piece: its first and last key, the rows, the keys it cannot read."""
    pending = [(low, min(low + _CHUNK - 1, last)) for low in range(first, last + 1, _CHUNK)][::-1]
    while pending:
        low, high = pending.pop()
        try:
            yield (low, high), read(low, high), ()
        except sqlite3.Error:
            if low == high:
                yield (low, high), [], (low,)
            else:
                middle = (low + high) // 2
                pending += [(middle + 1, high), (low, middle)]


def _remove(*stores: Path) -> None:
    for store in stores:
        for file in (store, *_beside(store)):
            file.unlink(missing_ok=True)


def _beyond_repair(path: Path, error: Exception | None) -> StoreError:
    return StoreError(
        "the store is damaged beyond repair",
        where=str(path),
        why=f"what is needed to read it is not there: {error}",
        fix=f"restore a copy; or move {path.name} and {path.name}-wal away, to begin with an empty store",
    )


def _swap(path: Path, repaired: Path) -> Path:
    """Put the repaired store into its place; where the damaged one is now."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    damaged = path.with_name(f"{path.name}.damaged-{stamp}")
    log, index = _beside(path)
    index.unlink(missing_ok=True)
    for file, kept in ((log, damaged.with_name(f"{damaged.name}-wal")), (path, damaged)):
        with suppress(FileNotFoundError):
            os.replace(file, kept)
    os.replace(repaired, path)
    return damaged


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
