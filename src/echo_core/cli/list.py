"""`echo-core list`: what is available and what is activated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.workshop.listing import Row, Scope, listing

if TYPE_CHECKING:
    from rich.console import RenderableType

ScopeArgument = Annotated[Scope, Parameter(help="Which libraries.", show_default=True)]


def list_plugins(scope: ScopeArgument = "all", /, *, session: SessionArgument) -> None:
    """Show which plugins there are.

    What is available and what is activated: a row for each plugin and kind of library; * is activated,
    ! has a problem.
    For example: echo-core list production
    """
    rows = listing(session.workspace(), scope)
    session.out.result("list", {"scope": scope, "plugins": rows}, table(rows))


def table(rows: Sequence[Row]) -> "RenderableType":
    """The rows, for people, with what is wrong below them."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return Text("no plugin is built\nnext: echo-core create NAME, then echo-core build NAME")
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "NAME", "TYPE", "BUILD", "ACTIVATED", "AVAILABLE", "DESCRIPTION"):
        shown.add_column(heading, overflow="fold")
    for row in rows:
        sign, style = ("!", "red") if row.problems else ("*", "green") if row.activated else ("", "")
        shown.add_row(
            Text(sign, style=style),
            row.name,
            row.plugin_type or "-",
            row.build_type or "-",
            row.activated or "-",
            ", ".join(row.versions) or "-",
            printable(row.description),
        )
    problems = [
        Text(f"! {row.name} {printable(problem)}", style="red") for row in rows for problem in row.problems
    ]
    return Group(shown, *problems)
