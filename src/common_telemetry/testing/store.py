"""Everything received so far, and waiting for more."""

from collections.abc import Callable
from threading import Condition
from time import monotonic
from typing import TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from common_telemetry.testing import received
from common_telemetry.testing.received import ReceivedLog, ReceivedPoint, ReceivedSpan

Request = ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest
_T = TypeVar("_T")


class Received:
    """Spans, data points and log records in the order they came. Safe from any thread."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._spans: list[ReceivedSpan] = []
        self._points: list[ReceivedPoint] = []
        self._logs: list[ReceivedLog] = []

    def spans(self, name: str | None = None) -> list[ReceivedSpan]:
        """The spans so far, or those of one name."""
        with self._changed:
            return [span for span in self._spans if name in (None, span.name)]

    def metrics(self, name: str | None = None) -> list[ReceivedPoint]:
        """The data points so far, or those of one metric; a cumulative series comes with every export."""
        with self._changed:
            return [point for point in self._points if name in (None, point.name)]

    def logs(self, event_name: str | None = None) -> list[ReceivedLog]:
        """The log records so far, or those of one event name."""
        with self._changed:
            return [log for log in self._logs if event_name in (None, log.event_name)]

    def clear(self) -> None:
        """Forget what came so far."""
        with self._changed:
            self._spans, self._points, self._logs = [], [], []

    def clear_metrics(self) -> None:
        """Forget the data points so far."""
        with self._changed:
            self._points = []

    def add(self, request: Request) -> None:
        """Take in one export request."""
        with self._changed:
            if isinstance(request, ExportTraceServiceRequest):
                self._spans.extend(received.spans(request))
            elif isinstance(request, ExportMetricsServiceRequest):
                self._points.extend(received.points(request))
            else:
                self._logs.extend(received.logs(request))
            self._changed.notify_all()

    def wait_for(self, look: Callable[[], _T], timeout_s: float = 10.0) -> _T:
        """Call `look` now and after every arrival until it returns something true, and return that.

        Raises TimeoutError after `timeout_s` seconds, saying what has come.
        """
        end = monotonic() + timeout_s
        with self._changed:
            while not (found := look()):
                if not self._changed.wait(end - monotonic()) and monotonic() >= end:
                    raise TimeoutError(f"not seen within {timeout_s} s; so far: {self}")
            return found

    def wait_for_spans(self, count: int, timeout_s: float = 10.0) -> list[ReceivedSpan]:
        """All spans, once there are `count`. Raises TimeoutError after `timeout_s` seconds."""
        return self.wait_for(lambda: self.spans() if len(self._spans) >= count else [], timeout_s)

    def __repr__(self) -> str:
        with self._changed:
            names = sorted({span.name for span in self._spans})
            return f"{len(self._spans)} spans {names}, {len(self._points)} points, {len(self._logs)} logs"
