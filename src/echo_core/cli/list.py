"""`echo-core list`: what is available and what is activated."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.cli.tables import Column, FittingTable
from echo_core.workshop.listing import Row, Scope, listing
from echo_core.workshop.source import plugin_sources

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
    built = {row.name for row in listing(session.workspace())}
    not_built = [name for name in plugin_sources(session.workspace()) if name not in built]
    document = {"scope": scope, "plugins": rows, "not_built": not_built}
    session.out.result("list", document, table(rows, not_built))


def table(rows: Sequence[Row], not_built: Sequence[str] = ()) -> "RenderableType":
    """The rows, for people, with what is wrong, and what was never built, below them."""
    from rich.console import Group
    from rich.text import Text

    waiting = (
        f"not built yet: {', '.join(not_built)}\nnext: echo-core build {not_built[0]}" if not_built else ""
    )
    if not rows:
        return Text(waiting or "no plugin is built\nnext: echo-core create NAME, then echo-core build NAME")
    shown = FittingTable(
        *("", "NAME", "TYPE", "BUILD", "ACTIVATED", "AVAILABLE"),
        Column("DESCRIPTION", cut=True, spare=1),
    )
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
    return Group(shown, *problems, *([Text(waiting)] if waiting else []))
