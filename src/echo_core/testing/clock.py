"""A clock that stands still until the test moves it."""

import asyncio
import heapq
import itertools
import math
from typing import Final

TURNS: Final = 20
"""Turns of the event loop that other tasks get between two wake-ups, to reach their next `sleep`."""


class ManualClock:
    """A `Clock` whose time passes only in `advance`; a test that uses it never waits.

    clock = ManualClock()
    task = asyncio.create_task(retry_every_minute(clock))
    await clock.advance(180)          # three attempts have been made
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """Seconds: `start`, plus all that was advanced."""
        return self._now

    @property
    def sleepers(self) -> int:
        """How many tasks are waiting for time to pass."""
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Return once the clock was advanced by `seconds`; 0 or less only gives others their turn."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Later than now, however little: else who sleeps what is left until a moment would never get there.
        due = max(self._now + seconds, math.nextafter(self._now, math.inf))
        heapq.heappush(self._sleepers, (due, next(self._order), sleeper))
        await sleeper

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: wake each sleeper at its own moment, in order, those that sleep again too."""
        end = self._now + seconds
        await self._let_others_run()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():  # its task may have been cancelled
                self._now = due
                sleeper.set_result(None)
                await self._let_others_run()
        self._now = end

    @staticmethod
    async def _let_others_run() -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
