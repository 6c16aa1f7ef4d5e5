"""Telemetry switched off: shared objects that do nothing.

The two ends of a `with` block are static methods because Python then makes no bound method for each, which
would cost more than everything else the block does here.
"""

from collections.abc import Iterable, Sequence
from itertools import repeat
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer

from common_telemetry.account import ReadAccount
from common_telemetry.attributes import Attributes, PluginIdentity
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Engine, PluginEngine, Recorder
from common_telemetry.logs import LogEmitter
from common_telemetry.message import ObservedMessage, Outgoing
from common_telemetry.messages import MessageTelemetry, ProcessScope, PublishBatchScope, PublishScope


class _NoPublish(PublishScope):
    __slots__ = ()

    @staticmethod
    def __enter__() -> "_NoPublish":
        return _PUBLISH

    @staticmethod
    def __exit__(
        kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def carrier(self) -> dict[str, str]:
        return {}

    def fail(self, error: BaseException | str) -> None:
        return None


class _NoPublishBatch(PublishBatchScope):
    __slots__ = ()

    @staticmethod
    def __enter__() -> "_NoPublishBatch":
        return _PUBLISH_BATCH

    @staticmethod
    def __exit__(
        kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def carriers(self) -> Iterable[dict[str, str]]:
        return repeat({})

    def fail(self, error: BaseException | str) -> None:
        return None


class _NoProcess(ProcessScope):
    __slots__ = ()

    @staticmethod
    def __enter__() -> "_NoProcess":
        return _PROCESS

    @staticmethod
    def __exit__(
        kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        return None

    def outcome(self, name: str) -> None:
        return None


_PUBLISH = _NoPublish()
_PUBLISH_BATCH = _NoPublishBatch()
_PROCESS = _NoProcess()


class _NoMessages(MessageTelemetry):
    __slots__ = ()

    recording = False

    def publish(
        self,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...] = (),
        is_current: bool = True,
    ) -> PublishScope:
        return _PUBLISH

    def publish_batch(self, topic: str, messages: Sequence[Outgoing]) -> PublishBatchScope:
        return _PUBLISH_BATCH

    # Without the `*` of the promise: Python has a shorter way to functions without keyword-only arguments.
    def process(
        self,
        topic: str,
        message: ObservedMessage,
        attempt: int = 1,
        previous: ProcessScope | None = None,
        replay: bool = False,
    ) -> ProcessScope:
        return _PROCESS

    def batch(self, topic: str, messages: Sequence[ObservedMessage], *, attempt: int = 1) -> ProcessScope:
        return _PROCESS

    def dead_letter(
        self, topic: str, message: ObservedMessage, reason: str, failed: ProcessScope
    ) -> PublishScope:
        return _PUBLISH

    def crash(self, topic: str, message: ObservedMessage, exit_code: int, *, attempt: int = 1) -> None:
        return None


def _forget(value: float, attributes: Attributes, context: Context | None) -> None:
    return None


def _recorder(metric: Metric) -> Recorder:
    return _forget


def _observe(read: ReadAccount) -> None:
    return None


_NOTHING = PluginEngine(
    messages=_NoMessages(),
    tracer=NoOpTracer(),
    recorder=_recorder,
    logs=LogEmitter(None),
    observe=_observe,
    recording=False,
)


class OffEngine(Engine):
    """Records nothing. Messages carry no trace context."""

    def bind(self, plugin: PluginIdentity) -> PluginEngine:
        """The same nothing for every plugin."""
        return _NOTHING
