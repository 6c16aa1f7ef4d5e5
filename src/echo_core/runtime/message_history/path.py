"""The path of a message: where it came from, all that was made from it, what each plugin did with it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from echo_core.errors import MessageError, NotFound
from echo_core.message import decode
from echo_core.runtime.message_history.differences import differences
from echo_core.runtime.message_history.documents import Handled, MessagePath, Newest, Origin, Step, Visit
from echo_core.runtime.message_history.expected import Expected
from echo_core.runtime.message_history.records import (
    DEAD_LETTERED,
    ENDS,
    OUTCOMES,
    Accepted,
    Done,
    Kept,
    Needles,
)
from echo_core.runtime.message_history.search import Search
from echo_core.runtime.message_history.store import Extent, HistoryStore

MOST: Final = 1_000
"""Messages of one path that are read, unless more are asked for."""
_LOOKED_THROUGH: Final = 64
"""Blocks that are read for the newest messages."""


class History:
    """Answers questions about messages, from a file that others write."""

    def __init__(self, path: Path) -> None:
        self._store = HistoryStore(path)
        self.path = path

    def close(self) -> None:
        """Let the file go."""
        self._store.close()

    def extent(self) -> Extent:
        """How far the history reaches; raises `NotFound` when there is none."""
        self._must_exist()
        return self._store.extent()

    def trace(self, asked: str, *, most: int = MOST) -> MessagePath:
        """The path of the message, root or trace of this id, or of the one message whose id begins so.

        Raises `NotFound`, `AmbiguousId`, and `HistoryError` for a file that cannot be read.
        """
        self._must_exist()
        search = Search(self._store, most)
        found = search.find(asked)
        return _Answers(self._store, search).path(*found)

    def newest(self, count: int) -> Newest:
        """The newest messages that were made from no other."""
        self._must_exist()
        found: list[Accepted] = []
        for block in self._store.blocks(self._store.newest(_LOOKED_THROUGH)):
            found += reversed([record for record in block.records.accepted if not record.parents])
            if len(found) >= count:
                break
        found.sort(key=_made, reverse=True)
        ids = [each.message_id for each in found[:count]]
        search = Search(self._store, MOST)
        search.relatives(ids)  # all at once: every look through the keys takes its time
        answers = _Answers(self._store, search)
        paths = [answers.path(each, "message", [each]) for each in ids]
        return Newest(
            origins=tuple(map(_origin, found, paths)),
            extent=self._store.extent(),
        )

    def kept(self, message_id: str) -> Kept | None:
        """The message, if it was kept whole."""
        self._must_exist()
        keys = self._store.keys()
        for block in self._store.blocks(self._store.find(Needles([message_id]), keys)):
            if message_id in block.payloads:
                return block.payloads[message_id]
        return None

    def _must_exist(self) -> None:
        if not self._store.exists:
            raise NotFound(
                "there is no message history",
                where=str(self.path),
                why="no host has recorded any message here",
                fix="run a host (echo-core run) with `enabled = true` under [history] of echo-core.toml",
            )


class _Answers:
    """Makes paths of what a search finds."""

    def __init__(self, store: HistoryStore, search: Search) -> None:
        self._search = search
        self._store = store
        self._hosts = store.hosts()
        self._expected = Expected(store.path, store.subscriptions(), self._hosts)
        self._extent = store.extent()

    def path(self, asked: str, kind: str, focus: Sequence[str]) -> MessagePath:
        """All that has to do with the messages of `focus`."""
        search = self._search
        messages, more = search.relatives(focus)
        made = [search.when(each)[0] for each in messages]
        first = min(filter(None, made), default=0)
        done = [entry for each in messages for entry in search.done.get(each, ())]
        last = max((int(record.ended * 1e9) + clock for record, clock in done), default=first)
        gaps = sum(block.dropped for block in search.blocks if first <= block.last_ns)
        return MessagePath(
            asked=asked,
            kind=kind,
            messages=_parents_first([self._step(each, gaps + self._store.damaged) for each in messages]),
            more=more,
            total_ms=max(0, last - first) / 1e6 if first else 0.0,
            as_of_ns=max((host.written_ns for host in self._hosts.values()), default=0),
            gaps=gaps,
            damaged=self._store.damaged,
            extent=self._extent,
        )

    def _step(self, message_id: str, gaps: int) -> Step:
        search = self._search
        known, kept = search.accepted.get(message_id), search.kept.get(message_id)
        parent = search.kept.get(known.parents[0]) if known is not None and known.parents else None
        data = _data(kept)
        return Step(
            id=message_id,
            topic=known.topic if known else "",
            source=known.source if known else "",
            version=known.version if known else "",
            time_ns=search.when(message_id)[0],
            trace_id=known.trace_id if known else "",
            root_id=search.root_of(message_id),
            parents=known.parents if known else (),
            only=known.only if known else "",
            is_replay=known.is_replay if known else False,
            is_known=known is not None,
            visits=tuple(self._visits(message_id, known, gaps)),
            is_kept=kept is not None,
            masked=kept.masked if kept else (),
            data=data,
            differences=tuple(differences(_data(parent), data)) if parent and kept else (),
        )

    def _visits(self, message_id: str, known: Accepted | None, gaps: int) -> Iterable[Visit]:
        search, host = self._search, self._search.host_of.get(message_id, 0)
        made_ns, _ = search.when(message_id)
        by_plugin: dict[str, list[tuple[Done, int]]] = {}
        for record, clock in sorted(search.done.get(message_id, ()), key=_began):
            by_plugin.setdefault(record.plugin, []).append((record, clock))
        for plugin, records in by_plugin.items():
            last = records[-1][0].outcome
            state = OUTCOMES[last] if last in ENDS else self._expected.state(known, host, gaps)
            yield Visit(plugin=plugin, state=state, attempts=tuple(_attempts(made_ns, records)))
        if known is not None:
            for plugin in self._expected.of(known, host):
                if plugin not in by_plugin:
                    yield Visit(plugin=plugin, state=self._expected.state(known, host, gaps), attempts=())


def _attempts(made_ns: int, records: Sequence[tuple[Done, int]]) -> Iterable[Handled]:
    before = made_ns
    for record, clock in records:
        began, ended = int(record.began * 1e9) + clock, int(record.ended * 1e9) + clock
        yield Handled(
            number=record.attempt,
            version=record.version,
            outcome=OUTCOMES[record.outcome],
            time_ns=began,
            wait_ms=0.0 if record.outcome == DEAD_LETTERED else max(0, began - before) / 1e6,
            work_ms=(ended - began) / 1e6,
            batch=record.batch,
            error_type=record.error_type,
            error=record.error,
        )
        before = ended


def _made(record: Accepted) -> int:
    return record.timestamp


def _origin(record: Accepted, path: MessagePath) -> Origin:
    states: dict[str, int] = {}
    for step in path.messages:
        for visit in step.visits:
            states[visit.state] = states.get(visit.state, 0) + 1
    return Origin(
        id=record.message_id,
        topic=record.topic,
        source=record.source,
        time_ns=record.timestamp,
        messages=len(path.messages) + path.more,
        total_ms=path.total_ms,
        states=states,
    )


def _parents_first(steps: Sequence[Step]) -> tuple[Step, ...]:
    """In the order of time, but none before those it was made from: clocks may differ."""
    by_id = {step.id: step for step in steps}
    placed: dict[str, Step] = {}
    for step in steps:
        waiting = [step]
        entered = set[str]()
        while waiting:
            top = waiting[-1]
            missing = [
                by_id[each]
                for each in top.parents
                if each in by_id and each not in placed and each not in entered
            ]
            entered.add(top.id)
            if missing:
                waiting.extend(missing)
            else:
                placed.setdefault(top.id, waiting.pop())
    return tuple(placed.values())


def _data(kept: Kept | None) -> Any:
    """What a message says, as JSON-like values."""
    if kept is None:
        return None
    try:
        return msgspec.to_builtins(decode(kept.message).data, str_keys=True)
    except (MessageError, TypeError, ValueError):
        return None


def _began(entry: tuple[Done, int]) -> tuple[int, int, float]:
    record, clock = entry
    return int(record.began * 1e9) + clock, record.attempt, record.ended
