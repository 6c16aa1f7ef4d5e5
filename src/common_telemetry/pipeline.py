"""One signal on its way to one exporter: what a telemetry context needs to know of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from common_telemetry.errands import Errand
from common_telemetry.health import Tally


class Runs(Protocol):
    """A thread that does what it is given, in turn."""

    def run(self, work: Callable[[], object]) -> Errand:
        """Have `work` done after what was given before."""


class Pipeline(ABC):
    """One signal on its way to one exporter.

    `flush` and `close` are to be run by `errands`, which is a thread; the rest may be called from any.
    """

    tally: Tally
    errands: Runs

    @abstractmethod
    def flush(self) -> None:
        """Send everything recorded so far. May block as long as the exporter does."""

    @abstractmethod
    def close(self) -> None:
        """Take nothing more, and send everything recorded so far. May block as long as the exporter does."""

    @abstractmethod
    def abandon(self) -> None:
        """Send nothing more, and break off what is being sent if the exporter can."""

    @abstractmethod
    def release(self) -> None:
        """End the threads and close connections. Safe to repeat."""
