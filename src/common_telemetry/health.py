"""What became of the telemetry: counts of delivered, failed and dropped, and faults made by its users."""

import logging
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import time_ns
from types import TracebackType
from typing import Final, Literal

from common_telemetry import forks
from common_telemetry.errors import describe
from common_telemetry.weight import HEAVY, MOST

Signal = Literal["traces", "metrics", "logs"]

_logger = logging.getLogger("common_telemetry")
_REMEMBERED: Final = 1_000


@dataclass(frozen=True, slots=True)
class PipelineHealth:
    """One signal on its way to one exporter, counted in spans, metric data points or log records.

    `exported` were accepted by the exporter, `failed` were refused or could not be sent, `dropped` never
    reached it (queue full, or left over at shutdown), `queued` still wait. `failing_since_ns` is the Unix
    time, in nanoseconds, of the first of the current row of failures; None while it works.
    """

    signal: Signal
    exporter: str
    exported: int
    failed: int
    dropped: int
    queued: int
    failing_since_ns: int | None
    last_error: str


@dataclass(frozen=True, slots=True)
class SignalHealth:
    """The sum over the exporters of one signal."""

    exported: int = 0
    failed: int = 0
    dropped: int = 0
    queued: int = 0
    failing_since_ns: int | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class TelemetryHealth:
    """The state of telemetry at one moment. `faults` counts misuse by reason: refused, never raised."""

    pipelines: tuple[PipelineHealth, ...]
    faults: Mapping[str, int]

    @property
    def traces(self) -> SignalHealth:
        """Spans, over all exporters."""
        return self._sum("traces")

    @property
    def metrics(self) -> SignalHealth:
        """Metric data points, over all exporters."""
        return self._sum("metrics")

    @property
    def logs(self) -> SignalHealth:
        """Log records, over all exporters."""
        return self._sum("logs")

    def _sum(self, signal: Signal) -> SignalHealth:
        parts = [pipeline for pipeline in self.pipelines if pipeline.signal == signal]
        failing = [part.failing_since_ns for part in parts if part.failing_since_ns is not None]
        return SignalHealth(
            exported=sum(part.exported for part in parts),
            failed=sum(part.failed for part in parts),
            dropped=sum(part.dropped for part in parts),
            queued=sum(part.queued for part in parts),
            failing_since_ns=min(failing, default=None),
            last_error=next((part.last_error for part in parts if part.last_error), ""),
        )


class Tally:
    """Counts one pipeline, from any thread; says once that delivery fails, and once that it works again.

    Its lock, as every lock here that a plugin's thread may take, is reentrant: a signal handler that reports
    something, or shuts telemetry down, may have interrupted the very lines the lock is for.
    """

    def __init__(self, signal: Signal, exporter: str, limit: int) -> None:
        self.signal = signal
        self.exporter = exporter
        self._limit = limit
        self.begin_again()

    def begin_again(self) -> None:
        """Forget all counts, as the child of a fork must: they are its parent's."""
        self._lock = threading.RLock()
        self._queued = self._exported = self._failed = self._dropped = self._weight = 0
        self._failing_since: int | None = None
        self._last_error = ""
        self._closed = False
        self._given_up = False
        self._told_of_rejects = False

    def admit(self, weight: int = 0) -> bool:
        """Make room for one more; False, and counted as dropped, when the queue is full or closed.

        Of those that weigh much, in bytes, there is room for `weight.MOST` bytes together, until `relieve`.
        """
        with self._lock:
            heavy = weight >= HEAVY
            if self._closed or self._queued >= self._limit or (heavy and self._weight + weight > MOST):
                self._dropped += 1
                return False
            self._queued += 1
            self._weight += weight if heavy else 0
            return True

    def relieve(self, weights: Iterable[int]) -> None:
        """These no longer wait."""
        with self._lock:
            self._weight = max(self._weight - sum(weight for weight in weights if weight >= HEAVY), 0)

    def enter(self, count: int) -> None:
        """Count data that goes straight to the exporter, as metrics do.

        After `give_up` it is dropped: the exporting thread was on its way with it when it was all over.
        """
        with self._lock:
            if self._given_up:
                self._dropped += count
            else:
                self._queued += count

    def succeeded(self, count: int, rejected: int = 0, said: str = "") -> None:
        """`count` were accepted by the exporter, but `rejected` of them not stored, for the reason `said`."""
        rejected = min(rejected, count)
        with self._lock:
            if self._given_up:
                return
            self._queued -= count
            self._exported += count - rejected
            self._failed += rejected
            self._last_error = said or self._last_error
            recovered = self._failing_since is not None
            self._failing_since = None
            news = bool(said) and not self._told_of_rejects
            self._told_of_rejects = self._told_of_rejects or news
        if recovered:
            _logger.info("telemetry: %s reach %s again", self.signal, self.exporter)
        if news:
            _logger.warning(
                "telemetry: %s took %s but did not store %d of %d (%s); said once, counted in health()",
                self.exporter,
                self.signal,
                rejected,
                count,
                said,
            )

    def failed(self, count: int, error: str) -> None:
        """`count` were refused or could not be sent; they are lost."""
        with self._lock:
            if self._given_up:
                return
            self._queued -= count
            self._failed += count
            self._last_error = error or self._last_error
            began = self._failing_since is None and not self._closed
            if began:
                self._failing_since = time_ns()
        if began:
            _logger.warning(
                "telemetry: %s do not reach %s (%s); trying on, what is lost is counted in health()",
                self.signal,
                self.exporter,
                error or "no reason given",
            )

    def close(self) -> None:
        """Admit nothing more."""
        with self._lock:
            self._closed = True

    def give_up(self) -> None:
        """Count what still waits as dropped, whatever an export under way may still say."""
        with self._lock:
            self._given_up = True
            self._dropped += self._queued
            self._queued = 0

    @property
    def lost(self) -> int:
        """Failed and dropped so far."""
        with self._lock:
            return self._failed + self._dropped

    def health(self) -> PipelineHealth:
        """The counts at this moment."""
        with self._lock:
            return PipelineHealth(
                self.signal,
                self.exporter,
                self._exported,
                self._failed,
                self._dropped,
                self._queued,
                self._failing_since,
                self._last_error,
            )


class Faults:
    """Misuse of telemetry: counted every time, logged the first time, never raised into the caller."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()
        forks.follow(self)

    def before_fork(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: a thread that is not in this process may hold it."""
        self._lock = threading.RLock()

    def report(self, reason: str, message: str, *, level: Literal["WARNING", "ERROR"] = "ERROR") -> None:
        """Count a fault under `reason`, and log `message` unless exactly that was logged before."""
        with self._lock:
            self._counts[reason] += 1
            new = message not in self._told and len(self._told) < _REMEMBERED
            if new:
                self._told.add(message)
        if new:
            _logger.log(logging.getLevelNamesMapping()[level], "telemetry: %s", message)

    def guard(self, reason: str, what: str) -> "_Guard":
        """A `with` block whose exceptions end here, as a fault: `what` failed."""
        return _Guard(self, reason, what)

    def counts(self) -> dict[str, int]:
        """How often each reason was reported."""
        with self._lock:
            return dict(self._counts)


class _Guard:
    __slots__ = ("_faults", "_reason", "_what")

    def __init__(self, faults: Faults, reason: str, what: str) -> None:
        self._faults = faults
        self._reason = reason
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._faults.report(self._reason, f"{self._what}: {describe(error)}")
        return True
