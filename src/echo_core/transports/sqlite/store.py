"""What can be done to a store, in SQL: every method runs inside the caller's transaction.

One store belongs to one thread. What is alike travels in one row, and rows in one statement: it is the
number of statements that costs, as at each another thread may take its turn.
"""

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec

from echo_core.transports.sqlite.blocks import MOST_MESSAGES, Block, Head, Row, bodies_of, read_head
from echo_core.transports.sqlite.schema import IS_MARKED, MARK, NEVER_NS, SET_ASIDE, patterns_from
from echo_core.write_ahead import Damaged

_ROWS: Final = 128
"""Rows in the largest INSERT; smaller ones have half as many, and so on, so that few texts are parsed."""
_SWEPT: Final = 1_024
"""Blocks looked at by one sweep."""
_REMEMBERED: Final = 128
"""Blocks whose kinds are known by heart."""
_RANGE: Final = "first, last, count, host, attempt, delayed_ns, due_ns"


class Range(NamedTuple):
    """A row of `deliveries`, without its subscription."""

    first: int
    last: int
    size: int
    """How many it stands for: the table's `count`."""
    host: int | None = None
    attempt: int = 0
    delayed_ns: int | None = None
    due_ns: int | None = None


Change = Callable[[Range], Range | None]


class Arrival(NamedTuple):
    """Deliveries that this host holds from now on; the lists are as long as each other."""

    seqs: Sequence[int]
    topics: Sequence[str]
    bodies: Sequence[bytes]
    attempt: int = 0
    """How often each was handed out before."""


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
        self._blocks: dict[int, Block] = {}
        """By the seq of its last message, the oldest first."""

    # Transactions

    def begin(self) -> None:
        """Begin to write; waits for others that do."""
        self._execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make it hold; it is on disk when this returns, unless `synchronous` is normal."""
        self._execute("COMMIT")

    def rollback(self) -> None:
        """As if nothing had been done since `begin`."""
        self._blocks.clear()
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

    # Blocks of messages

    def last_seq(self) -> int:
        """The highest seq that was ever given."""
        ((given, there),) = self._execute(
            "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'blocks'), 0), "
            "coalesce((SELECT max(seq) FROM blocks), 0)"
        )
        if not isinstance(given, int):
            raise Damaged("the highest seq that was ever given cannot be read")
        return max(given, int(there))

    def add_blocks(self, blocks: Sequence[tuple[Block, Row]]) -> None:
        """Append blocks; their seqs follow the last one."""
        values: list[Any] = []
        for block, row in blocks:
            self._remember(block)
            values += row
        for statement, part in _inserts("blocks (seq, count, time_ns, crc, head, bodies)", 6, values):
            self._execute(statement, part)

    def sweep(self, settled_before_ns: int) -> None:
        """Delete blocks older than that of which nobody has still to settle a message, some at a time."""
        last = self._some_after(self._swept)
        if last is None and self._swept:
            self._swept = 0
            last = self._some_after(0)  # round again: what was not settled then may be now
        if last is None:
            return
        self._execute(
            "DELETE FROM blocks WHERE seq BETWEEN ? AND ? AND time_ns < ? AND NOT EXISTS ("
            "SELECT 1 FROM subscriptions s CROSS JOIN deliveries d "
            "WHERE d.subscription = s.id AND d.first BETWEEN blocks.seq - blocks.count + 1 AND blocks.seq)",
            (self._swept + 1, last, settled_before_ns),
        )
        self._swept = last

    def _some_after(self, seq: int) -> int | None:
        """The last of some blocks after that seq."""
        (last,) = self._execute(
            "SELECT max(seq) FROM (SELECT seq FROM blocks WHERE seq > ? ORDER BY seq LIMIT ?)", (seq, _SWEPT)
        ).fetchone()
        return None if last is None else int(last)

    def _remember(self, block: Block) -> None:
        self._blocks[block.last] = block
        if len(self._blocks) > _REMEMBERED:
            del self._blocks[next(iter(self._blocks))]

    def _members(self, subscription: int, row: Range) -> Sequence[int]:
        """The seqs that a row of `deliveries` stands for."""
        if row.size == row.last - row.first + 1:
            return range(row.first, row.last + 1)
        for block in reversed(self._blocks.values()):
            if block.first <= row.first <= block.last:
                return block.members_between(subscription, row.first, row.last)
        head = self._head(row.first)
        if head is None:  # damaged: what is not known to be another's is this one's
            return range(row.first, row.last + 1)
        block = Block.of(head)
        self._remember(block)
        return block.members_between(subscription, row.first, row.last)

    def _head(self, seq: int) -> Head | None:
        """The head of the block that the message is in."""
        found = self._execute(
            "SELECT seq, count, crc, head FROM blocks WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        head = read_head(*found) if found is not None else None
        return head if head is not None and head.first <= seq else None

    # Subscriptions

    def subscribers(self) -> list[Subscriber]:
        """All of them, whether a host listens to them or not; raises `Damaged`."""
        found: list[Subscriber] = []
        for number, name, patterns, is_marked in self._execute(
            f"SELECT id, name, patterns, {IS_MARKED} FROM subscriptions ORDER BY id"  # noqa: S608
        ):
            if not is_marked:
                raise Damaged(f"what {name} has not settled cannot be found")
            found.append(Subscriber(number, name, patterns_from(patterns)))
        return found

    def attach(self, name: str, patterns: Sequence[str], now_ns: int) -> int:
        """Make the subscription, or give it these patterns from now on; its id."""
        text = msgspec.json.encode(patterns).decode()
        known = self._execute(
            "UPDATE subscriptions SET patterns = ?, seen_ns = ? WHERE name = ? RETURNING id",
            (text, now_ns, name),
        ).fetchone()
        if known is not None:
            return int(known[0])
        number = self._execute(
            "INSERT INTO subscriptions (name, patterns, created_ns, seen_ns) VALUES (?, ?, ?, ?)",
            (name, text, now_ns, now_ns),
        ).lastrowid
        self._execute(MARK, (number,))
        return int(number or 0)

    # Deliveries

    def add_deliveries(self, values: Sequence[int | None]) -> None:
        """One row for each five of them: subscription, first, last, count, and host or None."""
        into = "deliveries (subscription, first, last, count, host)"
        for statement, part in _inserts(into, 5, values):
            self._execute(statement, part)

    def settle(self, subscription: int, seqs: Sequence[int]) -> None:
        """These are done with."""
        seqs = sorted(set(seqs))  # one may be settled twice: as it was held, and after it came again
        first, last = seqs[0], seqs[-1]
        if last - first + 1 == len(seqs):  # without a gap, which is the rule
            rows = self._execute(
                "DELETE FROM deliveries WHERE subscription = ? AND first BETWEEN ? AND ? AND last <= ? "
                "RETURNING count",
                (subscription, first, last, last),
            )
            if sum(count for (count,) in rows) == len(seqs):
                return
        self._change(subscription, seqs, lambda _: None)

    def handed_out(self, subscription: int, seqs: Sequence[int]) -> None:
        """Count an attempt for each."""
        self._change(subscription, seqs, lambda row: row._replace(attempt=row.attempt + 1))

    def delay(self, subscription: int, seq: int, host: int, now_ns: int, due_ns: int) -> bool:
        """That host gives it up, and nobody gets it before it is due; false if it was not the host's."""
        return bool(
            self._change(
                subscription,
                [seq],
                lambda row: (
                    row._replace(host=None, delayed_ns=now_ns, due_ns=due_ns) if row.host == host else row
                ),
            )
        )

    def give_back(self, subscription: int, host: int, seqs: Sequence[int]) -> None:
        """That host does not hold these any more."""
        self._change(subscription, seqs, lambda row: row._replace(host=None) if row.host == host else row)

    def _change(self, subscription: int, seqs: Sequence[int], change: Change) -> int:
        """Make rows say that of these seqs which `change` says, or nothing any more; how many it changed.

        Rows that stand for others as well are cut.
        """
        seqs = sorted(set(seqs))
        rows = [
            Range(*row)
            for row in self._execute(
                f"SELECT {_RANGE} FROM deliveries "  # noqa: S608
                "WHERE subscription = ? AND first BETWEEN ? AND ? AND last >= ? ORDER BY first",
                (subscription, seqs[0] - MOST_MESSAGES, seqs[-1], seqs[0]),
            )
        ]
        gone: list[int] = []
        made: list[Range] = []
        changed = 0
        for row in rows:
            wanted: Sequence[int] = seqs[bisect_left(seqs, row.first) : bisect_right(seqs, row.last)]
            after = change(row) if wanted else row
            if after == row:
                continue
            members = self._members(subscription, row)
            if len(members) <= row.last - row.first:
                wanted = sorted(set(wanted).intersection(members))
            changed += len(wanted)
            if len(wanted) == len(members):
                gone.append(row.first)
                made += () if after is None else (after,)
            elif wanted:
                gone.append(row.first)
                made += _cut(row, after, set(wanted), members)
        self._replace(subscription, gone, made)
        return changed

    def _replace(self, subscription: int, gone: Sequence[int], made: Sequence[Range]) -> None:
        """Put those rows in the place of those that begin so."""
        if len(gone) == 1:
            self._execute(
                "DELETE FROM deliveries WHERE subscription = ? AND first = ?", (subscription, gone[0])
            )
        elif gone:
            self._execute(
                "DELETE FROM deliveries WHERE subscription = ? AND first IN (SELECT value FROM json_each(?))",
                (subscription, _json(gone)),
            )
        if made:
            values: list[Any] = []
            for row in made:
                values += (subscription, *row)
            for statement, part in _inserts(f"deliveries (subscription, {_RANGE})", 8, values):
                self._execute(statement, part)

    def mature(self, now_ns: int) -> list[tuple[int, int]]:
        """Let go of what is due, or was delayed by a clock that was set back since; whose, and how many."""
        rows = self._execute(
            "UPDATE deliveries SET delayed_ns = NULL, due_ns = NULL "
            "WHERE due_ns IS NOT NULL AND (due_ns <= ? OR delayed_ns > ?) RETURNING subscription, count",
            (now_ns, now_ns),
        )
        return rows.fetchall()

    def next_due_ns(self) -> int | None:
        """When the first of the delayed is due."""
        (due,) = self._execute("SELECT min(due_ns) FROM deliveries WHERE due_ns < ?", (NEVER_NS,)).fetchone()
        return None if due is None else int(due)

    def claim(self, subscription: int, host: int, limit: int) -> tuple[list[Arrival], list[int], bool]:
        """Take the oldest that nobody holds, at most `limit`.

        Also returned are the seqs of those found damaged, and whether there may be more. What is damaged
        nobody gets any more: it is set aside, for `echo-core store repair`.
        """
        arrivals: list[Arrival] = []
        spoilt: list[int] = []
        rows = self._execute(
            f"SELECT {_RANGE} FROM deliveries "  # noqa: S608
            "WHERE subscription = ? AND host IS NULL AND due_ns IS NULL ORDER BY first",
            (subscription,),
        )
        gone: list[int] = []
        made: list[Range] = []
        head, bodies = None, list[bytes | None]()
        room = limit
        for row in map(Range._make, rows):
            if room <= 0:
                break
            if head is None or not head.first <= row.first < head.first + len(head.sizes):
                head, bodies = self._read_block(row.first)
            gone.append(row.first)
            block = Block.of(head) if head is not None else None
            members = block.members_between(subscription, row.first, row.last) if block is not None else ()
            if block is None or not members:
                made.append(row._replace(host=SET_ASIDE))
                spoilt += range(row.first, row.last + 1)
                continue
            taken = members[:room]
            room -= len(taken)
            sound = [seq for seq in taken if bodies[seq - block.first] is not None]
            held = set(sound)
            for is_held, run in groupby(taken, held.__contains__):
                made.append(_over(list(run), row, host if is_held else SET_ASIDE))
            spoilt += [seq for seq in taken if seq not in held]
            if len(taken) < len(members):
                made.append(_over(members[len(taken) :], row, None))
            if sound:
                found = [body for seq in sound if (body := bodies[seq - block.first]) is not None]
                arrivals.append(Arrival(sound, [block.kind(seq).topic for seq in sound], found, row.attempt))
        rows.close()
        self._replace(subscription, gone, made)
        return arrivals, spoilt, room <= 0

    def _read_block(self, seq: int) -> tuple[Head | None, list[bytes | None]]:
        """The block that the message is in, and its bodies; none where it is damaged."""
        found = self._execute(
            "SELECT seq, count, crc, head, bodies FROM blocks WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        head = read_head(*found[:4]) if found is not None else None
        if head is None or head.first > seq:
            return None, []
        return head, bodies_of(head, found[4])

    def give_all_back(self, host: int) -> int:
        """Nobody holds what this host held; how many."""
        return sum(
            count
            for each in self.subscribers()
            for (count,) in self._execute(
                "UPDATE deliveries SET host = NULL WHERE subscription = ? AND host = ? RETURNING count",
                (each.id, host),
            ).fetchall()
        )

    def free_unowned(self) -> None:
        """Nobody holds what is held by a host that there is not: only damage says so."""
        self._execute(
            "UPDATE deliveries SET host = NULL "
            "WHERE host IS NOT NULL AND host != ? AND host NOT IN (SELECT id FROM hosts)",
            (SET_ASIDE,),
        )

    def count_due(self, subscription: int) -> int:
        """How many of the subscription's deliveries nobody holds and could be claimed."""
        (count,) = self._execute(
            "SELECT coalesce(sum(count), 0) FROM deliveries "
            "WHERE subscription = ? AND host IS NULL AND due_ns IS NULL",
            (subscription,),
        ).fetchone()
        return int(count)

    def count_held(self, subscription: int, host: int) -> int:
        """How many of the subscription's deliveries that host holds."""
        (count,) = self._execute(
            "SELECT coalesce(sum(count), 0) FROM deliveries WHERE subscription = ? AND host = ?",
            (subscription, host),
        ).fetchone()
        return int(count)

    def count_delayed(self, subscription: int) -> int:
        """How many wait for their time."""
        (count,) = self._execute(
            "SELECT coalesce(sum(count), 0) FROM deliveries WHERE due_ns IS NOT NULL AND subscription = ?",
            (subscription,),
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


def _cut(row: Range, after: Range | None, wanted: set[int], members: Sequence[int]) -> list[Range]:
    """What a row becomes when those of its members that are `wanted` become `after`."""
    parts: list[Range] = []
    for is_wanted, run in groupby(members, wanted.__contains__):
        like = after if is_wanted else row
        if like is not None:
            parts.append(_over(list(run), like, like.host))
    return parts


def _over(seqs: Sequence[int], like: Range, host: int | None) -> Range:
    return like._replace(first=seqs[0], last=seqs[-1], size=len(seqs), host=host)


def _inserts(into: str, columns: int, values: Sequence[Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Statements, and their values, that insert all rows."""
    done, rows, size = 0, len(values) // columns, _ROWS
    while done < rows:
        while size > rows - done:
            size //= 2
        yield _insert(into, columns, size), values[done * columns : (done + size) * columns]
        done += size


@cache
def _insert(into: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)}"  # noqa: S608


def _json(numbers: Sequence[int]) -> str:
    return msgspec.json.encode(numbers).decode()
