"""Whether a process is well, judged from its signs of life. Time is given, nothing is read here.

A blocked event loop is seen by its beat. The thread's beat tells why: it stands as well where code holds the
interpreter's lock. SIGTERM ends neither, so the judgement is always to kill, with the stacks taken before.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from echo_core.runtime.isolation.limits import Limits

INTERVAL_S: Final = 0.25
"""How often a process is judged."""
_LATE_S: Final = 1.0
"""A judgement that comes so much late tells of the host's own trouble, not of the process's."""
_STOPPED_S: Final = 2.0
_SOFT: Final = 0.8


class Verdict(Enum):
    """What is to be done."""

    WELL = "well"
    TAKE_STACKS = "take stacks"
    REPLACE = "replace"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Signs:
    """Signs of life at one moment."""

    loop_beats: int
    thread_beats: int
    resident_mb: float = 0.0
    is_stopped: bool = False
    processes: int = 0
    """How many it has started, and those in their turn, that have not ended."""


class Liveness:
    """The judge of one process."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._judged = now
        self._loop = (-1, now)
        self._thread = (-1, now)
        self._stopped_since: float | None = None
        self._has_taken = False
        self.reason = ""
        """Why the last verdict was what it was; empty for `WELL`."""

    def judge(self, now: float, signs: Signs) -> Verdict:
        """The verdict of this moment. Call every `INTERVAL_S`."""
        late = now - self._judged - INTERVAL_S
        self._judged = now
        if late > _LATE_S:
            self._forgive(late)
        self._notice(now, signs)
        self.reason = self._must_die(now, signs)
        if self.reason:
            return Verdict.KILL
        blocked = now - self._loop[1]
        if blocked > self._limits.block_s / 2 and not self._has_taken:
            self._has_taken = True
            self.reason = self._blocked(blocked)
            return Verdict.TAKE_STACKS
        limit = self._limits.memory_mb
        if limit and signs.resident_mb > _SOFT * limit:
            self.reason = f"it holds {signs.resident_mb:.0f} MiB of the {limit} MiB that it may"
            return Verdict.REPLACE
        return Verdict.WELL

    def _forgive(self, late: float) -> None:
        self._loop = (self._loop[0], self._loop[1] + late)
        self._thread = (self._thread[0], self._thread[1] + late)
        if self._stopped_since is not None:
            self._stopped_since += late

    def _notice(self, now: float, signs: Signs) -> None:
        if signs.loop_beats != self._loop[0]:
            self._loop = (signs.loop_beats, now)
            self._has_taken = False
        if signs.thread_beats != self._thread[0]:
            self._thread = (signs.thread_beats, now)
        if not signs.is_stopped:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now

    def _must_die(self, now: float, signs: Signs) -> str:
        limit = self._limits.memory_mb
        if limit and signs.resident_mb > limit:
            return f"it held {signs.resident_mb:.0f} MiB, and may hold {limit} MiB (memory_mb)"
        if signs.processes > self._limits.processes:
            most = self._limits.processes
            return f"it had more than {most} processes of its own, and may have that many (processes)"
        if self._stopped_since is not None and now - self._stopped_since > _STOPPED_S:
            return f"it was stopped (SIGSTOP) for {now - self._stopped_since:.1f} s"
        blocked = now - self._loop[1]
        return self._blocked(blocked) if blocked > self._limits.block_s else ""

    def _blocked(self, seconds: float) -> str:
        reason = f"its event loop was blocked for {seconds:.1f} s (block_s)"
        if self._judged - self._thread[1] > seconds / 2:
            return f"{reason}, and with it every thread: something holds the interpreter's lock"
        return reason
