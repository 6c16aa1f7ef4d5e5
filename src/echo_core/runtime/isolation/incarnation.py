"""One process of a plugin with everything that belongs to it, from its start to the report of its end."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from echo_core.runtime.isolation.drain import Drain
from echo_core.runtime.isolation.liveness import Signs
from echo_core.runtime.isolation.process import Exit, WorkerProcess
from echo_core.runtime.isolation.session import Session

STACKS_S: Final = 0.1
"""How long a process may take to write its stacks before it is killed."""
_POLITE_S: Final = 2.0
_HEARD_S: Final = 0.1
_ROUNDS: Final = 20
_SIGKILL: Final = 9
_SIGTERM: Final = 15


@dataclass(frozen=True, slots=True)
class Crash:
    """The end of a process that was not asked to end."""

    pid: int
    exit: Exit
    cause: str
    """Why the host killed it; empty if the host did not."""
    stacks: str
    printed: str
    """The end of what it printed to stderr."""
    in_hand: Mapping[int, range]
    """Numbers of the messages that were being handled, by lane."""
    unsent: tuple[int, int] = (0, 0)
    """Spans and log records that it had not sent to the backend."""

    @property
    def tells_of_the_message(self) -> bool:
        """Whether a message that was handled alone is to blame: nobody else ended the process."""
        return bool(self.cause) or self.exit.by_signal != _SIGKILL

    def __str__(self) -> str:
        if self.cause:
            return f"its process {self.pid} was killed: {self.cause}"
        return f"its process {self.pid} {self.exit}"


class Incarnation:
    """A process, the conversation with it, and what it prints."""

    def __init__(self, number: int, process: WorkerProcess, session: Session, log: logging.Logger) -> None:
        self.number = number
        self.process = process
        self.session = session
        self.is_planned = False
        """Its end was asked for, and is no crash."""
        self.is_watched = False
        """It has begun to work, and its signs of life are judged."""
        self._began = monotonic()
        self._cause = ""
        self._stacks = ""
        stdout, stderr = process.outputs
        self._drains = (Drain(stdout, log, logging.INFO), Drain(stderr, log, logging.WARNING))
        self._watch = asyncio.get_running_loop().create_task(self._end(), name=f"end of {process.pid}")

    async def _end(self) -> Crash:
        """Wait for its end, and gather what there is to say of it."""
        process = self.process
        found = await process.ended()
        in_hand, unsent = process.page.in_hand(), process.page.unsent
        await self.session.heard_all(_HEARD_S)
        for drain in self._drains:
            drain.finish()
        crash = Crash(
            pid=process.pid,
            exit=found,
            cause=self._cause,
            stacks=self._stacks or process.stacks(),
            printed="\n".join(self._drains[1].tail),
            in_hand=in_hand,
            unsent=unsent,
        )
        self.session.close(str(crash))
        for _ in range(_ROUNDS):  # what is killed may have started others meanwhile
            if not await asyncio.to_thread(process.kill_descendants):
                break
        process.close()
        return crash

    async def lost(self) -> Crash:
        """Return when it has ended and everything of it is given back."""
        return await asyncio.shield(self._watch)

    @property
    def age_s(self) -> float:
        """Seconds since it was started."""
        return monotonic() - self._began

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.has_ended

    @property
    def signs(self) -> Signs:
        """Its signs of life."""
        process = self.process
        loop, thread = process.page.beats
        return Signs(loop, thread, process.resident_mb, process.is_stopped, process.look_at_descendants())

    async def take_stacks(self) -> str:
        """What its threads are doing; empty if it cannot say. Kept for the report of its end."""
        self.process.ask_for_stacks()
        await asyncio.sleep(STACKS_S)
        if not self.has_ended:
            self._stacks = self.process.stacks() or self._stacks
        return self._stacks

    async def kill(self, cause: str) -> None:
        """End it because of `cause`, after a look at what it was doing."""
        if self.has_ended or self._cause:
            return
        self._cause = cause
        await self.take_stacks()
        self.process.kill()

    async def leave(self, seconds: float) -> None:
        """It has been told to go: wait, ask, and in the end make it. Everything of it is given back then."""
        self.is_planned = True
        self.process.look_at_descendants()
        try:
            for signal, patience in ((0, seconds), (_SIGTERM, _POLITE_S)):
                if signal:
                    self.process.send(signal)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await self.lost()
                        return
        finally:
            self.process.kill()
            await self.lost()

    async def end(self) -> None:
        """End it at once."""
        self.is_planned = True
        self.process.kill()
        await self.lost()
