"""The circuit breaker: a plugin that fails whatever it is given is left alone, and its queue held.

Without it an outage of what the plugin depends on would use up the attempts of every message that waits
(M. Nygard, "Release It!", on circuit breakers). Nothing here is asked while messages are handled well.
"""

import asyncio
from collections import deque
from typing import Final

from echo_core.runtime.clock import Clock
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.states import PluginState

_SEVERAL: Final = 3
"""Messages that must have failed, so that it is not they that are at fault."""
TRIALS_OF_A_RUN_THAT_ENDS: Final = 4
"""A run that must end holds for so many trials in each outage, and then lets messages fail."""


class Circuit:
    """One plugin's. Its lanes tell it of each failed attempt, and wait where it is open.

    It opens after `delivery.circuit_failures` failed attempts in a row, over all lanes, if they were at three
    messages or more: one or two that cannot be handled are not the plugin's failure. It then lets one lane
    try, after `circuit_open_ms`, and after twice that each time until it works; whatever is handled well
    closes it.
    """

    def __init__(
        self, slot: PluginSlot, clock: Clock, *, must_end: bool = False, is_judged: bool = False
    ) -> None:
        assert slot.manifest is not None
        delivery = slot.manifest.delivery
        self._slot = slot
        self._clock = clock
        # A version on trial is sent back for what it does wrong, and must not be held before that is seen.
        self._limit = 0 if is_judged else delivery.circuit_failures
        self._wait_s = delivery.circuit_open_ms / 1_000
        self._longest_s = delivery.circuit_open_max_ms / 1_000
        self._trials_in_all = TRIALS_OF_A_RUN_THAT_ENDS if must_end else -1
        self._trials_left = self._trials_in_all
        """Of this outage. None: it lasts too long for a run that must end; negative: as many as it takes."""
        self._in_a_row = 0
        self._message_ids: set[str] = set()
        self._done = 0
        self._is_open = False
        self._trial: object = None
        self._trials = 0
        self._due = 0.0
        self._waiting: deque[tuple[object, asyncio.Future[None]]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether it holds messages back; only then there is something to `look` for from time to time."""
        return self._is_open

    def failed(self, lane: object, message_id: str, error: str) -> None:
        """An attempt of the lane failed, and not because the plugin judged the message."""
        self.look()
        if self._is_open:
            if lane is self._trial:
                self._open(error)
            return
        if not self._trials_left or not self._limit:
            return
        self._in_a_row += 1
        self._message_ids.add(message_id)
        are_several = len(self._message_ids) >= _SEVERAL
        if are_several and self._in_a_row >= self._limit:
            self._open(error)

    def judged(self) -> None:
        """The plugin answered that it will not have a message: it works."""
        self._works()

    def _open(self, error: str) -> None:
        """Hold the queue, or hold it on after a trial that failed."""
        if self._is_open:
            self._trials += 1
            self._trials_left -= 1
            if not self._trials_left:
                self._close()
                return
        self._is_open = True
        self._trial = None
        wait_s = min(self._longest_s, self._wait_s * 2 ** min(self._trials, 32))
        self._due = self._clock.monotonic() + wait_s
        self._slot.hold(f"it fails whatever it is given, next trial in {wait_s:g} s: {error}")

    def look(self) -> None:
        """Close it if something went well, or let a lane try if it is time."""
        statistics = self._slot.statistics
        done = statistics.processed + statistics.filtered
        if done != self._done:
            self._done = done
            self._works()
        elif self._is_open and self._trial is None and self._clock.monotonic() >= self._due:
            self._let_one_try()

    def _let_one_try(self) -> None:
        while self._waiting:
            lane, go_on = self._waiting.popleft()
            if not go_on.done():
                self._trial = lane
                go_on.set_result(None)
                return

    def _works(self) -> None:
        """The outage is over, if there was one; the next one is another one."""
        self._trials_left = self._trials_in_all
        self._close()

    def _close(self) -> None:
        self._in_a_row = 0
        self._message_ids.clear()
        if not self._is_open:
            return
        self._is_open = False
        self._trial, self._trials = None, 0
        while self._waiting:
            _, go_on = self._waiting.popleft()
            if not go_on.done():
                go_on.set_result(None)
        self._slot.resume(PluginState.CIRCUIT_OPEN)

    async def wait(self, lane: object) -> None:
        """Return when the lane may go on: at once unless the circuit is open."""
        if not self._is_open:
            return
        go_on: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((lane, go_on))
        await go_on
