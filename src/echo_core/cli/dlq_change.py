"""`echo-core dlq edit`, `discard`, `export` and `import`: dead letters changed, thrown away, and in files."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from echo_core.cli.letters import Which, chosen, store_of
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.cli.usage import UsageError
from echo_core.runtime.letter_edits import data_as_json, difference, with_data
from echo_core.runtime.letter_files import read_letters, write_letters

_MOST: Final = 10_000_000

LetterId = Annotated[int, Parameter(help="The number that `dlq list` shows.")]
Ids = Annotated[int, Parameter(help="Numbers that `dlq list` shows.", negative=())]
All = Annotated[bool, Parameter(name="--all", help="All there are.")]
Data = Annotated[
    str | None,
    Parameter(help="A file with the new data, as JSON; - is stdin. Without it, your $EDITOR opens."),
]
DryRun = Annotated[bool, Parameter(help="Only show what would change.")]
File = Annotated[Path | None, Parameter(help="Where to write; without it, to stdout.")]
FromFile = Annotated[str, Parameter(help="What `dlq export` wrote; - is stdin.", allow_leading_hyphen=True)]


def edit_letter(
    letter_id: LetterId, /, *, data: Data = None, dry_run: DryRun = False, session: SessionArgument
) -> None:
    """Change what a dead letter's message says.

    The data, as JSON; the change is shown, and holds for its replay. What came first stays with the letter.
    For example: echo-core dlq edit 7 --data mended.json
    """
    store = store_of(session)
    try:
        letter = store.get(letter_id)
        before = data_as_json(letter)
        after = _edited(before) if data is None else _read(data)
        message = with_data(letter, after)
        changes = difference(before, after)
        if changes and not dry_run:
            store.edit(letter_id, message)
    finally:
        store.close()
    document = {"id": letter_id, "changed": bool(changes), "dry_run": dry_run, "diff": changes}
    session.out.result("dlq.edit", document, printable("\n".join(changes)) or "nothing was changed")


def discard_letters(
    *ids: Ids, which: Which | None = None, everything: All = False, session: SessionArgument
) -> None:
    """Throw dead letters away, for good.

    For example: echo-core dlq discard --plugin loud_words --until 2026-11-01
    """
    store = store_of(session)
    try:
        count = store.discard(chosen(which, ids, everything, "discard"))
    finally:
        store.close()
    session.out.result("dlq.discard", {"discarded": count}, f"{count:,} discarded")


def export_letters(
    *ids: Ids,
    which: Which | None = None,
    everything: All = False,
    file: File = None,
    session: SessionArgument,
) -> None:
    """Write dead letters to a file.

    As JSON Lines, one a line, with all that is known of each; they stay where they are.
    For example: echo-core dlq export --all --file letters.jsonl
    """
    store = store_of(session)
    try:
        letters = store.select(chosen(which, ids, everything, "export"), limit=_MOST, oldest_first=True)
    finally:
        store.close()
    text = "".join(f"{line}\n" for line in write_letters(letters))
    if file is None:
        session.out.stdout.write(text)
        return
    file.write_text(text, encoding="utf-8")
    document = {"exported": len(letters), "file": str(file)}
    session.out.result("dlq.export", document, f"{len(letters):,} written to {file}")


def import_letters(file: FromFile, /, *, session: SessionArgument) -> None:
    """Read dead letters from a file.

    They get numbers of their own. All of them, or none when a line is wrong.
    For example: echo-core dlq import letters.jsonl
    """
    letters = list(read_letters(_read(file).splitlines(), where=file))
    store = store_of(session)
    try:
        store.add(letters)
    finally:
        store.close()
    session.out.result("dlq.import", {"imported": len(letters)}, f"{len(letters):,} imported")


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read", why=str(error)) from error


def _edited(text: str) -> str:
    """The text as the person at the terminal has changed it."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor or not sys.stdin.isatty():
        raise UsageError(
            "there is nothing to change it with",
            why="EDITOR is not set" if not editor else "this is no terminal",
            fix="use --data FILE, or --data=- for stdin",
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.json"
        file.write_text(text, encoding="utf-8")
        subprocess.run([*shlex.split(editor), str(file)], check=True)
        return file.read_text(encoding="utf-8")
