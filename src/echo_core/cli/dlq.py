"""`echo-core dlq`: the messages that no attempt could finish."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter, validators

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable
from echo_core.cli.session import Session, SessionArgument
from echo_core.errors import MessageError
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetter, DeadLetterStore, Kind

if TYPE_CHECKING:
    from rich.table import Table

_KINDS_SHOWN: Final = 10
"""A reason often holds a value of the message, and then every letter is a kind of its own."""

LetterId = Annotated[int, Parameter(help="The number that `dlq list` shows.")]
Plugin = Annotated[
    str | None, Parameter(help="Only what this plugin could not handle.", completer=plugin_names)
]
Limit = Annotated[
    int, Parameter(help="At most so many.", show_default=True, validator=validators.Number(gte=1))
]


def list_letters(*, plugin: Plugin = None, limit: Limit = 100, session: SessionArgument) -> None:
    """Show the dead letters, the newest first.

    And how many there are of each kind, shown or not. For example: echo-core dlq list --plugin loud_words
    """
    store = _store(session)
    try:
        letters = store.newest(plugin=plugin, limit=limit)
        groups = [_group(kind) for kind in store.kinds(plugin=plugin, limit=limit)]
        total = store.count(plugin=plugin)
    finally:
        store.close()
    document = {"total": total, "groups": groups, "letters": [_row(letter) for letter in letters]}
    if not letters:
        of = f" of {plugin}" if plugin else ""
        session.out.result("dlq.list", document, f"no dead letters{of}")
        return
    session.out.result("dlq.list", document, _table(letters))
    for kind in groups[:_KINDS_SHOWN]:
        session.out.note(f"{kind['count']:,} x {kind['plugin']}: {_first_line(kind['reason'])}")
    session.out.note(f"{len(letters):,} of {total:,} shown; one of them whole: echo-core dlq show ID")


def show_letter(letter_id: LetterId, /, *, session: SessionArgument) -> None:
    """Show one dead letter whole.

    Every attempt's error, and the message as it came. For example: echo-core dlq show 7
    """
    store = _store(session)
    try:
        letter = store.get(letter_id)
    finally:
        store.close()
    document = _row(letter) | {
        "attempts": letter.attempts,
        "message": _message(letter),
        "original": letter.original,
    }
    session.out.result("dlq.show", document, "\n".join(_page(letter)))


def _group(kind: Kind) -> dict[str, Any]:
    return {
        "plugin": kind.plugin,
        "reason": kind.reason,
        "count": kind.count,
        "first": _time(kind.first_ns),
        "last": _time(kind.last_ns),
    }


def _store(session: Session) -> DeadLetterStore:
    return DeadLetterStore(session.workspace().state / FILE_NAME)


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "time": _time(letter.time_ns),
        "plugin": letter.plugin,
        "version": letter.version,
        "topic": letter.topic,
        "message_id": letter.message_id,
        "root_id": letter.root_id,
        "trace_id": letter.trace_id,
        "reason": letter.reason,
        "attempts": len(letter.attempts),
    }


def _table(letters: Sequence[DeadLetter]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("ID", justify="right")
    for heading in ("TIME", "PLUGIN", "TOPIC"):
        table.add_column(heading, overflow="fold")
    table.add_column("ATTEMPTS", justify="right")
    table.add_column("REASON", overflow="fold")
    for letter in letters:
        table.add_row(
            str(letter.id),
            _time(letter.time_ns),
            f"{letter.plugin} {letter.version}",
            letter.topic,
            str(len(letter.attempts)),
            _first_line(letter.reason),
        )
    return table


def _page(letter: DeadLetter) -> Iterator[str]:
    yield f"dead letter {letter.id}: {letter.plugin} {letter.version}, {_time(letter.time_ns)}"
    yield f"  topic    {printable(letter.topic)}"
    yield f"  message  {letter.message_id}"
    yield f"  root     {letter.root_id}"
    yield f"  trace    {letter.trace_id or '-'}"
    yield f"  reason   {_indented(letter.reason, 11)}"
    for attempt in letter.attempts:
        yield f"attempt {attempt.number}, {_time(attempt.time_ns)}"
        yield f"  {attempt.error_type}: {_indented(attempt.error, 2)}"
        if attempt.traceback:
            yield f"  {_indented(attempt.traceback.rstrip(), 2)}"
    message = _message(letter)
    yield "message as it came" if message is not None else "message as it came: not decodable, its text"
    shown = (
        letter.original if message is None else msgspec.json.format(msgspec.json.encode(message), indent=2)
    )
    yield printable(shown.decode("utf-8", "replace"))


def _message(letter: DeadLetter) -> Any:
    """The message as JSON-like values; None when the bytes are none, or hold what JSON cannot."""
    try:
        return msgspec.to_builtins(letter.message(), str_keys=True)
    except (MessageError, TypeError, ValueError):
        return None


def _time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(sep=" ", timespec="milliseconds")


def _first_line(text: str) -> str:
    return printable(text.partition("\n")[0])


def _indented(text: str, columns: int) -> str:
    return printable(text).replace("\n", "\n" + " " * columns)
