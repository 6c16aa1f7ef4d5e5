"""What an engine must offer, so that one can be exchanged for another without touching its callers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Tracer

from common_telemetry.account import ReadAccount
from common_telemetry.attributes import Attributes, PluginIdentity
from common_telemetry.catalogue import Metric
from common_telemetry.logs import LogEmitter
from common_telemetry.messages import MessageTelemetry

Recorder = Callable[[float, Attributes, Context | None], None]
"""Takes a value, all attributes, message.id among them, and the context, None for the current."""

BoundRecorder = Callable[[float, str, Context], None]
"""Takes a value, the id of the message in hand, "" for none, and the current context."""

Binder = Callable[[Metric], Callable[[Attributes], BoundRecorder]]
"""Gives, for an instrument, what gives the recorder of one set of attributes, to be used again and again."""


class Clock(Protocol):
    """Where times come from; the `time` module is one."""

    def time_ns(self) -> int:
        """Unix time in nanoseconds."""

    def perf_counter_ns(self) -> int:
        """A monotonic time in nanoseconds, for durations."""


@dataclass(frozen=True, slots=True)
class PluginEngine:
    """The means of one plugin. Parts may raise; the callers in this package keep that from the plugin.

    `observe` has an account of messages exported from now on. `binder` is None where finding a set of
    attributes again would gain nothing. `tracer_raises` says that the tracer does over attributes whose text
    cannot be had, as the SDK's does.
    """

    messages: MessageTelemetry
    tracer: Tracer
    recorder: Callable[[Metric], Recorder]
    logs: LogEmitter
    observe: Callable[[ReadAccount], object]
    recording: bool = True
    binder: Binder | None = None
    tracer_raises: bool = False


class Engine(ABC):
    """Makes the means of each plugin."""

    @abstractmethod
    def bind(self, plugin: PluginIdentity) -> PluginEngine:
        """The means of `plugin`. Called once a plugin, so it may be slow."""
