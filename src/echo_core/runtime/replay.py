"""Dead letters that come back: replays, run as jobs by whoever holds a transport, and carried on by others.

A letter goes to the plugin that could not handle it, with its own id, so that a sink that knows it does
nothing twice; its trace is a new one that links to the old. It is no dead letter any more when the transport
has accepted it. A process that ends in between leaves it there: it may then be replayed once more.
"""

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

import msgspec

from echo_core.errors import EchoCoreError
from echo_core.message import REPLAYED, BaseMessage
from echo_core.runtime.clock import Clock, SystemClock
from echo_core.runtime.dead_letters import (
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
_GRACE_S: Final = 1.0
"""How long letters that are being sent may take when the host stops."""
_TOLD_S: Final = 0.1
"""How often who waits for a replay hears of it."""
_LOOK_S: Final = 1.0
"""How often a host looks for replays that somebody has asked for, and says that it is still at one."""


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
        trouble = ""
        while True:
            try:
                await self.run_waiting()
                trouble = ""
            except DeadLetterError as error:
                if str(error) != trouble:
                    logger.warning("replays wait: %s", error)
                trouble = str(error)
            await asyncio.sleep(_LOOK_S)

    async def run_waiting(self) -> None:
        """Run every replay that waits to its end."""
        async with self._one_at_a_time:
            while (job := await _in_thread(self._letters.jobs.take, self._owner)) is not None:
                # A slow rate, or a transport that lets us wait, must not look like the end of this process.
                alive = asyncio.create_task(self._say_alive(job), name=f"replay {job.id}")
                try:
                    await self._run(job)
                except asyncio.CancelledError:
                    await _in_thread(self._letters.jobs.release, job, self._owner)
                    raise
                finally:
                    alive.cancel()
                    await asyncio.wait([alive])

    async def _say_alive(self, job: ReplayJob) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(DeadLetterError):  # what runs the job says so
                await _in_thread(self._letters.jobs.alive, job, self._owner)

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
            still_ours = await self._advance(job, batch)
            if still_ours is None or still_ours.has_ended:
                return
            job = still_ours
            tried += len(batch)
            if job.wish.rate is not None:
                await self._clock.sleep(max(0.0, tried / job.wish.rate - (self._clock.monotonic() - began)))
        await _in_thread(self._letters.jobs.end, job, self._owner)

    async def _advance(self, job: ReplayJob, batch: Sequence[DeadLetter]) -> ReplayJob | None:
        """Send these, and keep how far that came; None: the job is another owner's now.

        Where this is cancelled meanwhile, what was accepted by then is kept first: it must not be sent again.
        """
        sends = [asyncio.create_task(self._send(letter)) for letter in batch]
        stopped = None
        try:
            await asyncio.wait(sends)
        except asyncio.CancelledError as cancelled:
            stopped = cancelled
            await asyncio.wait(sends, timeout=_GRACE_S)
            for send in sends:
                send.cancel()
            await asyncio.wait(sends)
        results = [None if send.cancelled() else send.result() for send in sends]
        reasons = [reason for reason in results if reason]
        progressed = await _in_thread(
            self._letters.jobs.progress,
            job,
            self._owner,
            replayed=[letter for letter, reason in zip(batch, results, strict=True) if reason == ""],
            failed=0 if stopped else len(reasons),
            reason=reasons[-1] if reasons else "",
            seen_id=job.seen_id if stopped else batch[-1].id,
        )
        if stopped is not None:
            raise stopped
        return progressed

    async def _send(self, letter: DeadLetter) -> str:
        """Why the transport has not accepted it, or an empty string."""
        try:
            await self._transport.redeliver(letter.plugin, letter.topic, replay_of(letter))
        except Exception as error:  # noqa: BLE001 - of a client library; the other letters need not suffer
            said = str(error) if isinstance(error, EchoCoreError) else f"{type(error).__name__}: {error}"
            return f"dead letter {letter.id}: {said}"
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


async def run_to_end(
    letters: DeadLetterStore, transport: Transport, number: int, told: Callable[[ReplayJob], None]
) -> ReplayJob:
    """Run this replay, and those before it, in a process that is no host; another may do it meanwhile.

    `told` hears how far it has come.
    """
    async with transport:
        replayer = Replayer(letters, transport)
        while not (job := await _in_thread(letters.jobs.get, number)).has_ended:
            running = asyncio.create_task(replayer.run_waiting())
            try:
                while not running.done():
                    await asyncio.wait([running], timeout=_TOLD_S)
                    told(await _in_thread(letters.jobs.get, number))
            finally:
                running.cancel()
                await asyncio.wait([running])
            running.result()
            await asyncio.sleep(_TOLD_S)
        return job


def can_replay_alone(settings: Settings) -> bool:
    """Whether a process that is no host can replay, because messages wait outside of hosts."""
    return settings.host.transport != "memory://"


def replay_alone(
    letters: DeadLetterStore,
    settings: Settings,
    workspace: Workspace,
    number: int,
    told: Callable[[ReplayJob], None],
) -> ReplayJob:
    """`run_to_end` over the transport of the settings; raises `TransportError`."""
    transport = transport_for(settings.host.transport, workspace.root, settings.host.local)
    return asyncio.run(run_to_end(letters, transport, number, told))
