"""Message telemetry of a plugin whose process reports for itself: the host adds only what that cannot say."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from opentelemetry.trace import SpanContext

from common_telemetry import MessageTelemetry, ProcessScope, PublishBatchScope, PublishScope, propagation
from common_telemetry.message import ObservedMessage, Outgoing
from echo_core.runtime.lane import AttemptFailed


class RelayedScope(ProcessScope):
    """One attempt that is handled, and reported, elsewhere."""

    __slots__ = ("_messages", "_span_context", "_topic", "attempt", "message", "previous")

    def __init__(
        self,
        messages: MessageTelemetry,
        topic: str,
        message: ObservedMessage,
        attempt: int,
        previous: ProcessScope | None,
    ) -> None:
        self._messages = messages
        self._topic = topic
        self._span_context: SpanContext | None = None
        self.message = message
        self.attempt = attempt
        self.previous = previous.traceparent if previous is not None else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def span_context(self) -> SpanContext:
        """The span that the process made for a failed attempt; else the one that published the message."""
        if self._span_context is not None:
            return self._span_context
        return propagation.span_context(propagation.extract(self.message.trace_context))

    def was(self, traceparent: str) -> None:
        """The process reported this attempt with that span."""
        if traceparent:
            self._span_context = span_of(traceparent)

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        """Report what the process cannot know: that what came out of it was not accepted."""
        if isinstance(error, AttemptFailed | TimeoutError) or self._span_context is not None:
            return
        with self._messages.process(self._topic, self.message, attempt=self.attempt) as scope:
            scope.fail(error, error_type)
        self._span_context = scope.span_context

    def outcome(self, name: str) -> None:
        return


class RelayedMessages(MessageTelemetry):
    """Of one lane. `scope` is the attempt that the lane is at."""

    __slots__ = ("_messages", "scope")

    def __init__(self, messages: MessageTelemetry) -> None:
        self._messages = messages
        self.scope: RelayedScope | None = None

    def publish(
        self,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...] = (),
        is_current: bool = True,
    ) -> PublishScope:
        return self._messages.publish(topic, message_id, root_id, parent_ids, is_current)

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        return self._messages.publish_batch(topic, messages)

    def process(
        self,
        topic: str,
        message: ObservedMessage,
        *,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        scope = self.scope = RelayedScope(self._messages, topic, message, attempt, previous)
        return scope

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        return self._messages.batch(topic, messages, attempt=attempt)

    def dead_letter(
        self, topic: str, message: ObservedMessage, reason: str, failed: ProcessScope
    ) -> PublishScope:
        return self._messages.dead_letter(topic, message, reason, failed)

    def crash(self, topic: str, message: ObservedMessage, exit_code: int, *, attempt: int = 1) -> None:
        self._messages.crash(topic, message, exit_code, attempt=attempt)


def span_of(traceparent: str) -> SpanContext:
    """The span that a W3C traceparent names."""
    return propagation.span_context(propagation.extract({"traceparent": traceparent}))
