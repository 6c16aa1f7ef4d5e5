"""Fairness: how the lanes of a host share the event loop with each other and with everything else on it."""

import asyncio
from typing import Final

_TURN_S: Final = 0.002
"""How long all busy lanes together work before the loop looks after timers and sockets again.

A timer of somebody else's may need three rounds of the loop to be noticed, to fire and to wake its task.
"""


class Turn:
    """One for all lanes of a host. Each works for `share_s` at a time, then gives the turn away."""

    def __init__(self) -> None:
        self.share_s = _TURN_S
        """The turn, divided by the number of lanes that had work in the last one."""
        self._busy = 0

    async def give(self) -> None:
        """Let everybody else have a turn first."""
        if not self._busy:
            # Runs at the start of the loop's next round, before the lanes that give their turn in this one.
            asyncio.get_running_loop().call_soon(self._divide)
        self._busy += 1
        await asyncio.sleep(0)

    def _divide(self) -> None:
        self.share_s = _TURN_S / self._busy
        self._busy = 0
