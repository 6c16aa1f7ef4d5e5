"""`echo-core doctor`: checks everything, and says how to mend it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from echo_core.cli.checks import Check, check_everything
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument

if TYPE_CHECKING:
    from rich.text import Text

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


def report(checks: Sequence[Check], failures: int, warnings: int) -> "Text":
    """The checks, for people: a line each, and its fix below it."""
    from rich.text import Text

    text = Text(overflow="ignore", no_wrap=True)
    for check in checks:
        text.append(f"{check.status:<4}", style=_STYLES[check.status])
        text.append(f"  {check.name}: {_indented(check.detail)}\n")
        if check.status != "ok" and check.fix:
            text.append(f"      fix: {_indented(check.fix)}\n", style="bold")
    text.append(f"{_count(failures, 'problem')}, {_count(warnings, 'warning')}")
    return text


def _indented(lines: str) -> str:
    return printable(lines).replace("\n", "\n           ")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
