"""What can be asked and done of dead letters: by the command line, host or not, and by the control API.

Every document here is what `echo-core dlq ... --json` prints and what the API answers.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from echo_core.errors import MessageError
from echo_core.message import decode
from echo_core.runtime.dead_letters.edits import data_as_json, difference, with_data
from echo_core.runtime.dead_letters.files import read_letters, write_letters
from echo_core.runtime.dead_letters.jobs import ReplayJob, ReplayWish
from echo_core.runtime.dead_letters.letter import Attempt, DeadLetter, kind_of
from echo_core.runtime.dead_letters.selection import Selection, moment
from echo_core.runtime.dead_letters.store import DeadLetterStore

_KINDS: Final = 100
_SHOWN: Final = 20
"""Letters of a dry run that are shown."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one plugin whose reasons differ in the messages' own values only."""

    plugin: str
    kind: str
    """The reason, with … for such values; `error=` finds the group by it."""
    reason: str
    """That of one of them."""
    count: int
    first: str
    """When the oldest was kept: ISO 8601, UTC."""
    last: str


class LetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter in a list."""

    id: int
    time: str
    """When it was kept: ISO 8601, UTC."""
    plugin: str
    version: str
    topic: str
    message_id: str
    root_id: str
    trace_id: str
    reason: str
    kind: str
    attempts: int
    replays: int
    """How often the message was replayed before."""
    quarantined: bool
    """It has come back too often to be replayed without force."""
    edited: bool
    damaged: bool
    """It is not as it was written, and is not replayed."""


class LetterPage(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters, the newest first, and how many there are of each kind."""

    total: int
    """How many are meant, shown or not."""
    groups: tuple[Group, ...]
    letters: tuple[LetterRow, ...]


class LetterWhole(LetterRow, frozen=True, kw_only=True):
    """A dead letter with all that is known of it."""

    errors: tuple[Attempt, ...]
    """Every attempt's, the first first."""
    config_digest: str
    """SHA-256 of the plugin's effective configuration."""
    message: Any
    """As it came; None where it cannot be decoded, or holds what JSON has not."""
    original: bytes
    """As it came, MessagePack in base64."""
    edited_message: Any
    """As it is to be replayed, where that is not how it came."""


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """What an edit changed, or would change."""

    id: int
    changed: bool
    dry_run: bool
    diff: tuple[str, ...]
    """Lines of a unified diff of the data as JSON."""


class Discarded(msgspec.Struct, frozen=True, kw_only=True):
    """How many were thrown away, or would be."""

    discarded: int
    dry_run: bool


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """How many were read from a file."""

    imported: int
    already_there: int
    """Left out: the same letters were kept before."""


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that was asked for, or what it would be."""

    dry_run: bool
    total: int
    """How many are meant."""
    letters: tuple[LetterRow, ...] = ()
    """dry run: the first of them."""
    job: ReplayJob | None = None


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """Replays, the newest first."""

    jobs: tuple[ReplayJob, ...]


class LetterDesk:
    """Over one store. Everything reads or writes a file: not for an event loop's thread."""

    def __init__(self, store: DeadLetterStore) -> None:
        self.store = store

    def page(self, selection: Selection, *, limit: int, before: int | None = None) -> LetterPage:
        """The newest `limit` of those that are meant, with numbers below `before`."""
        last = None if before is None else before - 1
        letters = self.store.select(selection, limit=limit, last=last)
        return LetterPage(
            total=self.store.count(selection=selection),
            groups=tuple(
                Group(
                    plugin=kind.plugin,
                    kind=kind.kind,
                    reason=kind.reason,
                    count=kind.count,
                    first=moment(kind.first_ns),
                    last=moment(kind.last_ns),
                )
                for kind in self.store.kinds(selection, limit=_KINDS)
            ),
            letters=tuple(map(row, letters)),
        )

    def letter(self, number: int) -> LetterWhole:
        """One of them; raises `NotFound`."""
        letter = self.store.get(number)
        return LetterWhole(
            **msgspec.structs.asdict(row(letter)),
            errors=letter.attempts,
            config_digest=letter.config_digest,
            message=as_json(letter.original),
            original=letter.original,
            edited_message=None if letter.edited is None else as_json(letter.edited),
        )

    def edit(self, number: int, data: Any, *, dry_run: bool = False) -> Edited:
        """Let its replay send other data. Raises `NotFound`, `EditRefused`, `MessageError`."""
        letter = self.store.get(number)
        changes = difference(data_as_json(letter), data)
        message = with_data(letter, data)
        if changes and not dry_run:
            self.store.edit(number, message)
        return Edited(id=number, changed=bool(changes), dry_run=dry_run, diff=tuple(changes))

    def discard(self, selection: Selection, *, dry_run: bool = False) -> Discarded:
        """Throw them away, for good. Raises `NotFound` for a number that there is not."""
        store = self._knowing(selection)
        count = store.count(selection=selection) if dry_run else store.discard(selection)
        return Discarded(discarded=count, dry_run=dry_run)

    def export(self, selection: Selection) -> Iterator[str]:
        """A line of JSON for each, the oldest first. Raises `NotFound` for a number that there is not."""
        return write_letters(self._knowing(selection).each(selection))

    def _knowing(self, selection: Selection) -> DeadLetterStore:
        """The store, if it has all that are meant by their numbers."""
        for number in selection.ids:
            self.store.get(number)
        return self.store

    def import_lines(self, lines: Iterable[str], *, where: str) -> Imported:
        """Keep what `export` wrote and is not there: all, or none. Raises `LetterFileError`."""
        letters = list(read_letters(lines, where=where))
        imported = self.store.restore(letters)
        return Imported(imported=imported, already_there=len(letters) - imported)

    def replay(self, wish: ReplayWish, *, dry_run: bool = False) -> Replay:
        """Ask for a replay; whoever holds a transport runs it, and `job` says how far it has come.

        Raises `NotFound` for a number that there is not.
        """
        self._knowing(wish.selection)
        if not dry_run:
            job = self.store.jobs.add(wish)
            return Replay(dry_run=False, total=job.total, job=job)
        meant = self.store.select(
            wish.selection,
            limit=min(_SHOWN, wish.first or _SHOWN),
            oldest_first=True,
            quarantined=wish.force,
        )
        return Replay(dry_run=True, total=self.store.jobs.total(wish), letters=tuple(map(row, meant)))

    def jobs(self) -> Jobs:
        """The newest replays."""
        return Jobs(jobs=tuple(self.store.jobs.newest()))

    def job(self, number: int) -> ReplayJob:
        """One replay; raises `NotFound`."""
        return self.store.jobs.get(number)

    def cancel(self, number: int) -> ReplayJob:
        """Go no further with a replay. Raises `NotFound`, `ChangeRefused`."""
        return self.store.jobs.cancel(number)

    def close(self) -> None:
        """Let the file go."""
        self.store.close()


def row(letter: DeadLetter) -> LetterRow:
    """The letter in a list."""
    return LetterRow(
        id=letter.id,
        time=moment(letter.time_ns),
        plugin=letter.plugin,
        version=letter.version,
        topic=letter.topic,
        message_id=letter.message_id,
        root_id=letter.root_id,
        trace_id=letter.trace_id,
        reason=letter.reason,
        kind=kind_of(letter.reason),
        attempts=len(letter.attempts),
        replays=letter.replays,
        quarantined=letter.is_quarantined,
        edited=letter.edited is not None,
        damaged=letter.is_damaged,
    )


def as_json(message: bytes) -> Any:
    """The message as JSON-like values; None when the bytes are none, or hold what JSON cannot."""
    try:
        return msgspec.to_builtins(decode(message), str_keys=True)
    except (MessageError, TypeError, ValueError):
        return None
