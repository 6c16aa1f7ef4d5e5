"""Work for a thread of its own, waited for under a deadline."""

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from time import monotonic


class Errand:
    """Something that was given to a thread. `failed` says, once it is done, that it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self.done = threading.Event()
        self.failed = False

    def run(self) -> None:
        """Do it. Never raises."""
        try:
            self._work()
        except Exception:  # noqa: BLE001 - whoever waits looks at `failed`; exporters count their own results
            self.failed = True
        finally:
            self.done.set()


class Errands:
    """One daemon thread that does what it is given, in turn.

    Made early, because at the end of the process (Python 3.12) no thread can be started any more.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Errand | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def run(self, work: Callable[[], object]) -> Errand:
        """Have `work` done after what was given before."""
        errand = Errand(work)
        self._queue.put(errand)
        return errand

    def close(self) -> None:
        """End the thread after what it was given."""
        self._queue.put(None)

    def _run(self) -> None:
        while (errand := self._queue.get()) is not None:
            errand.run()


def all_done(errands: Iterable[Errand], end: float) -> bool:
    """Wait until time.monotonic() is `end` at most; True if every errand is done and none failed."""
    # A list: one that failed is no reason not to wait for the others.
    ended = [errand.done.wait(max(0.0, end - monotonic())) and not errand.failed for errand in errands]
    return all(ended)
