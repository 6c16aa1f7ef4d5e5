"""What a plugin's process prints, into the plugin's log. A pipe that nobody reads would stop the process."""

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import Final

from echo_core.runtime.isolation.quota import Quota

_CHUNK: Final = 64 * 1024
_LINE: Final = 4_096
"""Characters of a line that are kept."""
_TAIL: Final = 20


class Drain:
    """Reads one pipe for as long as the process lives: long lines are cut, floods thinned out, both said."""

    def __init__(self, fd: int, logger: logging.Logger, level: int) -> None:
        self._fd = fd
        self._logger = logger
        self._level = level
        self._line = bytearray()
        self._cut = 0
        self._quota = Quota()
        self._is_open = True
        self.tail: deque[str] = deque(maxlen=_TAIL)
        """The last lines."""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self.read)

    def read(self) -> None:
        """Take what is there; a bounded amount, so that a flood does not take the host's time."""
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self.close()

    def close(self) -> None:
        """Read no more; what is left of a line and of what was dropped is said. Safe twice."""
        if not self._is_open:
            return
        self._is_open = False
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self._fd)
        if self._line or self._cut:
            self._end_line()
        self._say_dropped()

    def finish(self) -> None:
        """The process has ended: take what is left in the pipe, which is bounded, and close."""
        for _ in range(4):
            if self._is_open:
                self.read()
        self.close()

    def _take(self, data: bytes) -> None:
        first, *rest = data.split(b"\n")
        self._add(first)
        for part in rest:
            self._end_line()
            self._add(part)

    def _add(self, part: bytes) -> None:
        room = _LINE - len(self._line)
        self._line += part[:room]
        self._cut += max(0, len(part) - room)

    def _end_line(self) -> None:
        text = self._line.decode("utf-8", "replace").rstrip("\r")
        if self._cut:
            text = f"{text} … ({self._cut} more bytes of this line are left out)"
        self._line.clear()
        self._cut = 0
        if text:
            self._say(text)

    def _say(self, text: str) -> None:
        self.tail.append(text)
        if self._quota.admits():
            self._say_dropped()
            self._logger.log(self._level, "%s", text)

    def _say_dropped(self) -> None:
        if dropped := self._quota.take_dropped():
            self._logger.warning("%d more lines were printed than are kept, and left out", dropped)
