"""Spans as the OpenTelemetry API wants them, kept as a few slots until they are written as OTLP."""

import logging
from collections.abc import Mapping, Sequence
from time import time_ns
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import Link as ApiLink
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceState

from common_telemetry.engines.fast.bounded import Event, Link, append, bounded, put, put_all
from common_telemetry.engines.fast.identity import SAMPLED, SpanIdentity
from common_telemetry.engines.fast.primitives import new_span_id
from common_telemetry.errors import TOLD, message_of, whole_exception
from common_telemetry.weight import weight_of_all

if TYPE_CHECKING:
    from common_telemetry.engines.fast.tracer import FastTracer

# The SDK's own logger, so that what an application does about these complaints holds for both engines.
_logger = logging.getLogger("opentelemetry.sdk.trace")
_UNSET: Final = Status(StatusCode.UNSET)


class Details:
    """What most spans never have."""

    __slots__ = (
        "dropped_attributes",
        "dropped_events",
        "dropped_links",
        "events",
        "links",
        "record_exception",
        "set_status_on_exception",
        "status",
    )

    def __init__(self) -> None:
        self.status = _UNSET
        self.events: list[Event] = []
        self.links: list[Link] = []
        self.dropped_attributes = self.dropped_events = self.dropped_links = 0
        self.record_exception = self.set_status_on_exception = True


class FastSpan(SpanIdentity, Span):
    """A span that is recorded. Nothing in it raises, and after its end it does not change.

    There are no locks: each change is one operation on a dict, a list or a slot, which the interpreter does
    as a whole. Only two threads that end the same span in the same moment may both win: it is sent twice.
    """

    __slots__ = (
        "details",
        "end_ns",
        "kind",
        "name",
        "pairs",
        "parent_id",
        "parent_is_remote",
        "start_ns",
        "tracer",
    )

    def __init__(
        self,
        tracer: "FastTracer",
        name: str,
        kind: SpanKind,
        trace_id: bytes,
        flags: int,
        trace_state: TraceState | None,
        parent_id: bytes | None,
        parent_is_remote: bool,
        start_ns: int,
        pairs: dict[str, Any],
    ) -> None:
        self.tracer = tracer
        self.name = name
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.flags = flags
        self.trace_state = trace_state
        self.parent_id = parent_id
        self.parent_is_remote = parent_is_remote
        self.start_ns = start_ns
        self.end_ns: int | None = None
        self.pairs = pairs
        self.details: Details | None = None
        self._known = None

    def own_attributes(self) -> dict[str, Any]:
        """The attributes, to change."""
        return self.pairs

    def own_links(self) -> list[Link]:
        """The links, to change."""
        return self.detailed().links

    def seen_attributes(self) -> dict[str, Any]:
        """The attributes, only to look at."""
        return self.pairs

    def seen_links(self) -> list[Link]:
        """The links, only to look at."""
        return [] if self.details is None else self.details.links

    def detailed(self) -> Details:
        """What most spans never have, made if this one has had none of it yet."""
        if self.details is None:
            self.details = Details()
        return self.details

    def is_recording(self) -> bool:
        return self.end_ns is None

    def set_attribute(self, key: str, value: Any) -> None:
        if self.end_ns is not None:
            _logger.warning("Setting attribute on ended span.")
            return
        limits = self.tracer.limits
        lost = put(
            self.own_attributes(), key, value, limits.max_span_attributes, limits.max_span_attribute_length
        )
        if lost:
            self.detailed().dropped_attributes += lost

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self.end_ns is not None:
            _logger.warning("Setting attribute on ended span.")
            return
        limits = self.tracer.limits
        try:
            lost = put_all(
                self.own_attributes(),
                attributes,
                limits.max_span_attributes,
                limits.max_span_attribute_length,
            )
        except Exception as error:  # noqa: BLE001 - it may be no mapping at all
            self.tracer.refuse("attributes", self.name, error)
            return
        if lost:
            self.detailed().dropped_attributes += lost

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        if self._has_ended("_add_event"):
            return
        limits = self.tracer.limits
        try:
            kept, lost = bounded(attributes, limits.max_event_attributes, limits.max_attribute_length)
        except Exception as error:  # noqa: BLE001 - it may be no mapping at all
            self.tracer.refuse("an event", self.name, error)
            return
        event = Event(name, time_ns() if timestamp is None else timestamp, kept, lost)
        details = self.detailed()
        details.dropped_events += append(details.events, event, limits.max_events)

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        if self._has_ended("_add_link"):
            return
        limits = self.tracer.limits
        try:
            link = _link(context, attributes, self.tracer)
        except Exception as error:  # noqa: BLE001 - nothing of it need be what it should be
            self.tracer.refuse("a link", self.name, error)
            return
        if link is not None:
            self.detailed().dropped_links += append(self.own_links(), link, limits.max_links)

    def update_name(self, name: str) -> None:
        if not self._has_ended("update_name"):
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self._has_ended("set_status"):
            return
        if isinstance(status, StatusCode):
            status = Status(status, description)
        elif description is not None:
            _logger.warning(
                "Description %s ignored. Use either `Status` or `(StatusCode, Description)`", description
            )
        # OK is the last word, and unset says nothing.
        if (
            isinstance(status, Status)
            and not status.is_unset
            and self.status.status_code is not StatusCode.OK
        ):
            self.detailed().status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        try:
            given = attributes or {}
            is_told = all(name in given for name in TOLD)  # then it need not be formatted twice
            told = dict.fromkeys(TOLD, "") if is_told else whole_exception(exception)
            described: dict[str, Any] = {**told, "exception.escaped": str(escaped), **given}
        except Exception as error:  # noqa: BLE001 - a plugin's exception class may be broken in itself
            self.tracer.refuse("an exception", self.name, error)
            return
        self.add_event("exception", described, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self.end_ns is not None:
            _logger.warning("Calling end() on an ended span.")
            return
        self.end_ns = time_ns() if end_time is None else end_time
        if self.flags & SAMPLED:
            self.tracer.finish(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and self.end_ns is None:
            self.passed_through(error, escaped=True)
        self.end()

    def weight(self) -> int:
        """About how many bytes its attributes, events and links take."""
        found, details = weight_of_all(self.pairs), self.details
        if details is not None:
            found += sum(weight_of_all(event.attributes) for event in details.events)
            found += sum(weight_of_all(link.attributes) for link in details.links)
        return found

    def passed_through(self, error: BaseException, *, escaped: bool = False) -> None:
        """An exception left the block around this span: record it as far as the span was made to."""
        if self.details is None or self.details.record_exception:
            self.record_exception(error, escaped=escaped)
        if self.details is None or self.details.set_status_on_exception:
            self.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {message_of(error)}"))

    def _has_ended(self, call: str) -> bool:
        if self.end_ns is not None:
            _logger.warning("Tried calling %s on an ended span.", call)
        return self.end_ns is not None

    # What the SDK's spans can be asked beyond the API; instrumentations of web frameworks do ask.

    @property
    def context(self) -> SpanContext:
        """The same as `get_span_context`."""
        return self.get_span_context()

    @property
    def attributes(self) -> Mapping[str, Any]:
        """All attributes so far, to read."""
        return MappingProxyType(self.seen_attributes())

    @property
    def status(self) -> Status:
        """The status so far."""
        return _UNSET if self.details is None else self.details.status

    @property
    def start_time(self) -> int:
        """Unix time in nanoseconds."""
        return self.start_ns

    @property
    def end_time(self) -> int | None:
        """Unix time in nanoseconds; None before the end."""
        return self.end_ns


class IdleSpan(SpanIdentity, NonRecordingSpan):
    """A span that is not sampled: it has a place in its trace, and that is all."""

    __slots__ = ()

    def __init__(self, trace_id: bytes, flags: int, trace_state: TraceState | None) -> None:
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.flags = flags
        self.trace_state = trace_state
        self._known = None


def links_of(given: Sequence[ApiLink], tracer: "FastTracer") -> tuple[list[Link], int]:
    """The links a span starts with, within the limit, and how many that lost."""
    found: list[Link] = []
    lost, most = 0, tracer.limits.max_links
    # The last ones stay. From the end, because a batch has many more than that, which need not be made.
    for one in reversed(tuple(given)):
        if most is not None and len(found) >= most:
            lost += bool(one) and _says_something(one.context, one.attributes)
            continue
        link = _link(one.context, one.attributes, tracer) if one else None
        if link is not None:
            found.append(link)
    found.reverse()
    return found, lost


def _says_something(context: SpanContext, attributes: Mapping[str, Any] | None) -> bool:
    # The API allows an invalid context where something else says what is meant.
    return bool(context and (context.is_valid or attributes or context.trace_state))


def _link(context: SpanContext, attributes: Mapping[str, Any] | None, tracer: "FastTracer") -> Link | None:
    if not _says_something(context, attributes):
        return None
    limits = tracer.limits
    kept, lost = bounded(attributes, limits.max_link_attributes, limits.max_attribute_length)
    return Link(
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        context.is_remote,
        kept,
        lost,
    )
