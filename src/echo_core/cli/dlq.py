"""`echo-core dlq list` and `show`: the messages that no attempt could finish."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter, validators

from echo_core.cli.letters import Which, moment, row, store_of
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.errors import MessageError
from echo_core.message import decode
from echo_core.runtime.dead_letters import DeadLetter, Kind

if TYPE_CHECKING:
    from rich.table import Table

_KINDS_SHOWN: Final = 10
"""A reason often holds a value of the message, and then every letter is a kind of its own."""

LetterId = Annotated[int, Parameter(help="The number that `dlq list` shows.")]
Limit = Annotated[
    int, Parameter(help="At most so many.", show_default=True, validator=validators.Number(gte=1))
]


def list_letters(*, which: Which | None = None, limit: Limit = 100, session: SessionArgument) -> None:
    """Show the dead letters, the newest first.

    And how many there are of each kind, shown or not. For example: echo-core dlq list --plugin loud_words
    """
    selection = (which or Which()).selection()
    store = store_of(session)
    try:
        letters = store.select(selection, limit=limit)
        groups = [_group(kind) for kind in store.kinds(selection=selection, limit=limit)]
        total = store.count(selection=selection)
    finally:
        store.close()
    document = {"total": total, "groups": groups, "letters": [row(letter) for letter in letters]}
    if not letters:
        of = f" of {selection.plugin}" if selection.plugin else ""
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
    store = store_of(session)
    try:
        letter = store.get(letter_id)
    finally:
        store.close()
    document = row(letter) | {
        "attempts": letter.attempts,
        "config_digest": letter.config_digest,
        "message": _message(letter.original),
        "original": letter.original,
        "edited_message": None if letter.edited is None else _message(letter.edited),
    }
    session.out.result("dlq.show", document, "\n".join(_page(letter)))


def _group(kind: Kind) -> dict[str, Any]:
    return {
        "plugin": kind.plugin,
        "reason": kind.reason,
        "count": kind.count,
        "first": moment(kind.first_ns),
        "last": moment(kind.last_ns),
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
            moment(letter.time_ns),
            f"{letter.plugin} {letter.version}",
            letter.topic,
            str(len(letter.attempts)),
            ("[quarantined] " if letter.is_quarantined else "") + _first_line(letter.reason),
        )
    return table


def _page(letter: DeadLetter) -> Iterator[str]:
    yield f"dead letter {letter.id}: {letter.plugin} {letter.version}, {moment(letter.time_ns)}"
    yield f"  topic    {printable(letter.topic)}"
    yield f"  message  {letter.message_id}"
    yield f"  root     {letter.root_id}"
    yield f"  trace    {letter.trace_id or '-'}"
    yield f"  reason   {_indented(letter.reason, 11)}"
    if letter.replays:
        held = ", and is quarantined: replay it with --force" if letter.is_quarantined else ""
        yield f"  replays  {letter.replays}{held}"
    for attempt in letter.attempts:
        yield f"attempt {attempt.number}, {moment(attempt.time_ns)}"
        yield f"  {attempt.error_type}: {_indented(attempt.error, 2)}"
        if attempt.traceback:
            yield f"  {_indented(attempt.traceback.rstrip(), 2)}"
    yield from _shown("message as it came", letter.original)
    if letter.edited is not None:
        yield from _shown("message as it is to be replayed", letter.edited)


def _shown(title: str, raw: bytes) -> Iterator[str]:
    message = _message(raw)
    yield title if message is not None else f"{title}: not decodable, its text"
    text = raw if message is None else msgspec.json.format(msgspec.json.encode(message), indent=2)
    yield printable(text.decode("utf-8", "replace"))


def _message(raw: bytes) -> Any:
    """The message as JSON-like values; None when the bytes are none, or hold what JSON cannot."""
    try:
        return msgspec.to_builtins(decode(raw), str_keys=True)
    except (MessageError, TypeError, ValueError):
        return None


def _first_line(text: str) -> str:
    return printable(text.partition("\n")[0])


def _indented(text: str, columns: int) -> str:
    return printable(text).replace("\n", "\n" + " " * columns)
