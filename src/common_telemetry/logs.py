"""Log records from the standard library to OpenTelemetry. The only place that knows the unstable logs API."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context

from common_telemetry.attributes import (
    MESSAGE_ID,
    MESSAGE_TOPIC,
    PLUGIN_NAME,
    PLUGIN_STATUS,
    PLUGIN_VERSION,
    Attributes,
    PluginIdentity,
)
from common_telemetry.errors import exception_attributes
from common_telemetry.health import Faults
from common_telemetry.propagation import current

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider

PLUGIN_LOGGERS: Final = "echo.plugin"
_SILENT: Final = ("opentelemetry", "common_telemetry", "urllib3", "requests", "grpc")
_STAMPED: Final = (PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_STATUS, MESSAGE_TOPIC, MESSAGE_ID)
_IDENTITY: Final = "_echo_plugin"
_EVENT_NAME: Final = "event_name"
_IDS: Final = ("trace_id", "span_id")
# What every record has; the rest came by `extra`. taskName is there from Python 3.12 on.
_NATURAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    _IDENTITY,
    *_IDS,
}
_SEVERITY: Final = (
    (logging.CRITICAL, SeverityNumber.FATAL, "FATAL"),
    (logging.ERROR, SeverityNumber.ERROR, "ERROR"),
    (logging.WARNING, SeverityNumber.WARN, "WARN"),
    (logging.INFO, SeverityNumber.INFO, "INFO"),
    (logging.DEBUG, SeverityNumber.DEBUG, "DEBUG"),
)


_ELSEWHERE: Final = PluginIdentity("", "", "", owner="another process")


class LogEmitter:
    """Sends log records to a logger provider; to None, it sends nothing."""

    def __init__(self, provider: "LoggerProvider | None") -> None:
        self._provider = provider

    @property
    def sends(self) -> bool:
        """Whether anything comes of it."""
        return self._provider is not None

    def emit(
        self,
        scope: str,
        version: str,
        level: int,
        body: str,
        attributes: Mapping[str, Any],
        *,
        context: Context | None = None,
        event_name: str | None = None,
        timestamp_ns: int | None = None,
    ) -> None:
        """Send one record. `level` is the standard library's; `context`, or the current one, has the span."""
        if self._provider is None:
            return
        number, text = severity(level)
        self._provider.get_logger(scope, version).emit(
            LogRecord(
                timestamp=timestamp_ns,
                context=otel_context.get_current() if context is None else context,
                severity_number=number,
                severity_text=text,
                body=body,
                attributes={key: _plain(value) for key, value in attributes.items()},
                event_name=event_name,
            )
        )


class PluginLogging:
    """The standard loggers of the plugins of one telemetry context."""

    def __init__(self, emitter: LogEmitter, level: str, owner: object, faults: Faults) -> None:
        self._handler = _ExportHandler(emitter, level, owner, faults)
        self._emitter = emitter
        self._level = level
        self._owner = owner
        self._stamps: list[tuple[logging.Logger, _Stamp]] = []
        self._captured: list[logging.Logger] = []
        self._levelled: list[logging.Logger] = []

    def logger(self, plugin: PluginIdentity, emitter: LogEmitter) -> logging.Logger:
        """The logger `echo.plugin.<name>`, whose records carry the plugin, the message and the trace.

        They are exported by `emitter`, which differs from the context's where each plugin is a service of its
        own.
        """
        self._handler.emitters[plugin.name] = emitter
        logger = logging.getLogger(plugin.scope)
        stamp = next((one for one in logger.filters if isinstance(one, _Stamp)), None)
        if stamp is None:
            stamp = _Stamp(plugin)
            logger.addFilter(stamp)
            self._stamps.append((logger, stamp))
        stamp.plugin = plugin  # of two versions side by side, the later speaks where no context tells
        self.capture(PLUGIN_LOGGERS)
        return logger

    def capture(self, name: str) -> None:
        """Export what the logger `name` and those below it log. Safe to repeat."""
        logger = logging.getLogger(name)
        # Without an exporter the handler would only silence logging's last resort, the printing of warnings.
        if not self._emitter.sends or logger in self._captured:
            return
        logger.addHandler(self._handler)
        self._captured.append(logger)
        if logger.level == logging.NOTSET:
            logger.setLevel(self._level)
            self._levelled.append(logger)

    def close(self) -> None:
        """Leave the loggers as they were."""
        for logger in self._captured:
            logger.removeHandler(self._handler)
        for logger in self._levelled:
            logger.setLevel(logging.NOTSET)
        for logger, stamp in self._stamps:
            if stamp.plugin.owner is self._owner:
                logger.removeFilter(stamp)
        self._captured, self._levelled, self._stamps = [], [], []


class _Stamp(logging.Filter):
    """Puts plugin, message and trace on every record; what `extra` put in their place moves to user.<key>."""

    def __init__(self, plugin: PluginIdentity) -> None:
        super().__init__()
        self.plugin = plugin

    def filter(self, record: logging.LogRecord) -> bool:
        working = current()
        # In a message the context knows the exact version; outside, the latest plugin of that name does.
        plugin = working.plugin if working and working.plugin.name == self.plugin.name else self.plugin
        _stamp(record, plugin, working.message_attributes() if working else {})
        return True


def _stamp(record: logging.LogRecord, plugin: PluginIdentity | None, message: Attributes) -> None:
    fields = vars(record)
    for key in _STAMPED:
        if key in fields:
            fields[f"user.{key}"] = fields.pop(key)
    if plugin is not None:
        fields.update(plugin.attributes)
    fields.update(message)
    fields[_IDENTITY] = plugin
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        fields["trace_id"] = trace.format_trace_id(span.trace_id)
        fields["span_id"] = trace.format_span_id(span.span_id)


class _ExportHandler(logging.Handler):
    def __init__(self, emitter: LogEmitter, level: str, owner: object, faults: Faults) -> None:
        super().__init__(level)
        self.emitters: dict[str, LogEmitter] = {}
        self._emitter = emitter
        self._owner = owner
        self._faults = faults

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.split(".", 1)[0] in _SILENT:  # else telemetry would report on reporting, without end
            return
        with self._faults.guard("log record", f"a record of logger {record.name!r} cannot be exported"):
            self._export(record)

    def _export(self, record: logging.LogRecord) -> None:
        if _IDENTITY not in vars(record):
            working = current()
            _stamp(
                record, working.plugin if working else None, working.message_attributes() if working else {}
            )
        plugin: PluginIdentity | None = getattr(record, _IDENTITY)
        if plugin is not None and plugin.owner is not self._owner:
            return  # another telemetry context in this process speaks for that plugin
        attributes = {key: value for key, value in vars(record).items() if key not in _NATURAL}
        event_name = attributes.pop(_EVENT_NAME, None)
        attributes |= _origin(record) | _exception(record)
        emitter = self.emitters.get(plugin.name, self._emitter) if plugin else self._emitter
        emitter.emit(
            record.name,
            plugin.version if plugin else "",
            record.levelno,
            record.getMessage(),
            attributes,
            event_name=event_name,
            timestamp_ns=int(record.created * 1e9),
        )


def show_record(record: logging.LogRecord) -> None:
    """Give a record that another process has exported to the handlers of this one; none exports it again."""
    setattr(record, _IDENTITY, _ELSEWHERE)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.callHandlers(record)


def severity(level: int) -> tuple[SeverityNumber, str]:
    """The OpenTelemetry severity of a standard library level (logs data model, SeverityNumber)."""
    for floor, number, text in _SEVERITY:
        if level >= floor:
            return number, text
    return SeverityNumber.TRACE, "TRACE"


def _origin(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "code.file.path": record.pathname,
        "code.function.name": record.funcName or "",
        "code.line.number": record.lineno,
    }


def _exception(record: logging.LogRecord) -> dict[str, Any]:
    error = record.exc_info[1] if record.exc_info else None
    return {} if error is None else exception_attributes(error)


def _plain(value: Any) -> Any:
    """`value` as something the data model has: anything else as its text."""
    if value is None or isinstance(value, str | bool | int | float | bytes):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    return str(value)
