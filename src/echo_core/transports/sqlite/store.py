"""What can be done to a store, in SQL: every method runs inside the caller's transaction.

One store belongs to one thread. Rows travel in batches, several to a statement: it is the number of
statements that costs.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

_ROWS: Final = 128
"""Rows in the largest INSERT; smaller ones have half as many, and so on, so that few texts are parsed."""
_SWEPT: Final = 4_096
"""Messages looked at by one sweep."""
SET_ASIDE: Final = -1
"""Stands for the host of a delivery that cannot be delivered, because its message is damaged."""


class Claimed(NamedTuple):
    """A delivery that this host holds from now on."""

    seq: int
    topic: str
    body: bytes
    attempt: int
    """How often it was handed out before."""


class Subscriber(NamedTuple):
    """A durable subscription."""

    id: int
    name: str
    patterns: tuple[str, ...]


class Store:
    """The tables of one open connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._swept = 0

    # Transactions

    def begin(self) -> None:
        """Begin to write; waits for others that do."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it hold; it is on disk when this returns, unless `synchronous` is normal."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """As if nothing had been done since `begin`."""
        if self._connection.in_transaction:
            self._execute("ROLLBACK")

    def set_synchronous(self, level: str) -> None:
        """Whether a commit waits for the disk; outside of transactions only."""
        self._execute(f"PRAGMA synchronous = {level}")

    def change_counter(self) -> int:
        """Another number whenever another connection has written."""
        (counter,) = self._execute("PRAGMA data_version").fetchone()
        return int(counter)

    def used_bytes(self) -> int:
        """What the file holds, without its free pages."""
        (pages,) = self._execute("PRAGMA page_count").fetchone()
        (free,) = self._execute("PRAGMA freelist_count").fetchone()
        (size,) = self._execute("PRAGMA page_size").fetchone()
        return int((pages - free) * size)

    # Messages

    def add_messages(self, time_ns: int, messages: Sequence[tuple[str, bytes, object]]) -> int:
        """Append topics and bodies; the seq of the first, the others follow without a gap."""
        values: list[Any] = []
        topic_before, start = "", 0
        for topic, body, _ in messages:
            if topic != topic_before:
                topic_before, start = topic, zlib.crc32(topic.encode())
            values += (time_ns, topic, zlib.crc32(body, start), body)
        last = 0
        for statement, part in _inserts("messages (time_ns, topic, crc, body)", 4, values):
            last = self._execute(statement, part).lastrowid or 0
        return last - len(messages) + 1

    def sweep(self, settled_before_ns: int) -> int:
        """Delete messages older than that which nobody has still to settle, some at a time; how many."""
        first = self._first_after(self._swept)
        if first is None and self._swept:
            first = self._first_after(0)  # round again: what was not settled then may be now
        if first is None:
            self._swept = 0
            return 0
        last = first + _SWEPT - 1
        self._swept = last
        return self._execute(
            "DELETE FROM messages WHERE seq BETWEEN ? AND ? AND time_ns < ? AND seq NOT IN ("
            "SELECT d.seq FROM subscriptions s CROSS JOIN deliveries d "
            "WHERE d.subscription = s.id AND d.seq BETWEEN ? AND ?)",
            (first, last, settled_before_ns, first, last),
        ).rowcount

    def _first_after(self, seq: int) -> int | None:
        (first,) = self._execute("SELECT min(seq) FROM messages WHERE seq > ?", (seq,)).fetchone()
        return None if first is None else int(first)

    # Subscriptions

    def subscribers(self) -> list[Subscriber]:
        """All of them, whether a host listens to them or not."""
        rows = self._execute("SELECT id, name, patterns FROM subscriptions ORDER BY id")
        return [Subscriber(number, name, tuple(msgspec.json.decode(text))) for number, name, text in rows]

    def attach(self, name: str, patterns: Sequence[str], now_ns: int) -> int:
        """Make the subscription, or give it these patterns from now on; its id."""
        (number,) = self._execute(
            "INSERT INTO subscriptions (name, patterns, created_ns, seen_ns) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET patterns = excluded.patterns, seen_ns = excluded.seen_ns "
            "RETURNING id",
            (name, msgspec.json.encode(patterns).decode(), now_ns, now_ns),
        ).fetchone()
        return int(number)

    # Deliveries

    def add_deliveries(self, values: Sequence[int | None]) -> None:
        """One for each three of them: subscription, seq, and host or None."""
        for statement, part in _inserts("deliveries (subscription, seq, host)", 3, values):
            self._execute(statement, part)

    def settle(self, subscription: int, seqs: Sequence[int]) -> int:
        """These are done with; how many were still there."""
        first, last = min(seqs), max(seqs)
        if last - first + 1 == len(seqs):  # without a gap, which is the rule
            return self._execute(
                "DELETE FROM deliveries WHERE subscription = ? AND seq BETWEEN ? AND ?",
                (subscription, first, last),
            ).rowcount
        return self._execute(
            "DELETE FROM deliveries WHERE subscription = ? AND seq IN (SELECT value FROM json_each(?))",
            (subscription, _json(seqs)),
        ).rowcount

    def handed_out(self, subscription: int, seqs: Sequence[int]) -> None:
        """Count an attempt for each."""
        self._execute(
            "UPDATE deliveries SET attempt = attempt + 1 "
            "WHERE subscription = ? AND seq IN (SELECT value FROM json_each(?))",
            (subscription, _json(seqs)),
        )

    def delay(self, subscription: int, seq: int, host: int, now_ns: int, due_ns: int) -> bool:
        """That host gives it up, and nobody gets it before it is due; false if it was not the host's."""
        return (
            self._execute(
                "UPDATE deliveries SET host = NULL, delayed_ns = ?, due_ns = ? "
                "WHERE subscription = ? AND seq = ? AND host = ?",
                (now_ns, due_ns, subscription, seq, host),
            ).rowcount
            == 1
        )

    def mature(self, now_ns: int) -> list[int]:
        """Let go of what is due, or was delayed by a clock that was set back since; whose each is."""
        rows = self._execute(
            "UPDATE deliveries SET delayed_ns = NULL, due_ns = NULL "
            "WHERE due_ns IS NOT NULL AND (due_ns <= ? OR delayed_ns > ?) RETURNING subscription",
            (now_ns, now_ns),
        )
        return [subscription for (subscription,) in rows.fetchall()]

    def next_due_ns(self) -> int | None:
        """When the first of the delayed is due."""
        (due,) = self._execute("SELECT min(due_ns) FROM deliveries WHERE due_ns IS NOT NULL").fetchone()
        return None if due is None else int(due)

    def claim(self, subscription: int, host: int, limit: int) -> tuple[list[Claimed], list[int]]:
        """Take the oldest that nobody holds, at most `limit`; and the seqs of those found damaged.

        What is damaged nobody gets any more: it is set aside, for `echo-core store repair`.
        """
        rows = self._execute(
            "SELECT d.seq, d.attempt, CAST(m.topic AS BLOB), m.crc, m.body "
            "FROM deliveries d LEFT JOIN messages m ON m.seq = d.seq "
            "WHERE d.subscription = ? AND d.host IS NULL AND d.due_ns IS NULL ORDER BY d.seq LIMIT ?",
            (subscription, limit),
        ).fetchall()
        if not rows:
            return [], []
        self._execute(
            "UPDATE deliveries SET host = ? "
            "WHERE subscription = ? AND host IS NULL AND due_ns IS NULL AND seq BETWEEN ? AND ?",
            (host, subscription, rows[0][0], rows[-1][0]),
        )
        claimed, spoilt = [], []
        for seq, attempt, topic, crc, body in rows:
            if isinstance(body, bytes) and zlib.crc32(body, zlib.crc32(topic)) == crc:
                claimed.append(Claimed(seq, topic.decode(), body, attempt))
            else:
                spoilt.append(seq)
        if spoilt:
            self.set_aside(subscription, spoilt)
        return claimed, spoilt

    def set_aside(self, subscription: int, seqs: Sequence[int]) -> None:
        """Nobody can claim these."""
        self._execute(
            "UPDATE deliveries SET host = ? "
            "WHERE subscription = ? AND seq IN (SELECT value FROM json_each(?))",
            (SET_ASIDE, subscription, _json(seqs)),
        )

    def give_back(self, subscription: int, host: int, seqs: Sequence[int]) -> None:
        """That host does not hold these any more."""
        self._execute(
            "UPDATE deliveries SET host = NULL "
            "WHERE subscription = ? AND host = ? AND seq IN (SELECT value FROM json_each(?))",
            (subscription, host, _json(seqs)),
        )

    def give_all_back(self, host: int) -> int:
        """Nobody holds what this host held; how many."""
        return sum(
            self._execute(
                "UPDATE deliveries SET host = NULL WHERE subscription = ? AND host = ?", (each.id, host)
            ).rowcount
            for each in self.subscribers()
        )

    def count_due(self, subscription: int) -> int:
        """How many of the subscription's deliveries nobody holds and could be claimed."""
        (count,) = self._execute(
            "SELECT count(*) FROM deliveries WHERE subscription = ? AND host IS NULL AND due_ns IS NULL",
            (subscription,),
        ).fetchone()
        return int(count)

    def count_held(self, subscription: int, host: int) -> int:
        """How many of the subscription's deliveries that host holds."""
        (count,) = self._execute(
            "SELECT count(*) FROM deliveries WHERE subscription = ? AND host = ?", (subscription, host)
        ).fetchone()
        return int(count)

    def count_delayed(self, subscription: int) -> int:
        """How many wait for their time."""
        (count,) = self._execute(
            "SELECT count(*) FROM deliveries WHERE due_ns IS NOT NULL AND subscription = ?", (subscription,)
        ).fetchone()
        return int(count)

    # Hosts

    def add_host(self, pid: int, expires: float) -> int:
        """A new host; its id, which no other ever had."""
        return self._execute("INSERT INTO hosts (pid, expires) VALUES (?, ?)", (pid, expires)).lastrowid or 0

    def renew(self, host: int, expires: float) -> bool:
        """The host lives; false when others have given it up."""
        return self._execute("UPDATE hosts SET expires = ? WHERE id = ?", (expires, host)).rowcount == 1

    def hosts(self) -> list[tuple[int, float]]:
        """Each host's id, and when it expires."""
        return [(host, expires) for host, expires in self._execute("SELECT id, expires FROM hosts")]

    def remove_host(self, host: int) -> None:
        """It has gone."""
        self._execute("DELETE FROM hosts WHERE id = ?", (host,))


def _inserts(into: str, columns: int, values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Statements, and their values, that insert all rows."""
    done, rows, size = 0, len(values) // columns, _ROWS
    row = f"({', '.join('?' * columns)})"
    while done < rows:
        while size > rows - done:
            size //= 2
        text = f"INSERT INTO {into} VALUES {', '.join([row] * size)}"  # noqa: S608
        yield text, values[done * columns : (done + size) * columns]
        done += size


def _json(numbers: Iterable[int]) -> str:
    return msgspec.json.encode(numbers).decode()
