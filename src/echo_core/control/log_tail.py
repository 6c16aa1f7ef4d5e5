"""What was logged lately, by plugins and by the host: kept in memory, as far back as there is room."""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Final

from common_telemetry.attributes import MESSAGE_ID, PLUGIN_NAME, PLUGIN_VERSION
from echo_core.control.documents import LogLine

KEPT: Final = 2_000
_LONGEST: Final = 8_000
"""Characters of a record that are kept."""
_HEARD: Final = ("echo.plugin", "echo_core")
"""Loggers that are listened to from INFO up; all others from WARNING up."""


class LogTail(logging.Handler):
    """A handler that remembers."""

    def __init__(self, kept: int = KEPT) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=kept)
        self._guard = Lock()
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Remember it."""
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a plugin's arguments may not fit its format
            text = f"{record.msg!s} (its arguments do not fit: {error})"
        if record.exc_info and record.exc_info[1] is not None:
            text += f"\n{logging.Formatter().formatException(record.exc_info)}"
        fields = vars(record)
        with self._guard:
            self._count += 1
            self._lines.append(
                LogLine(
                    number=self._count,
                    time_ns=int(record.created * 1e9) or time.time_ns(),
                    level=record.levelname,
                    logger=record.name,
                    plugin=str(fields.get(PLUGIN_NAME, "")),
                    version=str(fields.get(PLUGIN_VERSION, "")),
                    message_id=str(fields.get(MESSAGE_ID, "")),
                    text=text[:_LONGEST],
                )
            )

    def lines(self, *, plugin: str | None = None, after: int = 0, limit: int = 100) -> Sequence[LogLine]:
        """Of those after number `after` the newest `limit`, of one plugin or of all, the oldest first."""
        with self._guard:
            newest_first = (
                line
                for line in reversed(self._lines)
                if line.number > after and (plugin is None or line.plugin == plugin)
            )
            return list(islice(newest_first, limit))[::-1]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Remember what is logged in the block."""
        levelled = [logger for logger in map(logging.getLogger, _HEARD) if logger.level == logging.NOTSET]
        root = logging.getLogger()
        root.addHandler(self)
        for logger in levelled:
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(self)
            for logger in levelled:
                logger.setLevel(logging.NOTSET)
