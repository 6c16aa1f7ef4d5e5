"""What waits to be sent. Written twice: here, and in C (`pile.pyx`), as `primitives` is.

In C what is written lies in the bytes it is sent in, one item after the other: no object is made for it, and
none is freed.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any


class Pile:
    """What waits to be sent, oldest first, with a bound: objects, and what is in its bytes already.

    Any thread may add, without a lock; one at a time may take.
    """

    def __init__(self, limit: int, step: int) -> None:
        """`_look` is called each time that `step` more wait."""
        self._room = limit
        self._step = step
        self._items: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Any) -> bool:
        """Take one object, no tuple. Never blocks or raises; no room gives False, and is counted."""
        items = self._items
        waiting = len(items)
        if waiting >= self._room:
            self._drop(1)
            return False
        items.append(item)
        waiting += 1
        if waiting % self._step == 0:
            self._look(waiting)
        return True

    def write(self, origin: Any, written: bytes) -> None:
        """Take what is written. Never blocks, never raises; where there is no room it is counted."""
        items = self._items  # as `add`, without a call
        waiting = len(items)
        if waiting >= self._room:
            self._drop(1)
            return
        items.append((origin, written))
        waiting += 1
        if waiting % self._step == 0:
            self._look(waiting)

    def take(self, most: int, most_bytes: int, write: Callable[[Any], tuple[Any, bytes] | None]) -> "Taken":
        """The oldest items; `most` at most, and none after `most_bytes`. Valid until the next are taken.

        `write` gives origin and bytes of an object, or None if it has none: then it is not counted.
        """
        pop, content, count, size = self._items.popleft, defaultdict[Any, list[bytes]](list), 0, 0
        while count < most and size < most_bytes:
            try:
                item = pop()
            except IndexError:
                break
            if type(item) is not tuple:
                item = write(item)
                if item is None:
                    continue
            origin, written = item
            content[origin].append(written)
            size += len(written)
            count += 1
        return Taken(content, count)

    def clear(self) -> int:
        """Forget everything; returns how much that was."""
        forgotten = len(self._items)
        self._items.clear()
        return forgotten

    def _look(self, waiting: int) -> None:
        """For subclasses: another `step` of items wait."""

    def _drop(self, count: int) -> None:
        """For subclasses: there was no room for so many."""


class Taken:
    """What was taken, so that it is copied once: into what is sent."""

    def __init__(self, content: Mapping[Any, Sequence[Sized]], count: int) -> None:
        self.content = content
        """Parts by origin. All that can be said of one is how long it is."""
        self.count = count

    def joined(self, parts: Iterable[Any]) -> bytes | memoryview:
        """Bytes, and among them parts of the content, each at most once."""
        return b"".join(parts)
