"""Fairness: how all that a host does shares the event loop, and how it waits for something to do.

Whoever has work stands in one line. The line is worked off for a moment, then the loop looks after timers
and sockets, then the line goes on. Who waits for its turn awaits a `Waiter`, which is to a task what a
future is, costs less than a third of one, and is used again and again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context
from time import monotonic
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

_ROUND_S: Final = 0.001_5
"""How long the line is worked off before the loop looks after timers and sockets again.

A timer of somebody else's may need three rounds of the loop to be noticed, to fire and to wake its task.
"""
_LEAST_S: Final = 0.000_5
"""What each in the line gets at least, however many they are: to begin costs more than to go on."""


class Turn:
    """One for all lanes, sources and publishers of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self.ends = 0.0
        """When whoever works now should give its turn, on the clock of `monotonic`.

        It is past for a task that something else has woken: after one message it goes to the line.
        """
        self._line: deque[Waiter] = deque()
        self._goes_on = False

    @staticmethod
    def of_running_loop() -> "Turn":
        """The one of the running event loop."""
        loop = asyncio.get_running_loop()
        turn = _TURNS.get(loop)
        if turn is None:
            turn = _TURNS[loop] = Turn(loop)
        return turn

    async def give(self) -> None:
        """Let everybody else have a turn first."""
        waiter = Waiter(self)
        self.stand(waiter)
        await waiter

    async def give_if_over(self) -> None:
        """`give`, unless there is time left."""
        if monotonic() > self.ends:
            await self.give()

    def stand(self, waiter: "Waiter") -> None:
        """Let it be the last in the line."""
        self._line.append(waiter)
        if not self._goes_on:
            self._goes_on = True
            self._soon()

    def _soon(self) -> None:
        # Not `get_running_loop`: tasks are cancelled, and so called, after the loop has stopped as well.
        loop = self._loop()
        if loop is not None:
            loop.call_soon(self._work_off)

    def _work_off(self) -> None:
        """Let one after another work for its share of what is left of the round."""
        line = self._line
        now = monotonic()
        over = now + _ROUND_S
        to_come = len(line)
        try:
            while line and now < over:
                # Who comes to the line meanwhile does not count: so the last one has what others left, and
                # lanes that a source publishes for find several messages when it is their turn.
                share = (over - now) / to_come if to_come > 1 else over - now
                self.ends = now + (share if share > _LEAST_S else _LEAST_S)
                to_come -= 1
                line.popleft()._go_on()
                now = monotonic()
        finally:
            if line:
                self._soon()
            else:
                self._goes_on = False


_TURNS: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Turn]] = WeakKeyDictionary()


class Waiter:
    """What one task awaits until it is called, and its turn has come. Not for two tasks at once.

    It is a future-like object, as asyncio has them: `Task` looks for `_asyncio_future_blocking`, and calls
    the methods below that say so. Being called without anybody waiting is forgotten.
    """

    __slots__ = ("_asyncio_future_blocking", "_context", "_stands", "_turn", "_wake")

    def __init__(self, turn: Turn) -> None:
        self._asyncio_future_blocking = False
        self._turn = turn
        self._wake: Callable[[Waiter], object] | None = None
        self._context: Context | None = None
        self._stands = False

    def __await__(self) -> Generator["Waiter", None, None]:
        self._asyncio_future_blocking = True
        yield self

    @property
    def is_waiting(self) -> bool:
        """Whether a task awaits it that was not called yet, and not cancelled."""
        return self._wake is not None and not self._stands

    def call(self) -> None:
        """Let the task go on when its turn comes."""
        if not self._stands:
            self._stands = True
            self._turn.stand(self)

    def _go_on(self) -> None:
        self._stands = False
        wake, context = self._wake, self._context
        if wake is not None and context is not None:
            self._wake = self._context = None
            context.run(wake, self)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """For the task that awaits it."""
        return asyncio.get_running_loop()

    def add_done_callback(self, wake: Callable[["Waiter"], object], *, context: Context) -> None:
        """For the task that awaits it: how to wake it, once."""
        self._wake, self._context = wake, context

    def cancel(self, msg: Any = None) -> bool:
        """For the task that awaits it, which is cancelled: it raises that itself when it goes on."""
        self.call()
        return False

    def result(self) -> None:
        """For the task that awaits it, when it goes on."""
