"""The page of memory that a process and its host share: signs of life that need no lock and no reader.

It holds a beat of the event loop, a beat of a thread, how much telemetry is not sent yet, and for each lane
the numbers of the first and the last message in hand.
What is written there is still there when the process has died, however it died.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

_LOOP, _THREAD, _SPANS, _LOGS, _LANES = range(5)
_WORD: Final = 8


class Page:
    """A mapping of the file `fd`, for a plugin of so many lanes."""

    def __init__(self, fd: int, lanes: int) -> None:
        self._map = mmap.mmap(fd, size_of(lanes))
        self._words = memoryview(self._map).cast("Q")
        self.first = self._words[_LANES : _LANES + lanes]
        """For each lane the number of the first message that is being handled; 0 for none."""
        self.last = self._words[_LANES + lanes : _LANES + 2 * lanes]
        """And of the last one."""

    def beat_loop(self) -> None:
        """The event loop goes round."""
        self._words[_LOOP] += 1

    def beat_thread(self) -> None:
        """A thread of the process gets its share."""
        self._words[_THREAD] += 1

    @property
    def beats(self) -> tuple[int, int]:
        """Those of the loop, and those of the thread."""
        return self._words[_LOOP], self._words[_THREAD]

    @property
    def unsent(self) -> tuple[int, int]:
        """Spans and log records that wait to be sent to the backend, as of the last beat of the loop."""
        return self._words[_SPANS], self._words[_LOGS]

    @unsent.setter
    def unsent(self, counts: tuple[int, int]) -> None:
        self._words[_SPANS], self._words[_LOGS] = counts

    def in_hand(self) -> Mapping[int, range]:
        """The numbers of the messages in hand, by lane, for the lanes that have some."""
        pairs = enumerate(zip(self.first, self.last, strict=True))
        return {lane: range(first, last + 1) for lane, (first, last) in pairs if first}

    def close(self) -> None:
        """Unmap it."""
        self.first.release()
        self.last.release()
        self._words.release()
        self._map.close()


def size_of(lanes: int) -> int:
    """Bytes that a page for so many lanes needs."""
    return (_LANES + 2 * lanes) * _WORD


def make_file(lanes: int) -> int:
    """A file descriptor for a new page: memory, with no name in any folder."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("echo-core-page", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp()
        with suppress(OSError):
            os.unlink(path)
    os.truncate(fd, size_of(lanes))
    return fd
