"""`echo-core dlq replay` and `dlq jobs`: dead letters on their way back to the plugins."""

import time
from collections.abc import Sequence
from typing import Annotated, Final

from cyclopts import Parameter, validators

from echo_core.cli.letters import All, Ids, Which, desk_of, meant
from echo_core.cli.output import printable
from echo_core.cli.session import Session, SessionArgument
from echo_core.cli.tables import FittingTable, numbers
from echo_core.control.client import running_host
from echo_core.runtime.dead_letters import MOST_REPLAYS, ReplayJob, ReplayWish
from echo_core.runtime.dead_letters.desk import LetterDesk, Replay
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.replay import can_replay_alone, replay_alone
from echo_core.runtime.settings import load_settings

_LOOK_S: Final = 0.2
_SAID_S: Final = 2.0
"""How often it is said how far a replay has come."""
_PATIENCE_S: Final = 2.0
"""How long a replay may wait before it is asked whether there is a host."""

First = Annotated[
    int | None, Parameter(help="At most so many, the oldest first.", validator=validators.Number(gte=1))
]
Rate = Annotated[float | None, Parameter(help="At most so many a second.", validator=validators.Number(gt=0))]
Force = Annotated[bool, Parameter(help=f"Also what has come back {MOST_REPLAYS} times already.")]
DryRun = Annotated[bool, Parameter(help="Only show what would be replayed.")]
Cancel = Annotated[int | None, Parameter(help="Go no further with this one.")]


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
    when this command is ended: see `dlq jobs`. The exit code is 1 when some could not be sent.
    For example: echo-core dlq replay --plugin loud_words --first 10 --dry-run
    """
    wish = ReplayWish(selection=meant(which, ids, everything), first=first, rate=rate, force=force)
    with desk_of(session) as desk:
        if dry_run:
            would = desk.replay(wish, dry_run=True)
            session.out.result("dlq.replay", would, "\n".join(_would(would)))
            return 0
        settings = load_settings(session.workspace())
        asked = desk.replay(wish)
        assert asked.job is not None
        said = _Said(session)
        try:
            if can_replay_alone(settings):
                job = replay_alone(desk.store, settings, session.workspace(), asked.job.id, said)
            else:
                job = _follow(asked.job, desk, session, said)
        except KeyboardInterrupt:
            session.out.note(f"replay {asked.job.id} goes on while a host runs: echo-core dlq jobs")
            raise
    session.out.result("dlq.replay", Replay(dry_run=False, total=job.total, job=job), _sentence(job))
    return 1 if job.failed else 0


def list_jobs(*, cancel: Cancel = None, session: SessionArgument) -> None:
    """Show the replays there were, the newest first.

    For example: echo-core dlq jobs --cancel 3
    """
    with desk_of(session) as desk:
        if cancel is not None:
            desk.cancel(cancel)
        found = desk.jobs()
    session.out.result("dlq.jobs", found, _table(found.jobs) if found.jobs else "no replays")


def _would(would: Replay) -> list[str]:
    lines = [
        f"{letter.id}: message {letter.message_id} to {letter.plugin}, {printable(letter.topic)}"
        for letter in would.letters
    ]
    if would.total > len(lines):
        lines.append(f"and {would.total - len(lines):,} more")
    return [*lines, f"{would.total:,} would be replayed"]


class _Said:
    """Says how far a replay has come, now and then."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last = time.monotonic()

    def __call__(self, job: ReplayJob) -> None:
        now = time.monotonic()
        if job.has_ended or now - self._last < _SAID_S:
            return
        waits = "waits for another replay to end: echo-core dlq jobs"
        self._session.out.note(
            waits if job.state == "waiting" else f"{job.done + job.failed:,} of {job.total:,}"
        )
        self._last = now


def _follow(job: ReplayJob, desk: LetterDesk, session: Session, said: _Said) -> ReplayJob:
    """Wait for the replay to end, as long as a host runs it."""
    began = time.monotonic()
    while not job.has_ended:
        if job.state == "waiting" and time.monotonic() - began > _PATIENCE_S:
            if running_host(session.workspace()) is None:
                session.out.note("no host runs here; the replay begins when one does: echo-core run")
                break
            began = time.monotonic()  # it does others first
        time.sleep(_LOOK_S)
        job = desk.job(job.id)
        if job.state == "running":
            said(job)
    return job


def _sentence(job: ReplayJob) -> str:
    text = f"replay {job.id}: {job.done:,} of {job.total:,} replayed"
    if job.failed:
        text += f", {job.failed:,} could not be: {printable(job.reason)}"
    if job.state == "done" and (gone := job.total - job.done - job.failed) > 0:
        text += f"; {gone:,} were no dead letters any more"
    return text if job.state == "done" else f"{text}; {job.state}"


def _table(jobs: Sequence[ReplayJob]) -> FittingTable:
    table = FittingTable(
        *numbers("ID"), "ASKED FOR (UTC)", "STATE", *numbers("REPLAYED", "FAILED", "OF"), "REASON"
    )
    for job in jobs:
        counts = (f"{job.done:,}", f"{job.failed:,}", f"{job.total:,}")
        when = moment(job.created_ns, separator=" ")[:19]
        table.add_row(str(job.id), when, job.state, *counts, printable(job.reason))
    return table
