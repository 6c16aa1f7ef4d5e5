"""`echo-core state`: how far sources have come, and where they go on after a crash."""

from contextlib import closing
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable
from echo_core.cli.session import Session, SessionArgument
from echo_core.cli.tables import Column, FittingTable
from echo_core.runtime.checkpoints import FILE_NAME, Checkpoint, CheckpointStore
from echo_core.runtime.dead_letters.selection import moment

_SHOWN: Final = 100

Name = Annotated[str, Parameter(help="The source's name, as `state list` shows it.", completer=plugin_names)]


def list_states(*, session: SessionArgument) -> None:
    """Show how far each source has come.

    Those that keep a state, in core/state/checkpoints.sqlite. For example: echo-core state list
    """
    with _store(session) as store:
        found = store.all()
    document = {"states": [_row(each) for each in found]}
    session.out.result("state.list", document, _table(found) if found else "no source keeps a state")


def show_state(name: Name, /, *, session: SessionArgument) -> None:
    """Show all that is kept of one source.

    For example: echo-core state show transcript_source
    """
    with _store(session) as store:
        found = store.get(name)
    found.values()  # raises, where it is damaged
    text = msgspec.json.format(msgspec.json.encode(found.values()), indent=2).decode()
    head = f"{found.plugin} {found.version}, {moment(found.time_ns)}"
    session.out.result("state.show", _row(found), f"{head}\n{printable(text)}")


def reset_state(name: Name, /, *, session: SessionArgument) -> None:
    """Let a source start over.

    What is kept of it is forgotten, and its next run begins at the beginning; all that it publishes then is
    new. The source must not run meanwhile: stop the host, or deactivate the source.
    For example: echo-core state reset transcript_source
    """
    with _store(session) as store:
        found = store.reset(name)
    session.out.result("state.reset", _row(found), f"{name} starts over; it had come to {_text(found)}")


def _store(session: Session) -> closing[CheckpointStore]:
    return closing(CheckpointStore(session.workspace().state / FILE_NAME))


def _row(found: Checkpoint) -> dict[str, Any]:
    return {
        "plugin": found.plugin,
        "version": found.version,
        "time": moment(found.time_ns),
        "generation": found.generation,
        "state": None if found.is_damaged else found.values(),
        "damaged": found.is_damaged,
    }


def _text(found: Checkpoint) -> str:
    if found.is_damaged:
        return f"damaged: echo-core state reset {printable(found.plugin)}"
    text = printable(msgspec.json.encode(found.values()).decode())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _table(states: list[Checkpoint]) -> FittingTable:
    table = FittingTable("SOURCE", "VERSION", Column("TIME (UTC)", spare=1), Column("STATE", cut=True))
    for each in states:
        table.add_row(each.plugin, each.version, moment(each.time_ns, separator=" "), _text(each))
    return table
