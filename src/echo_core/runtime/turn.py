"""Fairness: how the lanes of a host share the event loop with each other and with everything else on it."""

import asyncio
from time import monotonic
from typing import Final

_TURN_S: Final = 0.001_5
"""How long all busy lanes together work before the loop looks after timers and sockets again.

A timer of somebody else's may need three rounds of the loop to be noticed, to fire and to wake its task.
"""
_LONGEST_S: Final = 0.002
"""The same where more lanes have work than had in the round before, which the shares were made for."""


class Turn:
    """One for all lanes and sources of a host. Each works for a share of the turn, then gives it away."""

    def __init__(self) -> None:
        self._share_s = _TURN_S
        self._began = 0.0
        self._busy = 0
        """How many have begun to work in this round of the loop,"""
        self._gave = 0
        """and how many of them had more to do than they had time for."""

    def begin(self) -> float:
        """When whoever begins to work now should give its turn, on the clock of `monotonic`.

        It may be past: then one message is all that there is time for in this round.
        """
        now = monotonic()
        if not self._busy:
            # Runs at the start of the loop's next round, before those that give their turn in this one.
            asyncio.get_running_loop().call_soon(self._divide)
            self._began = now
        self._busy += 1
        return min(now + self._share_s, self._began + _LONGEST_S)

    def _divide(self) -> None:
        """Share the next turn out among those that need more, after what the others took of this one."""
        little = monotonic() - self._began - self._gave * self._share_s
        share = (_TURN_S - max(0.0, little)) / max(1, self._gave)
        self._share_s = max(share, _TURN_S / self._busy)
        self._busy = self._gave = 0

    async def give(self) -> float:
        """Let everybody else have a turn first; returns as `begin`."""
        self._gave += 1
        await asyncio.sleep(0)
        return self.begin()
