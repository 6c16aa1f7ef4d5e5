"""`echo-core dlq replay` and `dlq jobs`: dead letters on their way back to the plugins."""

import time
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter, validators

from echo_core.cli.letters import Which, chosen, moment, row, store_of
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import SessionArgument
from echo_core.runtime.dead_letters import MOST_REPLAYS, DeadLetterStore, ReplayJob, ReplayWish
from echo_core.runtime.replay import can_replay_alone, replay_alone
from echo_core.runtime.settings import load_settings

if TYPE_CHECKING:
    from rich.table import Table

_LOOK_S: Final = 0.2
_PATIENCE_S: Final = 3.0
"""How long to wait for a host to begin."""
_SHOWN: Final = 20

Ids = Annotated[int, Parameter(help="Numbers that `dlq list` shows.", negative=())]
All = Annotated[bool, Parameter(name="--all", help="All there are.")]
First = Annotated[
    int | None, Parameter(help="At most so many, the oldest first.", validator=validators.Number(gte=1))
]
Rate = Annotated[float | None, Parameter(help="At most so many a second.", validator=validators.Number(gt=0))]
Force = Annotated[bool, Parameter(help=f"Also what has come back {MOST_REPLAYS} times already.")]
DryRun = Annotated[bool, Parameter(help="Only show what would be replayed.")]


def replay_letters(
    *ids: Ids,
    which: Which | None = None,
    everything: All = False,
    first: First = None,
    rate: Rate = None,
    force: Force = False,
    dry_run: DryRun = False,
    session: SessionArgument,
) -> int:
    """Send dead letters to their plugins again.

    Each goes to the plugin that could not handle it, edited or as it came, and is no dead letter any more
    once it is accepted. What has come back too often stays, unless --force. A host goes on with the replay
    when this command is ended. The exit code is 1 when some could not be sent.
    For example: echo-core dlq replay --plugin loud_words --first 10 --dry-run
    """
    wish = ReplayWish(selection=chosen(which, ids, everything, "replay"), first=first, rate=rate, force=force)
    store = store_of(session)
    try:
        if dry_run:
            return _show(wish, store, session)
        settings = load_settings(session.workspace())
        job = store.add_job(wish)
        if can_replay_alone(settings):
            replay_alone(store, settings, session.workspace())
        job = _follow(job, store, session)
    finally:
        store.close()
    session.out.result("dlq.replay", to_builtins(job), _sentence(job))
    return 1 if job.failed else 0


def list_jobs(*, session: SessionArgument) -> None:
    """Show the replays there were, the newest first.

    For example: echo-core dlq jobs
    """
    store = store_of(session)
    try:
        jobs = store.jobs()
    finally:
        store.close()
    document = {"jobs": jobs}
    session.out.result("dlq.jobs", document, _table(jobs) if jobs else "no replays")


def _show(wish: ReplayWish, store: DeadLetterStore, session: SessionArgument) -> int:
    limit = 1_000_000 if wish.first is None else wish.first
    meant = store.select(wish.selection, limit=limit, oldest_first=True, quarantined=wish.force)
    lines = [
        f"{letter.id}: message {letter.message_id} to {letter.plugin}, {printable(letter.topic)}"
        for letter in meant[:_SHOWN]
    ]
    if len(meant) > _SHOWN:
        lines.append(f"and {len(meant) - _SHOWN:,} more")
    lines.append(f"{len(meant):,} would be replayed")
    document = {"dry_run": True, "total": len(meant), "letters": [row(letter) for letter in meant]}
    session.out.result("dlq.replay", document, "\n".join(lines))
    return 0


def _follow(job: ReplayJob, store: DeadLetterStore, session: SessionArgument) -> ReplayJob:
    """Wait for the replay to end, as long as somebody runs it."""
    began, shown = time.monotonic(), 0
    while job.state != "done":
        if job.state == "waiting" and time.monotonic() - began > _PATIENCE_S:
            session.out.note("no host runs in this workspace; the replay begins when one does: echo-core run")
            break
        time.sleep(_LOOK_S)
        job = store.job(job.id)
        if job.done + job.failed != shown:
            shown = job.done + job.failed
            session.out.note(f"{shown:,} of {job.total:,}")
    return job


def _sentence(job: ReplayJob) -> str:
    text = f"replay {job.id}: {job.done:,} of {job.total:,} replayed"
    if job.failed:
        text += f", {job.failed:,} could not be: {printable(job.reason)}"
    return text if job.state == "done" else f"{text}; {job.state}"


def _table(jobs: list[ReplayJob]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("ID", "ASKED FOR", "STATE", "REPLAYED", "FAILED", "OF", "REASON"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        counts = (f"{job.done:,}", f"{job.failed:,}", f"{job.total:,}")
        table.add_row(str(job.id), moment(job.created_ns), job.state, *counts, printable(job.reason))
    return table
