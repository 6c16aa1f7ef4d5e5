"""Publishing and processing a message, as telemetry sees it: the promises every engine keeps."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import ClassVar, Self

from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from common_telemetry import propagation
from common_telemetry.message import ObservedMessage, Outgoing


class MessageScope:
    """A `with` block around one span. Telemetry raises nothing in it; the block's own errors pass through."""

    __slots__ = ()

    @abstractmethod
    def __enter__(self) -> Self:
        """Start the span and make it current, also for tasks and asyncio.to_thread begun in the block."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the span. An exception that passes through is recorded as by `fail`."""

    @property
    def span_context(self) -> SpanContext:
        """The identity of the span once the block has begun, also after its end."""
        return INVALID_SPAN_CONTEXT

    @property
    def trace_id_hex(self) -> str:
        """32 hex digits; "" before the block and with telemetry off."""
        return propagation.trace_id(self.span_context)

    @property
    def traceparent(self) -> str:
        """The span as a W3C header; "" before the block and with telemetry off."""
        return propagation.traceparent(self.span_context)


class PublishScope(MessageScope):
    """A message on its way to the transport."""

    __slots__ = ()

    @abstractmethod
    def carrier(self) -> dict[str, str]:
        """What to put into the message before it is sent: traceparent, tracestate, baggage; {} when off."""

    def make_current(self) -> None:
        """Make the span current for what is left of the block, if it is not. Call within the block."""

    @abstractmethod
    def fail(self, error: BaseException | str) -> None:
        """The transport did not take it: the span becomes an error. Call within the block."""


class PublishBatchScope:
    """A `with` block around several messages on their way to the transport. Raises nothing of its own."""

    __slots__ = ()

    @abstractmethod
    def __enter__(self) -> Self:
        """Start a span for each message. None of them becomes current."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the spans. An exception that passes through is recorded as by `fail`."""

    @abstractmethod
    def carriers(self) -> Iterable[dict[str, str]]:
        """As `PublishScope.carrier`, for each message in turn; without end when off."""

    @abstractmethod
    def fail(self, error: BaseException | str) -> None:
        """The transport did not take them all: the spans become errors. Call within the block."""


class ProcessScope(MessageScope):
    """A message, or a batch, in the hands of a plugin."""

    __slots__ = ()

    @property
    def topic(self) -> str:
        """The topic of the message; "" when off."""
        return ""

    @property
    def ended_ns(self) -> int:
        """When the block ended, Unix time in nanoseconds; 0 before that and when off."""
        return 0

    @abstractmethod
    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        """Say that this attempt failed: its span becomes an error, with an event for an exception, and a log.

        `error_type` is the class of an exception if not given, and "_OTHER" for a text. Call within the
        block.
        """

    @abstractmethod
    def outcome(self, name: str) -> None:
        """How it ended: processed, filtered, dead_lettered or retry. Call within the block."""


class MessageTelemetry:
    """Message spans of one plugin, for the host that moves the messages."""

    __slots__ = ()

    recording: ClassVar[bool] = True
    """False where nothing is kept, and the messages need not be described."""

    @abstractmethod
    def publish(
        self,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...] = (),
        is_current: bool = True,
    ) -> PublishScope:
        """A PRODUCER span `publish <topic>`: child of the current span, or a new root.

        In init, shutdown and health checks it is a new root with a link: those are never parents of messages.
        Unless `is_current` it need not be current in the block before `make_current` is called: that is for
        who knows that most often no other code runs in it.
        """

    @abstractmethod
    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        """A PRODUCER span `publish <topic>` for each message.

        It is a child of the current span; for a message whose origin belongs to another trace than that
        span, as in a batch of several traces, a child of the origin's publish span.
        """

    @abstractmethod
    def process(
        self,
        topic: str,
        message: ObservedMessage,
        *,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        """A CONSUMER span `process <topic>`: child of the publish span the message names.

        The context of the block comes from the message alone, whatever was current outside. A `replay`, or a
        message older than `trace_max_age_s`, starts a new trace that links to the old one. `attempt` counts
        from 1; the scope of the attempt before goes into `previous` and is linked. At the end processing time
        is measured, and for a first attempt the time in the queue.
        """

    @abstractmethod
    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        """One CONSUMER span for several messages, with a link for each.

        All from one trace: child of the last message's publish span. From several: the root of a new trace.
        """

    @abstractmethod
    def dead_letter(
        self, topic: str, message: ObservedMessage, reason: str, failed: ProcessScope
    ) -> PublishScope:
        """A PRODUCER span `publish <topic>` to the dead letter topic, child of the `failed` attempt."""

    @abstractmethod
    def crash(self, topic: str, message: ObservedMessage, exit_code: int, *, attempt: int = 1) -> None:
        """The plugin's process died over this message; the host makes its span, so that the trace goes on.

        An error span with `error.type` plugin_crash and no length, because nobody knows when the work began,
        and an ERROR log record.
        """
