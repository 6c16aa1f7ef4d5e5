"""A finished span as plain data: what a tap hands out and what the test kit compares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class SpanLink:
    """A reference to another span, possibly in another trace. Ids are lower-case hex."""

    trace_id: str
    span_id: str
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one moment of a span; `time_ns` is Unix time in nanoseconds."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One finished span. Ids are lower-case hex, times Unix nanoseconds.

    `kind` is internal, server, client, producer or consumer; `status` is unset, ok or error; `parent_span_id`
    is "" for the root of a trace. `scope` names what made the span: `echo.plugin.<name>` for a plugin's own.
    """

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_span_id: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Any]
    status: str = "unset"
    status_description: str = ""
    links: tuple[SpanLink, ...] = ()
    events: tuple[SpanEvent, ...] = ()
    scope: str = ""
