"""A trace drawn as a tree."""

from typing import Any

from common_telemetry import SpanRecord
from echo_core.cli.trace_tree import TraceBook, render_trace


def span(name: str, own: str, parent: str = "", **more: Any) -> SpanRecord:
    attributes = {"plugin.name": more.pop("plugin", "p")} | more.pop("attributes", {})
    start = more.pop("start", 0)
    return SpanRecord(
        name=name,
        kind=more.pop("kind", "consumer"),
        trace_id=more.pop("trace", "t1"),
        span_id=own,
        parent_span_id=parent,
        start_ns=start,
        end_ns=start + more.pop("ms", 1) * 1_000_000,
        attributes=attributes,
        **more,
    )


def test_children_stand_below_their_parent_in_the_order_in_which_they_began() -> None:
    lines = render_trace(
        [
            span("process b", "3", "1", start=2, plugin="second"),
            span("publish raw", "1", kind="producer", plugin="source", ms=5),
            span("process a", "2", "1", start=1, plugin="first"),
            span("publish out", "4", "2", start=1, kind="producer", plugin="first"),
        ]
    )
    assert lines == [
        "trace t1: 4 spans, 3 plugins, 5.0 ms",
        "publish raw        source  5.0 ms",
        "├─ process a       first   1.0 ms",
        "│  └─ publish out  first   1.0 ms",
        "└─ process b       second  1.0 ms",
    ]


def test_waits_attempts_outcomes_and_failures_are_said() -> None:
    (_, line) = render_trace(
        [
            span(
                "process a",
                "1",
                attributes={"echo.message.queue_time_ms": 2.25, "echo.delivery.attempt": 2},
                status="error",
                status_description="ValueError: no",
            )
        ]
    )
    assert line.endswith("waited 2.2 ms, attempt 2, failed: ValueError: no")
    (_, line) = render_trace([span("process a", "1", attributes={"echo.message.outcome": "filtered"})])
    assert line.endswith("filtered")


def test_a_span_whose_parent_is_not_known_is_a_root() -> None:
    assert len(render_trace([span("process a", "2", "gone")])) == 2


def test_the_book_offers_the_trace_that_went_through_most_plugins() -> None:
    book = TraceBook()
    for record in (
        span("plugin.init", "0", trace="life", kind="internal", plugin="x"),
        span("process a", "1", trace="short"),
        span("process a", "2", trace="short"),
        span("process a", "3", trace="long"),
        span("process b", "4", trace="long", plugin="q"),
    ):
        book(record)
    assert {record.trace_id for record in book.widest()} == {"long"}


def test_without_a_message_there_is_nothing_to_draw() -> None:
    book = TraceBook()
    book(span("plugin.init", "0", kind="internal"))
    assert render_trace(book.widest()) == ["no message was traced"]
