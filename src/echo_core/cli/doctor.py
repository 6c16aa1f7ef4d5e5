"""`echo-core doctor`: checks everything, and says how to mend it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from echo_core.cli.checks import Check, check_everything
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


def doctor(*, session: SessionArgument) -> int:
    """Check everything, and say how to mend it.

    The installation, the workspace, every activated plugin, topics that do not meet, dead letters that wait,
    and whether telemetry arrives. The exit code is 1 when a check says FAIL; warnings do not change it.
    For example: echo-core doctor --json
    """
    checks = check_everything(session.workspace(), os.environ)
    failures = sum(check.status == "FAIL" for check in checks)
    warnings = sum(check.status == "warn" for check in checks)
    document = {"ok": not failures, "failures": failures, "warnings": warnings, "checks": checks}
    session.out.result("doctor", document, report(checks, failures, warnings))
    return 1 if failures else 0


def report(checks: Sequence[Check], failures: int, warnings: int) -> "RenderableType":
    """The checks, for people: each with its fix below it."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(min_width=4, no_wrap=True)
    lines.add_column(overflow="fold")
    for check in checks:
        said = Text(f"{check.name}: {_indented(check.detail)}")
        if check.status != "ok" and check.fix:
            said.append(f"\nfix: {_indented(check.fix)}", style="bold")
        lines.add_row(Text(check.status, style=_STYLES[check.status]), said)
    return Group(lines, Text(f"{_count(failures, 'problem')}, {_count(warnings, 'warning')}"))


def _indented(lines: str) -> str:
    return printable(lines).replace("\n", "\n     ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
