"""The logger provider of the fast engine, and its loggers."""

import logging
from collections.abc import Mapping, Sequence
from threading import RLock
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider as SdkLoggerProvider
from opentelemetry.sdk._logs import LogRecordLimits, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from common_telemetry import forks
from common_telemetry.engines.fast.bounded import PLAIN, bounded
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.origins import origin_of
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.errors import describe, whole_exception
from common_telemetry.health import Faults
from common_telemetry.weight import HEAVY, weight_of, weight_of_all

_logger = logging.getLogger("common_telemetry")


class FastRecord(NamedTuple):
    """A log record as it will be sent. Nothing in it can change any more."""

    logger: "FastLogger"
    time_ns: int | None
    observed_ns: int
    severity_number: SeverityNumber | None
    severity_text: str | None
    body: Any
    attributes: Mapping[str, Any]
    dropped_attributes: int
    span: SpanContext
    event_name: str | None


class FastLogger(Logger):
    """Takes the records of one instrumentation scope. Nothing in it raises."""

    def __init__(self, scope: InstrumentationScope, provider: "FastLoggerProvider") -> None:
        super().__init__(scope.name, scope.version, scope.schema_url, scope.attributes)
        self._scope = scope
        self._provider = provider
        self._official: Logger | None = None
        self._origin: Origin | None = None

    @property
    def origin(self) -> Origin:
        """Where its records come from, as OTLP has it."""
        if self._origin is None:
            self._origin = origin_of(self._provider.resource, self._scope)
        return self._origin

    def forget_origin(self) -> None:
        """Find out anew where records come from."""
        self._origin = None

    def hand_over(self, official: Logger) -> None:
        """Have all records from now on taken by `official`."""
        self._official = official

    def enabled(
        self,
        *,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        event_name: str | None = None,
    ) -> bool:
        return True

    def emit(
        self,
        record: LogRecord | None = None,
        *,
        timestamp: int | None = None,
        observed_timestamp: int | None = None,
        context: Context | None = None,
        severity_number: SeverityNumber | None = None,
        severity_text: str | None = None,
        body: Any = None,
        attributes: Mapping[str, Any] | None = None,
        event_name: str | None = None,
        exception: BaseException | None = None,
    ) -> None:
        try:
            if record is None:
                record = LogRecord(
                    timestamp=timestamp,
                    observed_timestamp=observed_timestamp,
                    context=context,
                    severity_number=severity_number,
                    severity_text=severity_text,
                    body=body,
                    attributes=attributes,
                    event_name=event_name,
                    # Only where there is one: older APIs have no such field.
                    **({"exception": exception} if exception is not None else {}),
                )
            if self._official is not None:
                self._official.emit(record)
            else:
                self._provider.take(self._frozen(record))
        except Exception as error:  # noqa: BLE001 - logging never fails who logs
            self._provider.refuse(self._scope.name, error)

    def _frozen(self, record: LogRecord) -> FastRecord:
        attributes = record.attributes
        error = getattr(record, "exception", None)
        if error is not None:
            attributes = {**whole_exception(error), **(attributes or {})}
        kept, lost = bounded(attributes, self._provider.most_attributes, self._provider.longest_attribute)
        return FastRecord(
            self,
            record.timestamp,
            record.observed_timestamp or time_ns(),
            record.severity_number,
            record.severity_text,
            _frozen_body(record.body),
            kept,
            lost,
            SpanContext(record.trace_id or 0, record.span_id or 0, False, record.trace_flags),
            getattr(record, "event_name", None),
        )


class FastLoggerProvider(LoggerProvider):
    """Loggers whose records go into `buffer`.

    Resource and limits are those of a provider of the SDK's, which reads them from OTEL_*. That one stands
    by: a log record processor needs records of the SDK's own, so from the first one added on it makes them.
    """

    def __init__(self, resource: Resource, buffer: Buffer, faults: Faults) -> None:
        self._sdk = SdkLoggerProvider(resource, shutdown_on_exit=False)
        limits = LogRecordLimits()
        # Older SDKs have one limit for all signals, under another name.
        self.most_attributes: int | None = getattr(limits, "max_log_record_attributes", limits.max_attributes)
        self.longest_attribute: int | None = getattr(
            limits, "max_log_record_attribute_length", limits.max_attribute_length
        )
        self._buffer = buffer
        self._faults = faults
        self._lock = RLock()
        self._loggers: dict[InstrumentationScope, FastLogger] = {}
        self._by_name: dict[tuple[str, str | None, str | None], FastLogger] = {}
        self._is_standing_by = True
        forks.follow(self)

    @property
    def resource(self) -> Resource:
        """What reports."""
        resource: Resource = self._sdk.resource
        return resource

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FastLogger:
        if attributes is not None:
            return self._logger(InstrumentationScope(name, version, schema_url, attributes))
        key = (name, version, schema_url)
        logger = self._by_name.get(key)
        if logger is None:
            logger = self._by_name[key] = self._logger(InstrumentationScope(name, version, schema_url))
        return logger

    def add_log_record_processor(self, processor: LogRecordProcessor) -> None:
        """Have `processor` see every record from now on, as the SDK's own provider would."""
        with self._lock:
            if self._is_standing_by:
                self._is_standing_by = False
                self._sdk.add_log_record_processor(_BackToUs(self))
                for scope, logger in self._loggers.items():
                    logger.hand_over(self._official(scope))
                _logger.warning(
                    "telemetry: the log record processor %s needs records of OpenTelemetry's own SDK, so "
                    "from now on they are made by it, at its cost (engine 'official')",
                    type(processor).__name__,
                )
            self._sdk.add_log_record_processor(processor)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have the processors of the application flush; the telemetry context flushes the rest."""
        return self._sdk.force_flush(timeout_millis)

    def take_back(self, record: ReadWriteLogRecord) -> None:
        """Take a record that the SDK has made."""
        scope = record.instrumentation_scope
        made = record.log_record
        self.take(
            FastRecord(
                self._logger(scope if scope is not None else InstrumentationScope("")),
                made.timestamp,
                made.observed_timestamp,
                made.severity_number,
                made.severity_text,
                _frozen_body(made.body),
                dict(made.attributes or {}),
                record.dropped_attributes,
                SpanContext(made.trace_id, made.span_id, False, made.trace_flags),
                made.event_name,
            )
        )

    def take(self, record: FastRecord) -> None:
        """Take a record that is not going to change."""
        weight = weight_of(record.body) + weight_of_all(record.attributes)
        if weight < HEAVY:
            self._buffer.add(record)
        else:
            self._buffer.add_heavy(record, weight)

    def refuse(self, scope: str, error: Exception) -> None:
        """Report a record that nothing could be made of."""
        self._faults.report("log record", f"a record of {scope!r} cannot be exported: {describe(error)}")

    def before_fork(self) -> None:
        """Part of ForkAware."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Part of ForkAware."""
        for logger in self._loggers.values():
            logger.forget_origin()
        self._lock.release()

    def _logger(self, scope: InstrumentationScope) -> FastLogger:
        with self._lock:
            logger = self._loggers.get(scope)
            if logger is None:
                logger = self._loggers[scope] = FastLogger(scope, self)
                if not self._is_standing_by:
                    logger.hand_over(self._official(scope))
        return logger

    def _official(self, scope: InstrumentationScope) -> Logger:
        return self._sdk.get_logger(scope.name, scope.version, scope.schema_url, scope.attributes)


class _BackToUs(LogRecordProcessor):
    """Brings the SDK's records where ours go."""

    def __init__(self, provider: FastLoggerProvider) -> None:
        self._provider = provider

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._provider.take_back(log_record)

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _frozen_body(value: Any) -> Any:
    """The body in a form nobody can change any more; its text where OTLP has no form for it."""
    if value is None or value.__class__ in PLAIN or isinstance(value, str | bool | int | float | bytes):
        return value
    if isinstance(value, Sequence):
        return tuple([_frozen_body(part) for part in value])
    if isinstance(value, Mapping):
        return {str(key): _frozen_body(part) for key, part in value.items()}
    return str(value)
