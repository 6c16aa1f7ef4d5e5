"""`echo-core dlq check` and `repair`: dead letters in a file that somebody, or a disk, has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import Session, SessionArgument
from echo_core.control.client import running_host
from echo_core.errors import ChangeRefused
from echo_core.runtime.dead_letters import FILE_NAME
from echo_core.runtime.dead_letters.repair import LetterCheck, LetterRepair, check, repair

_SHOWN: Final = 20


def check_letters(*, session: SessionArgument) -> int:
    """Read all dead letters, and say what is damaged.

    A host may run meanwhile. The exit code is 1 when something is not as it was written.
    For example: echo-core dlq check
    """
    report = check(_path(session))
    session.out.result("dlq.check", to_builtins(report) | {"ok": report.is_sound}, "\n".join(_check(report)))
    if not report.is_sound:
        session.out.note("stop the host, then: echo-core dlq repair")
    return 0 if report.is_sound else 1


def repair_letters(*, session: SessionArgument) -> int:
    """Save what can be read of damaged dead letters.

    Into a new file that takes its place; the old one is kept. No host may run meanwhile. The exit code is 1
    when letters were lost.
    For example: echo-core dlq repair
    """
    if running_host(session.workspace()) is not None:
        raise ChangeRefused("the dead letters are in use", why="a host runs here", fix="stop it first")
    report = repair(_path(session))
    session.out.result("dlq.repair", to_builtins(report), "\n".join(_repair(report)))
    return 1 if report.lost_count or report.is_doubtful else 0


def _path(session: Session) -> Path:
    return session.workspace().state / FILE_NAME


def _check(report: LetterCheck) -> Iterator[str]:
    yield f"{report.path}: {report.letters:,} dead letters are sound"
    for finding in report.findings[:_SHOWN]:
        yield f"  {printable(finding)}"
    if len(report.findings) > _SHOWN:
        yield f"  and {len(report.findings) - _SHOWN:,} more"
    yield "everything is as it was written" if report.is_sound else "the dead letters are damaged"


def _repair(report: LetterRepair) -> Iterator[str]:
    yield f"{report.path}: saved {report.letters:,} dead letters"
    for number in report.lost[:_SHOWN]:
        yield f"  lost: dead letter {number}"
    if report.lost_count > _SHOWN:
        yield f"  and {report.lost_count - _SHOWN:,} more are lost"
    if report.is_doubtful:
        yield "  there may have been others: pages that cannot be read do not say what was on them"
    yield f"the damaged file is kept: {report.damaged}"
