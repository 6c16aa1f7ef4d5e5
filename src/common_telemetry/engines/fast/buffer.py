"""Finished spans and log records on their way to the exporter: bounded, and what does not fit is counted."""

from collections import defaultdict, deque
from collections.abc import Callable
from threading import RLock
from time import sleep
from typing import Any, Final, Generic, TypeVar

from common_telemetry import forks
from common_telemetry.engines.fast.wire import Origin, request
from common_telemetry.weight import MOST

_T = TypeVar("_T")
Written = tuple[Origin, bytes]
"""An item as it goes into a request, and where it comes from."""
# How often `add` looks at more than whether there is room.
_STEP: Final = 64
# Just giving the lock up is not enough where another process has the thread's processor at that moment.
_LET_GO_S: Final = 0.0005
# No backend need take a request larger than a few megabytes: gRPC's own limit is 4.
_REQUEST_BYTES: Final = 2 * 1024 * 1024


class Buffer(Generic[_T]):
    """Takes items from any thread, without a lock. One thread at a time may `drain` it.

    An item is what `write` makes bytes of when it is drained, or `Written` already.

    At most `limit` items wait, or a few more where several threads add in the same moment; those drained wait
    until they are settled. What comes while it is full, or closed, is dropped and counted. `wake` is called
    when `batch` items have come together. Heavy items are counted by weight besides: together they take no
    more than `weight.MOST` bytes. A forked child begins with an empty buffer: what its parent had is
    for the parent to send.

    A program that does nothing but add would leave too little of the interpreter to the thread that drains:
    after each call of the system that thread waits for the interpreter's lock, by default 5 ms. So while more
    than half of the room is taken, `add` lets go of that lock now and then, long enough for the other thread
    to get it on a busy machine too. It never waits for a backend: a full buffer drops at once.
    """

    def __init__(self, limit: int, write: Callable[[_T], tuple[Origin, bytes]], *, batch: int = 512) -> None:
        self.wake: Callable[[], None] = _nobody
        self._limit = limit
        self._room = limit
        self._batch = batch
        self._step = min(_STEP, batch)
        self._woken = False
        self._write = write
        self._items: deque[_T | Written | _Heavy] = deque()
        self._weight = 0
        self._closed = False
        self._counting = RLock()  # a signal handler may add in the midst of it
        self._dropped = 0
        forks.follow(self)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def dropped(self) -> int:
        """How many never came out: there was no room, or nothing could be made of them."""
        return self._dropped

    def add_heavy(self, item: _T, weight: int) -> None:
        """Take one item of so many bytes. Never blocks, never raises."""
        with self._counting:
            fits = self._weight + weight <= MOST and len(self._items) < self._room
            if fits:
                self._weight += weight
        if fits:
            self.add(_Heavy(item, weight))
        else:
            self._drop(1)

    def add(self, item: "_T | Written | _Heavy") -> None:
        """Take one item. Never blocks, never raises."""
        items = self._items
        waiting = len(items)
        if waiting >= self._room:  # none is left once it is closed
            self._drop(1)
            if item.__class__ is _Heavy:
                self._unload(item)
            return
        items.append(item)
        waiting += 1
        if waiting % self._step == 0:
            self._look(waiting)

    def drain(self, most: int) -> tuple[bytes, int] | None:
        """The oldest items, `most` at most, as one export request, and how many; None if there are none.

        Fewer, if they would become a request of more than two megabytes. `settle` them before the next call.
        """
        self._woken = False
        pop, by_origin, count, size = self._items.popleft, defaultdict[Origin, list[bytes]](list), 0, 0
        self._reserve(min(most, len(self._items)))
        while count < most and size < _REQUEST_BYTES:
            try:
                item = pop()
            except IndexError:
                break
            try:
                if item.__class__ is _Heavy:
                    item = self._unload(item)
                origin, written = item if item.__class__ is tuple else self._write(item)  # type: ignore[arg-type]
            except Exception:  # noqa: BLE001 - one that cannot be written must not take the others with it
                self._drop(1)
                continue
            by_origin[origin].append(written)
            size += len(written)
            count += 1
        self._reserve(count)
        return (request(by_origin.items()), count) if count else None

    def settle(self) -> None:
        """What was drained is sent, or given up: there is room again."""
        self._reserve(0)

    def _reserve(self, count: int) -> None:
        if not self._closed:
            self._room = self._limit - count

    def close(self) -> None:
        """Take nothing more. What waits can still be drained."""
        self._closed = True
        self._room = 0

    def discard(self) -> None:
        """Drop what waits."""
        waiting = len(self._items)
        self._items.clear()
        self._weight = 0
        self._drop(waiting)

    def _unload(self, heavy: "_Heavy") -> Any:
        with self._counting:
            self._weight = max(self._weight - heavy.weight, 0)
        return heavy.item

    def _look(self, waiting: int) -> None:
        if waiting >= self._batch and not self._woken:
            self._woken = True
            self.wake()
        if waiting > self._limit // 2:
            sleep(_LET_GO_S)

    def _drop(self, count: int) -> None:
        with self._counting:
            self._dropped += count

    def before_fork(self) -> None:
        """Part of ForkAware."""
        self._counting.acquire()

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""
        self._counting.release()

    def after_fork_in_child(self) -> None:
        """Part of ForkAware."""
        self._items.clear()
        self._dropped = self._weight = 0
        self._woken = False
        self.settle()
        self._counting.release()


class _Heavy:
    __slots__ = ("item", "weight")

    def __init__(self, item: Any, weight: int) -> None:
        self.item = item
        self.weight = weight


def _nobody() -> None:
    """Nobody waits for a batch."""
