"""Dead letters that come back: replays, run as jobs by whoever holds a transport, and carried on by others.

A letter goes to the plugin that could not handle it, with its own id, so that a sink that knows it does
nothing twice; its trace is a new one that links to the old. It is no dead letter any more when the transport
has accepted it. A process that ends in between leaves it there: it may then be replayed once more.
"""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import msgspec

from echo_core.errors import EchoCoreError
from echo_core.message import BaseMessage
from echo_core.runtime.clock import Clock, SystemClock
from echo_core.runtime.dead_letters import (
    REPLAYED,
    DeadLetter,
    DeadLetterError,
    DeadLetterStore,
    ReplayJob,
)
from echo_core.runtime.settings import Settings
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for
from echo_core.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_BATCH: Final = 64
_LOOK_S: Final = 1.0
"""How often a host looks for replays that somebody has asked for."""


def replay_of(letter: DeadLetter) -> BaseMessage:
    """The message as a replay sends it; raises `MessageError` when the letter holds none."""
    message = letter.replayable()
    marked = {**message.trace_context, REPLAYED: str(letter.replays + 1)}
    return msgspec.structs.replace(message, trace_context=marked)


class Replayer:
    """Runs the replays that are asked for in a store of dead letters, one after another."""

    def __init__(self, letters: DeadLetterStore, transport: Transport, clock: Clock | None = None) -> None:
        self._letters = letters
        self._transport = transport
        self._clock = clock or SystemClock()
        self._owner = f"{os.getpid()} {uuid.uuid4().hex}"
        self._one_at_a_time = asyncio.Lock()

    async def watch(self) -> None:
        """Run replays as they come, until cancelled."""
        while True:
            try:
                await self.run_waiting()
            except DeadLetterError as error:
                logger.warning("replays wait: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def run_waiting(self) -> None:
        """Run every replay that waits to its end."""
        async with self._one_at_a_time:
            while (job := await _in_thread(self._letters.take_job, self._owner)) is not None:
                await self._run(job)

    async def _run(self, job: ReplayJob) -> None:
        began, tried = self._clock.monotonic(), 0
        while (left := job.total - job.done - job.failed) > 0:
            batch = await _in_thread(
                self._letters.select,
                job.wish.selection,
                limit=min(left, _batch_size(job.wish.rate)),
                oldest_first=True,
                after=job.seen_id,
                last=job.last_id,
                quarantined=job.wish.force,
            )
            if not batch:
                break
            replayed, reason = await self._replay(batch)
            still_ours = await _in_thread(
                self._letters.progress,
                job,
                self._owner,
                replayed=replayed,
                failed=len(batch) - len(replayed),
                reason=reason,
                seen_id=batch[-1].id,
            )
            if still_ours is None:
                return
            job = still_ours
            tried += len(batch)
            if job.wish.rate is not None:
                await self._clock.sleep(max(0.0, tried / job.wish.rate - (self._clock.monotonic() - began)))
        await _in_thread(self._letters.end_job, job, self._owner)

    async def _replay(self, batch: Sequence[DeadLetter]) -> tuple[list[DeadLetter], str]:
        """Those that the transport has accepted, and why the last of the others were not."""
        results = await asyncio.gather(*(self._send(letter) for letter in batch))
        reasons = [reason for reason in results if reason]
        accepted = [letter for letter, reason in zip(batch, results, strict=True) if not reason]
        return accepted, reasons[-1] if reasons else ""

    async def _send(self, letter: DeadLetter) -> str:
        try:
            await self._transport.redeliver(letter.plugin, letter.topic, replay_of(letter))
        except EchoCoreError as error:
            return f"dead letter {letter.id}: {error}"
        return ""


def _batch_size(rate: float | None) -> int:
    """So many that a slow rate is kept smoothly."""
    return _BATCH if rate is None else max(1, min(_BATCH, int(rate / 10)))


async def _in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """As `asyncio.to_thread`; but when it is cancelled it has ended before this is raised on."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def run_waiting(letters: DeadLetterStore, transport: Transport) -> None:
    """Run all replays that wait, in a process that is no host."""
    async with transport:
        await Replayer(letters, transport).run_waiting()


def can_replay_alone(settings: Settings) -> bool:
    """Whether a process that is no host can replay, because messages wait outside of hosts."""
    return settings.host.transport != "memory://"


def replay_alone(letters: DeadLetterStore, settings: Settings, workspace: Workspace) -> None:
    """Run all replays that wait, over the transport of the settings; raises `TransportError`."""
    asyncio.run(run_waiting(letters, transport_for(settings.host.transport, workspace.root)))
