"""`echo-core dlq edit`, `discard`, `export` and `import`: dead letters changed, thrown away, and in files."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from cyclopts import Parameter

from echo_core.cli.letters import All, Ids, LetterId, Which, desk_of, meant
from echo_core.cli.output import printable
from echo_core.cli.session import SessionArgument
from echo_core.cli.usage import UsageError
from echo_core.runtime.dead_letters import DeadLetter
from echo_core.runtime.dead_letters.edits import EditRefused, data_as_json, data_of
from echo_core.runtime.libraries.files import replacing

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
    with desk_of(session) as desk:
        letter = desk.store.get(letter_id)
        before = data_as_json(letter)
        after = _edited(letter, before) if data is None else data_of(letter, _read(data))
        done = desk.edit(letter_id, after, dry_run=dry_run)
    text = printable("\n".join(done.diff)) or "nothing was changed"
    session.out.result("dlq.edit", done, text)
    if done.changed and not dry_run:
        session.out.note(f"next: echo-core dlq replay {letter_id}")


def discard_letters(
    *ids: Ids,
    which: Which | None = None,
    everything: All = False,
    dry_run: DryRun = False,
    session: SessionArgument,
) -> None:
    """Throw dead letters away, for good.

    For example: echo-core dlq discard --plugin loud_words --until 2026-11-01 --dry-run
    """
    with desk_of(session) as desk:
        done = desk.discard(meant(which, ids, everything), dry_run=dry_run)
    text = f"{done.discarded:,} {'would be discarded' if dry_run else 'discarded'}"
    session.out.result("dlq.discard", done, text)


def export_letters(
    *ids: Ids,
    which: Which | None = None,
    everything: All = False,
    file: File = None,
    session: SessionArgument,
) -> None:
    """Write dead letters to a file.

    As JSON Lines, one a line, with all that is known of each; they stay where they are. A file is there when
    it is whole; one that was there before stays until then.
    For example: echo-core dlq export --all --file letters.jsonl
    """
    with desk_of(session) as desk:
        lines = desk.export(meant(which, ids, everything))
        if file is None:
            session.out.stdout.writelines(lines)
            return
        try:
            with _writing(file) as stream:
                count = sum(1 for line in lines if stream.write(line.encode()))
        except OSError as error:
            raise UsageError(f"{file} cannot be written", why=str(error)) from error
    document = {"exported": count, "file": str(file)}
    session.out.result("dlq.export", document, f"{count:,} written to {file}")


def import_letters(file: FromFile, /, *, session: SessionArgument) -> None:
    """Read dead letters from a file.

    They get numbers of their own. All of them, or none when a line is wrong. What is there already, as it
    stands in the file, is left out: who was interrupted may do it again.
    For example: echo-core dlq import letters.jsonl
    """
    lines = _read(file).split("\n")  # not splitlines: a message may hold other breaks
    with desk_of(session) as desk:
        done = desk.import_lines(lines, where=file)
    text = f"{done.imported:,} imported"
    if done.already_there:
        text += f", {done.already_there:,} were there already"
    session.out.result("dlq.import", done, text)


def _writing(file: Path) -> AbstractContextManager[BinaryIO]:
    """The file, to be written anew; devices and pipes are written to as they are."""
    target = Path(os.path.realpath(file))
    return target.open("wb") if target.exists() and not target.is_file() else replacing(target)


def _read(name: str) -> str:
    if name == "-":
        return sys.stdin.read()
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read", why=str(error)) from error


def _edited(letter: DeadLetter, text: str) -> Any:
    """The data as the person at the terminal has changed it."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor or not sys.stdin.isatty():
        raise UsageError(
            "there is nothing to change it with",
            why="EDITOR is not set" if not editor else "this is no terminal",
            fix="use --data FILE, or --data=- for stdin",
        )
    folder = Path(tempfile.mkdtemp(prefix="echo-core-"))
    file = folder / f"dead-letter-{letter.id}.json"
    file.write_text(text, encoding="utf-8")
    try:
        subprocess.run([*shlex.split(editor), str(file)], check=True)
        data = data_of(letter, file.read_bytes())
    except EditRefused as error:  # nobody wants to type it again
        command = f"echo-core dlq edit {letter.id} --data {shlex.quote(str(file))}"
        raise EditRefused(error.what, why=error.why, fix=f"mend {file}, then {command}") from error
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(
            "the editor did not end well; nothing was changed", why=str(error), fix="use --data FILE"
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    return data
