"""What is logged in a plugin's process, shown by its host as well: `echo-core logs` and warnings on stderr.

The process exports its records itself; the host only shows them, and exports none of them again.
"""

import logging
from collections.abc import Callable
from typing import Final

from common_telemetry import attributes, show_record
from echo_core.runtime.isolation.quota import Quota
from echo_core.runtime.isolation.wire import LogRecord

_LOUD: Final = ("echo.plugin", "echo_core")
"""Loggers that are shown from INFO up; all others from WARNING up."""
_LONGEST: Final = 8_000
_FIELDS: Final = (
    *(attributes.PLUGIN_NAME, attributes.PLUGIN_VERSION, attributes.PLUGIN_STATUS),
    *(attributes.MESSAGE_TOPIC, attributes.MESSAGE_ID, "trace_id", "span_id"),
)


class ToHost(logging.Handler):
    """Sends records to the host, in a plugin's process."""

    def __init__(self, send: Callable[[LogRecord], None]) -> None:
        """`send` may be called in any thread."""
        super().__init__(logging.INFO)
        self._send = send
        self._quota = Quota()
        logging.getLogger().addHandler(self)
        for name in _LOUD:
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        """Send it, unless there are too many."""
        if record.levelno < logging.WARNING and not record.name.startswith(_LOUD):
            return
        if not self._quota.admits():
            return
        text = self._text(record)
        if dropped := self._quota.take_dropped():
            text = f"{text} (before it {dropped} more records, which are not shown here)"
        known = vars(record)
        fields = {name: str(known[name]) for name in _FIELDS if known.get(name)}
        self._send(LogRecord(record.levelno, record.name, record.created, text, fields))

    def _text(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a plugin's arguments may not fit its format
            text = f"{record.msg!s} (its arguments do not fit: {error})"
        if record.exc_info and record.exc_info[1] is not None:
            text += f"\n{logging.Formatter().formatException(record.exc_info)}"
        return text[:_LONGEST]


def show(sent: LogRecord) -> None:
    """Give a record of a plugin's process to the handlers of this one."""
    show_record(
        logging.makeLogRecord(
            {
                "name": sent.logger,
                "levelno": sent.level,
                "levelname": logging.getLevelName(sent.level),
                "msg": sent.text,
                "created": sent.created,
                **sent.fields,
            }
        )
    )
