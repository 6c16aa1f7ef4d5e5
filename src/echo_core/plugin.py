"""What a plugin is, what it is given, and how it says how a message went."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, ParamSpec, Protocol, TypeAlias, TypeVar

from echo_core.errors import PluginError
from echo_core.message import BaseMessage

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from common_telemetry import Attributes, TelemetryContext
    from echo_core.transports.base import Transport

P = ParamSpec("P")
R = TypeVar("R")


class Outcome(Enum):
    """What a `ProcessingStatus` asks the host to do with the message."""

    ACKNOWLEDGED = "acknowledged"
    FILTERED = "filtered"
    RETRY_LATER = "retry_later"
    FAILED = "failed"
    FORWARD = "forward"


class ProcessingStatus:
    """How handling one message went; the only way for a plugin to say so.

    ProcessingStatus.ACKNOWLEDGED              done: the message is settled
    ProcessingStatus.FILTERED                  done, and counted as filtered rather than processed
    ProcessingStatus.RETRY_LATER(delay)        again, not before `delay` seconds; counts as an attempt
    ProcessingStatus.FAILED(reason)            never again: the message is dead-lettered at once
    ProcessingStatus.FORWARD(topic, message)   done, and `message` (a message, or data) goes to `topic`
    """

    __slots__ = ("delay", "message", "outcome", "reason", "topic")

    ACKNOWLEDGED: ClassVar["ProcessingStatus"]
    FILTERED: ClassVar["ProcessingStatus"]

    def __init__(
        self, outcome: Outcome, *, delay: float = 0.0, reason: str = "", topic: str = "", message: Any = None
    ) -> None:
        self.outcome: Final = outcome
        self.delay: Final = delay
        self.reason: Final = reason
        self.topic: Final = topic
        self.message: Final = message

    @staticmethod
    def RETRY_LATER(delay: float = 0.0) -> "ProcessingStatus":  # noqa: N802  (the contract's name)
        """Handle the message again, not before `delay` seconds; 0 leaves the wait to the host's backoff.

        Raises `PluginError` for a delay that is no time to wait: negative, infinite, or no number.
        """
        if not (isinstance(delay, int | float) and 0 <= delay < math.inf):
            raise PluginError(
                f"RETRY_LATER cannot wait {delay!r} seconds", fix="give a number of seconds, 0 or more"
            )
        return ProcessingStatus(Outcome.RETRY_LATER, delay=delay)

    @staticmethod
    def FAILED(reason: str) -> "ProcessingStatus":  # noqa: N802  (the contract's name)
        """Dead-letter the message at once, because of `reason`."""
        return ProcessingStatus(Outcome.FAILED, reason=reason)

    @staticmethod
    def FORWARD(topic: str, message: Any) -> "ProcessingStatus":  # noqa: N802  (the contract's name)
        """Publish `message` to `topic`, and settle the one that was handled once that is accepted."""
        return ProcessingStatus(Outcome.FORWARD, topic=topic, message=message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProcessingStatus) and all(
            getattr(self, slot) == getattr(other, slot) for slot in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.outcome, self.delay, self.reason, self.topic))

    def __repr__(self) -> str:
        details = {
            Outcome.RETRY_LATER: f"({self.delay!r})",
            Outcome.FAILED: f"({self.reason!r})",
            Outcome.FORWARD: f"({self.topic!r}, {self.message!r})",
        }
        return f"ProcessingStatus.{self.outcome.name}{details.get(self.outcome, '')}"


Answer: TypeAlias = ProcessingStatus | Exception
"""How one message of a batch went: a status, or the exception that it failed with."""

ProcessingStatus.ACKNOWLEDGED = ProcessingStatus(Outcome.ACKNOWLEDGED)
ProcessingStatus.FILTERED = ProcessingStatus(Outcome.FILTERED)


class PluginContext(Protocol):
    """What a plugin is given at `init`: its door to messages, configuration and telemetry."""

    @property
    def plugin_name(self) -> str:
        """The name in the manifest."""

    @property
    def plugin_version(self) -> str:
        """The version in the manifest."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The effective configuration: manifest, then echo-core.toml, then environment. Read-only."""

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topic patterns that the plugin is fed."""

    @property
    def publications(self) -> tuple[str, ...]:
        """The topics or patterns that it may publish to; roles publish to the first."""

    @property
    def state(self) -> MutableMapping[str, Any]:
        """What a source must know to go on where it was: JSON-like values by name, 64 KiB in all.

        What it says when a message is published is kept once that message, everything before it, and all
        that plugins made of them, has ended; what it says when `produce` returns, once all has ended. The
        next run, another version, or a new process begins with what was kept. So set it before the last
        message that belongs to a position:

            for number, line in enumerate(self.lines[self.context.state.get("next", 0) :], 1):
                self.context.state["next"] = number
                yield line

        What was published and had not ended is published again after a crash. It has the same `id` if the
        same data comes from the same state. Use it in `produce`; raises `StateError` for all but sources.
        """

    @property
    def transport(self) -> "Transport":
        """The message bus itself. Prefer `publish`, which checks, traces and records the lineage."""

    @property
    def telemetry(self) -> "TelemetryContext | None":
        """The way to the OpenTelemetry backend, direct from the plugin; None means the global one."""

    async def publish(self, topic: str, data: Any) -> BaseMessage:
        """Publish `data` (or a message) to `topic`; returns the message once the transport accepted it.

        While a message is handled, the new one carries a receipt for it and continues its trace. It
        waits while the subscribers' queues are full. Raises `PublishRefused` for a topic outside
        `publications`, `TopicError` for a malformed one, `TransportError` if it was not accepted.
        """

    async def publish_batch(
        self, topic: str, data: Sequence[Any], *, made_from: Sequence[BaseMessage] | None = None
    ) -> list[BaseMessage]:
        """Publish each of `data` to `topic`, in order; returns the messages once all are accepted.

        Much cheaper than as many calls of `publish`. `made_from` names, for each, the message that it was
        made from: its receipt and its trace go with it. Without, each is made from all that is being
        handled. Raises as `publish` does; those before some point may have been accepted then.
        """

    def one_by_one(self, messages: Iterable[BaseMessage]) -> Iterator[BaseMessage]:
        """The messages of a batch in turn; what is published meanwhile is made from the one at hand.

        For a plain loop: what several tasks publish at a time says itself what it was made from.
        """

    async def run_blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function in the plugin's own threads, with the current trace and message."""

    def logger(self) -> logging.Logger:
        """A logger whose records carry the plugin, the message and the trace."""

    def create_span(
        self, name: str, attributes: "Attributes | None" = None
    ) -> "AbstractContextManager[Span]":
        """A span of the plugin's own, for a `with` block; a child of the span around it."""

    def record_counter(self, name: str, value: float = 1, attributes: "Attributes | None" = None) -> None:
        """Add `value` (not negative) to the counter `name`."""

    def record_gauge(self, name: str, value: float, attributes: "Attributes | None" = None) -> None:
        """Set the gauge `name` to `value`."""

    def record_histogram(self, name: str, value: float, attributes: "Attributes | None" = None) -> None:
        """Record `value` in the distribution `name`."""


class Plugin(ABC):
    """What the host calls. Only `process_message` is yours to write.

    The host calls `init` once, before any message; then `process_message` for each message and
    `health_check` now and then; then `shutdown` once, after the last message. After `shutdown` nothing
    more is called. Handlers run on the event loop: a coroutine is the rule. A class that blocks says
    so (`class Mine(Plugin, blocking=True)`), writes `process_message` as a plain `def`, and is called
    in a thread of its own pool.
    """

    name: str = ""
    """Set by the host from the manifest, unless the plugin sets it itself."""

    blocking: ClassVar[bool] = False
    context: PluginContext

    def __init_subclass__(cls, *, blocking: bool | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if blocking is not None:
            cls.blocking = blocking

    async def init(self, context: PluginContext) -> None:
        """Get what `process_message` needs; return quickly: there is a deadline (`timeouts.init_ms`).

        What it raises makes the plugin FAILED, with that reason, and leaves every other one running.
        An override calls `await super().init(context)` first, or keeps the context itself.
        """
        self.context = context

    @abstractmethod
    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Handle one message. The returned status is the only way to say how it went.

        An exception counts as a failed attempt and is retried. The message is settled only after
        this returned and everything it published was accepted; so it may come again after a crash.
        """

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Optional: handle several messages at a time, `topics[i]` that of `messages[i]`.

        Called instead of `process_message` where `delivery.batch_size` is above 1. Returns how each
        went, in order: a status, or the exception that it failed with. Those that failed are tried again
        alone, by `process_message`, before the next batch; so are all of them if this raises.
        Publish with `PluginContext.publish_batch`, or return `FORWARD` for a message.
        """
        raise NotImplementedError

    async def shutdown(self) -> None:  # noqa: B027  (nothing to give back is a good default)
        """Give back what `init` took. Safe without `init`, safe twice."""

    async def health_check(self) -> bool:
        """Whether the plugin can do its work; False, or an exception, makes it DEGRADED."""
        return True
