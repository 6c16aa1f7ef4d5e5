"""The page of memory that a process and its host share: signs of life that need no lock and no reader.

It holds a beat of the event loop, a beat of a thread, and for each lane the number of the message in hand.
What is written there is still there when the process has died, however it died.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

_LOOP, _THREAD, _LANES = range(3)
_WORD: Final = 8


class Page:
    """A mapping of the file `fd`, for a plugin of so many lanes."""

    def __init__(self, fd: int, lanes: int) -> None:
        self._map = mmap.mmap(fd, size_of(lanes))
        self._words = memoryview(self._map).cast("Q")
        self.in_hand = self._words[_LANES : _LANES + lanes]
        """For each lane the number of the message that is being handled, 0 for none."""

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

    def messages(self) -> Iterator[int]:
        """The numbers of the messages that are in hand."""
        return (seq for seq in self.in_hand if seq)

    def close(self) -> None:
        """Unmap it."""
        self.in_hand.release()
        self._words.release()
        self._map.close()


def size_of(lanes: int) -> int:
    """Bytes that a page for so many lanes needs."""
    return (_LANES + lanes) * _WORD


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
