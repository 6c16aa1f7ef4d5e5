"""What one plugin reported, kept in the process."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common_telemetry.testing import ReceivedLog, ReceivedPoint, ReceivedSpan


class ReportedTelemetry:
    """The telemetry of one plugin over the real SDK; it can be read at any time, and after `close`."""

    def __init__(self, name: str, version: str) -> None:
        # The SDK takes a while to import; pytest, which knows this package from its start, must not pay.
        from common_telemetry.testing import InMemoryTelemetry

        self._memory = InMemoryTelemetry()
        self.context = self._memory.context
        self.plugin = self._memory.for_plugin(name, version)
        self._kept: tuple[list[ReceivedSpan], list[ReceivedPoint], list[ReceivedLog]] | None = None

    def close(self) -> None:
        """Shut the SDK down; what was reported stays. Safe to repeat."""
        if self._kept is None:
            self._kept = self._read()
            self._memory.close()

    def spans(self, name: str | None) -> "list[ReceivedSpan]":
        """All spans, or those of one name."""
        return [span for span in self._read()[0] if name in (None, span.name)]

    def metrics(self, name: str | None) -> "list[ReceivedPoint]":
        """All data points, or those of one metric."""
        return [point for point in self._read()[1] if name in (None, point.name)]

    def logs(self) -> "list[ReceivedLog]":
        """All log records."""
        return self._read()[2]

    def _read(self) -> "tuple[list[ReceivedSpan], list[ReceivedPoint], list[ReceivedLog]]":
        return self._kept or (self._memory.spans(), self._memory.metrics(), self._memory.logs())
