"""The thread that exports one signal: at intervals, when a batch has come together, and when told to.

One thread for each signal, so that a backend that hangs with one holds up none of the others. Everything slow
happens here: writing bytes, compressing, sending, waiting to try again.
"""

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from common_telemetry import forks
from common_telemetry.errands import Errand

_logger = logging.getLogger("common_telemetry")


class ExportWorker:
    """A daemon thread that calls `export` every `interval_s` seconds and after `wake`, and runs errands.

    It is made early, because at the end of the process (Python 3.12) no thread can be started any more; and
    made again in the child of a fork.
    """

    def __init__(self, name: str, interval_s: float, export: Callable[[bool], None]) -> None:
        """`export` is told whether it is called because the time has come, or else because of `wake`."""
        self._name = name
        self._interval_s = interval_s
        self._export = export
        self._closed = False
        self._begin()
        forks.follow(self)

    def run(self, work: Callable[[], object]) -> Errand:
        """Have `work` done after what is being done."""
        errand = Errand(work)
        self._queue.put(errand)
        return errand

    def wake(self) -> None:
        """Have `export` called soon. Never blocks, also in a signal handler."""
        self._queue.put(_WAKE)

    @property
    def has_errands(self) -> bool:
        """Whether something waits to be done."""
        return not self._queue.empty()

    def close(self, last: Callable[[], object]) -> None:
        """Do `last` after what was given before, and end the thread. Safe to repeat."""
        if not self._closed:
            self._closed = True
            self.run(last)
            self._queue.put(_END)

    def before_fork(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: threads are not copied."""
        if not self._closed:
            self._begin()

    def _begin(self) -> None:
        self._queue: SimpleQueue[Errand] = SimpleQueue()
        threading.Thread(target=self._work, args=(self._queue,), name=self._name, daemon=True).start()

    def _work(self, queue: "SimpleQueue[Errand]") -> None:
        due = monotonic() + self._interval_s
        while True:
            try:
                errand = queue.get(timeout=max(0.0, due - monotonic()))
            except Empty:
                self._export_safely(True)
                due = monotonic() + self._interval_s
                continue
            if errand is _END:
                return
            if errand is _WAKE:
                self._export_safely(False)
            else:
                errand.run()

    def _export_safely(self, due: bool) -> None:
        try:
            self._export(due)
        except Exception:  # the thread must live on, or nothing is exported any more
            _logger.exception("telemetry: an export failed")


def _nothing() -> None:
    """Not called: the two errands below are signs."""


_WAKE: Final = Errand(_nothing)
_END: Final = Errand(_nothing)
