"""The thread that exports one signal: at intervals, when a batch has come together, and when told to.

One thread for each signal, so that a backend that hangs with one holds up none of the others. Everything slow
happens here: writing bytes, compressing, sending, waiting to try again.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from opentelemetry import context as otel_context

from common_telemetry import forks
from common_telemetry.errands import Errand

_logger = logging.getLogger("common_telemetry")
# The key by which OpenTelemetry's exporters and instrumentations agree on it; not public, so it may be gone.
_SUPPRESS: Final[str] = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")
_LOOK: Final = "look for errands"
_EXPORT: Final = "export"
_END: Final = "end"


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
        self._errands.append(errand)
        self._signals.put(_LOOK)
        return errand

    def wake(self) -> None:
        """Have `export` called soon. Never blocks, also in a signal handler."""
        self._signals.put(_EXPORT)

    @property
    def has_errands(self) -> bool:
        """Whether somebody waits for something to be done."""
        return bool(self._errands)

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def close(self, last: Callable[[], object]) -> None:
        """Do `last` after what was given before, and end the thread. Safe to repeat."""
        if not self._closed:
            self._closed = True
            self.run(last)
            self._signals.put(_END)

    def before_fork(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: threads are not copied."""
        if not self._closed:
            self._begin()

    def _begin(self) -> None:
        # A queue, because putting something into it is safe even where a signal has interrupted a put.
        self._signals: SimpleQueue[str] = SimpleQueue()
        self._errands: deque[Errand] = deque()
        self._thread = threading.Thread(
            target=self._work, args=(self._signals, self._errands), name=self._name, daemon=True
        )
        self._thread.start()

    def _work(self, signals: "SimpleQueue[str]", errands: deque[Errand]) -> None:
        # Instrumented libraries must make no spans of what is done here: each would be another one to export.
        otel_context.attach(otel_context.set_value(_SUPPRESS, True))
        due = monotonic() + self._interval_s
        signal = _LOOK
        while signal is not _END:
            while errands:
                errands.popleft().run()
            if signal is _EXPORT:
                self._export_safely(False)
            try:
                signal = signals.get(timeout=max(0.0, due - monotonic()))
            except Empty:
                self._export_safely(True)
                due = monotonic() + self._interval_s
                signal = _LOOK

    def _export_safely(self, due: bool) -> None:
        try:
            self._export(due)
        except Exception:  # the thread must live on, or nothing is exported any more
            _logger.exception("telemetry: an export failed")
