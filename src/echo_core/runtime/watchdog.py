"""Sees when the event loop stands still, from a thread of its own, and what it stands in.

The loop must beat; a beat that is late by more than the limit is looked into while it is still missing,
because afterwards nobody knows any more where the loop has been.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from types import FrameType

from echo_core.runtime import stacks
from echo_core.runtime.slot import PluginSlot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Blocked:
    """The loop stood still."""

    owner: PluginSlot | None
    """The plugin whose code it stood in; None where that cannot be told."""
    seconds: float
    place: str
    """`file:line in function`."""


class Watchdog:
    """Watches the loop it is started on. `owner_of` tells whose code a stack is."""

    def __init__(self, limit_s: float, owner_of: Callable[[Sequence[FrameType]], PluginSlot | None]) -> None:
        self._limit_s = limit_s
        self._owner_of = owner_of
        self._loop_thread = 0
        self._beat = 0.0
        self._told: tuple[float, PluginSlot | None] = (0.0, None)
        """The last beat whose successor was missing, and whose fault that was."""
        self._caught: tuple[PluginSlot | None, str] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat = monotonic()
        self._thread = threading.Thread(target=self._watch, name="echo-core watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self) -> Blocked | None:
        """The loop runs: call this often, from the loop. Returns what was caught since the last time."""
        before, self._beat = self._beat, monotonic()
        caught, self._caught = self._caught, None
        return Blocked(caught[0], self._beat - before, caught[1]) if caught is not None else None

    def _watch(self) -> None:
        while not self._stop.wait(self._limit_s / 4):
            self._check()

    def _check(self) -> None:
        """Look where the loop is if its beat is late: again and again, until a plugin is caught.

        At first a beat may be late because the machine did something else, or the host did; a plugin can
        still block the loop before the next beat.
        """
        beat = self._beat
        is_named = self._told[0] == beat and self._told[1] is not None
        if monotonic() - beat >= self._limit_s and not is_named:
            self._look_into(beat)

    def _look_into(self, beat: float) -> None:
        frames = stacks.frames_of_thread(self._loop_thread)
        if stacks.is_waiting(frames):
            return
        owner, own = self._owner_of(frames), stacks.own_frames(frames)
        if beat != self._beat or self._told == (beat, owner):  # it went on meanwhile, or this is known
            return
        self._told = (beat, owner)
        self._caught = (owner, stacks.place(own or frames))
        logger.error(
            "%s blocks the event loop: nothing else has run for %.1f s\n%s",
            owner.name if owner is not None else "something",
            monotonic() - beat,
            stacks.text(own or frames),
            extra=owner.about if owner is not None else None,
        )
