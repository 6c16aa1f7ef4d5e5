"""What is kept: letters found, counted, changed, thrown away."""

import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import NotFound
from echo_core.runtime.dead_letters.database import Database
from echo_core.runtime.dead_letters.jobs import ReplayJobs
from echo_core.runtime.dead_letters.letter import MOST_REPLAYS, Attempt, DeadLetter
from echo_core.runtime.dead_letters.selection import Selection

_COLUMNS: Final = (
    "id, time_ns, plugin, version, topic, message_id, root_id, trace_id, reason, attempts, original, "
    "config_digest, replays, edited"
)
CHECKED_COLUMNS: Final = f"{_COLUMNS}, crc"
_NAMES: Final = tuple(_COLUMNS.split(", "))
_BLANK: Final[dict[str, Any]] = {
    name: b"" if name in ("attempts", "original") else 0 if name in ("id", "time_ns", "replays") else ""
    for name in _NAMES
} | {"edited": None}
"""What stands for a value that is damaged so that it is of another kind."""
_SAME_MESSAGE: Final = (
    "message_id = :message_id AND plugin = :plugin AND topic = :topic AND replays = :replays"
)
_SAME_LETTER: Final = "message_id = :message_id AND crc = :crc"
_PAGE: Final = 500


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one plugin whose reasons differ in the messages' own values only."""

    plugin: str
    kind: str
    """The reason, with … for such values."""
    reason: str
    """That of one of them."""
    count: int
    first_ns: int
    """When the oldest was kept: nanoseconds since the Unix epoch."""
    last_ns: int


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """How many dead letters of a plugin are kept, and since when."""

    plugin: str
    count: int
    oldest_ns: int
    """When the oldest was kept: nanoseconds since the Unix epoch."""

    def age_s(self) -> float:
        """For how long the oldest has been kept; 0 where the clock was set back since."""
        return max(0.0, (time.time_ns() - self.oldest_ns) / 1e9)


class DeadLetterStore:
    """One SQLite file; safe to share between threads, and with other processes.

    What `add` returned from is on disk, also after a crash of the machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database = Database(path)
        self.jobs: Final = ReplayJobs(self._database)
        """Replays of what is kept here."""

    def add(self, letters: Sequence[DeadLetter], *, once: bool = False) -> None:
        """Keep all of them, or none; raises `DeadLetterError` when the disk will not.

        `once`: but none whose message is kept already, for the same plugin and topic. A host that ends
        between this and the settlement gets the message again, and it may fail again.
        """
        self._insert(letters, unless=_SAME_MESSAGE if once else "")

    def restore(self, letters: Sequence[DeadLetter]) -> int:
        """Keep those that are not there as they are, all or none; how many. Raises as `add`."""
        return self._insert(letters, unless=_SAME_LETTER)

    def _insert(self, letters: Sequence[DeadLetter], *, unless: str) -> int:
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
        names = (*_NAMES[1:], "crc")
        places = ", ".join(f":{name}" for name in names)
        statement = f"INSERT INTO dead_letters ({', '.join(names)}) SELECT {places}"
        if unless:  # by that index: left alone SQLite looks through all of the plugin's
            by_message = "dead_letters INDEXED BY dead_letters_by_message"
            statement += f" WHERE NOT EXISTS (SELECT 1 FROM {by_message} WHERE {unless})"  # noqa: S608
        values = [dict(zip(names, (*row, checksum(row)), strict=True)) for row in rows]
        with self._database.writing() as connection:
            return connection.executemany(statement, values).rowcount

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
        where, arguments = selection.where(self._database.topics)
        where += " AND id > ?" + ("" if last is None else " AND id <= ?")
        where += "" if quarantined else f" AND replays < {MOST_REPLAYS}"
        bounds = (after,) if last is None else (after, last)
        order = "ASC" if oldest_first else "DESC"
        return self._select(f"{where} ORDER BY id {order} LIMIT ?", (*arguments, *bounds, limit))

    def each(self, selection: Selection) -> Iterator[DeadLetter]:
        """All that are meant, the oldest first; no more than a page of them in memory."""
        after = 0
        while page := self.select(selection, limit=_PAGE, oldest_first=True, after=after):
            yield from page
            after = page[-1].id

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
        where, arguments = (selection or Selection(plugin=plugin)).where(self._database.topics)
        rows = self._database.rows(f"SELECT count(*) FROM dead_letters {where}", arguments)  # noqa: S608
        return int(rows[0][0]) if rows else 0

    def kinds(self, selection: Selection, *, limit: int = 100) -> list[Kind]:
        """All that are meant, counted by plugin and kind: the most frequent `limit` kinds."""
        where, arguments = selection.where(self._database.topics)
        rows = self._database.rows(
            "SELECT coalesce(plugin, ''), kind_of(CAST(reason AS BLOB)) AS kind, coalesce(reason, ''), "  # noqa: S608
            "count(*) AS count, coalesce(min(time_ns), 0), coalesce(max(time_ns), 0) "
            f"FROM dead_letters {where} GROUP BY plugin, kind ORDER BY count DESC, max(id) DESC LIMIT ?",
            (*arguments, limit),
        )
        return [Kind(**dict(zip(Kind.__struct_fields__, row, strict=True))) for row in rows]

    def depths(self) -> list[Depth]:
        """How many are kept of each plugin that has any, by name."""
        rows = self._database.rows(
            "SELECT coalesce(plugin, ''), count(*), coalesce(min(time_ns), 0) FROM dead_letters "
            "GROUP BY plugin ORDER BY plugin"
        )
        return [Depth(plugin=plugin, count=count, oldest_ns=oldest) for plugin, count, oldest in rows]

    def edit(self, letter_id: int, message: bytes | None) -> None:
        """Replay this in place of the original; None: the original. Raises `NotFound`.

        The original stays with the letter.
        """
        self.get(letter_id).replayable()  # what is damaged must not pass for whole
        with self._database.writing() as connection:
            row = connection.execute(
                f"UPDATE dead_letters SET edited = ? WHERE id = ? RETURNING {_COLUMNS}",  # noqa: S608
                (message, letter_id),
            ).fetchone()
            if row is not None:
                connection.execute(
                    "UPDATE dead_letters SET crc = ? WHERE id = ?", (checksum(row[1:]), letter_id)
                )
        if row is None:
            raise self._no_letter(letter_id)

    def discard(self, selection: Selection) -> int:
        """Delete those that are meant, for good; how many."""
        if not self._database.exists:
            return 0
        where, arguments = selection.where(self._database.topics)
        with self._database.writing() as connection:
            return connection.execute(f"DELETE FROM dead_letters {where}", arguments).rowcount  # noqa: S608

    def close(self) -> None:
        """Let the file go; using the store again opens it again."""
        self._database.close()

    def _select(self, clause: str, arguments: tuple[object, ...]) -> list[DeadLetter]:
        rows = self._database.rows(f"SELECT {CHECKED_COLUMNS} FROM dead_letters {clause}", arguments)  # noqa: S608
        return [letter_of(row) for row in rows]


def checksum(values: Sequence[object]) -> int:
    """CRC-32 of a row as it is written, without its number."""
    return zlib.crc32(msgspec.msgpack.encode(values))


def letter_of(row: Sequence[Any]) -> DeadLetter:
    """The letter that a row is, with its checksum at the end; a row from before there were any has None."""
    *fields, crc = row
    is_damaged = crc is not None and crc != checksum(fields[1:])
    values = dict(zip(_NAMES, fields, strict=True))
    for name, blank in _BLANK.items():
        if not isinstance(values[name], bytes | None if blank is None else type(blank)):
            values[name], is_damaged = blank, True
    try:
        values["attempts"] = msgspec.msgpack.decode(values["attempts"], type=tuple[Attempt, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        values["attempts"], is_damaged = (), True
    return DeadLetter(**values, is_damaged=is_damaged)
