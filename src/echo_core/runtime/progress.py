"""Sees when a plugin that has work does not get on with it."""

from collections.abc import Sequence
from typing import Final

from echo_core.runtime.lane import Lane
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.states import PluginState

_MOVABLE: Final = (PluginState.RUNNING, PluginState.DEGRADED)


class Progress:
    """One plugin's. An attempt that ends is progress, however it ends; so is having nothing to do.

    A handler may take as long as its deadline says, so the limit comes on top of that. One that was
    cancelled at its deadline and goes on all the same has stalled its lane then.
    """

    def __init__(self, slot: PluginSlot, lanes: Sequence[Lane], limit_s: float, now: float) -> None:
        assert slot.manifest is not None
        self._slot = slot
        self._lanes = lanes
        self._limit_s = limit_s + slot.manifest.timeouts.message_ms / 1_000
        self._since = now
        self._ended = -1

    def look(self, now: float) -> None:
        """STALLED with the reason if nothing moves, and RUNNING again once something does."""
        slot = self._slot
        numbers = slot.statistics
        ended = numbers.processed + numbers.filtered + numbers.dead_lettered + numbers.failed_attempts
        deaf = next((lane for lane in self._lanes if lane.is_deaf(now)), None)
        if ended != self._ended or slot.state not in (*_MOVABLE, PluginState.STALLED) or not self._backlog():
            self._ended, self._since = ended, now
            if deaf is None:
                slot.resume(PluginState.STALLED)
        if slot.state is PluginState.CIRCUIT_OPEN and deaf is not None:
            slot.hold(f"its trial does not end: {deaf.doing(now)}")
        if slot.state not in _MOVABLE:
            return
        if deaf is not None:
            slot.move_to(PluginState.STALLED, deaf.doing(now))
        elif now - self._since > self._limit_s:
            doing = dict.fromkeys(lane.doing(now) for lane in self._lanes)
            waited = f"nothing has ended for {now - self._since:.0f} s, and {self._backlog()} message(s) wait"
            slot.move_to(PluginState.STALLED, f"{waited}: {'; '.join(doing)}")

    def _backlog(self) -> int:
        """What waits, and what is in a handler's hands; not what waits for its next attempt."""
        return self._slot.queued() + sum(lane.is_busy for lane in self._lanes)
