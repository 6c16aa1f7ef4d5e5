"""`echo-core trace`: what became of messages, from the history on disk."""

from contextlib import closing
from typing import Annotated

from cyclopts import Parameter, validators

from echo_core.cli.output import printable, to_builtins
from echo_core.cli.path_tree import render_path
from echo_core.cli.session import Session, SessionArgument
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.message_history.documents import Newest
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.path import MOST, History
from echo_core.runtime.settings import load_settings

MessageId = Annotated[
    str, Parameter(help="Of a message, or its beginning; of the first message of all; or of a trace.")
]
Payloads = Annotated[bool, Parameter(help="Show what the messages said, where it was kept.")]
Limit = Annotated[
    int | None,
    Parameter(
        help=f"At most so many messages: {MOST:,} of a path, 20 of the newest.",
        validator=validators.Number(gte=1),
    ),
]


def trace(
    message_id: MessageId = "",
    /,
    *,
    payloads: Payloads = False,
    limit: Limit = None,
    session: SessionArgument,
) -> None:
    """Show the whole path of a message.

    What it was made from, what was made from it, and what each plugin did with it: how long it waited and was
    worked on, every attempt, and how it ended. Where payloads are kept, also what changed on the way. Without
    an id: the newest messages, and what became of each.
    For example: echo-core trace 019abf00-6c3a-7a11-8f0e-5d1c2b3a4f50
    """
    workspace = session.workspace()
    with closing(History(history_path(load_settings(workspace), workspace))) as history:
        if not message_id:
            _show_newest(history.newest(limit or 20), session)
            return
        path = history.trace(message_id, most=limit or MOST)
    session.out.result("trace", to_builtins(path), "\n".join(render_path(path, payloads=payloads)))


def _show_newest(newest: Newest, session: Session) -> None:
    if not newest.origins:
        session.out.result("trace.newest", to_builtins(newest), "no messages were recorded")
        return
    from echo_core.cli.tables import Column, FittingTable, numbers

    columns = (Column("TIME (UTC)", spare=2), "TOPIC", Column("SOURCE", spare=3))
    table = FittingTable("ID", *columns, *numbers("MESSAGES", "TOOK"), Column("BECAME", spare=1))
    for origin in newest.origins:
        table.add_row(
            origin.id,
            moment(origin.time_ns, separator=" ").partition("+")[0],
            printable(origin.topic),
            printable(origin.source),
            f"{origin.messages:,}",
            f"{origin.total_ms:,.1f} ms",
            ", ".join(f"{count:,} {state}" for state, count in origin.states.items()),
        )
    session.out.result("trace.newest", to_builtins(newest), table)
