"""What can be asked of a store from outside: numbers, and whether it is whole. Nothing here writes."""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from echo_core.errors import MessageError
from echo_core.message import decode
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.store import SET_ASIDE

_BUSY_S: Final = 10.0
_CHUNK: Final = 1_000
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
    with closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
        try:
            connection.execute("BEGIN")
            (page,) = connection.execute("PRAGMA page_size").fetchone()
            (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            (accepted,) = connection.execute(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'messages'"
            ).fetchone()
            count, oldest, newest = connection.execute(
                "SELECT count(*), min(time_ns), max(time_ns) FROM messages"
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
            "SELECT count(*) FILTER (WHERE host IS NULL AND due_ns IS NULL), "
            "count(*) FILTER (WHERE host > 0), count(due_ns), count(*) FILTER (WHERE host = ?), min(seq) "
            "FROM deliveries WHERE subscription = ?",
            (SET_ASIDE, number),
        ).fetchone()
        oldest = connection.execute("SELECT time_ns FROM messages WHERE seq = ?", (first,)).fetchone()
        yield SubscriptionNumbers(
            name=name,
            patterns=tuple(msgspec.json.decode(patterns)),
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
    with closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
        findings = [*_page_findings(connection)]
        sound, deliveries = 0, 0
        try:
            sound, unsound = _read_messages(connection)
            findings += unsound
            (deliveries,) = connection.execute("SELECT count(*) FROM deliveries").fetchone()
            findings += _delivery_findings(connection)
        except sqlite3.Error as error:
            findings.append(Finding(where="page", detail=f"reading ended at: {error}"))
        return CheckReport(path=str(path), messages=sound, deliveries=deliveries, findings=tuple(findings))


def _page_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    try:
        for (line,) in connection.execute(f"PRAGMA integrity_check({MOST_FINDINGS})"):
            if line != "ok":
                yield Finding(where="page", detail=line)
    except sqlite3.Error as error:
        yield Finding(where="page", detail=str(error))


def _read_messages(connection: sqlite3.Connection) -> tuple[int, list[Finding]]:
    sound = 0
    findings: list[Finding] = []
    rows = connection.execute("SELECT seq, CAST(topic AS BLOB), crc, body FROM messages")
    while chunk := rows.fetchmany(_CHUNK):
        for seq, topic, crc, body in chunk:
            fault = fault_of(topic, crc, body)
            if not fault:
                sound += 1
            elif len(findings) < MOST_FINDINGS:
                findings.append(Finding(where="message", detail=f"{seq}: {fault}"))
    return sound, findings


def fault_of(topic: object, crc: object, body: object) -> str:
    """What is wrong with a message as it lies there; empty when nothing is."""
    if not (isinstance(topic, bytes) and isinstance(body, bytes)):
        return "it is no text and bytes"
    if zlib.crc32(body, zlib.crc32(topic)) != crc:
        return "it is not as it was written (CRC-32)"
    try:
        decode(body)
    except MessageError as error:
        return error.why
    return ""


def _delivery_findings(connection: sqlite3.Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "SELECT d.seq, d.subscription FROM deliveries d LEFT JOIN messages m ON m.seq = d.seq "
        "LEFT JOIN subscriptions s ON s.id = d.subscription WHERE m.seq IS NULL OR s.id IS NULL LIMIT ?",
        (MOST_FINDINGS,),
    )
    for seq, subscription in rows:
        yield Finding(
            where="delivery",
            detail=f"{seq} of subscription {subscription}: its message or subscription is gone",
        )
