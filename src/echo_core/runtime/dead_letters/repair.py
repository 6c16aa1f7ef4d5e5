"""Dead letters in a damaged file: found, and what can be read of them saved into a new one."""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import NotFound
from echo_core.runtime.dead_letters.database import Database, DeadLetterError
from echo_core.runtime.dead_letters.store import CHECKED_COLUMNS, letter_of
from echo_core.transports.sqlite.repair import FIRST_BYTES, remove, swap, sync, with_first_page
from echo_core.transports.sqlite.schema import is_of_surroundings, repaired_path
from echo_core.write_ahead import Connection

_MOST: Final = 100
"""Findings, and numbers of lost letters, that are listed."""
_FAR: Final = 1_000_000_000
"""More than this no number of a letter is, unless it is damaged."""
_CHUNK: Final = 512
_INDEXES: Final = ("dead_letters_by_message", "dead_letters_by_plugin", "dead_letters_by_age")
_WITNESSES: Final = 2
"""So many of them that tell the same, and of all that any tells, leave no doubt which letters there were."""
_JOB: Final = "id, created_ns, wish, last_id, total, done, failed, seen_id, state, reason, owner, alive_ns"


class LetterCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a check of the dead letters looked at and found."""

    path: str
    letters: int
    """Letters that are as they were written."""
    findings: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it was written."""
        return not self.findings


class LetterRepair(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the dead letters."""

    path: str
    damaged: str
    """Where the old file is kept."""
    letters: int
    """Letters that were saved."""
    lost: tuple[int, ...]
    """Numbers of those that were there and cannot be read as they were written; at most some are listed."""
    lost_count: int
    is_doubtful: bool
    """Whether there may have been others, of which nothing tells."""


def check(path: Path) -> LetterCheck:
    """Read every page and letter; raises `NotFound`, and `DeadLetterError` where nothing can be read."""
    if not path.exists() and not repaired_path(path).exists():
        raise NotFound("there are no dead letters", where=str(path))
    findings: list[str] = []
    sound = 0
    with closing(Database(path)) as database:
        for (line,) in database.rows(f"PRAGMA integrity_check({_MOST})"):
            if line != "ok":
                findings.append(f"page: {line}")
        after = 0
        try:
            while rows := database.rows(
                f"SELECT {CHECKED_COLUMNS} FROM dead_letters WHERE id > ? ORDER BY id LIMIT 500",  # noqa: S608
                (after,),
            ):
                after = rows[-1][0]
                for letter in map(letter_of, rows):
                    if letter.is_damaged:
                        findings.append(f"dead letter {letter.id}: it is not as it was written (CRC-32)")
                    else:
                        sound += 1
        except DeadLetterError as error:
            findings.append(f"page: reading ended at: {error.why}")
    return LetterCheck(path=str(path), letters=sound, findings=tuple(findings[: 2 * _MOST]))


def repair(path: Path) -> LetterRepair:
    """Put a whole file in the place of the damaged one, which is kept beside it; no host may run meanwhile.

    Raises `NotFound`, and `DeadLetterError` when nothing can be read; nothing has been changed then.
    """
    if not path.exists() and not repaired_path(path).exists():
        raise NotFound("there are no dead letters", where=str(path))
    with Database(path).repairing():
        try:
            return _repair(path)
        except OSError as error:
            raise _not_repaired(path, error) from error


def _repair(path: Path) -> LetterRepair:
    repaired = repaired_path(path)
    if repaired.exists():  # an earlier repair had done everything but the last step
        damaged = swap(path, repaired)
        with closing(Database(path)) as database:
            ((saved,),) = database.rows("SELECT count(*) FROM dead_letters")
        return LetterRepair(
            path=str(path), damaged=str(damaged), letters=saved, lost=(), lost_count=0, is_doubtful=True
        )
    building, copy = (path.with_name(f"{path.name}-{what}") for what in ("repairing", "copy"))
    remove(building, copy)
    try:
        saved, known, is_doubtful = _salvage(path, building, copy)
    except BaseException:
        remove(building, copy)
        raise
    remove(copy)
    sync(building)
    os.replace(building, repaired)
    damaged = swap(path, repaired)
    lost = sorted(known - saved)
    return LetterRepair(
        path=str(path),
        damaged=str(damaged),
        letters=len(saved),
        lost=tuple(lost[:_MOST]),
        lost_count=len(lost),
        is_doubtful=is_doubtful,
    )


def _salvage(path: Path, building: Path, copy: Path) -> tuple[set[int], set[int], bool]:
    """Read the file into a new one: as it lies there, else with its first page put right.

    The numbers that were saved, those that there were, and whether there may have been others.
    """
    problem: Exception | None = None
    for put_right in FIRST_BYTES:
        remove(building)
        try:
            source = with_first_page(path, copy, put_right, _make_empty) if put_right else path
            with (
                closing(sqlite3.connect(source, isolation_level=None, factory=Connection)) as old,
                closing(Database(building, is_private=True)) as new,
            ):
                old.text_factory = lambda raw: raw.decode("utf-8", "replace")
                told = _told(old)
                known = set().union(*told)
                with new.writing() as connection:
                    saved = _copy(old, connection, known)
                new.rows("PRAGMA wal_checkpoint(TRUNCATE)")  # closing it says nothing where that fails
                is_sound = _is_sound(old)
            if saved or known or is_sound:
                return saved, known, not is_sound and told.count(known) < _WITNESSES
        except (sqlite3.Error, DeadLetterError) as error:
            cause = error.__cause__ if isinstance(error, DeadLetterError) else error
            if not isinstance(cause, sqlite3.Error) or is_of_surroundings(cause):
                raise _not_repaired(path, cause or error) from error
            problem = cause
    raise DeadLetterError(
        "the dead letters are damaged beyond repair",
        where=str(path),
        why=f"what is needed to read them is not there: {problem or 'no letter can be found'}",
        fix=f"restore a copy; or move {path.name} and {path.name}-wal away, and begin anew",
    ) from problem


def _not_repaired(path: Path, error: BaseException) -> DeadLetterError:
    return DeadLetterError(
        "the dead letters cannot be repaired",
        where=str(path),
        why=str(error),
        fix="make room on the disk, or mend the permissions; then echo-core dlq repair again",
    )


def _make_empty(path: Path) -> None:
    with closing(Database(path, is_private=True)) as fresh, fresh.writing():
        pass


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, known: Iterable[int]) -> set[int]:
    """Copy whole letters and replays, under their numbers; those of the letters."""
    saved = set[int]()
    last = max([_last(old, "dead_letters"), *known])
    for row in _readable(old, "dead_letters", CHECKED_COLUMNS, sorted(known) or range(1, last + 1)):
        if not letter_of(row).is_damaged and _insert(new, "dead_letters", CHECKED_COLUMNS, row):
            saved.add(row[0])
    last_job = _last(old, "replay_jobs")
    for row in _readable(old, "replay_jobs", _JOB, range(1, last_job + 1)):
        _insert(new, "replay_jobs", _JOB, row)
    for table, highest in (("dead_letters", last), ("replay_jobs", last_job)):
        new.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
        new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, highest))
    return saved


def _insert(new: sqlite3.Connection, table: str, columns: str, row: Sequence[object]) -> bool:
    """Whether the row could be."""
    places = ", ".join("?" * len(row))
    with suppress(sqlite3.IntegrityError):
        new.execute(f"INSERT INTO {table} ({columns}) VALUES ({places})", row)  # noqa: S608
        return True
    return False


def _readable(
    old: sqlite3.Connection, table: str, columns: str, numbers: Sequence[int]
) -> Iterator[tuple[Any, ...]]:
    """The rows with these numbers, and those between; where a page cannot be read, all but what is on it."""
    query = f"SELECT {columns} FROM {table} WHERE id BETWEEN ? AND ?"  # noqa: S608
    pending = [numbers[at : at + _CHUNK] for at in range(0, len(numbers), _CHUNK)][::-1]
    while pending:
        some = pending.pop()
        try:
            yield from old.execute(query, (some[0], some[-1])).fetchall()
        except sqlite3.Error:
            middle = len(some) // 2
            pending += [some[middle:], some[:middle]] if middle else []


def _last(old: sqlite3.Connection, table: str) -> int:
    """The highest number that was ever given, by what still tells it; none that cannot be."""
    found = [0]
    for query in (
        f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'",  # noqa: S608
        f"SELECT max(id) FROM {table}",  # noqa: S608
    ):
        with suppress(sqlite3.Error):
            row = old.execute(query).fetchone()
            found.append(row[0] if row and isinstance(row[0], int) else 0)
    return max((number for number in found if number < _FAR), default=0)


def _told(old: sqlite3.Connection) -> list[set[int]]:
    """The numbers of letters that there were, as each of the indexes tells, and the letters themselves."""
    told: list[set[int]] = []
    for access in ("NOT INDEXED", *(f"INDEXED BY {index}" for index in _INDEXES)):
        told.append(set())
        with suppress(sqlite3.Error):
            for (number,) in old.execute(f"SELECT id FROM dead_letters {access}"):  # noqa: S608
                if isinstance(number, int) and 0 < number < _FAR:
                    told[-1].add(number)
    return told


def _is_sound(connection: sqlite3.Connection) -> bool:
    try:
        return bool(connection.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",))
    except sqlite3.Error:
        return False
