"""What a plugin reports through, directly to the backend."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from opentelemetry.trace import INVALID_SPAN, Span

from common_telemetry.account import ReadAccount
from common_telemetry.attributes import (
    MESSAGE_TOPIC,
    PLUGIN_NAME,
    REASON,
    Attributes,
    PluginIdentity,
    merged,
)
from common_telemetry.catalogue import DEAD_LETTER_AGE, DEAD_LETTER_COUNT, HISTORY_DROPPED, LOST, SHED
from common_telemetry.engine import Clock, PluginEngine
from common_telemetry.engines.fast.bounded import clean
from common_telemetry.errors import describe
from common_telemetry.health import Faults, Signal
from common_telemetry.instruments import Instruments
from common_telemetry.lifecycle import LifecycleScope, lifecycle_elsewhere, report_state
from common_telemetry.logs import PluginLogging
from common_telemetry.messages import MessageTelemetry
from common_telemetry.propagation import current

_NO_SPAN: Final = nullcontext(INVALID_SPAN)


class PluginTelemetry:
    """Spans, metrics and logs of one plugin. Each carries plugin.name, plugin.version and plugin.status.

    While a message is handled they carry message.topic and message.id too (metrics have the id on exemplars
    only). An attribute of the same name given by the author does not replace the standard one: it is kept as
    `user.<name>`. Nothing here raises because of telemetry: what cannot be recorded is logged once and
    counted in `health()`.
    """

    def __init__(
        self, plugin: PluginIdentity, engine: PluginEngine, logs: PluginLogging, faults: Faults, clock: Clock
    ) -> None:
        self._plugin = plugin
        self.rebind(engine, logs, faults, clock)

    def rebind(self, engine: PluginEngine, logs: PluginLogging, faults: Faults, clock: Clock) -> None:
        """Report through other means from now on. For the telemetry context; plugins have no need of it."""
        self.messages: MessageTelemetry = engine.messages
        """The message spans, for the host that moves the messages."""
        self._is_off = not engine.recording
        self._engine = engine
        self._logs = logs
        self._faults = faults
        self._clock = clock
        self._instruments = Instruments(engine, self._plugin, faults)

    @property
    def identity(self) -> PluginIdentity:
        """Name, version and status, as the telemetry context knows them."""
        return self._plugin

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self._plugin.name

    @property
    def version(self) -> str:
        """The plugin's version."""
        return self._plugin.version

    @property
    def status(self) -> str:
        """plugin.status on everything from now on."""
        return self._plugin.status

    @status.setter
    def status(self, status: str) -> None:
        self._plugin.status = status

    def create_span(self, name: str, attributes: Attributes | None = None) -> AbstractContextManager[Span]:
        """A `with` block around an INTERNAL span, child of the current one; gives OpenTelemetry's own Span.

        An exception that passes through the block is recorded on the span.
        """
        if self._is_off:
            return _NO_SPAN
        working = current()
        standard: Attributes = self._plugin.attributes
        if working is not None:
            standard = {**standard, **working.message_attributes()}
        try:
            given = merged(standard, attributes, self._faults)
        except Exception as error:  # noqa: BLE001 - they may be no mapping at all
            left_out = f"attributes of span {name!r} are left out: {describe(error)}"
            self._faults.report("attributes", f"plugin {self.name!r}: {left_out}")
            given = dict(standard)
        if self._engine.tracer_raises:
            given = {key: value for key, value in given.items() if self._can_be_read(name, key, value)}
        return self._engine.tracer.start_as_current_span(str(name), attributes=given)

    def record_counter(self, name: str, value: float = 1, attributes: Attributes | None = None) -> None:
        """Add `value`, at least 0, to the counter `name`.

        The first use of a name decides what it is; as another kind it is refused, logged once and counted.
        """
        if not self._is_off:
            self._instruments.record("counter", name, value, attributes)

    def record_gauge(self, name: str, value: float, attributes: Attributes | None = None) -> None:
        """Set the gauge `name` to `value`; the last value before an export is the one that is sent."""
        if not self._is_off:
            self._instruments.record("gauge", name, value, attributes)

    def record_histogram(self, name: str, value: float, attributes: Attributes | None = None) -> None:
        """Add `value` to the distribution `name`."""
        if not self._is_off:
            self._instruments.record("histogram", name, value, attributes)

    def observe_account(self, read: ReadAccount) -> None:
        """Export, from now on, what `read` says of the plugin's messages. For the host that counts them.

        Once for each name and version in the life of a context: the totals go on where the version stopped.
        """
        with self._faults.guard(
            "measurement", f"plugin {self.name!r}: what becomes of its messages is not measured"
        ):
            self._engine.observe(read)

    def shed(self, topic: str, reason: str) -> None:
        """Count a message of `topic` that the plugin gave up unread. For the host that moves the messages."""
        with self._faults.guard(
            "measurement", f"plugin {self.name!r}: a message that was shed is not counted"
        ):
            attributes = {**self._plugin.attributes, MESSAGE_TOPIC: topic, REASON: reason}
            self._engine.recorder(SHED)(1, attributes, None)

    def dead_letters(self, count: int, age_s: float) -> None:
        """How many dead letters of the plugin are kept, and the age of the oldest. For who keeps them.

        They outlive versions and states, so these two measurements carry the plugin's name only.
        """
        with self._faults.guard("measurement", f"plugin {self.name!r}: dead letters are not measured"):
            attributes = {PLUGIN_NAME: self.name}
            self._engine.recorder(DEAD_LETTER_COUNT)(count, attributes, None)
            self._engine.recorder(DEAD_LETTER_AGE)(age_s, attributes, None)

    def history_dropped(self, item: str, count: int) -> None:
        """Count what the message history has no room for, `record` or `payload`. For who writes it."""
        with self._faults.guard("measurement", f"plugin {self.name!r}: what was dropped is not counted"):
            attributes = dict(zip(HISTORY_DROPPED.attributes, (self.name, item), strict=True))
            self._engine.recorder(HISTORY_DROPPED)(count, attributes, None)

    def lost(self, signal: Signal, count: int) -> None:
        """Count what the plugin's own process had not sent when it died. For the host that kept it."""
        if not count:
            return
        with self._faults.guard("measurement", f"plugin {self.name!r}: what was lost is not counted"):
            attributes = dict(zip(LOST.attributes, (signal, "process", "process died"), strict=True))
            self._engine.recorder(LOST)(count, attributes, None)

    def logger(self) -> logging.Logger:
        """The standard logger `echo.plugin.<name>`.

        Its records have plugin.*, message.* and, inside a span, trace_id and span_id as fields, for any
        handler and formatter; from `log_level` up they are exported when logs are.
        """
        return self._logs.logger(self._plugin, self._engine.logs)

    def lifecycle_elsewhere(self, carrier: Mapping[str, str]) -> AbstractContextManager[None]:
        """A `with` block that is part of a lifecycle event which another process reports.

        `carrier` is what that process injected. What is made in the block belongs to that event, and messages
        that are published begin traces of their own, linked to it.
        """
        return lifecycle_elsewhere(self._plugin, carrier)

    def lifecycle(self, event: str) -> LifecycleScope:
        """A `with` block around init, shutdown, health_check or another event of the plugin's life."""
        return LifecycleScope(event, self._engine, self._plugin, self._clock, self._faults)

    def state_changed(self, status: str, reason: str = "", *, cause: str = "", failed: bool = False) -> None:
        """plugin.status on everything from now on; the change is counted, and logged with what made it.

        `reason`: what is wrong, which makes it a warning. `cause`: what else made it change.
        """
        previous, self._plugin.status = self._plugin.status, status
        report_state(self._engine, self._plugin, self._faults, previous, reason, cause, failed=failed)

    def _can_be_read(self, span: str, key: str, value: object) -> bool:
        try:
            clean(value, None)
        except Exception as error:  # noqa: BLE001 - it may be of a class of the plugin's
            left_out = f"attribute {key!r} of span {span!r} is left out: {describe(error)}"
            self._faults.report("attributes", f"plugin {self.name!r}: {left_out}")
            return False
        return True
