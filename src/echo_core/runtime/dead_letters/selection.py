"""Which dead letters are meant: as values, as people say it, and as SQL."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from echo_core.errors import BadRequest
from echo_core.runtime.dead_letters.database import LARGEST
from echo_core.topics import TopicPattern

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LAST_S: Final = 253_402_300_799
"""The end of the year 9999, which is as far as `datetime` goes."""
_TIMES: Final = "2026-11-25, 2026-11-25T18:00, or 2h for two hours ago"


class SelectionError(BadRequest):
    """It is not said, or not in a way that can be understood, which dead letters are meant."""

    code = "E-SELECTION"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that fit everything that is said here."""

    ids: tuple[int, ...] = ()
    """Numbers given by the store; none means any."""
    plugin: str | None = None
    error: str = ""
    """Text that the reason, or its kind, holds, in either case."""
    topic: str = ""
    """A topic pattern."""
    message: str = ""
    """An id: the message's, its root's, or its trace's."""
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def is_everything(self) -> bool:
        """Whether nothing is said."""
        return self == Selection()

    def where(self, topics: Callable[[], Iterable[str]]) -> tuple[str, tuple[object, ...]]:
        """The clause of SQL, and its arguments; `topics` gives all that there are."""
        parts, arguments = ["1"], list[object]()

        def add(part: str, *values: object) -> None:
            parts.append(part)
            arguments.extend(values)

        if self.ids:
            add("id IN (SELECT value FROM json_each(?))", _as_json(self.ids))
        if self.plugin is not None:
            add("plugin = ?", self.plugin)
        if self.error:
            add(
                "(instr(lower(reason), lower(?)) OR instr(lower(kind_of(CAST(reason AS BLOB))), lower(?)))",
                *(self.error, self.error),
            )
        if self.topic:
            pattern = TopicPattern(self.topic)
            meant = tuple(topic for topic in topics() if pattern.matches(topic))
            add("topic IN (SELECT value FROM json_each(?))", _as_json(meant))
        if self.message:
            add("? IN (message_id, root_id, trace_id)", self.message)
        if self.since_ns is not None:
            add("time_ns >= ?", self.since_ns)
        if self.until_ns is not None:
            add("time_ns < ?", self.until_ns)
        return f"WHERE {' AND '.join(parts)}", tuple(arguments)


def selection(
    *,
    ids: tuple[int, ...] = (),
    plugin: str | None = None,
    error: str = "",
    topic: str = "",
    id: str = "",
    since: str = "",
    until: str = "",
) -> Selection:
    """As people say it; raises `SelectionError` for a time that is none, `TopicError` for a pattern."""
    if topic:
        TopicPattern(topic)
    return Selection(
        ids=ids,
        plugin=plugin,
        error=error,
        topic=topic,
        message=id,
        since_ns=time_ns(since) if since else None,
        until_ns=time_ns(until) if until else None,
    )


def chosen(meant: Selection, *, everything: bool) -> Selection:
    """`meant`; raises `SelectionError` when it means all, and that is not what was said."""
    if meant.is_everything and not everything:
        raise SelectionError(
            "it is not said which dead letters are meant",
            fix="name their numbers, or a plugin, error, topic, id, since or until; or all (--all)",
        )
    return meant


def time_ns(text: str) -> int:
    """Nanoseconds since the epoch; a time without a zone is UTC. Raises `SelectionError`."""
    try:
        if text[-1:] in _UNITS and text[:-1].replace(".", "", 1).isdigit():
            then = datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        else:
            then = datetime.fromisoformat(text)
            then = then if then.tzinfo is not None else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise SelectionError(f"{text!r} is no time", why=str(error), fix=_TIMES) from error
    return min(int(then.timestamp() * 1e9), LARGEST)


def moment(at_ns: int, *, separator: str = "T") -> str:
    """A time that `time_ns` reads: UTC, to the millisecond. One that cannot be is the nearest that can."""
    return datetime.fromtimestamp(min(max(at_ns / 1e9, 0), _LAST_S), tz=UTC).isoformat(
        sep=separator, timespec="milliseconds"
    )


def _as_json(values: tuple[object, ...]) -> str:
    return msgspec.json.encode(values).decode()
