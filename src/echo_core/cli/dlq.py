"""`echo-core dlq list` and `show`: the messages that no attempt could finish."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter, validators

from echo_core.cli.letters import LetterId, Which, desk_of
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.cli.tables import Column, FittingTable, numbers
from echo_core.runtime.dead_letters import Selection
from echo_core.runtime.dead_letters.desk import Group, LetterPage, LetterRow, LetterWhole
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.raised import brief

_GROUPS_SHOWN: Final = 10

Limit = Annotated[
    int, Parameter(help="At most so many.", show_default=True, validator=validators.Number(gte=1))
]
Before = Annotated[int | None, Parameter(help="Only those with smaller numbers: the next page.")]
Groups = Annotated[bool, Parameter(help="Only how many there are of each kind.")]


def list_letters(
    *,
    which: Which | None = None,
    limit: Limit = 100,
    before: Before = None,
    groups: Groups = False,
    session: SessionArgument,
) -> None:
    """Show the dead letters, the newest first.

    And how many there are of each kind, shown or not: of one plugin, with reasons that differ in the
    messages' own values only. For example: echo-core dlq list --plugin loud_words --since 2h
    """
    selection = (which or Which()).selection()
    with desk_of(session) as desk:
        page = desk.page(selection, limit=limit, before=before)
    if not page.total:
        of = f" of {selection.plugin}" if selection.plugin else ""
        rest = "" if selection in (Selection(), Selection(plugin=selection.plugin)) else ", chosen like that"
        session.out.result("dlq.list", page, f"no dead letters{of}{rest}")
        return
    session.out.result("dlq.list", page, _groups(page.groups) if groups else _table(page.letters))
    if not groups:
        for line in _beside(page):
            session.out.note(line)


def _beside(page: LetterPage) -> Iterator[str]:
    """What the list does not say: how many are alike, and how to go on."""
    if len(page.groups) < page.total:
        for group in page.groups[:_GROUPS_SHOWN]:
            yield f"{group.count:,} x {group.plugin}: {printable(group.kind)}"
        if len(page.groups) > _GROUPS_SHOWN:
            yield "and other kinds: echo-core dlq list --groups"
    yield f"{len(page.letters):,} of {page.total:,} shown; one of them whole: echo-core dlq show ID"


def show_letter(letter_id: LetterId, /, *, session: SessionArgument) -> None:
    """Show one dead letter whole.

    Every attempt's error, and the message as it came. For example: echo-core dlq show 7
    """
    with desk_of(session) as desk:
        letter = desk.letter(letter_id)
    session.out.result("dlq.show", letter, "\n".join(_page(letter)))
    session.out.note(f"its path: echo-core trace {printable(letter.message_id)}")
    if letter.damaged:
        session.out.note("it is not as it was written, and is not replayed: echo-core dlq check")
        return
    session.out.note(f"next: echo-core dlq edit {letter_id}, or echo-core dlq replay {letter_id}")


def _groups(groups: Sequence[Group]) -> FittingTable:
    table = FittingTable(
        *numbers("COUNT"), "PLUGIN", "KIND", Column("FIRST (UTC)", spare=1), Column("LAST (UTC)", spare=2)
    )
    for group in groups:
        times = (_short(group.first), _short(group.last))
        table.add_row(f"{group.count:,}", group.plugin, printable(group.kind), *times)
    return table


def _table(letters: Sequence[LetterRow]) -> FittingTable:
    table = FittingTable(
        *numbers("ID"), "TIME (UTC)", "PLUGIN", Column("VERSION", spare=1), *numbers("TRIES"), "REASON"
    )
    for letter in letters:
        of_it = {"quarantined": letter.quarantined, "edited": letter.edited, "damaged": letter.damaged}
        marks = "".join(f"[{mark}] " for mark, holds in of_it.items() if holds)
        table.add_row(
            str(letter.id),
            _short(letter.time),
            letter.plugin,
            letter.version,
            str(letter.attempts),
            marks + printable(brief(letter.reason)),
        )
    return table


def _short(time: str) -> str:
    """To the second."""
    return time[:19].replace("T", " ")


def _page(letter: LetterWhole) -> Iterator[str]:
    yield f"dead letter {letter.id}: {letter.plugin} {letter.version}, {letter.time}"
    yield f"  topic    {printable(letter.topic)}"
    yield f"  message  {letter.message_id}"
    yield f"  root     {letter.root_id}"
    yield f"  trace    {letter.trace_id or '-'}"
    yield f"  reason   {_indented(letter.reason, 11)}"
    if letter.replays:
        held = ", and is quarantined: replay it with --force" if letter.quarantined else ""
        yield f"  replays  {letter.replays}{held}"
    for attempt in letter.errors:
        yield f"attempt {attempt.number}, {moment(attempt.time_ns)}"
        yield f"  {attempt.error_type}: {_indented(attempt.error, 2)}"
        if attempt.traceback:
            yield f"  {_indented(attempt.traceback.rstrip(), 2)}"
    yield from _shown("message as it came", letter.message, letter.original)
    if letter.edited:
        yield from _shown("message as it is to be replayed", letter.edited_message)


def _shown(title: str, message: Any, raw: bytes = b"") -> Iterator[str]:
    yield title if message is not None else f"{title}: not decodable, its text"
    text = raw if message is None else msgspec.json.format(msgspec.json.encode(message), indent=2)
    yield printable(text.decode("utf-8", "replace"))


def _indented(text: str, columns: int) -> str:
    return printable(text).replace("\n", "\n" + " " * columns)
