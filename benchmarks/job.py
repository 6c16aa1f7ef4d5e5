"""What a contestant is given, and what it prints: one measured run in a process of its own.

A contestant is a module of `benchmarks.peers` that ends in `job.main(run)`. `run(job)` sends
`job.segments()` through validate, transform and sink. It calls `job.start()` before the first message is
handed in, and `job.stop()` when the last one is done and, if traced, its telemetry has been delivered.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from benchmarks import servers
from benchmarks.work import Segment, Tally, expected, segments

NOT_AVAILABLE: Final = 69
"""Exit code of a contestant that cannot run here (EX_UNAVAILABLE); the reason is on standard error."""


class NotAvailableError(Exception):
    """Something that this contestant needs is not there; says what."""


class Job:
    """So many messages, a tally, and a stopwatch."""

    def __init__(self, count: int, variant: str = "") -> None:
        self.count = count
        self.variant = variant
        self.tally = Tally()
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self.versions: dict[str, str] = {}
        """Of what took part and is no Python package."""
        self._began = 0.0
        self._cpu_began = 0.0

    def segments(self) -> Iterator[Segment]:
        """The messages."""
        return segments(self.count)

    @property
    def is_done(self) -> bool:
        """Whether every message has reached the sink."""
        return self.tally.count >= self.count

    def start(self) -> None:
        """The first message comes now."""
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def stop(self) -> None:
        """Everything is done, and telemetry delivered."""
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu_began

    def result(self) -> dict[str, Any]:
        """What the harness reads. Raises ValueError if the work was not the work that was asked for."""
        wanted = expected(self.count)
        if (self.tally.count, self.tally.checksum) != (wanted.count, wanted.checksum):
            raise ValueError(
                f"{self.tally.count} messages with checksum {self.tally.checksum} arrived,"
                f" not {wanted.count} with {wanted.checksum}"
            )
        return {
            "messages": self.count,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "checksum": self.tally.checksum,
        }


def server(scheme: str) -> str:
    """The URL of the server that a contestant is to run on. Raises `NotAvailableError`."""
    url = os.environ.get(servers.variable(scheme))
    if not url:
        raise NotAvailableError(f"no server for {scheme}:// to run on")
    return url


def not_available(reason: object) -> int:
    """Say why this contestant cannot run here; returns the exit code that tells the harness."""
    sys.stderr.write(f"{reason}\n")
    return NOT_AVAILABLE


def main(run: Callable[[Job], None], *, packages: Sequence[str] = ()) -> None:
    """Run one job as the command line says, and print its result and the versions of `packages` as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=1_000)
    parser.add_argument("--variant", default="")
    arguments = parser.parse_args()
    job = Job(arguments.messages, arguments.variant)
    try:
        run(job)
    except NotAvailableError as reason:
        raise SystemExit(not_available(reason)) from None
    versions = {"python": platform.python_version()}
    versions |= {package: importlib.metadata.version(package) for package in packages}
    print(json.dumps(job.result() | {"versions": versions | job.versions}))
