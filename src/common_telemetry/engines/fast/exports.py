"""From the fast engine's buffers and metrics to senders: when to send, and the count of what came of it."""

import logging
import threading
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

from common_telemetry import forks
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.metrics import Metrics
from common_telemetry.engines.fast.worker import ExportWorker
from common_telemetry.environment import PROTOCOL_OF_ENTRY_POINT, ExporterChoice
from common_telemetry.health import PipelineHealth, Signal, Tally
from common_telemetry.pipeline import Pipeline
from common_telemetry.senders.answers import Answer
from common_telemetry.senders.delivery import Body, Sender, deliver
from common_telemetry.senders.settings import OtlpSettings

_logger = logging.getLogger("common_telemetry")
QUEUE_LIMIT: Final = 65_536
# Eight times the SDK's: less work for both ends, and at low rates the delay sends smaller ones anyway.
_BATCH: Final = 4_096
_PREFIX: Final[Mapping[Signal, str]] = {"traces": "OTEL_BSP", "logs": "OTEL_BLRP"}
_DELAY_MS: Final[Mapping[Signal, float]] = {"traces": 5_000, "logs": 1_000, "metrics": 60_000}
_FOREVER_MS: Final = 1e11  # three years; what is endless no thread can wait for
# A backend may ask to be left alone; for longer than this only by mistake.
_LONGEST_REST_S: Final = 300.0


class NotSentError(Exception):
    """Not everything was sent; it is counted, or still waits."""


class BufferTally(Tally):
    """Counts what came out of a buffer, and knows what is still in it or never got in."""

    def __init__(self, signal: Signal, exporter: str, buffer: Buffer) -> None:
        super().__init__(signal, exporter, QUEUE_LIMIT)
        self._buffer = buffer

    @property
    def lost(self) -> int:
        """Part of Tally."""
        return super().lost + self._buffer.dropped

    def give_up(self) -> None:
        """Part of Tally."""
        self._buffer.discard()
        super().give_up()

    def health(self) -> PipelineHealth:
        """Part of Tally."""
        found = super().health()
        return replace(
            found, dropped=found.dropped + self._buffer.dropped, queued=found.queued + len(self._buffer)
        )


class _FastPipeline(Pipeline):
    """What is sent by a sender, from a thread of its own."""

    def __init__(self, sender: Sender, timeout_s: float, tally: Tally, interval_s: float) -> None:
        self._sender = sender
        self._timeout_s = timeout_s
        self._abandoned = threading.Event()
        self._rest_until = 0.0
        self.tally = tally
        self.errands = self._worker = ExportWorker(
            f"telemetry-{tally.signal}-{tally.exporter}", interval_s, self._export
        )
        forks.follow(self)

    def abandon(self) -> None:
        """Part of Pipeline."""
        self._abandoned.set()
        self._sender.break_off()

    def release(self) -> None:
        """Part of Pipeline."""
        # By the thread that uses it: a connection is nothing to take from under somebody's hands.
        self._worker.close(last=self._sender.close)

    def before_fork(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_parent(self) -> None:
        """Part of ForkAware."""

    def after_fork_in_child(self) -> None:
        """Part of ForkAware: what the parent counts and sends is the parent's."""
        self._abandoned = threading.Event()  # a thread that is not in this process may hold its lock
        self._sender.forget_connection()
        self.tally.begin_again()

    @abstractmethod
    def _export(self, due: bool) -> None:
        """Send what there is to send now."""

    def _deliver(self, body: Body, count: int) -> bool:
        """Send one request; whether the backend has said something to it, or else could not be reached."""
        self.tally.enter(count)
        answer = deliver(self._sender, body, monotonic() + self._timeout_s, pause=self._abandoned.wait)
        if answer.outcome == "accepted":
            self.tally.succeeded(count, answer.rejected, answer.message)
        else:
            self.tally.failed(count, answer.message)
        self._rest_until = monotonic() + _rest(answer)
        return answer.outcome != "retry"

    @property
    def _rests(self) -> bool:
        """Whether the backend has asked to be left alone for longer than a request may wait."""
        return monotonic() < self._rest_until and not self._abandoned.is_set()


class BufferPipeline(_FastPipeline):
    """Spans or log records in batches."""

    def __init__(self, choice: ExporterChoice, buffer: Buffer, environ: Mapping[str, str]) -> None:
        """Raises ValueError, OSError or ImportError if the exporter cannot be made."""
        settings = _settings(choice, environ)
        self._buffer = buffer
        self._batch = batch_size(choice.signal, environ)
        super().__init__(
            _sender(choice, settings),
            settings.timeout_s,
            BufferTally(choice.signal, choice.name, buffer),
            _milliseconds(f"{_PREFIX[choice.signal]}_SCHEDULE_DELAY", _DELAY_MS[choice.signal], environ)
            / 1e3,
        )
        buffer.wake = self._worker.wake

    def flush(self) -> None:
        """Part of Pipeline. Raises NotSentError when the backend cannot be reached; what is left stays."""
        # What is added in the meantime is for another time, or a busy program would flush without end.
        if not self._send(len(self._buffer)):
            raise NotSentError

    def close(self) -> None:
        """Part of Pipeline."""
        self.tally.close()
        self._buffer.close()
        self.flush()

    def _export(self, due: bool) -> None:
        # Woken for a batch, it sends full ones: small requests cost as much as large ones.
        least = 1 if due else self._batch
        while len(self._buffer) >= least and self._send(self._batch):
            if self._worker.has_errands:
                self._worker.wake()  # somebody waits for an answer; go on afterwards
                return

    def _send(self, count: int) -> bool:
        """Send so many, in batches; False if the backend cannot be reached, or wants to be left alone."""
        while count > 0:
            if self._rests:
                return False
            drained = self._buffer.drain(min(count, self._batch))
            if drained is None:
                return True
            count -= drained[1]
            reached = self._deliver(*drained)
            self._buffer.settle()
            if not reached:
                return False
        return True


class MetricPipeline(_FastPipeline):
    """All metrics at an interval."""

    def __init__(self, choice: ExporterChoice, metrics: Metrics, environ: Mapping[str, str]) -> None:
        """Raises ValueError, OSError or ImportError if the exporter cannot be made."""
        settings = _settings(choice, environ)
        self._metrics = metrics
        interval_ms = _milliseconds("OTEL_METRIC_EXPORT_INTERVAL", _DELAY_MS["metrics"], environ)
        super().__init__(
            _sender(choice, settings),
            settings.timeout_s,
            Tally("metrics", choice.name, QUEUE_LIMIT),
            interval_ms / 1e3,
        )

    def flush(self) -> None:
        """Part of Pipeline. Raises NotSentError when the backend cannot be reached."""
        if not self._send():
            raise NotSentError

    def close(self) -> None:
        """Part of Pipeline."""
        self.tally.close()
        self.flush()

    def _export(self, due: bool) -> None:
        self._send()

    def _send(self) -> bool:
        if self._rests:
            return False  # measurements go on adding up; none is lost
        collected = self._metrics.collect()
        return collected is None or self._deliver(*collected)


def queue_limit(signal: Signal, environ: Mapping[str, str]) -> int:
    """How many spans or log records may wait: 65,536 unless OTEL_BSP_ or OTEL_BLRP_MAX_QUEUE_SIZE is set."""
    return _count(f"{_PREFIX[signal]}_MAX_QUEUE_SIZE", QUEUE_LIMIT, environ)


def batch_size(signal: Signal, environ: Mapping[str, str]) -> int:
    """How many spans or log records go into one request, at most.

    Unless it is set, no more than a quarter of what may wait: what is being sent takes its place too.
    """
    limit = queue_limit(signal, environ)
    most = _count(f"{_PREFIX[signal]}_MAX_EXPORT_BATCH_SIZE", min(_BATCH, max(limit // 4, 1)), environ)
    return min(most, limit)


def _settings(choice: ExporterChoice, environ: Mapping[str, str]) -> OtlpSettings:
    return OtlpSettings.of(choice.signal, PROTOCOL_OF_ENTRY_POINT[choice.entry_point], environ)


def _sender(choice: ExporterChoice, settings: OtlpSettings) -> Sender:
    # Imported here, because a process that speaks one should not pay for the other.
    if PROTOCOL_OF_ENTRY_POINT[choice.entry_point] == "grpc":
        from common_telemetry.senders.grpc import GrpcSender

        return GrpcSender(settings)
    from common_telemetry.senders.http import HttpSender

    return HttpSender(settings)


def _rest(answer: Answer) -> float:
    if answer.outcome != "retry" or answer.retry_after_s is None:
        return 0.0
    return min(answer.retry_after_s, _LONGEST_REST_S)


def _count(variable: str, default: int, environ: Mapping[str, str]) -> int:
    given = environ.get(variable, "").strip()
    return int(given) if given.isdecimal() and int(given) > 0 else default


def _milliseconds(variable: str, default: float, environ: Mapping[str, str]) -> float:
    """As the SDK: no number counts as not set and is logged; one that is not above 0 raises ValueError."""
    given = environ.get(variable, "").strip()
    if not given:
        return default
    try:
        found = float(given)
    except ValueError:
        _logger.warning(
            "telemetry: %s=%s is no number of milliseconds; it is %g now", variable, given, default
        )
        return default
    if not found > 0:
        raise ValueError(f"{variable}={given} is no number of milliseconds above 0")
    return min(found, _FOREVER_MS)
