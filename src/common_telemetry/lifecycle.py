"""Init, shutdown, health checks and other moments in the life of a plugin."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Final, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from common_telemetry import catalogue, propagation
from common_telemetry.attributes import (
    ERROR_TYPE,
    EVENT,
    PREVIOUS_STATUS,
    REASON,
    RESULT,
    AttributeValue,
    PluginIdentity,
)
from common_telemetry.engine import Clock, PluginEngine
from common_telemetry.errors import describe, error_type, exception_attributes
from common_telemetry.health import Faults
from common_telemetry.propagation import Current

STATE_CHANGE: Final = "state_change"
_DURATIONS: Final = {"init": catalogue.INIT_DURATION, "shutdown": catalogue.SHUTDOWN_DURATION}


class LifecycleScope:
    """A `with` block around one lifecycle event: a short trace, a count, a log record, maybe a duration.

    The result is "ok", or "failure" after `fail` or when an exception passes through (which it does).
    """

    def __init__(
        self, event: str, engine: PluginEngine, plugin: PluginIdentity, clock: Clock, faults: Faults
    ) -> None:
        self._event = event
        self._engine = engine
        self._plugin = plugin
        self._clock = clock
        self._faults = faults
        self._failure: str | None = None
        self._context = Context()
        self._span: Span | None = None

    def __enter__(self) -> Self:
        """Start the span `plugin.<event>`, the root of a new trace, and make it current."""
        self._started = self._clock.perf_counter_ns()
        self._start = self._clock.time_ns()
        with self._guard():
            # Not the context around: a lifecycle event belongs to no message and to no other event.
            self._span = self._engine.tracer.start_span(
                f"plugin.{self._event}",
                context=Context(),
                attributes={**self._plugin.attributes, EVENT: self._event},
                start_time=self._start,
            )
            inside = propagation.with_current(Current(self._plugin, lifecycle=True), Context())
            self._context = propagation.with_span(self._span, inside)
        self._token = otel_context.attach(self._context)
        return self

    def fail(self, reason: str) -> None:
        """The event failed, though no exception says so."""
        self._failure = reason
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR, reason))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the span, count the event, log it."""
        elapsed = self._clock.perf_counter_ns() - self._started
        otel_context.detach(self._token)
        with self._guard():
            self._finish(elapsed, error)

    def _finish(self, elapsed_ns: int, error: BaseException | None) -> None:
        details: dict[str, AttributeValue] = {}
        if error is not None:
            details = {**exception_attributes(error), ERROR_TYPE: error_type(error)}
            self.fail(describe(error))
        result = "ok" if self._failure is None else "failure"
        outcome = {**self._plugin.attributes, EVENT: self._event, RESULT: result}
        self._measure(elapsed_ns, outcome)
        self._end_span(elapsed_ns, result, error)
        self._log({**details, **outcome})

    def _measure(self, elapsed_ns: int, outcome: dict[str, AttributeValue]) -> None:
        self._engine.recorder(catalogue.LIFECYCLE_EVENTS)(1, outcome, self._context)
        if self._event in _DURATIONS:
            duration = self._engine.recorder(_DURATIONS[self._event])
            duration(elapsed_ns / 1e6, self._plugin.attributes, self._context)

    def _end_span(self, elapsed_ns: int, result: str, error: BaseException | None) -> None:
        if self._span is None:
            return
        self._span.set_attribute(RESULT, result)
        if error is not None:
            self._span.set_attribute(ERROR_TYPE, error_type(error))
            self._span.record_exception(error, exception_attributes(error), self._start + elapsed_ns)
        self._span.end(self._start + elapsed_ns)

    def _log(self, attributes: dict[str, AttributeValue]) -> None:
        said = "done" if self._failure is None else f"failed: {self._failure}"
        self._engine.logs.emit(
            self._plugin.scope,
            self._plugin.version,
            logging.INFO if self._failure is None else logging.ERROR,
            f"plugin {self._plugin.name} {self._plugin.version}: {self._event} {said}",
            attributes,
            context=self._context,
            event_name=f"plugin.lifecycle.{self._event}",
        )

    def _guard(self) -> AbstractContextManager[None, bool]:
        # Telemetry never fails a plugin.
        return self._faults.guard(
            "lifecycle", f"plugin {self._plugin.name!r}: {self._event!r} is not reported"
        )


def report_state(
    engine: PluginEngine,
    plugin: PluginIdentity,
    faults: Faults,
    previous: str,
    reason: str,
    cause: str,
    *,
    failed: bool,
) -> None:
    """The plugin has its present status instead of `previous`: a count of the event, and a log record."""
    with faults.guard("lifecycle", f"plugin {plugin.name!r}: its change of state is not reported"):
        result = "failure" if failed else "ok"
        outcome = {**plugin.attributes, EVENT: STATE_CHANGE, RESULT: result}
        engine.recorder(catalogue.LIFECYCLE_EVENTS)(1, outcome, Context())
        why = reason or cause
        because = f": {why}" if why else ""
        engine.logs.emit(
            plugin.scope,
            plugin.version,
            logging.ERROR if failed else logging.WARNING if reason else logging.INFO,
            f"plugin {plugin.name} {plugin.version}: {previous} -> {plugin.status}{because}",
            {**outcome, PREVIOUS_STATUS: previous, REASON: why},
            context=Context(),
            event_name=f"plugin.lifecycle.{STATE_CHANGE}",
        )


@contextmanager
def lifecycle_elsewhere(plugin: PluginIdentity, carrier: Mapping[str, str]) -> Iterator[None]:
    """Within, what is done is part of the event that another process reports, and injected into `carrier`."""
    inside = propagation.with_current(Current(plugin, lifecycle=True), propagation.extract(carrier))
    token = otel_context.attach(inside)
    try:
        yield
    finally:
        otel_context.detach(token)
