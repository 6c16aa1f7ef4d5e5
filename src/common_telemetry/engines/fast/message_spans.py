"""Spans of messages: what every message of one plugin and topic has in common is held, and written, once."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, TraceState

from common_telemetry import attributes as names
from common_telemetry.attributes import Operation, PluginIdentity
from common_telemetry.config import Semconv
from common_telemetry.engines.fast.bounded import PLAIN, Link, bounded
from common_telemetry.engines.fast.identity import SpanIdentity, new_span_id
from common_telemetry.engines.fast.spans import FastSpan

if TYPE_CHECKING:
    from common_telemetry.engines.fast.trace_bytes import SiteBytes
    from common_telemetry.engines.fast.tracer import FastTracer

_KINDS: Final = {names.PUBLISH: SpanKind.PRODUCER, names.PROCESS: SpanKind.CONSUMER}
# So many attributes may be set on a message span before it becomes an ordinary one, which counts and drops.
_OWN: Final = 32
ROOM: Final = 2 * _OWN
"""The smallest limit on attributes that no message span can reach before it becomes an ordinary one."""


class Site:
    """Where messages pass: a plugin in one status that publishes to one topic, or processes what is on it."""

    __slots__ = ("after", "attributes", "before", "bytes", "kind", "name", "topic", "with_root", "with_twins")

    def __init__(self, operation: Operation, plugin: PluginIdentity, topic: str, semconv: Semconv) -> None:
        self.name = f"{operation.name} {topic}"
        self.topic = topic
        self.kind = _KINDS[operation]
        self.with_root = semconv != "otel"
        self.with_twins = semconv != "echo"
        self.attributes = plugin.attributes
        constant = names.message_attributes(operation, plugin, topic, "", "", (), semconv)
        # The ids of a message stand after its topic, their twins at the end.
        self.before = {**plugin.attributes, names.MESSAGE_TOPIC: constant[names.MESSAGE_TOPIC]}
        self.after = {key: value for key, value in constant.items() if key not in self.before}
        self.bytes: SiteBytes | None = None

    def starting(
        self,
        message_id: str,
        root_id: str,
        parent_ids: Sequence[str],
        attempt: int,
        queue_time_ms: float | None,
    ) -> dict[str, Any]:
        """All attributes a span starts with. An `attempt` of 0 is none."""
        found: dict[str, Any] = {**self.before, names.MESSAGE_ID: message_id}
        if root_id and self.with_root:
            found[names.ROOT_ID] = root_id
        if parent_ids:
            found[names.PARENT_IDS] = tuple(parent_ids)
        found |= self.after
        if self.with_twins:
            found[names.MESSAGING_ID] = message_id
            if root_id:
                found[names.CONVERSATION_ID] = root_id
        if attempt:
            found[names.ATTEMPT] = attempt
        if queue_time_ms is not None:
            found[names.QUEUE_TIME_MS] = queue_time_ms
        return found


class MessageSpan(FastSpan):
    """A publish or process span: its site, and what differs from message to message.

    Once something is done to it that this form has no place for, it settles: becomes an ordinary span.
    """

    __slots__ = ("attempt", "linked", "message_id", "parent_ids", "queue_time_ms", "root_id", "site")

    def __init__(
        self,
        tracer: "FastTracer",
        site: Site,
        trace_id: bytes,
        flags: int,
        trace_state: TraceState | None,
        parent: SpanIdentity | None,
        start_ns: int,
        message_id: str,
        root_id: str,
        parent_ids: Sequence[str],
    ) -> None:
        # What FastSpan's constructor does, without the cost of calling it.
        self.tracer = tracer
        self.name = site.name
        self.kind = site.kind
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.flags = flags
        self.trace_state = trace_state
        if parent is None:
            self.parent_id, self.parent_is_remote = None, False
        else:
            self.parent_id, self.parent_is_remote = parent.span_id, parent.is_remote
        self.start_ns = start_ns
        self.end_ns = None
        self.pairs = {}
        self.details = None
        self._known = None
        self.site: Site | None = site
        self.message_id = message_id
        self.root_id = root_id
        self.parent_ids = parent_ids
        self.attempt = 0  # none
        self.queue_time_ms: float | None = None
        self.linked = False  # to its parent, which is the span that published the message

    def set_attribute(self, key: str, value: Any) -> None:
        site, pairs = self.site, self.pairs
        if (
            site is not None
            and self.end_ns is None
            and value.__class__ in PLAIN
            and key.__class__ is str
            and key not in _STARTING
            and len(key) > 0
            and len(pairs) < _OWN
        ):
            if key in pairs:
                del pairs[key]
            pairs[key] = value
        else:
            super().set_attribute(key, value)

    def own_attributes(self) -> dict[str, Any]:
        self.settle()
        return self.pairs

    def own_links(self) -> list[Link]:
        self.settle()
        return super().own_links()

    def seen_attributes(self) -> dict[str, Any]:
        return self.pairs if self.site is None else self._starting(self.site) | self.pairs

    def seen_links(self) -> list[Link]:
        return super().seen_links() if self.site is None else [*self._starting_links(), *super().seen_links()]

    def settle(self) -> None:
        """Become an ordinary span. Safe to repeat."""
        site = self.site
        if site is None:
            return
        limits = self.tracer.limits
        starting, lost = bounded(
            self._starting(site), limits.max_span_attributes, limits.max_span_attribute_length
        )
        self.pairs = starting | self.pairs
        if lost:
            self.detailed().dropped_attributes += lost
        if self.linked:
            self.detailed().links[:0] = self._starting_links()
        self.site = None

    def _starting_links(self) -> list[Link]:
        if not self.linked or self.parent_id is None:
            return []
        attributes = {names.MESSAGING_ID: self.message_id}
        return [Link(self.trace_id, self.parent_id, self.parent_is_remote, attributes, 0)]

    def _starting(self, site: Site) -> dict[str, Any]:
        return site.starting(self.message_id, self.root_id, self.parent_ids, self.attempt, self.queue_time_ms)


_STARTING: Final = frozenset(
    {
        *names.STANDARD,
        names.ROOT_ID,
        names.PARENT_IDS,
        names.SYSTEM,
        names.OPERATION_NAME,
        names.OPERATION_TYPE,
        names.DESTINATION,
        names.CONSUMER_GROUP,
        names.CLIENT_ID,
        names.MESSAGING_ID,
        names.CONVERSATION_ID,
        names.ATTEMPT,
        names.QUEUE_TIME_MS,
    }
)
