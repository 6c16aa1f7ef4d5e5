"""A process in reserve: started, with the SDK imported and nothing of the plugin, so a crash is over soon.

Starting an interpreter and importing the SDK is most of what a restart takes.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from echo_core.runtime.clock import Clock
from echo_core.runtime.isolation.incarnation import Incarnation

logger = logging.getLogger(__name__)

_AFTER_S: Final = 1.0
"""A process that has begun to work needs the machine more than its spare does."""


class Spare:
    """The reserve of one plugin: at most one process."""

    def __init__(self) -> None:
        self._incarnation: Incarnation | None = None
        self._is_preparing = False
        self._coming: asyncio.Task[None] | None = None

    async def prepare(self, spawn: Callable[[], Awaitable[Incarnation]], clock: Clock) -> None:
        """Have one in a while, unless there is one. That it cannot be started is no misfortune yet."""
        if self._is_preparing:
            return
        self._is_preparing = True
        try:
            await clock.sleep(_AFTER_S)
            if not self._is_fit():
                await self.end()
                self._coming = asyncio.get_running_loop().create_task(self._make(spawn))
                await self._coming
        except Exception:
            logger.debug("no spare process could be started", exc_info=True)
        finally:
            self._is_preparing, self._coming = False, None

    async def _make(self, spawn: Callable[[], Awaitable[Incarnation]]) -> None:
        self._incarnation = await spawn()

    def _is_fit(self) -> bool:
        spare = self._incarnation
        return spare is not None and not spare.has_ended and not spare.process.is_stopped

    async def take(self) -> Incarnation | None:
        """The process, which is no spare from now on; None if there is none that is well, nor on its way."""
        if self._coming is not None:
            await asyncio.wait([self._coming])
        if not self._is_fit():
            return None
        spare, self._incarnation = self._incarnation, None
        return spare

    async def end(self) -> None:
        """End it. Safe twice."""
        spare, self._incarnation = self._incarnation, None
        if spare is not None:
            await asyncio.shield(spare.end())
