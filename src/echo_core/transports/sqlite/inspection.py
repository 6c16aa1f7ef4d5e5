"""What can be asked of a store from outside: numbers, and whether it is whole. Nothing here writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from echo_core.errors import MessageError
from echo_core.message import decode
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.blocks import Block, bodies_of, read_head
from echo_core.transports.sqlite.schema import SET_ASIDE, patterns_from
from echo_core.write_ahead import Damaged

_BUSY_S: Final = 10.0
MOST_FINDINGS: Final = 100
"""Findings of one kind that are listed; a page that is broken may hold thousands of messages."""


class SubscriptionNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What one subscription has not settled."""

    name: str
    patterns: tuple[str, ...]
    waiting: int
    """Nobody holds them."""
    held: int
    """A host holds them, handed out or not."""
    delayed: int
    set_aside: int
    """Damaged: nobody gets them."""
    oldest_ns: int | None
    """When the oldest of them was accepted."""


class HostNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """A host that uses the store, or ended without leaving."""

    id: int
    pid: int
    is_alive: bool


class StoreNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """A store at one moment."""

    path: str
    file_bytes: int
    log_bytes: int
    """Of the write-ahead log beside it."""
    free_bytes: int
    """Of the file, to be used again; `compact` gives them back."""
    messages: int
    accepted: int
    """Messages that were ever written to it."""
    oldest_ns: int | None
    newest_ns: int | None
    subscriptions: tuple[SubscriptionNumbers, ...]
    hosts: tuple[HostNumbers, ...]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it was written."""

    where: str
    """page, message, delivery."""
    detail: str


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check looked at and found."""

    path: str
    messages: int
    """Messages that were read and are as they were written."""
    deliveries: int
    findings: tuple[Finding, ...]

    @property
    def is_sound(self) -> bool:
        """Whether everything is as it was written."""
        return not self.findings


def numbers(path: Path) -> StoreNumbers:
    """Sizes and counts; raises `StoreError` for what is no store, or cannot be read."""
    log = path.with_name(f"{path.name}-wal")
    with closing(schema.connect(path, busy_s=_BUSY_S, create=False, read_only=True)) as connection:
        try:
            connection.execute("BEGIN")
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (accepted,) = connection.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'blocks'"
            ).fetchone()
            count, oldest, newest = connection.execute(
                "SELECT coalesce(sum(count), 0), min(time_ns), max(time_ns) FROM blocks"
            ).fetchone()
            return StoreNumbers(
                path=str(path),
                file_bytes=path.stat().st_size,
                log_bytes=log.stat().st_size if log.exists() else 0,
                free_bytes=free * page,
                messages=count,
                accepted=accepted,
                oldest_ns=oldest,
                newest_ns=newest,
                subscriptions=tuple(_subscriptions(connection)),
                hosts=tuple(_hosts(connection, path)),
            )
        except sqlite3.Error as error:
            raise schema.failed(path, "read", error) from error


def _subscriptions(connection: sqlite3.Connection) -> Iterator[SubscriptionNumbers]:
    for number, name, patterns in connection.execute("SELECT id, name, patterns FROM subscriptions"):
        waiting, held, delayed, aside, first = connection.execute(
            "SELECT coalesce(sum(count) FILTER (WHERE host IS NULL AND due_ns IS NULL), 0), "
            "coalesce(sum(count) FILTER (WHERE host > 0), 0), "
            "coalesce(sum(count) FILTER (WHERE due_ns IS NOT NULL), 0), "
            "coalesce(sum(count) FILTER (WHERE host = ?), 0), min(first) "
            "FROM deliveries WHERE subscription = ? AND first > 0",
            (SET_ASIDE, number),
        ).fetchone()
        oldest = connection.execute(
            "SELECT time_ns FROM blocks WHERE seq >= ? ORDER BY seq LIMIT 1", (first,)
        ).fetchone()
        yield SubscriptionNumbers(
            name=name,
            patterns=patterns_from(patterns),
            waiting=waiting,
            held=held,
            delayed=delayed,
            set_aside=aside,
            oldest_ns=oldest[0] if oldest else None,
        )


def _hosts(connection: sqlite3.Connection, path: Path) -> Iterator[HostNumbers]:
    for number, pid in connection.execute("SELECT id, pid FROM hosts ORDER BY id"):
        yield HostNumbers(id=number, pid=pid, is_alive=leases.is_alive(path, number))


def check(path: Path) -> CheckReport:
    """Read every page, message and delivery; raises `StoreError` where not even a beginning can be made."""
    header = _header(path)  # before: a file that a process closes takes SQLite's locks on it along
    with closing(schema.connect(path, busy_s=_BUSY_S, create=False, read_only=True)) as connection:
        findings = [*_header_findings(header), *_page_findings(connection)]
        sound, deliveries = 0, 0
        try:
            sound, unsound = _read_blocks(connection)
            findings += unsound
            (deliveries,) = connection.execute("SELECT coalesce(sum(count), 0) FROM deliveries").fetchone()
            findings += _delivery_findings(connection)
            findings += _subscription_findings(connection)
        except sqlite3.Error as error:
            findings.append(Finding(where="page", detail=f"reading ended at: {error}"))
        return CheckReport(path=str(path), messages=sound, deliveries=deliveries, findings=tuple(findings))


def _header(path: Path) -> bytes:
    """The first bytes of the file; none of what cannot be read, which `connect` says better."""
    try:
        with path.open("rb") as file:
            return file.read(20)
    except OSError:
        return b""


def _header_findings(header: bytes) -> Iterator[Finding]:
    """What SQLite makes a file read-only for, and says nothing (sqlite.org/fileformat2.html, 1.3.3)."""
    versions = header[18:]
    if versions != b"\x02\x02":
        yield Finding(where="page", detail=f"the header has format versions {versions.hex(' ')}, not 02 02")


def _page_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({MOST_FINDINGS})"):
            if line != "ok":
                yield Finding(where="page", detail=line)
    except sqlite3.Error as error:
        yield Finding(where="page", detail=str(error))


def _read_blocks(connection: sqlite3.Connection) -> tuple[int, list[Finding]]:
    """How many messages are as they were written, and which are not."""
    sound, last = 0, 0
    faults: list[str] = []
    for seq, count, crc, head, bodies in connection.execute(
        "SELECT seq, count, crc, head, bodies FROM blocks ORDER BY seq"
    ):
        read = read_head(seq, count, crc, head)
        if read is None or read.first <= last:
            faults.append(f"those up to {seq}: the head of their block is not as it was written")
            continue
        last = seq
        for number, body in enumerate(bodies_of(read, bodies), read.first):
            if fault := fault_of(body):
                faults.append(f"{number}: {fault}")
            else:
                sound += 1
    return sound, [Finding(where="message", detail=fault) for fault in faults[:MOST_FINDINGS]]


def fault_of(body: bytes | None) -> str:
    """What is wrong with a message as it lies there; empty when nothing is."""
    if body is None:
        return "it is not as it was written (CRC-32)"
    try:
        decode(body)
    except MessageError as error:
        return error.why
    return ""


def _delivery_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    yield from islice(_ranges_that_cannot_be(connection), MOST_FINDINGS)
    rows = connection.execute(
        "SELECT first, last, subscription, host, attempt, delayed_ns, due_ns FROM deliveries "  # noqa: S608
        f"WHERE first != 0 AND NOT ({schema.SOUND_DELIVERY}) LIMIT ?",
        (MOST_FINDINGS,),
    )
    for first, last, subscription, host, attempt, delayed_ns, due_ns in rows:
        yield Finding(
            where="delivery",
            detail=f"{named(first, last)} of subscription {subscription}: host {host}, attempt {attempt}, "
            f"delayed at {delayed_ns} to {due_ns} cannot be",
        )


def _ranges_that_cannot_be(connection: sqlite3.Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT d.subscription, d.first, d.last, d.count, s.id, b.seq, b.count, b.crc, b.head "
        "FROM deliveries d LEFT JOIN subscriptions s ON s.id = d.subscription "
        "LEFT JOIN blocks b ON b.seq = (SELECT min(seq) FROM blocks WHERE seq >= d.first) "
        "WHERE d.first != 0 ORDER BY d.subscription, d.first"
    )
    block: Block | None = None
    before, reached = 0, 0
    for subscription, first, last, count, known, *found in rows:
        if block is None or found[0] != block.last:
            head = read_head(*found)
            block = Block.of(head) if head is not None else None
        where = f"{named(first, last)} of subscription {subscription}"
        if known is None or block is None or first < block.first:
            yield Finding(where="delivery", detail=f"{where}: its message or subscription is gone")
            continue
        members = block.members_between(subscription, first, last)
        is_whole = len(members) == count and (members[0], members[-1]) == (first, last)
        if not is_whole or (subscription, first) <= (before, reached):
            yield Finding(where="delivery", detail=f"{where}: {count} cannot be, of {len(members)} accepted")
        before, reached = subscription, last


def named(first: int, last: int) -> str:
    """Messages in words."""
    return str(first) if first == last else f"{first} to {last}"


def _subscription_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    for number, name, patterns, is_marked in connection.execute(
        f"SELECT id, name, patterns, {schema.IS_MARKED} FROM subscriptions"  # noqa: S608
    ):
        try:
            patterns_from(patterns)
        except Damaged as error:
            yield Finding(where="subscription", detail=f"{number}, {name}: {error}")
        if not is_marked:
            yield Finding(where="subscription", detail=f"{number}, {name}: its deliveries are not all there")
