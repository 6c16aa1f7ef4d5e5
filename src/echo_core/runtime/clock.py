"""Time as a thing that can be given: code that waits takes a `Clock`, so that its tests need not."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. Only differences of `monotonic` mean anything."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` have passed; at once, but after other tasks' turn, for 0 or less."""


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for real."""
        await asyncio.sleep(seconds)
