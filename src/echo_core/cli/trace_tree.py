"""One message's trace as a tree of lines: who published it, who handled it, how long it waited and took."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from common_telemetry import SpanRecord

_KEPT: Final = 20_000
"""Spans remembered: a run may be long, the tree is of one message."""


class TraceBook:
    """Remembers the newest finished spans; `TelemetryContext.tap` feeds it."""

    def __init__(self) -> None:
        self._spans: deque[SpanRecord] = deque(maxlen=_KEPT)

    def __call__(self, span: "SpanRecord") -> None:
        """Remember it."""
        self._spans.append(span)

    def widest(self) -> "Sequence[SpanRecord]":
        """The spans of the trace through most plugins, of several the one with most spans; [] for none.

        Traces of a plugin's life (init, health checks) do not count: they handle no message.
        """
        traces: dict[str, list[SpanRecord]] = defaultdict(list)
        for span in self._spans:
            traces[span.trace_id].append(span)
        about_messages = [spans for spans in traces.values() if any(s.kind == "consumer" for s in spans)]
        return max(about_messages, key=lambda spans: (_plugins(spans), len(spans)), default=[])


def render_trace(spans: "Sequence[SpanRecord]") -> list[str]:
    """The trace as lines: a heading, then a line for each span, children below their parent by time."""
    if not spans:
        return ["no message was traced"]
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanRecord]] = defaultdict(list)
    for span in sorted(spans, key=lambda s: s.start_ns):
        children[span.parent_span_id if span.parent_span_id in known else ""].append(span)
    took = max(s.end_ns for s in spans) - min(s.start_ns for s in spans)
    heading = f"trace {spans[0].trace_id}: {len(spans)} spans, {_plugins(spans)} plugins, {_ms(took)}"
    rows = list(_rows(children, "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  ".join((tree.ljust(widths[0]), plugin.ljust(widths[1]), duration.rjust(widths[2]), notes)).rstrip()
        for tree, plugin, duration, notes in rows
    ]
    return [heading, *lines]


def _rows(
    children: "dict[str, list[SpanRecord]]", parent: str, indent: str
) -> Iterable[tuple[str, str, str, str]]:
    siblings = children.get(parent, [])
    for span in siblings:
        last = span is siblings[-1]
        branch = "" if not parent else ("└─ " if last else "├─ ")
        deeper = "" if not parent else ("   " if last else "│  ")
        plugin = str(span.attributes.get("plugin.name", ""))
        yield f"{indent}{branch}{span.name}", plugin, _ms(span.end_ns - span.start_ns), _notes(span)
        yield from _rows(children, span.span_id, indent + deeper)


def _notes(span: "SpanRecord") -> str:
    """What is worth saying beside the times."""
    attributes = span.attributes
    notes = []
    if "echo.message.queue_time_ms" in attributes:
        notes.append(f"waited {float(attributes['echo.message.queue_time_ms']):.1f} ms")
    if int(attributes.get("echo.delivery.attempt", 1)) > 1:
        notes.append(f"attempt {attributes['echo.delivery.attempt']}")
    if attributes.get("echo.message.outcome") == "filtered":
        notes.append("filtered")
    if span.status == "error":
        notes.append(f"failed: {span.status_description or attributes.get('error.type', '')}")
    return ", ".join(notes)


def _plugins(spans: "Sequence[SpanRecord]") -> int:
    return len({span.attributes.get("plugin.name") for span in spans} - {None})


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f} ms"
