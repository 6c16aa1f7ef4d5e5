"""Saving what can be read of a damaged store into a new one.

Rows are read by their keys, range by range; where SQLite meets a broken page the range is halved until
only what lies on it is missing. What of the deliveries cannot be read is due again: better twice than never.
The old file is kept. An end at any moment leaves a store that is whole, or one that says how to go on.
"""

import glob
import itertools
import os
import sqlite3
import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from echo_core.errors import StoreError
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.blocks import MOST_MESSAGES, Block, bodies_of, pack, read_head
from echo_core.transports.sqlite.inspection import MOST_FINDINGS, fault_of, named

_CHUNK: Final = 1_024
_BUSY_S: Final = 10.0
_PAGE: Final = 4_096
"""SQLite's default since 2016, and so of every store."""
_HEADER: Final = 100
FIRST_BYTES: Final = (0, _HEADER, _PAGE)
"""How much of the beginning of a file to put right: first nothing, then more and more."""
_FAR: Final = 100_000_000
"""Between two seqs of one store: then one of them is damaged."""


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
    with leases.alone(path):
        try:
            return _repair(path)
        except OSError as error:
            raise schema.failed(path, "repaired", error) from error


def _repair(path: Path) -> RepairReport:
    repaired = schema.repaired_path(path)
    if repaired.exists():  # an earlier repair had done everything but the last step
        damaged = swap(path, repaired)
        with closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
            messages, deliveries = (
                connection.execute(f"SELECT coalesce(sum(count), 0) FROM {table}").fetchone()[0]  # noqa: S608
                for table in ("blocks", "deliveries")
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
    remove(building, copy)
    try:
        salvage = _salvage(path, building, copy)
    except BaseException:
        remove(building, copy)
        raise
    remove(copy)
    sync(building)
    os.replace(building, repaired)
    damaged = swap(path, repaired)
    return RepairReport(
        path=str(path),
        damaged=str(damaged),
        messages=salvage.messages,
        deliveries=salvage.deliveries,
        due_again=salvage.due_again,
        lost=tuple(salvage.lost[:MOST_FINDINGS]),
        lost_count=salvage.lost_count,
        unknown_count=len(salvage.unknown),
    )


def _salvage(path: Path, building: Path, copy: Path) -> "Salvage":
    """Read the store into a new one: as it lies there, else with its first page put right."""
    error: Exception | None = None
    for put_right in FIRST_BYTES:
        remove(building)
        try:
            source = with_first_page(path, copy, put_right, _make_empty) if put_right else path
            with (
                closing(schema.connect(source, busy_s=_BUSY_S, create=False, read_only=True)) as old,
                closing(schema.connect(building, busy_s=_BUSY_S)) as new,
            ):
                salvage = Salvage(old, new)
                salvage.run()
                new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return salvage
        except sqlite3.Error as damage:
            if schema.is_of_surroundings(damage):
                raise schema.failed(path, "repaired", damage) from damage
            error = damage
        except StoreError as refusal:
            if not isinstance(refusal.__cause__, sqlite3.Error) or not schema.is_damaged(refusal.__cause__):
                raise
            error = refusal.__cause__
    raise _beyond_repair(path, error) from error


def with_first_page(path: Path, copy: Path, size: int, make_empty: Callable[[Path], None]) -> Path:
    """A copy whose first `size` bytes, the header or the first page, are those of an empty file of its kind.

    In the header, at 28 the number of pages, at 32 the free list, both counted
    anew; at 92 the change counter of 24 says that the count holds (sqlite.org/fileformat2.html, 1.3).
    """
    remove(copy)
    make_empty(copy)
    first = bytearray(copy.read_bytes()[:_PAGE])
    remove(copy)
    content = path.read_bytes()
    first[28:40] = struct.pack(">III", len(content) // _PAGE, 0, 0)
    first[92:96] = first[24:28]
    copy.write_bytes(bytes(first[:size]) + content[size:])
    log = _beside(path)[0]
    if log.exists():
        _beside(copy)[0].write_bytes(log.read_bytes())
    return copy


def _make_empty(path: Path) -> None:
    with closing(schema.connect(path, busy_s=_BUSY_S)) as fresh:
        fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class _Saved(NamedTuple):
    """A block that was read."""

    block: Block
    sound: set[int]
    """The seqs of its messages that were saved."""
    copies: list[Block]
    """It as it is in the new store: cut where something is missing."""


_State = tuple[int, int | None, int | None]
"""What a delivery says: its attempts, since when it is delayed, and until when."""


class Salvage:
    """Reads one connection and writes the other."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._old = old
        self._new = new
        self.messages = 0
        self.deliveries = 0
        self.due_again = 0
        self.lost: list[str] = []
        self.lost_count = 0
        self.unknown: set[int] = set()
        self._spoilt: set[int] = set()
        """Messages that are there, or may be, and cannot be read."""
        self._saved: list[_Saved] = []
        """In order."""
        self._ends: list[int] = []

    def run(self) -> None:
        """Save everything that can be read; raises `sqlite3.Error` when the subscriptions cannot."""
        subscriptions = self._old.execute(
            "SELECT id, name, patterns, created_ns, seen_ns FROM subscriptions"
        ).fetchall()
        last = self._last_seq()
        self._new.execute("BEGIN")
        self._new.executemany("INSERT INTO subscriptions VALUES (?, ?, ?, ?, ?)", subscriptions)
        self._save_blocks(last)
        for number, name, patterns, _, _ in subscriptions:
            schema.patterns_from(patterns)  # raises what is damaged
            self._save_deliveries(number, name, last)
        for table, highest in (("blocks", last), ("hosts", self._sequence("hosts"))):
            self._new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self._new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, highest))
        if not self.messages and not self.lost_count and not _is_sound(self._old):
            raise sqlite3.DatabaseError("there is damage, and no message can be found")
        self._new.execute("COMMIT")

    def _sequence(self, table: str) -> int:
        with suppress(sqlite3.Error):
            row = self._old.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
            return row[0] if row and isinstance(row[0], int) else 0
        return 0

    def _last_seq(self) -> int:
        """The highest seq that was ever given, by whatever still tells it, without what is far off."""
        found = sorted(
            (
                self._sequence("blocks"),
                self._found("max(seq)", "blocks"),
                self._found("max(last)", "deliveries"),
            )
        )
        return max(seq for seq in found if seq <= found[1] + _FAR)

    def _first_seq(self, last: int) -> int:
        """From where on there may be something, at most some way before what is told."""
        lowest = min(
            self._found("min(seq)", "blocks") - MOST_MESSAGES,
            self._found("min(first)", "deliveries WHERE first > 0") or 1,
        )
        return max(1, lowest, last - _FAR)

    def _found(self, what: str, table: str) -> int:
        with suppress(sqlite3.Error):
            (seq,) = self._old.execute(f"SELECT {what} FROM {table}").fetchone()  # noqa: S608
            return seq if isinstance(seq, int) and seq > 0 else 0
        return 0

    # Messages

    def _save_blocks(self, last: int) -> None:
        def read(low: int, high: int) -> list[Any]:
            return self._old.execute(
                "SELECT seq, count, time_ns, crc, head, bodies FROM blocks "
                "WHERE seq BETWEEN ? AND ? ORDER BY seq",
                (low, high),
            ).fetchall()

        first = self._first_seq(last)
        is_doubtful = not _is_sound(self._old, "blocks")
        found = set[int]()
        for _, rows, unreadable in _pieces(read, first, last):
            for row in (*rows, *filter(None, map(self._beginning, unreadable))):
                found |= self._save_block(*row)
            is_doubtful = is_doubtful or bool(unreadable)
        # A tree that is broken somewhere may leave rows out without a word.
        if is_doubtful:
            self._spoilt = set(range(first, last + 1)) - found

    def _beginning(self, seq: int) -> tuple[Any, ...] | None:
        """A block whose bodies can be read up to some place, if so much."""
        content = bytearray()
        try:
            row = self._old.execute(
                "SELECT seq, count, time_ns, crc, head FROM blocks WHERE seq = ?", (seq,)
            ).fetchone()
            head = read_head(row[0], row[1], row[3], row[4]) if row is not None else None
            if head is None:
                return None
            with suppress(sqlite3.Error), self._old.blobopen("blocks", "bodies", seq, readonly=True) as blob:
                for size in head.sizes:
                    content += blob.read(size)
        except sqlite3.Error:
            return None
        return (*row, bytes(content))

    def _save_block(
        self, seq: int, count: object, time_ns: object, crc: object, head: object, bodies: object
    ) -> set[int]:
        """The seqs of what was saved."""
        read = read_head(seq, count, crc, head)
        if read is None or (self._ends and read.first <= self._ends[-1]):
            size = count if isinstance(count, int) and 0 < count <= MOST_MESSAGES else MOST_MESSAGES
            self._spoilt.update(range(max(1, seq - size + 1), seq + 1))
            return set()
        accepted_ns = time_ns if isinstance(time_ns, int) else 0
        whole = bodies_of(read, bodies)
        saved = _Saved(Block.of(read), set(), [])
        for is_sound, run in groupby(enumerate(whole), lambda each: not fault_of(each[1])):
            some = list(run)
            if is_sound:
                at = some[0][0]
                kinds = [saved.block.kind(read.first + place) for place, _ in some]
                block, row = pack(
                    read.first + at, accepted_ns, kinds, [body for _, body in some if body is not None]
                )
                self._new.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?)", row)
                saved.copies.append(block)
                saved.sound.update(range(block.first, block.last + 1))
        self._saved.append(saved)
        self._ends.append(seq)
        self.messages += len(saved.sound)
        self._spoilt.update(set(range(read.first, seq + 1)) - saved.sound)
        return saved.sound

    def _saved_with(self, seq: int) -> _Saved | None:
        at = bisect_left(self._ends, seq)
        saved = self._saved[at] if at < len(self._saved) else None
        return saved if saved is not None and saved.block.first <= seq else None

    # Deliveries

    def _save_deliveries(self, number: int, name: str, last: int) -> None:
        def read(low: int, high: int) -> list[Any]:
            return self._old.execute(
                f"SELECT first, last, count, ({schema.SOUND_RANGE}), "  # noqa: S608
                "CASE WHEN attempt BETWEEN 0 AND ? THEN attempt ELSE 0 END, "
                f"CASE WHEN {schema.SOUND_TIMES} THEN delayed_ns END, "
                f"CASE WHEN {schema.SOUND_TIMES} THEN due_ns END FROM deliveries "
                "WHERE subscription = ? AND first BETWEEN ? AND ?",
                (schema.MOST_ATTEMPTS, number, low, high),
            ).fetchall()

        due: dict[int, _State] = {}
        named_lost: set[int] = set()
        is_doubtful = not (_is_sound(self._old, "deliveries") and self._is_marked(number))
        for _, rows, unreadable in _pieces(read, self._first_seq(last), last):
            is_doubtful = is_doubtful or bool(unreadable)
            for first, end, count, can_be, *state in rows:
                if can_be and self._read_range(
                    number, name, (first, end, count), tuple(state), due, named_lost
                ):
                    continue
                is_doubtful = True
        if is_doubtful:
            self.unknown |= self._spoilt - named_lost
        self._write_deliveries(number, due, is_doubtful=is_doubtful)

    def _is_marked(self, number: int) -> bool:
        """Whether its deliveries are there, and not another page in the place of theirs."""
        query = f"SELECT {schema.IS_MARKED} FROM subscriptions WHERE id = ?"  # noqa: S608
        with suppress(sqlite3.Error):
            (is_marked,) = self._old.execute(query, (number,)).fetchone()
            return bool(is_marked)
        return False

    def _read_range(
        self,
        number: int,
        name: str,
        row: tuple[int, int, int],
        state: _State,
        due: dict[int, _State],
        lost: set[int],
    ) -> bool:
        """Note what a row says is due, and what of it is lost; false if it cannot be as it is."""
        first, last, count = row
        saved = self._saved_with(first)
        if saved is None:  # who had still to settle which of them is not known, if there are others between
            lost.update(range(first, last + 1))
            self.lost_count += count
            self.lost += (
                [f"{seq} for {name}" for seq in range(first, last + 1)]
                if count == last - first + 1
                else [f"{count} of {named(first, last)} for {name}"]
            )
            return True
        members = saved.block.members_between(number, first, last)
        for seq in members:
            if seq in saved.sound:
                due[seq] = state
            else:
                lost.add(seq)
                self.lost_count += 1
                self.lost.append(f"{seq} for {name}")
        return len(members) == count

    def _write_deliveries(self, number: int, due: dict[int, _State], *, is_doubtful: bool) -> None:
        otherwise: _State | None = (0, None, None) if is_doubtful else None
        rows: list[tuple[object, ...]] = []
        for saved in self._saved:
            for block in saved.copies:
                members = block.members(number)
                for state, run in groupby(members, lambda seq: due.get(seq, otherwise)):
                    if state is not None:
                        seqs = list(run)
                        rows.append((number, seqs[0], seqs[-1], len(seqs), *state))
                        self.deliveries += len(seqs)
                        self.due_again += sum(seq not in due for seq in seqs)
        self._new.execute(schema.MARK, (number,))
        self._new.executemany(
            "INSERT INTO deliveries (subscription, first, last, count, attempt, delayed_ns, due_ns) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )


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


def remove(*stores: Path) -> None:
    """Delete these files of SQLite, if they are there."""
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


def swap(path: Path, repaired: Path) -> Path:
    """Put a repaired file into its place; where the damaged one is now."""
    damaged = _aside(path)
    log, index = _beside(path)
    index.unlink(missing_ok=True)
    for file, kept in ((log, damaged.with_name(f"{damaged.name}-wal")), (path, damaged)):
        with suppress(FileNotFoundError):
            os.replace(file, kept)
    os.replace(repaired, path)
    return damaged


def _aside(path: Path) -> Path:
    """A name for the damaged file under which nothing lies; but for its log, where that is there already."""
    for log in path.parent.glob(f"{glob.escape(path.name)}.damaged-*-wal"):
        begun = log.with_name(log.name.removesuffix("-wal"))
        if not begun.exists():  # who did this before was interrupted between the two
            return begun
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for number in itertools.count(1):
        aside = path.with_name(f"{path.name}.damaged-{stamp}{f'-{number}' if number > 1 else ''}")
        if not aside.exists():
            break
    return aside


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def sync(path: Path) -> None:
    """Have the file on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
