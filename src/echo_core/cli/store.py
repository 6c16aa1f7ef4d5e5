"""`echo-core store`: the file that `sqlite://` keeps messages in."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import Session, SessionArgument
from echo_core.runtime.store import (
    CheckReport,
    RepairReport,
    StoreNumbers,
    check,
    compact,
    forget,
    numbers,
    repair,
    store_path,
)

_SHOWN: Final = 20

File = Annotated[
    Path | None,
    Parameter(
        name="--file", help="A store's file; else the one that host.transport in echo-core.toml names."
    ),
]

Name = Annotated[str, Parameter(help="The plugin's name, as `store stats` shows it.", completer=plugin_names)]


def store_stats(*, file: File = None, session: SessionArgument) -> None:
    """Show what a store of messages holds.

    For whom, how old, and who has it in hand. For example: echo-core store stats
    """
    found = numbers(_path(file, session))
    session.out.result("store.stats", to_builtins(found), "\n".join(_stats(found)))


def check_store(*, file: File = None, session: SessionArgument) -> int:
    """Read all of a store, and say what is damaged.

    Every page, message and delivery; hosts may use the store meanwhile. The exit code is 1 when something is
    not as it was written.
    For example: echo-core store check
    """
    report = check(_path(file, session))
    session.out.result(
        "store.check", to_builtins(report) | {"ok": report.is_sound}, "\n".join(_check(report))
    )
    if not report.is_sound:
        session.out.note("stop the hosts that use it, then: echo-core store repair")
    return 0 if report.is_sound else 1


def repair_store(*, file: File = None, session: SessionArgument) -> int:
    """Save what can be read of a damaged store.

    Into a new file that takes its place; the old one is kept. No host may use the store meanwhile. The exit
    code is 1 when messages were lost.
    For example: echo-core store repair
    """
    report = repair(_path(file, session))
    session.out.result("store.repair", to_builtins(report), "\n".join(_repair(report)))
    return 1 if report.lost_count or report.unknown_count else 0


def compact_store(*, file: File = None, session: SessionArgument) -> None:
    """Give a store's free space back to the disk.

    No host may use it meanwhile. For example: echo-core store compact
    """
    report = compact(_path(file, session))
    text = f"{report.path}: {report.before_bytes:,} bytes, now {report.after_bytes:,}"
    session.out.result("store.compact", to_builtins(report), text)


def forget_subscription(name: Name, /, *, file: File = None, session: SessionArgument) -> None:
    """End a subscription for good, with all that waits for it.

    For a plugin that does not come back: while it is away its messages wait. No host may use the store
    meanwhile.
    For example: echo-core store forget loud_words
    """
    report = forget(_path(file, session), name)
    text = f"{report.name} subscribes to nothing any more; {report.dropped:,} messages waited for it"
    session.out.result("store.forget", to_builtins(report), text)


def _path(file: Path | None, session: Session) -> Path:
    return Path(os.path.realpath(file)) if file is not None else store_path(session.workspace())


def _stats(found: StoreNumbers) -> Iterator[str]:
    yield f"{found.path}: {found.file_bytes:,} bytes, {found.free_bytes:,} of them free"
    yield f"  messages       {found.messages:,} kept, {found.accepted:,} ever accepted"
    if found.oldest_ns is not None and found.newest_ns is not None:
        yield f"  accepted from  {_time(found.oldest_ns)} to {_time(found.newest_ns)}"
    if not found.subscriptions:
        yield "  subscriptions  none"
    for one in found.subscriptions:
        yield f"  {one.name} ({', '.join(one.patterns)})"
        parts = [f"{one.waiting:,} waiting", f"{one.held:,} held by a host", f"{one.delayed:,} delayed"]
        if one.set_aside:
            parts.append(f"{one.set_aside:,} damaged and set aside")
        yield f"    {', '.join(parts)}"
        if one.oldest_ns is not None:
            yield f"    the oldest from {_time(one.oldest_ns)}"
    for host in found.hosts:
        yield f"  host {host.id}: {f'process {host.pid}' if host.is_alive else 'ended without leaving'}"


def _check(report: CheckReport) -> Iterator[str]:
    yield f"{report.path}: {report.messages:,} messages are sound, {report.deliveries:,} deliveries are due"
    for finding in report.findings[:_SHOWN]:
        yield f"  {finding.where}: {printable(finding.detail)}"
    if len(report.findings) > _SHOWN:
        yield f"  and {len(report.findings) - _SHOWN:,} more"
    yield "everything is as it was written" if report.is_sound else "the store is damaged"


def _repair(report: RepairReport) -> Iterator[str]:
    yield f"{report.path}: saved {report.messages:,} messages and {report.deliveries:,} deliveries"
    if report.due_again:
        yield f"  {report.due_again:,} deliveries come again: it could not be read whether they were settled"
    for lost in report.lost[:_SHOWN]:
        yield f"  lost: message {lost}"
    if report.lost_count > _SHOWN:
        yield f"  and {report.lost_count - _SHOWN:,} more are lost"
    if report.unknown_count:
        yield f"  up to {report.unknown_count:,} more cannot be read, nor who had still to settle them"
    yield f"the damaged file is kept: {report.damaged}"


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(sep=" ", timespec="milliseconds")
