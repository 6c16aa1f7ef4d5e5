"""What the process holds, second by second."""

import asyncio
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from benchmarks.machine import resident_bytes

_MOMENT_S: Final = 20.0


@dataclass(frozen=True)
class Holdings:
    """What a program can leak, besides memory."""

    tasks: int
    threads: int
    descriptors: int

    @classmethod
    def now(cls) -> "Holdings":
        """Of this process; from within its event loop."""
        return cls(len(asyncio.all_tasks()), threading.active_count(), _descriptors())

    def are_within(self, others: "Holdings") -> bool:
        """Whether there are no more of any."""
        return (
            self.tasks <= others.tasks
            and self.threads <= others.threads
            and self.descriptors <= others.descriptors
        )


async def remains(before: Holdings) -> Holdings:
    """What is held when there is no more than before, or else after a while: threads take a moment to end."""
    until = time.monotonic() + _MOMENT_S
    while not (now := Holdings.now()).are_within(before) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return now


@dataclass(frozen=True)
class Sample:
    """One look."""

    at_s: float
    resident_bytes: int
    holdings: Holdings
    handled: int
    """Messages at the end of the longest way since the last look."""
    p50_ms: float | None
    """From the source to there; None if nothing arrived."""
    p95_ms: float | None


class Watch:
    """Looks at the process, and at how long messages take."""

    def __init__(self, took: deque[float]) -> None:
        self.samples: list[Sample] = []
        self._took = took
        self._began = time.monotonic()

    async def run(self, interval_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            self._look()

    def _look(self) -> None:
        took = sorted(self._took)
        self._took.clear()
        sample = Sample(
            at_s=time.monotonic() - self._began,
            resident_bytes=resident_bytes() or 0,
            holdings=Holdings.now(),
            handled=len(took),
            p50_ms=took[len(took) // 2] * 1e3 if took else None,
            p95_ms=took[int(len(took) * 0.95)] * 1e3 if took else None,
        )
        self.samples.append(sample)


def _descriptors() -> int:
    """How many are open; 0 where the system does not say."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
