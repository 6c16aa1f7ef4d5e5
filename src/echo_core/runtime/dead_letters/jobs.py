"""Replays as jobs: asked for by anybody, run by whoever holds a transport, carried on by others."""

import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from echo_core.errors import ChangeRefused, NotFound
from echo_core.runtime.dead_letters.database import Database
from echo_core.runtime.dead_letters.letter import MOST_REPLAYS, DeadLetter
from echo_core.runtime.dead_letters.selection import Selection

_ABANDONED_NS: Final = 5_000_000_000
"""A job of which nothing was heard for so long has lost the process that ran it."""
_COLUMNS: Final = "id, created_ns, wish, last_id, total, done, failed, seen_id, state, reason"

_DAMAGED: Final = "what was asked for is damaged, and cannot be read; ask again"
JobState = Literal["waiting", "running", "done", "cancelled"]


class ReplayWish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be replayed, and how."""

    selection: Selection = Selection()
    first: int | None = None
    """At most so many, the oldest first."""
    rate: float | None = None
    """At most so many a second."""
    force: bool = False
    """Quarantined letters too."""


class ReplayJob(msgspec.Struct, frozen=True, kw_only=True):
    """A replay, as far as it has come. It goes on after the process that ran it has ended."""

    id: int
    created_ns: int
    wish: ReplayWish
    last_id: int
    """Letters that came later are not meant."""
    total: int
    done: int
    """Replayed, and no dead letters any more."""
    failed: int
    """Could not be replayed, and are still there."""
    seen_id: int
    """The last letter that was tried."""
    state: JobState
    reason: str
    """Why the last of the failed failed."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "cancelled")


class ReplayJobs:
    """Those of one store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, wish: ReplayWish) -> ReplayJob:
        """Ask for a replay of what is there now; whoever may run it takes it with `take`."""
        statement, arguments = self._counting(wish)
        with self._database.writing() as connection:
            count, last = connection.execute(statement, arguments).fetchone()
            number = connection.execute(
                "INSERT INTO replay_jobs (created_ns, wish, last_id, total) VALUES (?, ?, ?, ?)",
                (time.time_ns(), msgspec.msgpack.encode(wish), last, _at_most(wish.first, count)),
            ).lastrowid
        assert number is not None
        return self.get(number)

    def total(self, wish: ReplayWish) -> int:
        """How many a replay of what is there now would be of."""
        rows = self._database.rows(*self._counting(wish))
        return _at_most(wish.first, rows[0][0]) if rows else 0

    def _counting(self, wish: ReplayWish) -> tuple[str, tuple[object, ...]]:
        """The statement that counts what is meant, and gives its greatest number."""
        where, arguments = wish.selection.where(self._database.topics)
        where += "" if wish.force else f" AND replays < {MOST_REPLAYS}"
        return f"SELECT count(*), coalesce(max(id), 0) FROM dead_letters {where}", arguments  # noqa: S608

    def get(self, number: int) -> ReplayJob:
        """The replay with this number; raises `NotFound`."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM replay_jobs WHERE id = ?", (number,))  # noqa: S608
        if not rows:
            raise NotFound(
                f"there is no replay {number}", where=str(self._database.path), fix="echo-core dlq jobs"
            )
        return _job(rows[0])

    def newest(self, limit: int = 100) -> list[ReplayJob]:
        """The newest first."""
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM replay_jobs ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
        return [_job(row) for row in rows]

    def take(self, owner: str) -> ReplayJob | None:
        """The oldest that nobody runs; it is `owner`'s from now on, as long as it says `alive`.

        None while another is run: two at a time could mean the same letters, and send them twice.
        """
        now = time.time_ns()
        is_run = "state = 'running' AND alive_ns BETWEEN ? AND ?"
        free = (
            f"state IN ('waiting', 'running') AND NOT EXISTS (SELECT 1 FROM replay_jobs WHERE {is_run}) "  # noqa: S608
            "ORDER BY id LIMIT 1"
        )
        bounds = (now - _ABANDONED_NS, now + _ABANDONED_NS)
        if not self._database.rows(f"SELECT id FROM replay_jobs WHERE {free}", bounds):  # noqa: S608
            return None
        with self._database.writing() as connection:
            row = connection.execute(
                "UPDATE replay_jobs SET state = 'running', owner = ?, alive_ns = ? "  # noqa: S608
                f"WHERE id = (SELECT id FROM replay_jobs WHERE {free}) RETURNING {_COLUMNS}",
                (owner, now, *bounds),
            ).fetchone()
            job = None if row is None else _job(row)
            if job is not None and job.reason == _DAMAGED:
                connection.execute("UPDATE replay_jobs SET state = 'cancelled' WHERE id = ?", (job.id,))
                return None
        return job

    def alive(self, job: ReplayJob, owner: str) -> None:
        """Its owner is still at it."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE replay_jobs SET alive_ns = ? WHERE id = ? AND owner = ?",
                (time.time_ns(), job.id, owner),
            )

    def progress(
        self,
        job: ReplayJob,
        owner: str,
        *,
        replayed: Sequence[DeadLetter],
        failed: int,
        reason: str,
        seen_id: int,
    ) -> ReplayJob | None:
        """The replayed letters are none any more, and it has come so far. None: it is another owner's now."""
        with self._database.writing() as connection:
            connection.executemany(
                "DELETE FROM dead_letters WHERE id = ?", [(letter.id,) for letter in replayed]
            )
            row = connection.execute(
                "UPDATE replay_jobs SET done = done + ?, failed = failed + ?, seen_id = ?, alive_ns = ?, "  # noqa: S608
                "reason = CASE WHEN ? = '' THEN reason ELSE ? END WHERE id = ? AND owner = ? "
                f"RETURNING {_COLUMNS}",
                (len(replayed), failed, seen_id, time.time_ns(), reason, reason, job.id, owner),
            ).fetchone()
        return None if row is None else _job(row)

    def release(self, job: ReplayJob, owner: str) -> None:
        """Let others carry it on."""
        self._leave(job, owner, "waiting")

    def end(self, job: ReplayJob, owner: str) -> None:
        """It has come to its end."""
        self._leave(job, owner, "done")

    def _leave(self, job: ReplayJob, owner: str, state: JobState) -> None:
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE replay_jobs SET state = ? WHERE id = ? AND owner = ? AND state = 'running'",
                (state, job.id, owner),
            )

    def cancel(self, number: int) -> ReplayJob:
        """Go no further with it; what was replayed stays so. Raises `NotFound`, `ChangeRefused`."""
        job = self.get(number)
        with self._database.writing() as connection:
            changed = connection.execute(
                "UPDATE replay_jobs SET state = 'cancelled' WHERE id = ? AND state IN ('waiting', 'running')",
                (number,),
            ).rowcount
        if not changed:
            raise ChangeRefused(f"replay {number} has ended", why=f"it is {self.get(number).state}")
        return self.get(job.id)


def _job(row: Sequence[Any]) -> ReplayJob:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    try:
        values["wish"] = msgspec.msgpack.decode(values["wish"], type=ReplayWish)
        return msgspec.convert(values, ReplayJob)
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError):
        values = {name: value if isinstance(value, int) else 0 for name, value in values.items()}
        values |= {"wish": ReplayWish(), "state": "cancelled", "reason": _DAMAGED}
        return ReplayJob(**values)


def _at_most(limit: int | None, count: int) -> int:
    return count if limit is None else min(count, limit)
