"""Changes to a store that no host uses: giving space back, and ending subscriptions for good."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from echo_core.errors import NotFound
from echo_core.transports.sqlite import leases, schema

_BUSY_S: Final = 10.0


class CompactReport(msgspec.Struct, frozen=True, kw_only=True):
    """How large a store was and is."""

    path: str
    before_bytes: int
    after_bytes: int


def compact(path: Path) -> CompactReport:
    """Give the free pages back to the disk; raises `StoreError` while hosts use the store."""
    before = path.stat().st_size if path.exists() else 0
    with leases.alone(path), closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            raise schema.failed(path, "compacted", error) from error
    return CompactReport(path=str(path), before_bytes=before, after_bytes=path.stat().st_size)


class ForgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that is no more."""

    path: str
    name: str
    dropped: int
    """Messages that it had not settled."""


def forget(path: Path, name: str) -> ForgetReport:
    """End a subscription, with what waits for it; raises `NotFound`, and `StoreError` while hosts run."""
    with leases.alone(path), closing(schema.connect(path, busy_s=_BUSY_S, create=False)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute("SELECT id FROM subscriptions WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise NotFound(f"nobody subscribes as {name!r}", where=str(path), fix="echo-core store stats")
            (dropped,) = connection.execute(
                "SELECT coalesce(sum(count), 0) FROM deliveries WHERE subscription = ?", row
            ).fetchone()
            connection.execute("DELETE FROM deliveries WHERE subscription = ?", row)
            connection.execute("DELETE FROM subscriptions WHERE id = ?", row)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise schema.failed(path, "changed", error) from error
    return ForgetReport(path=str(path), name=name, dropped=dropped)
