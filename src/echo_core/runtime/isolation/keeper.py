"""Keeps one process of a plugin alive: starts it, watches it, starts it again, and gives up in time."""

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from common_telemetry import PluginTelemetry
from echo_core.errors import PluginError, PluginLoadError
from echo_core.manifest import API_VERSION, Manifest
from echo_core.message import BaseMessage, encode
from echo_core.runtime.clock import Clock, SystemClock
from echo_core.runtime.context import HostContext
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.channel import Channel
from echo_core.runtime.isolation.crashes import CrashRecord
from echo_core.runtime.isolation.incarnation import Crash, Incarnation
from echo_core.runtime.isolation.limits import Limits, limits_of, scrubbed
from echo_core.runtime.isolation.liveness import INTERVAL_S, Liveness, Verdict
from echo_core.runtime.isolation.process import WorkerProcess
from echo_core.runtime.isolation.sdk import find_sdk
from echo_core.runtime.isolation.session import ProcessLost, Session, carrier
from echo_core.runtime.isolation.spare import Spare
from echo_core.runtime.isolation.wire import Cancel, ReceivedPublication, ReceivedResult
from echo_core.runtime.lane import AttemptFailed, Failure
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.settings import Settings
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.source_context import SourceContext
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery

logger = logging.getLogger(__name__)

CANCEL_GRACE_S: Final = 2.0
"""How long a handler may go on after it was cancelled, before its process is ended."""
_SHORT_S: Final = 5.0
"""A process that fills its memory sooner than that does so by itself, whatever it is given to do."""
_DRAIN_S: Final = 10.0
_GOODBYE_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What a process of a plugin is started with."""

    manifest: Manifest
    library: Path
    digest: str
    """Of the library: another one in its place is refused."""
    state: Path
    """The workspace's state folder, where libraries are unpacked."""
    telemetry: Mapping[str, Any] = field(default_factory=dict)
    """The `[telemetry]` table."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """All of the process's environment."""
    limits: Limits = field(default_factory=Limits)


def spec_of(library: Library, state: Path, settings: Settings, environ: Mapping[str, str]) -> Spec:
    """What the library's plugin is started with, in a host with these settings."""
    limits = limits_of(library.name, settings.isolation)
    return Spec(
        manifest=library.manifest,
        library=library.path,
        digest=library.digest,
        state=state,
        telemetry=settings.telemetry,
        environ=scrubbed(environ, limits),
        limits=limits,
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a plugin turned out to be, once its process had imported it."""

    name: str
    is_source: bool
    is_told_of_settlement: bool


class Keeper:
    """The supervisor of a plugin's processes, of which there is one at a time."""

    def __init__(self, spec: Spec, clock: Clock | None = None) -> None:
        self.spec = spec
        self.context: HostContext
        self.telemetry: PluginTelemetry
        self._slot: PluginSlot | None = None
        self._clock = clock or SystemClock()
        self._current: Incarnation | None = None
        self._spare = Spare()
        self._number = 0
        self._seq = 0
        self._record = CrashRecord()
        self._channels: dict[int, Channel] = {}
        self._ready = asyncio.Event()
        self._emptied: asyncio.Future[None] | None = None
        self._alone = False
        """Whether what is on its way has to be alone."""
        self._cancelled: dict[int, _Cancelled] = {}
        self._given_up = ""
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._works: set[asyncio.Task[None]] = set()
        self._trouble = ""

    @property
    def session(self) -> Session | None:
        """The conversation with the present process, if there is one."""
        return self._current.session if self._current is not None else None

    @property
    def pid(self) -> int:
        """The present process; 0 if there is none."""
        return self._current.process.pid if self._current is not None else 0

    @property
    def is_stopping(self) -> bool:
        """Whether it is to be started no more."""
        return self._is_stopping

    @property
    def has_given_up(self) -> bool:
        """Whether there will be no process any more."""
        return bool(self._given_up)

    @property
    def is_ready(self) -> bool:
        """Whether there is a process that works."""
        return self._ready.is_set() and not self._given_up

    def next_seq(self) -> int:
        """A number for a message on its way; never the same twice."""
        self._seq += 1
        return self._seq

    def open_channel(self, number: int, taken: deque[Delivery]) -> Channel:
        """The way of the lane of this number; an earlier one of that number has ended."""
        channel = self._channels[number] = Channel(self, number, taken)
        return channel

    # Start

    async def launch(self, telemetry: PluginTelemetry, slot: PluginSlot | None = None) -> Loaded:
        """Start the first process and import the plugin there. Raises why that does not work."""
        self.telemetry, self._slot = telemetry, slot
        self._current, loaded = await self._start()
        return loaded

    async def init(self, context: HostContext) -> None:
        """Have the plugin initialised, and watch over it from now on. Raises why that does not work."""
        self.context = context
        if self._current is None:
            raise PluginError(f"{self.spec.manifest.name} has no process: it was shut down")
        try:
            await self._initialise(self._current)
        except ProcessLost as error:
            crash = await self._current.lost()
            await self._let_go()
            raise ProcessLost(str(crash), why=crash.stacks or crash.printed) from error
        except BaseException:
            await self._let_go()
            raise
        self._begin_work()
        loop = asyncio.get_running_loop()
        name = self.spec.manifest.name
        self._tasks = [
            loop.create_task(self._keep(), name=f"{name} keeper"),
            loop.create_task(self._watch(), name=f"{name} watch"),
        ]

    async def _start(self) -> tuple[Incarnation, Loaded]:
        """A process in which the plugin is imported; where there is a spare, most of that is done."""
        incarnation = await self._spare.take() or await self._spawn()
        return incarnation, await self._load(incarnation)

    async def _spawn(self) -> Incarnation:
        """A process that has the SDK and its telemetry, and nothing of the plugin yet."""
        self._number += 1
        spec = self.spec
        lanes = spec.manifest.delivery.lanes + 1  # and one for whoever calls the plugin directly
        sdk = await asyncio.to_thread(find_sdk)
        process = WorkerProcess(
            spec.manifest.name,
            environ=spec.environ,
            lanes=lanes,
            incarnation=self._number,
            memory_mb=spec.limits.memory_mb,
            sdk=sdk,
        )
        broken = functools.partial(self._is_broken, self._number)
        session = Session(self._number, self._accept, broken, self.tell_emptied)
        incarnation = Incarnation(self._number, process, session, self.telemetry.logger())
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: session, sock=process.socket)
            hello = await session.hello()
            if hello.api_version != API_VERSION:
                raise PluginLoadError(
                    f"the process of {spec.manifest.name} has plugin interface {hello.api_version}",
                    why=f"this host has {API_VERSION}",
                    fix="restart the host: Echo Core was changed while it ran",
                )
            await session.ask("prepare", {"telemetry": dict(spec.telemetry)})
        except ProcessLost as error:
            raise await self._died_early(incarnation) from error
        except BaseException:
            await incarnation.end()
            raise
        return incarnation

    async def _load(self, incarnation: Incarnation) -> Loaded:
        spec = self.spec
        try:
            answer = await incarnation.session.ask(
                "load",
                {
                    "library": str(spec.library),
                    "digest": spec.digest,
                    "state": str(spec.state),
                },
            )
        except ProcessLost as error:
            raise await self._died_early(incarnation) from error
        except BaseException:
            await incarnation.end()
            raise
        return Loaded(**answer)

    async def _died_early(self, incarnation: Incarnation) -> PluginLoadError:
        crash, spec = await incarnation.lost(), self.spec
        return PluginLoadError(
            f"{spec.manifest.name} {spec.manifest.version} cannot be loaded: {crash}",
            where=str(spec.library),
            why=crash.stacks or crash.printed,
        )

    async def _initialise(self, incarnation: Incarnation) -> None:
        await incarnation.session.ask(
            "init",
            {
                "config": dict(self.context.config),
                "status": self.telemetry.status,
                "carrier": carrier(),
                **self._position(),
            },
        )

    async def _accept(self, wanted: ReceivedPublication) -> None:
        context, state = self.context, wanted.state
        if state is None or not isinstance(context, SourceContext):
            for message in wanted.messages:
                await context.accept(wanted.topic, message)
            return
        context.keep_state()
        *some, last = wanted.messages
        for message in some:
            await context.accept(wanted.topic, message)
        await context.accept(wanted.topic, last, state)

    def _position(self) -> dict[str, Any]:
        """What a source must know of its state."""
        if not isinstance(self.context, SourceContext):
            return {}
        generation, state = self.context.generation
        return {"generation": generation, "state": state}

    async def run_source(self, session: Session) -> None:
        """Have the source iterated in its process, until it is exhausted; raises why that ended."""
        state = await session.ask("run", self._position())
        if state is not None and isinstance(self.context, SourceContext):
            self.context.exhausted(state)

    def _is_broken(self, number: int, reason: str) -> None:
        """A process said what it may not say, or hung up; if it is not dead already, it will be."""
        current = self._current
        if current is not None and current.number != number:  # it was a spare, and is none any more
            return
        self._ready.clear()
        if current is not None and not current.has_ended and not self._is_stopping and not current.is_planned:
            self._beside(self._kill_unless_dead(current, reason))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it in a task of its own, which ends with the keeper at the latest."""
        task = asyncio.get_running_loop().create_task(work)
        self._works.add(task)
        task.add_done_callback(self._works.discard)

    async def _kill_unless_dead(self, incarnation: Incarnation, reason: str) -> None:
        # A process that dies hangs up first; its end comes within a moment, and says more.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await incarnation.lost()
                return
        await incarnation.kill(reason)

    def _begin_work(self) -> None:
        if self._current is not None:
            self._current.is_watched = True
        self._record.ready(self._clock.monotonic())
        self._ready.set()
        if self.spec.limits.spare:
            self._beside(self._spare.prepare(self._spawn, self._clock))

    # Work

    async def until_ready(self) -> Session:
        """The session of a process that is ready. Raises `AttemptFailed` when there will be none any more."""
        if not self._ready.is_set():
            with self.context.elsewhere():
                await self._ready.wait()
        session = self.session
        if self._given_up or session is None:
            why = self._given_up or "it was shut down"
            raise AttemptFailed(Failure("PluginQuarantined", why, is_final=True))
        return session

    async def room(self, *, alone: bool) -> Session:
        """A session to send messages to, with nothing else on its way if they are to be `alone`."""
        session = await self.until_ready()
        while (alone or self._alone) and session.in_flight:
            if self._emptied is None:
                self._emptied = asyncio.get_running_loop().create_future()
            with self.context.elsewhere():
                await asyncio.shield(self._emptied)
            session = await self.until_ready()
        self._alone = alone
        return session

    def tell_emptied(self) -> None:
        """Nothing is on its way any more."""
        emptied, self._emptied = self._emptied, None
        if emptied is not None:
            emptied.set_result(None)

    def cancel(self, lane: int, epoch: int, seq: int) -> asyncio.Future[None] | None:
        """Have the handler of this message cancelled; a process that does not do it in time is ended.

        What is returned is done when the process has let go of the message, or is gone.
        """
        session = self.session
        if session is None or not session.is_open:
            return None
        reason = (
            f"no answer within {self.spec.manifest.timeouts.message_ms / 1_000:g} s (timeouts.message_ms)"
        )
        cancelled = _Cancelled(self._clock.monotonic() + CANCEL_GRACE_S)
        session.in_flight[seq] = self._cancelled[seq] = cancelled
        cancelled.let_go.add_done_callback(lambda _: self._cancelled.pop(seq, None))
        session.send(wire.CANCEL, Cancel(lane, epoch, seq, reason))
        return cancelled.let_go

    async def ask(self, what: str) -> Any:
        """Have the present process do something. Raises what failed there, or `ProcessLost`."""
        session = self.session
        if session is None or not self._ready.is_set():
            raise ProcessLost(self._given_up or self._trouble or "its process is being started")
        return await session.ask(what, {"carrier": carrier()})

    async def tell_settled(self, message: BaseMessage, ending: Ending) -> None:
        """Let a source know how its message ended. Raises what that raised, or `ProcessLost`."""
        session = await self.until_ready()
        await session.ask("settled", {"message": encode(message), "ending": int(ending)})

    def tell_status(self, status: str) -> None:
        """Let what the plugin reports say so too."""
        if self.session is not None:
            self.session.send(wire.STATUS, status)

    # Watch

    async def _watch(self) -> None:
        """Judge the present process, again and again."""
        judged: Incarnation | None = None
        liveness: Liveness | None = None
        while True:
            await self._clock.sleep(INTERVAL_S)
            current = self._current
            if current is None or current.has_ended or not current.is_watched:
                continue
            now = self._clock.monotonic()
            if liveness is None or current is not judged:
                judged, liveness = current, Liveness(self.spec.limits, now)
            verdict = liveness.judge(now, current.signs)
            if verdict is Verdict.KILL:
                await current.kill(liveness.reason)
            elif verdict is Verdict.REPLACE and not current.is_planned:
                self._beside(self._replace(current, liveness.reason))
            elif verdict is Verdict.TAKE_STACKS:
                await self._say_blocked(current, liveness.reason)
            elif any(cancelled.deadline < now for cancelled in self._cancelled.values()):
                await current.kill(f"a handler did not end within {CANCEL_GRACE_S:g} s of its cancellation")

    async def _say_blocked(self, incarnation: Incarnation, reason: str) -> None:
        stacks = await incarnation.take_stacks()
        logger.warning("%s: %s\n%s", self.spec.manifest.name, reason, stacks)

    async def _replace(self, incarnation: Incarnation, reason: str) -> None:
        """End it in good order, when what is in hand is finished; the next one is started at once."""
        logger.warning("%s is given a new process: %s", self.spec.manifest.name, reason)
        self._ready.clear()
        incarnation.is_planned = True
        for channel in self._channels.values():
            channel.leave()
        deadline = self._clock.monotonic() + _DRAIN_S
        while incarnation.session.in_flight and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.01)
        try:
            await self._dismiss(incarnation, self.spec.manifest.timeouts.shutdown_ms / 1_000)
        except (PluginError, TimeoutError) as error:
            logger.warning(
                "%s: the process that is replaced did not shut down: %s", self.spec.manifest.name, error
            )

    async def _dismiss(self, incarnation: Incarnation, seconds: float) -> None:
        """Have the plugin shut down, and its process end. Raises what went wrong with the former."""
        incarnation.is_planned = True
        try:
            async with asyncio.timeout(seconds):
                await incarnation.session.ask("shutdown", {"carrier": carrier()})
            incarnation.is_watched = False  # delivering the last telemetry may block it
            incarnation.session.send(wire.ASK, wire.Ask(0, "leave"))
            await incarnation.leave(_GOODBYE_S)
        finally:
            await incarnation.end()

    # Restart

    async def _keep(self) -> None:
        """Whenever the process has ended, start another one, as long as that makes sense."""
        while self._current is not None:
            incarnation = self._current
            crash = await incarnation.lost()
            self._ready.clear()
            for cancelled in self._cancelled.values():
                cancelled.arrived()
            was_replaced = incarnation.is_planned and not crash.cause
            if was_replaced:  # then no message is to blame
                crash = replace(crash, in_hand={})
            for channel in self._channels.values():
                channel.lost(crash)
            self.tell_emptied()
            delay = self._replaced(incarnation) if was_replaced else self._crashed(crash)
            if not await self._start_again(delay):
                return

    def _replaced(self, incarnation: Incarnation) -> float | None:
        """Its end was planned; if that is so over and over, as soon as it has begun, it is a crash loop."""
        if incarnation.age_s > _SHORT_S:
            return 0.0
        delay = self._record.crashed(self._clock.monotonic())
        if delay != 0.0:
            self._trouble = f"its memory was full {incarnation.age_s:.1f} s after its start"
        return delay

    def _crashed(self, crash: Crash) -> float | None:
        with self.telemetry.lifecycle("crash") as scope:
            scope.fail(str(crash))
        spans, logs = crash.unsent
        self.telemetry.lost("traces", spans)
        self.telemetry.lost("logs", logs)
        unsent = f"with it went about {spans} span(s) and {logs} log record(s) not sent yet"
        details = "\n".join(filter(None, (unsent if any(crash.unsent) else "", crash.printed, crash.stacks)))
        logger.warning("%s: %s\n%s", self.spec.manifest.name, crash, details)
        self._trouble = str(crash)
        return self._record.crashed(self._clock.monotonic())

    async def _start_again(self, delay: float | None) -> bool:
        """Start a process after `delay` seconds, and another one if it fails; False when it gave up."""
        spec, told = self.spec, ""
        while delay is not None:
            if self._slot is not None and self._trouble:
                told = f"{self._trouble}; the next one starts {f'in {delay:.2g} s' if delay else 'at once'}"
                self._slot.back_off(told)
            await self._clock.sleep(delay)
            try:
                with self.telemetry.lifecycle("restart"):
                    async with asyncio.timeout(spec.manifest.timeouts.init_ms / 1_000):
                        self._current, _ = await self._start()
                        await self._initialise(self._current)
            except (Exception, SystemExit) as error:
                await self._let_go()
                self._trouble = f"its new process did not start: {error}"
                delay = self._record.crashed(self._clock.monotonic())
            else:
                if self._slot is not None and self._trouble:
                    self._slot.recover(told)
                self._trouble = ""
                self._begin_work()
                return True
        self._give_up()
        return False

    def _give_up(self) -> None:
        self._given_up = f"it is started no more, because it died too often: {self._trouble}"
        logger.error("%s: %s", self.spec.manifest.name, self._given_up)
        if self._slot is not None:
            self._slot.quarantine(
                f"{self._given_up}; fix: mend it, then echo-core activate {self._slot.name}"
            )
        self._ready.set()  # whoever waits hears of it
        self._beside(self._spare.end())

    # Stop

    async def stop(self) -> None:
        """Have the plugin shut down and its process end; raises what went wrong. Safe twice."""
        self._is_stopping = True
        await self._stop_watching()
        await self._spare.end()
        current = self._current
        if current is None:
            return
        try:
            if not current.has_ended:
                await self._dismiss(current, self.spec.manifest.timeouts.shutdown_ms / 1_000)
        finally:
            await self._let_go()

    async def end(self) -> None:
        """End the process without a word: its plugin never began."""
        self._is_stopping = True
        await self._spare.end()
        await self._let_go()

    async def _stop_watching(self) -> None:
        tasks, self._tasks = [*self._tasks, *self._works], []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _let_go(self) -> None:
        current, self._current = self._current, None
        self._ready.clear()
        if current is not None:
            await current.end()


class _Cancelled:
    """Stands in for a message whose lane waits no longer, until the process has let go of it."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.let_go: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def arrived(self, result: ReceivedResult | None = None) -> None:
        """See `session.Shipment`."""
        if not self.let_go.done():
            self.let_go.set_result(None)
