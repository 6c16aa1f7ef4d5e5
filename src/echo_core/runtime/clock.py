"""Time, as something that can be given: so that tests need not wait."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What code that waits asks for the time."""

    def monotonic(self) -> float:
        """Seconds since some point that never moves; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""


class SystemClock:
    """The machine's own."""

    def monotonic(self) -> float:
        """`time.monotonic`."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`."""
        await asyncio.sleep(seconds)
