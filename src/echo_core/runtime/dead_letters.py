"""Messages that no attempt could finish, kept on disk with everything that is known of them."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from echo_core.errors import EchoCoreError, NotFound
from echo_core.message import BaseMessage, decode
from echo_core.topics import TopicPattern

FILE_NAME: Final = "dead_letters.sqlite"

_SCHEMA: Final = """
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
)
"""What turns a file of one schema into the next; PRAGMA user_version says how many were done."""
_COLUMNS: Final = (
    "id, time_ns, plugin, version, topic, message_id, root_id, trace_id, reason, attempts, original, "
    "config_digest, replays, edited"
)
MOST_REPLAYS: Final = 3
"""A message that was replayed so often and is a dead letter again stays one, unless a replay is forced."""
REPLAYED: Final = "echo-replayed"
"""Key in `BaseMessage.trace_context` of a message that was replayed: how often, as text."""
_ABANDONED_NS: Final = 5_000_000_000
"""A job of which nothing was heard for so long has lost the process that ran it."""


class DeadLetterError(EchoCoreError):
    """The store cannot be read or written; what could not be kept is still with its plugin."""

    code = "E-DEAD-LETTERS"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that failed."""

    number: int
    time_ns: int
    """When it ended: nanoseconds since the Unix epoch."""
    error_type: str
    error: str
    traceback: str = ""
    """The plugin's part of it, where an exception was raised."""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that ended unfinished in one plugin."""

    id: int = 0
    """Given by the store."""
    time_ns: int
    plugin: str
    version: str
    topic: str
    message_id: str
    root_id: str
    trace_id: str
    reason: str
    attempts: tuple[Attempt, ...]
    original: bytes
    """The message as it came, encoded; `message()` is it."""
    config_digest: str = ""
    """SHA-256 of the plugin's effective configuration."""
    replays: int = 0
    """How often the message was replayed to the plugin before it became this letter."""
    edited: bytes | None = None
    """The message as it is to be replayed, where that is not the original."""

    def message(self) -> BaseMessage:
        """The original; raises `MessageError` when its data had no encoding and only its text was kept."""
        return decode(self.original)

    def replayable(self) -> BaseMessage:
        """What a replay sends: the edited message, else the original; raises `MessageError` as `message`."""
        return decode(self.original if self.edited is None else self.edited)

    @property
    def is_quarantined(self) -> bool:
        """Whether it has come back too often to be replayed without force."""
        return self.replays >= MOST_REPLAYS


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that fit everything that is said here."""

    ids: tuple[int, ...] = ()
    """Numbers given by the store; none means any."""
    plugin: str | None = None
    error: str = ""
    """Text that the reason holds, in either case."""
    topic: str = ""
    """A topic pattern."""
    message: str = ""
    """An id: the message's, its root's, or its trace's."""
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is said."""
        return self == Selection()


class ReplayWish(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to be replayed, and how."""

    selection: Selection = Selection()
    first: int | None = None
    """At most so many, the oldest first."""
    rate: float | None = None
    """At most so many a second."""
    force: bool = False
    """Quarantined letters too."""


JobState = Literal["waiting", "running", "done"]


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


def replays_of(message: BaseMessage) -> int:
    """How often the message was replayed."""
    text = message.trace_context.get(REPLAYED, "0")
    return int(text) if text.isdecimal() else 0


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one plugin that have the same reason."""

    plugin: str
    reason: str
    count: int
    first_ns: int
    """When the oldest was kept: nanoseconds since the Unix epoch."""
    last_ns: int


class DeadLetterStore:
    """One SQLite file; safe to share between threads and, for reading, between processes.

    What `add` returned from is on disk, also after a crash of the machine (`synchronous=FULL`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Keep all of them, or none; raises `DeadLetterError` when the disk will not."""
        rows = [
            (
                letter.time_ns,
                letter.plugin,
                letter.version,
                letter.topic,
                letter.message_id,
                letter.root_id,
                letter.trace_id,
                letter.reason,
                msgspec.msgpack.encode(letter.attempts),
                letter.original,
                letter.config_digest,
                letter.replays,
                letter.edited,
            )
            for letter in letters
        ]
        columns = _COLUMNS.removeprefix("id, ")
        places = ", ".join("?" * len(columns.split(", ")))
        with self._writing() as connection:
            connection.executemany(
                f"INSERT INTO dead_letters ({columns}) VALUES ({places})",  # noqa: S608
                rows,
            )

    def newest(self, *, plugin: str | None = None, limit: int = 100) -> list[DeadLetter]:
        """The newest first, at most `limit`, of one plugin or of all. Empty when nothing was ever kept."""
        return self.select(Selection(plugin=plugin), limit=limit)

    def select(
        self,
        selection: Selection,
        *,
        limit: int,
        oldest_first: bool = False,
        after: int = 0,
        last: int | None = None,
        quarantined: bool = True,
    ) -> list[DeadLetter]:
        """At most `limit` that are meant, with ids above `after` and up to `last`."""
        where, arguments = self._where(selection)
        where += " AND id > ?" + ("" if last is None else " AND id <= ?")
        where += "" if quarantined else f" AND replays < {MOST_REPLAYS}"
        bounds = (after,) if last is None else (after, last)
        order = "ASC" if oldest_first else "DESC"
        return self._select(f"{where} ORDER BY id {order} LIMIT ?", (*arguments, *bounds, limit))

    def get(self, letter_id: int) -> DeadLetter:
        """The one with this id; raises `NotFound`."""
        found = self._select("WHERE id = ?", (letter_id,))
        if not found:
            raise self._no_letter(letter_id)
        return found[0]

    def _no_letter(self, letter_id: int) -> NotFound:
        return NotFound(
            f"there is no dead letter {letter_id}",
            where=str(self.path),
            fix="echo-core dlq list shows those there are",
        )

    def count(self, *, plugin: str | None = None, selection: Selection | None = None) -> int:
        """How many are kept, of one plugin, of those that are meant, or of all."""
        where, arguments = self._where(selection or Selection(plugin=plugin))
        rows = self._rows(f"SELECT count(*) FROM dead_letters {where}", arguments)  # noqa: S608
        return int(rows[0][0]) if rows else 0

    def kinds(
        self, *, plugin: str | None = None, selection: Selection | None = None, limit: int = 100
    ) -> list[Kind]:
        """All that are kept, or meant, counted by plugin and reason: the most frequent `limit` kinds."""
        where, arguments = self._where(selection or Selection(plugin=plugin))
        rows = self._rows(
            "SELECT plugin, reason, count(*) AS count, min(time_ns), max(time_ns) FROM dead_letters "  # noqa: S608
            f"{where} GROUP BY plugin, reason ORDER BY count DESC, max(id) DESC LIMIT ?",
            (*arguments, limit),
        )
        return [Kind(**dict(zip(Kind.__struct_fields__, row, strict=True))) for row in rows]

    def edit(self, letter_id: int, message: bytes) -> None:
        """Replay this in place of the original; raises `NotFound`. The original stays with the letter."""
        with self._writing() as connection:
            found = connection.execute(
                "UPDATE dead_letters SET edited = ? WHERE id = ?", (message, letter_id)
            ).rowcount
        if not found:
            raise self._no_letter(letter_id)

    def discard(self, selection: Selection) -> int:
        """Delete those that are meant, for good; how many."""
        if not self.path.exists():
            return 0
        where, arguments = self._where(selection)
        with self._writing() as connection:
            return connection.execute(f"DELETE FROM dead_letters {where}", arguments).rowcount  # noqa: S608

    # Replays

    def add_job(self, wish: ReplayWish) -> ReplayJob:
        """Ask for a replay of what is there now; whoever may run it takes it with `take_job`."""
        where, arguments = self._where(wish.selection)
        where += "" if wish.force else f" AND replays < {MOST_REPLAYS}"
        with self._writing() as connection:
            count, last = connection.execute(
                f"SELECT count(*), coalesce(max(id), 0) FROM dead_letters {where}",  # noqa: S608
                arguments,
            ).fetchone()
            total = count if wish.first is None else min(count, wish.first)
            number = connection.execute(
                "INSERT INTO replay_jobs (created_ns, wish, last_id, total) VALUES (?, ?, ?, ?)",
                (time.time_ns(), msgspec.msgpack.encode(wish), last, total),
            ).lastrowid
        assert number is not None
        return self.job(number)

    def job(self, number: int) -> ReplayJob:
        """The replay with this number; raises `NotFound`."""
        found = [job for job in self.jobs() if job.id == number]
        if not found:
            raise NotFound(f"there is no replay {number}", where=str(self.path), fix="echo-core dlq jobs")
        return found[0]

    def jobs(self, limit: int = 100) -> list[ReplayJob]:
        """The newest replays first."""
        rows = self._rows(f"SELECT {_JOB_COLUMNS} FROM replay_jobs ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
        return [_job(row) for row in rows]

    def take_job(self, owner: str) -> ReplayJob | None:
        """The oldest replay that nobody runs; it is `owner`'s from now on, as long as it reports progress."""
        now = time.time_ns()
        free = "state = 'waiting' OR (state = 'running' AND NOT alive_ns BETWEEN ? AND ?) ORDER BY id LIMIT 1"
        bounds = (now - _ABANDONED_NS, now + _ABANDONED_NS)
        if not self._rows(f"SELECT id FROM replay_jobs WHERE {free}", bounds):  # noqa: S608
            return None
        with self._writing() as connection:
            row = connection.execute(
                "UPDATE replay_jobs SET state = 'running', owner = ?, alive_ns = ? "  # noqa: S608
                f"WHERE id = (SELECT id FROM replay_jobs WHERE {free}) RETURNING {_JOB_COLUMNS}",
                (owner, now, *bounds),
            ).fetchone()
        return None if row is None else _job(row)

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
        now = time.time_ns()
        with self._writing() as connection:
            connection.executemany(
                "DELETE FROM dead_letters WHERE id = ?", [(letter.id,) for letter in replayed]
            )
            row = connection.execute(
                "UPDATE replay_jobs SET done = done + ?, failed = failed + ?, seen_id = ?, alive_ns = ?, "  # noqa: S608
                "reason = CASE WHEN ? = '' THEN reason ELSE ? END WHERE id = ? AND owner = ? "
                f"RETURNING {_JOB_COLUMNS}",
                (len(replayed), failed, seen_id, now, reason, reason, job.id, owner),
            ).fetchone()
        return None if row is None else _job(row)

    def end_job(self, job: ReplayJob, owner: str, reason: str = "") -> None:
        """It has come to its end."""
        with self._writing() as connection:
            connection.execute(
                "UPDATE replay_jobs SET state = 'done', "
                "reason = CASE WHEN ? = '' THEN reason ELSE ? END WHERE id = ? AND owner = ?",
                (reason, reason, job.id, owner),
            )

    def close(self) -> None:
        """Let the file go; using the store again opens it again."""
        with self._lock:
            self._forget_connection()

    def _where(self, selection: Selection) -> tuple[str, tuple[object, ...]]:
        """The clause, and its arguments, for the letters that are meant."""
        parts, arguments = ["1"], list[object]()

        def add(part: str, *values: object) -> None:
            parts.append(part)
            arguments.extend(values)

        if selection.ids:
            add("id IN (SELECT value FROM json_each(?))", msgspec.json.encode(selection.ids).decode())
        if selection.plugin is not None:
            add("plugin = ?", selection.plugin)
        if selection.error:
            add("instr(lower(reason), lower(?))", selection.error)
        if selection.topic:
            pattern = TopicPattern(selection.topic)
            topics = self._rows("SELECT DISTINCT topic FROM dead_letters", ())
            meant = [topic for (topic,) in topics if pattern.matches(topic)]
            add("topic IN (SELECT value FROM json_each(?))", msgspec.json.encode(meant).decode())
        if selection.message:
            add("? IN (message_id, root_id, trace_id)", selection.message)
        if selection.since_ns is not None:
            add("time_ns >= ?", selection.since_ns)
        if selection.until_ns is not None:
            add("time_ns < ?", selection.until_ns)
        return f"WHERE {' AND '.join(parts)}", tuple(arguments)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it holds, or nothing."""
        with self._lock:
            try:
                with self._open() as connection:
                    yield connection
            except (sqlite3.Error, OSError) as error:
                self._forget_connection()
                raise self._failed("written", error) from error

    def _select(self, clause: str, arguments: tuple[object, ...]) -> list[DeadLetter]:
        rows = self._rows(f"SELECT {_COLUMNS} FROM dead_letters {clause}", arguments)  # noqa: S608
        return [_letter(row) for row in rows]

    def _rows(self, statement: str, arguments: tuple[object, ...]) -> list[Any]:
        """What the statement finds; nothing when nothing was ever kept."""
        if not self.path.exists():
            return []
        with self._lock:
            try:
                return self._open().execute(statement, arguments).fetchall()
            except sqlite3.Error as error:
                raise self._failed("read", error) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, check_same_thread=False, timeout=10)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
                _migrate(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _forget_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with closing(connection):
                pass

    def _failed(self, verb: str, error: Exception) -> DeadLetterError:
        return DeadLetterError(
            f"the dead letters cannot be {verb}",
            where=str(self.path),
            why=str(error),
            fix="make room on the disk, or mend the permissions; if the file is damaged, move it away",
        )


_JOB_COLUMNS: Final = "id, created_ns, wish, last_id, total, done, failed, seen_id, state, reason"


def _job(row: Sequence[Any]) -> ReplayJob:
    values = dict(zip(_JOB_COLUMNS.split(", "), row, strict=True))
    values["wish"] = msgspec.msgpack.decode(values["wish"], type=ReplayWish)
    return ReplayJob(**values)


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


def _letter(row: Sequence[Any]) -> DeadLetter:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["attempts"] = msgspec.msgpack.decode(values["attempts"], type=tuple[Attempt, ...])
    return DeadLetter(**values)
