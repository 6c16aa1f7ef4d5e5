"""Spans of messages: what every message of one plugin and topic has in common is held, and written, once.

A span is written in one go: the parts that differ from message to message, with the constant
bytes between them. Where those stand depends on a few lengths only, so a `Layout` is made once for each
combination of them, which in practice is one or two a site.
"""

from collections.abc import Sequence
from struct import calcsize
from typing import Any, Final

from opentelemetry.trace import SpanKind

from common_telemetry import attributes as names
from common_telemetry.attributes import Operation, PluginIdentity
from common_telemetry.config import Semconv
from common_telemetry.engines.fast import trace_bytes as encode
from common_telemetry.engines.fast import wire
from common_telemetry.engines.fast.layout import BITS, Layout, MessageIds
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.redaction import Redaction

_KINDS: Final = {names.PUBLISH: SpanKind.PRODUCER, names.PROCESS: SpanKind.CONSUMER}
ROOM: Final = 64
"""The smallest limits on a span's attributes and links that no message span can reach by itself."""
_LAYOUTS_KEPT: Final = 64
# Everything about a message that is written by its name rather than looked at: it must be allowed to leave.
_WRITTEN: Final = (
    names.MESSAGE_ID,
    names.MESSAGING_ID,
    names.ROOT_ID,
    names.CONVERSATION_ID,
    names.PARENT_IDS,
    names.ATTEMPT,
    names.QUEUE_TIME_MS,
    names.OUTCOME,
)


def may_be_laid_out(redaction: Redaction) -> bool:
    """Whether nothing that differs from message to message has to be kept from leaving."""
    return all(map(redaction.keeps, _WRITTEN))


class Standing:
    """What the messages of a tracer have to be told about it, each of them."""

    __slots__ = ("always", "is_simple", "origin")

    def __init__(self, *, is_simple: bool, always: bool) -> None:
        self.is_simple = is_simple
        """Whether `FastTracer.place` says all there is to say about a new span, and it may be laid out."""
        self.always = always
        """Whether each new trace is sampled."""
        self.origin: Origin | None = None
        """Where its spans come from, once that was asked for."""


class Site:
    """Where messages pass: a plugin in one status that publishes to one topic, or processes what is on it."""

    __slots__ = (
        "_after",
        "_before",
        "_layouts",
        "_linked",
        "_redaction",
        "_with_root",
        "_with_twins",
        "attributes",
        "key",
        "kind",
        "layout",
        "name",
        "topic",
    )

    def __init__(
        self,
        operation: Operation,
        plugin: PluginIdentity,
        topic: str,
        semconv: Semconv,
        redaction: Redaction,
        *,
        linked: bool,
    ) -> None:
        """`linked`: its spans link to their parent, which is the span that published the message."""
        self.name = f"{operation.name} {topic}"
        self.topic = topic
        self.kind = _KINDS[operation]
        self.attributes = plugin.attributes
        self.key = 0
        self.layout: Layout | None = None
        """The layout asked for last, most often the next one too; and its key, if that is a number."""
        self._layouts: dict[Any, Layout] = {}
        self._redaction = redaction
        self._linked = linked
        self._with_root = semconv != "otel"
        self._with_twins = semconv != "echo"
        constant = names.message_attributes(operation, plugin, topic, "", "", (), semconv)
        # The ids of a message stand after its topic, their twins at the end.
        self._before = {**plugin.attributes, names.MESSAGE_TOPIC: constant[names.MESSAGE_TOPIC]}
        self._after = {key: value for key, value in constant.items() if key not in self._before}

    def starting(self, ids: MessageIds, attempt: int = 0, queue_time_ms: float = 0.0) -> dict[str, Any]:
        """All attributes a span starts with. Without an `attempt` it was in no queue either."""
        message_id, root_id, parent_ids = ids.message_id, ids.root_id, ids.parent_ids
        found: dict[str, Any] = {**self._before, names.MESSAGE_ID: message_id}
        if root_id and self._with_root:
            found[names.ROOT_ID] = root_id
        if parent_ids:
            found[names.PARENT_IDS] = tuple(parent_ids)
        found |= self._after
        if self._with_twins:
            found[names.MESSAGING_ID] = message_id
            if root_id:
                found[names.CONVERSATION_ID] = root_id
        if attempt:
            found[names.ATTEMPT] = attempt
            found[names.QUEUE_TIME_MS] = queue_time_ms
        return found

    def lay_out_publish(self, key: Any, shape: int, is_child: bool) -> Layout:
        """The layout for ids of this shape, with a parent or without; kept under `key`."""
        return self._find(key) or self._keep(key, [*self._head(is_child), *self._ids(shape), encode.ENDING])

    def lay_out_elsewhere(self, key: Any, shape: int) -> Layout:
        """That of a publication whose parent is the span by which another message was published."""
        return self._find(key) or self._keep(
            key, [*self._head(True), *self._ids(shape), encode.ENDING_REMOTE]
        )

    def lay_out_process(self, key: Any, shape: int, attempt: int, outcome: str, is_child: bool) -> Layout:
        """The layout for ids of this shape, attempt and outcome, with a parent or not; kept under `key`."""
        found = self._find(key)
        if found is not None:
            return found
        message = shape >> 2 * BITS
        parts: list[bytes | str] = [
            *self._head(is_child),
            *self._ids(shape),
            encode.attribute(names.ATTEMPT, attempt) + encode.before_double(names.QUEUE_TIME_MS),
            "d",
            encode.attribute(names.OUTCOME, outcome) if outcome else b"",
        ]
        if self._linked and is_child:
            before, between, after = encode.link_around(names.MESSAGING_ID, message)
            parts += [before, "16s", between[0], "8s", between[1], f"{message}s", after]
        else:
            parts += [b"", "0s", b"", "0s", b"", "0s", b""]
        return self._keep(key, [*parts, encode.ENDING_REMOTE if is_child else encode.ENDING])

    def _head(self, is_child: bool) -> list[bytes | str]:
        return [
            encode.TRACE_ID,
            "16s",
            encode.SPAN_ID,
            "8s",
            encode.PARENT_ID if is_child else b"",
            "8s" if is_child else "0s",
            encode.head(self.name, self.kind) + encode.START,
            "Q",
            encode.END,
            "Q",
            encode.attributes(self._redaction.of(self._before)),
        ]

    def _ids(self, shape: int) -> list[bytes | str]:
        """A part that is absent has no bytes: `0s` takes any."""
        lengths = (1 << BITS) - 1
        message, root, parent = shape >> 2 * BITS, shape >> BITS & lengths, (shape & lengths) - 1
        with_root, with_twin = bool(root and self._with_root), bool(root and self._with_twins)
        after = encode.attributes(self._redaction.of(self._after))
        return [
            encode.before_text(names.MESSAGE_ID, message),
            f"{message}s",
            encode.before_text(names.ROOT_ID, root) if with_root else b"",
            f"{root}s" if with_root else "0s",
            encode.before_only_text(names.PARENT_IDS, parent) if parent >= 0 else b"",
            f"{max(parent, 0)}s",
            after + (encode.before_text(names.MESSAGING_ID, message) if self._with_twins else b""),
            f"{message}s" if self._with_twins else "0s",
            encode.before_text(names.CONVERSATION_ID, root) if with_twin else b"",
            f"{root}s" if with_twin else "0s",
        ]

    def _keep(self, key: Any, parts: Sequence[bytes | str]) -> Layout:
        size = sum(len(part) if isinstance(part, bytes) else calcsize(f"<{part}") for part in parts)
        first, *others = parts
        assert isinstance(first, bytes)
        whole = [wire.ITEM + wire.varint(size) + first, *others]
        merged: list[bytes | str] = []
        for part in whole:
            if isinstance(part, bytes) and merged and isinstance(merged[-1], bytes):
                merged[-1] += part
            else:
                merged.append(part)
        layout = Layout(merged)
        if len(self._layouts) < _LAYOUTS_KEPT:
            self._layouts[key] = layout
            self._find(key)
        return layout

    def _find(self, key: Any) -> Layout | None:
        found = self._layouts.get(key)
        if found is not None and type(key) is int:
            self.key, self.layout = key, found
        return found
