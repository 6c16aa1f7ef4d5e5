"""What the verbs of `dlq` have in common: which letters are meant, and where they are."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.session import Session
from echo_core.cli.usage import UsageError
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetter, DeadLetterStore, Selection

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """Which dead letters are meant; what is not said excludes none."""

    plugin: Annotated[
        str | None, Parameter(help="Only what this plugin could not handle.", completer=plugin_names)
    ] = None
    error: Annotated[str, Parameter(help="Only those whose reason holds this text.")] = ""
    topic: Annotated[str, Parameter(help="Only those that came on topics of this pattern.")] = ""
    id: Annotated[
        str, Parameter(help="Only those with this id: the message's, its root's or its trace's.")
    ] = ""
    since: Annotated[
        str,
        Parameter(help="Only those kept since then: 2026-11-25, 2026-11-25T18:00, or 2h for two hours ago."),
    ] = ""
    until: Annotated[str, Parameter(help="Only those kept before then.")] = ""

    def selection(self, ids: tuple[int, ...] = ()) -> Selection:
        """For the store; raises `UsageError` for a time that is none."""
        return Selection(
            ids=ids,
            plugin=self.plugin,
            error=self.error,
            topic=self.topic,
            message=self.id,
            since_ns=_moment(self.since),
            until_ns=_moment(self.until),
        )


def chosen(which: Which | None, ids: tuple[int, ...], everything: bool, verb: str) -> Selection:
    """The letters that are meant; raises `UsageError` when nothing was said that chooses."""
    selection = (which or Which()).selection(ids)
    if selection.is_everything and not everything:
        raise UsageError(
            "it is not said which dead letters are meant",
            where=f"echo-core dlq {verb}",
            fix="name their numbers, or use --plugin, --error, --topic, --id, --since, --until; or --all",
        )
    return selection


def store_of(session: Session) -> DeadLetterStore:
    """The workspace's dead letters."""
    return DeadLetterStore(session.workspace().state / FILE_NAME)


def row(letter: DeadLetter) -> dict[str, object]:
    """A letter in a list, under --json."""
    return {
        "id": letter.id,
        "time": moment(letter.time_ns),
        "plugin": letter.plugin,
        "version": letter.version,
        "topic": letter.topic,
        "message_id": letter.message_id,
        "root_id": letter.root_id,
        "trace_id": letter.trace_id,
        "reason": letter.reason,
        "attempts": len(letter.attempts),
        "replays": letter.replays,
        "quarantined": letter.is_quarantined,
        "edited": letter.edited is not None,
    }


def moment(time_ns: int) -> str:
    """A time for people and scripts: UTC, to the millisecond."""
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC).isoformat(sep=" ", timespec="milliseconds")


def _moment(text: str) -> int | None:
    """Nanoseconds since the epoch; times without a zone are UTC."""
    if not text:
        return None
    try:
        if text[-1] in _UNITS and text[:-1].replace(".", "", 1).isdigit():
            then = datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        else:
            then = datetime.fromisoformat(text)
            then = then if then.tzinfo is not None else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is no time",
            why=str(error),
            fix="2026-11-25, 2026-11-25T18:00, or 2h for two hours ago",
        ) from error
    return int(then.timestamp() * 1e9)
