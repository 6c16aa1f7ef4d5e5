"""The path of a message as a tree: messages, below each the plugins that had it, and what they made."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from echo_core.cli.output import printable
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.message_history.differences import Difference
from echo_core.runtime.message_history.documents import Handled, MessagePath, Step, Visit

_LONGEST: Final = 60
"""Characters of a value that is shown beside another."""
_TRACES: Final = 3
"""Ids of traces that are named."""
_HEADINGS: Final = ("", "WAIT", "WORK", "OUTCOME")


class _Row(NamedTuple):
    tree: str
    wait: str = ""
    work: str = ""
    text: str = ""


def render_path(path: MessagePath, *, payloads: bool = False) -> list[str]:
    """A sentence, the tree, and what is missing."""
    tree = _Tree(path, payloads=payloads)
    rows = [_Row(*_HEADINGS), *tree.rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join(
            (row.tree.ljust(widths[0]), row.wait.rjust(widths[1]), row.work.rjust(widths[2]), row.text)
        ).rstrip()
        for row in rows
    ]
    return [_sentence(path), *lines, *_notes(path)]


class _Tree:
    def __init__(self, path: MessagePath, *, payloads: bool) -> None:
        self._asked = path.asked
        self._payloads = payloads
        self._known = {step.id: step for step in path.messages}
        self._shown: set[str] = set()
        self._path = path
        self._children: dict[str, list[Step]] = {}
        for step in path.messages:
            for parent in step.parents:
                self._children.setdefault(parent, []).append(step)

    def rows(self) -> Iterator[_Row]:
        for step in self._path.messages:
            is_below = any(parent in self._known for parent in step.parents)
            if not is_below and step.id not in self._shown:
                yield from self._message(step, "", "", is_top=True)
        for step in self._path.messages:  # made from something that is not in the tree after all
            if step.id not in self._shown:
                yield from self._message(step, "", "", is_top=True)

    def _message(self, step: Step, first: str, rest: str, *, is_top: bool = False) -> Iterator[_Row]:
        yield _Row(
            f"{first}{(step.topic and printable(step.topic)) or '?'}", text=self._about(step, is_top=is_top)
        )
        if step.id in self._shown:
            return
        self._shown.add(step.id)
        by_plugin: dict[str, list[Step]] = {}
        for child in self._children.get(step.id, ()):
            by_plugin.setdefault(child.source, []).append(child)
        branches: list[tuple[Visit | None, list[Step]]] = [
            (visit, by_plugin.pop(visit.plugin, [])) for visit in step.visits
        ]
        branches += [(None, [child]) for others in by_plugin.values() for child in others]
        detail = "│  " if branches else "   "
        for line in self._details(step):
            yield _Row(f"{rest}{detail}", text=line)
        for place, (visit, made) in enumerate(branches):
            is_last = place == len(branches) - 1
            branch, below = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            if visit is None:
                yield from self._message(made[0], rest + branch, rest + below)
                continue
            yield from _visit(visit, rest + branch, rest + below)
            for number, child in enumerate(made):
                is_end = number == len(made) - 1
                yield from self._message(
                    child,
                    rest + below + ("└─ " if is_end else "├─ "),
                    rest + below + ("   " if is_end else "│  "),
                )

    def _about(self, step: Step, *, is_top: bool) -> str:
        text = step.id
        if step.id == self._asked:
            text += "  <- asked for"
        if not step.is_known:
            return f"{text}  (how it came about is not recorded, or no longer kept)"
        if step.id in self._shown:
            return f"{text}  (see above)"
        if is_top:
            version = f" {step.version}" if step.version else ""
            text += f"  from {printable(step.source)}{version}, {moment(step.time_ns, separator=' ')}"
        if len(step.parents) > 1:
            text += f"  made from {len(step.parents)} messages"
        if step.is_replay:
            text += f"  replayed to {step.only or 'all'}"
        return text

    def _details(self, step: Step) -> Iterator[str]:
        if not step.is_kept:
            return
        if self._payloads:
            masked = f"  (masked: {', '.join(step.masked)})" if step.masked else ""
            yield f"data: {_json(step.data)}{masked}"
        for difference in step.differences:
            yield _difference(difference)


def _visit(visit: Visit, first: str, rest: str) -> Iterator[_Row]:
    """A line for each attempt; the plugin's name stands at the first."""
    if not visit.attempts:
        yield _Row(f"{first}{visit.plugin}", text=_WITHOUT.get(visit.state, visit.state))
        return
    for place, attempt in enumerate(visit.attempts):
        head = f"{first}{visit.plugin} {attempt.version}" if not place else f"{rest}"
        is_event = attempt.outcome in ("dead-lettered", "shed", "returned")
        yield _Row(
            head,
            "" if is_event else _ms(attempt.wait_ms),
            "" if is_event else _ms(attempt.work_ms),
            _outcome(attempt, alone=len(visit.attempts) == 1),
        )
    if visit.state in _WITHOUT:
        yield _Row(rest, text=_WITHOUT[visit.state])


_WITHOUT: Final = {
    "waiting": "not ended: it waits, or is being handled",
    "unknown": "how it ended is not known: the host was killed, or records were dropped",
}


def _outcome(attempt: Handled, *, alone: bool) -> str:
    text = attempt.outcome
    if attempt.outcome == "returned":
        text = "handed back: the plugin or the host stopped"
    if attempt.error or attempt.error_type:
        error = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else attempt.error
        text += f": {printable(error.partition(chr(10))[0])}"
    if not alone and attempt.outcome in ("failed", "processed", "filtered"):
        text += f" (attempt {attempt.number})"
    if attempt.batch:
        text += f" (in a batch of {attempt.batch:,})"
    return text


def _sentence(path: MessagePath) -> str:
    visits = [visit for step in path.messages for visit in step.visits]
    counts: dict[str, int] = {}
    for visit in visits:
        counts[visit.state] = counts.get(visit.state, 0) + 1
    ends = ", ".join(f"{count:,} {state}" for state, count in counts.items()) or "no plugin had it"
    messages = f"{len(path.messages):,} message{'s' if len(path.messages) != 1 else ''}"
    tries = [
        f"{visit.plugin} needed {len(tried):,} attempts"
        for visit in visits
        if len(
            tried := [each for each in visit.attempts if each.outcome in ("failed", "processed", "filtered")]
        )
        > 1
    ]
    ended = "so far" if {"waiting", "unknown"} & set(counts) else "in all"
    return f"{messages}, {_ms(path.total_ms)} {ended}: {ends}" + "".join(f"; {each}" for each in tries[:5])


def _notes(path: MessagePath) -> Iterator[str]:
    traces = list(dict.fromkeys(step.trace_id for step in path.messages if step.trace_id))
    if traces:
        more = f" and {len(traces) - _TRACES:,} more" if len(traces) > _TRACES else ""
        yield f"trace{'s' if len(traces) > 1 else ''} {', '.join(traces[:_TRACES])}{more}"
    if path.more:
        yield f"{path.more:,} more messages belong to it: --limit shows more"
    if path.gaps:
        yield f"{path.gaps:,} records were dropped meanwhile: some of what happened may be missing"
    if path.damaged:
        yield f"{path.damaged:,} blocks of records are damaged: some of what happened may be missing"
    extent = path.extent
    if any(not step.is_known for step in path.messages) and extent.pruned_ns:
        through = _when(extent.pruned_ns)
        yield f"what was written up to {through} was pruned (retain_s, max_size_mb of [history])"
    if any(visit.state == "waiting" for step in path.messages for visit in step.visits):
        yield f"as of {moment(path.as_of_ns, separator=' ')}"


def _difference(difference: Difference) -> str:
    path = difference.path or "data"
    if difference.kind == "added":
        return f"+ {path}: {_short(difference.after)}"
    if difference.kind == "removed":
        return f"- {path}: {_short(difference.before)}"
    return f"~ {path}: {_short(difference.before)} -> {_short(difference.after)}"


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _json(value: Any) -> str:
    return printable(msgspec.json.encode(value).decode())


def _when(time_ns: int) -> str:
    return moment(time_ns, separator=" ")


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.1f} ms"
