"""Finished spans and log records on their way to the exporter: bounded, and what does not fit is counted."""

from collections.abc import Callable
from threading import RLock
from time import sleep
from typing import Any, Final

from common_telemetry import forks
from common_telemetry.engines.fast.pile import Pile
from common_telemetry.engines.fast.wire import Origin, request_parts
from common_telemetry.senders.delivery import Body
from common_telemetry.weight import MOST

Written = tuple[Origin, bytes]
"""An item as it goes into a request, and where it comes from."""
# How often `add` looks at more than whether there is room.
_STEP: Final = 64
# Just giving the lock up is not enough where another process has the thread's processor at that moment.
_LET_GO_S: Final = 0.0005
# No backend need take a request larger than a few megabytes: gRPC's own limit is 4.
_REQUEST_BYTES: Final = 2 * 1024 * 1024


class Buffer(Pile):
    """Takes items from any thread, without a lock. One thread at a time may `drain` it.

    An item that is added is made bytes of by `write` when it is drained.

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

    def __init__(self, limit: int, write: Callable[[Any], Written], *, batch: int = 512) -> None:
        Pile.__init__(self, limit, min(_STEP, batch))
        self.wake: Callable[[], None] = _nobody
        self._limit = limit
        self._batch = batch
        self._woken = False
        self._write = write
        self._weight = 0
        self._closed = False
        self._counting = RLock()  # a signal handler may add in the midst of it
        self._dropped = 0
        forks.follow(self)

    @property
    def dropped(self) -> int:
        """How many never came out: there was no room, or nothing could be made of them."""
        return self._dropped

    def add_heavy(self, item: object, weight: int) -> None:
        """Take one item of so many bytes. Never blocks, never raises."""
        with self._counting:
            fits = self._weight + weight <= MOST
            if fits:
                self._weight += weight
        if not fits:
            self._drop(1)
        elif not self.add(heavy := _Heavy(item, weight)):
            self._unload(heavy)

    def drain(self, most: int) -> tuple[Body, int] | None:
        """The oldest items, `most` at most, as one export request, and how many; None if there are none.

        Fewer, if they would become a request of more than two megabytes. `settle` them before the next call:
        until then the request is valid.
        """
        self._woken = False
        self._reserve(min(most, len(self)))
        taken = self.take(most, _REQUEST_BYTES, self._written)
        self._reserve(taken.count)
        return (taken.joined(request_parts(taken.content.items())), taken.count) if taken.count else None

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
        waiting = self.clear()
        self._weight = 0
        self._drop(waiting)

    def _written(self, item: Any) -> Written | None:
        """One that cannot be written must not take the others with it."""
        try:
            return self._write(self._unload(item) if isinstance(item, _Heavy) else item)
        except Exception:  # noqa: BLE001 - it may be anything
            self._drop(1)
            return None

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
        self.clear()
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
