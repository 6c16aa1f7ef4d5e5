"""How many dead letters there are and how old they are, as metrics."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from common_telemetry import PluginTelemetry, TelemetryContext
from echo_core.runtime.clock import Clock
from echo_core.runtime.dead_letters.database import DeadLetterError
from echo_core.runtime.dead_letters.store import DeadLetterStore
from echo_core.transports.turn import Turn

logger = logging.getLogger(__name__)

_INTERVAL_S: Final = 10.0
"""Not more seldom than metrics are exported, as a rule."""


class DepthMeter:
    """Measures the dead letters of a host's plugins, and of those that left some behind."""

    def __init__(
        self,
        letters: DeadLetterStore,
        telemetry: TelemetryContext,
        clock: Clock,
        running: Callable[[], Iterable[str]],
    ) -> None:
        """`running` names the plugins that are measured though they have none."""
        self._letters = letters
        self._telemetry = telemetry
        self._clock = clock
        self._running = running
        self._measured: dict[str, PluginTelemetry] = {}

    async def watch(self) -> None:
        """Measure until cancelled."""
        trouble = ""
        while True:
            try:
                await self.measure()
                trouble = ""
            except DeadLetterError as error:
                if str(error) != trouble:
                    logger.warning("dead letters are not measured: %s", error)
                trouble = str(error)
            await self._clock.sleep(_INTERVAL_S)

    async def measure(self) -> None:
        """Measure once; raises `DeadLetterError`."""
        depths = {depth.plugin: depth for depth in await asyncio.to_thread(self._letters.depths)}
        turn = Turn.of_running_loop()
        for name in {*depths, *self._measured, *self._running()}:
            if name not in self._measured:
                self._measured[name] = self._telemetry.for_plugin(name, "")
            depth = depths.get(name)
            self._measured[name].dead_letters(depth.count if depth else 0, depth.age_s() if depth else 0.0)
            await turn.give_if_over()  # there may be a thousand
