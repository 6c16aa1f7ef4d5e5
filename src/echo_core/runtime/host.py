"""The host: starts plugins, feeds them, watches them, and stops them in the right order."""

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from common_telemetry import TelemetryContext
from echo_core.errors import EchoCoreError
from echo_core.manifest import Manifest
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.clock import Clock, SystemClock
from echo_core.runtime.config import effective_config
from echo_core.runtime.context import FollowedSourceContext, HostContext, SourceContext
from echo_core.runtime.dead_letters import DeadLetterError, DeadLetterStore
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.order import upstream_first
from echo_core.runtime.settings import Settings
from echo_core.runtime.settlement import Followed
from echo_core.runtime.slot import PluginEvent, PluginSlot
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot
from echo_core.runtime.supervisor import Supervisor
from echo_core.transports.base import Transport

logger = logging.getLogger(__name__)

_POLITE: Final = 0.75
"""Share of the stop's deadline in which what is under way may end by itself."""
_TELLING: Final = 0.5
"""Share of what is left of the deadline in which sources are told how their messages ended."""


class Host:
    """Runs plugins on a transport: `add` them, then `run` once.

    Start: load, subscribe, `init` (all at once, each under its deadline), then the sources. Stop: the
    sources, then what is queued, then each plugin after those that feed it. A plugin that fails at any
    of these is FAILED with its reason; the others go on.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        transport: Transport,
        telemetry: TelemetryContext,
        dead_letters: DeadLetterStore,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._telemetry = telemetry
        self._dead_letters = dead_letters
        self._clock = clock or SystemClock()
        self._environ = environ
        self._dispatcher = Dispatcher(transport, dead_letters, self._clock)
        self._slots: list[PluginSlot] = []
        self._supervisors: dict[PluginSlot, Supervisor] = {}
        self._followed: dict[PluginSlot, Followed] = {}
        self._refused: dict[PluginSlot, EchoCoreError] = {}
        self._listeners: list[Callable[[PluginEvent], None]] = []
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()
        self._began = time.monotonic()

    def add(
        self,
        manifest: Manifest,
        load: Callable[[], Plugin],
        *,
        build_type: str = "",
        unload: Callable[[], None] = lambda: None,
    ) -> None:
        """Run this plugin too. `load` makes the instance (it may import, and raise); `unload` undoes it."""
        slot = self._new_slot(manifest.name, manifest, build_type)
        slot.unload = unload
        self._supervisors[slot] = Supervisor(slot, manifest, load, self._make_context)

    def refuse(self, name: str, error: EchoCoreError, *, build_type: str = "") -> None:
        """Show this plugin as FAILED: there is not even something to load."""
        self._refused[self._new_slot(name, None, build_type)] = error

    def _new_slot(self, name: str, manifest: Manifest | None, build_type: str) -> PluginSlot:
        version = manifest.version if manifest else ""
        slot = PluginSlot(
            name=name,
            build_type=build_type,
            manifest=manifest,
            telemetry=self._telemetry.for_plugin(name, version, PluginState.LOADING.value),
            report=self._report,
        )
        self._slots.append(slot)
        return slot

    def _make_context(self, slot: PluginSlot, manifest: Manifest) -> HostContext:
        kind = self._kind_of_context(slot, manifest)
        return kind(
            manifest,
            effective_config(manifest, self._settings, self._environ),
            self._transport,
            slot.telemetry,
            telemetry=self._telemetry,
            statistics=slot.statistics,
            threads=slot.threads,
        )

    def _kind_of_context(self, slot: PluginSlot, manifest: Manifest) -> Callable[..., HostContext]:
        source = slot.plugin
        if not isinstance(source, Source):
            return HostContext
        if not source.is_told_of_settlement():
            return functools.partial(SourceContext, turn=self._dispatcher.turn)
        followed = Followed(
            slot.name,
            source.tell,
            manifest.delivery.queue_limit,
            manifest.timeouts.message_ms / 1_000,
            degrade=slot.degrade,
            recover=slot.recover,
        )
        self._followed[slot] = followed
        return functools.partial(
            FollowedSourceContext,
            turn=self._dispatcher.turn,
            settlements=self._dispatcher.settlements,
            followed=followed,
        )

    def events(self, callback: Callable[[PluginEvent], None]) -> None:
        """Call `callback` at every move of a plugin from state to state."""
        self._listeners.append(callback)

    def _report(self, event: PluginEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def snapshot(self) -> HostSnapshot:
        """The numbers of this moment; safe at any time."""
        plugins = tuple(slot.snapshot() for slot in self._slots)
        return HostSnapshot(uptime_s=time.monotonic() - self._began, plugins=plugins)

    def request_stop(self) -> None:
        """Stop in good order; returns at once. For a signal handler on the loop."""
        self._stop.set()

    def abort(self) -> None:
        """Stop now: finish nothing more that is not finished. For the second signal."""
        self._stop.set()
        self._abort.set()

    async def run(self, *, until_idle: bool = False) -> HostSnapshot:
        """Run until `request_stop`, or with `until_idle` until all sources are exhausted and all is settled.

        Returns the final numbers. Raises `TransportError` when the transport cannot be opened.
        """
        self._began = time.monotonic()
        self._transport.limit(self._settings.host.bounds)
        await self._transport.open()
        watch = asyncio.create_task(self._dispatcher.watch(), name="deadlines")
        health = asyncio.create_task(self._check_health(), name="health checks")
        try:
            await self._unless_stopped(self._start())
            await self._unless_stopped(self._idle() if until_idle else asyncio.Event().wait())
        finally:
            await _cancelled(health)
            await self._shut_down()
            await _cancelled(watch)
            await self._transport.close()
            self._dead_letters.close()
        return self.snapshot()

    async def _start(self) -> None:
        for slot, error in self._refused.items():
            slot.move_to(PluginState.FAILED, str(error))
        for supervisor in self._supervisors.values():
            await supervisor.load()
        loaded = [s for s in self._supervisors.values() if s.slot.state is PluginState.LOADING]
        for supervisor in loaded:
            self._dispatcher.collect(supervisor.slot)
        self._follow()
        await asyncio.gather(*(supervisor.init() for supervisor in loaded))
        for supervisor in loaded:
            await self._open_or_withdraw(supervisor)
        for supervisor in loaded:
            if supervisor.slot.is_source and supervisor.slot.is_live:
                supervisor.start_source()

    def _follow(self) -> None:
        """Follow the messages of sources that want to know how they end."""
        for followed in self._followed.values():
            self._dispatcher.settlements.follow(followed)
            self._transport.on_accept = self._dispatcher.settlements.accepted
            followed.start()

    async def _open_or_withdraw(self, supervisor: Supervisor) -> None:
        """Feed a plugin that came up; keep what was already published to one that did not."""
        slot, context = supervisor.slot, supervisor.context
        if not slot.is_live or context is None:
            await self._withdraw(slot, f"{slot.name} did not start: {slot.reason}")
            return
        try:
            self._dispatcher.feed(slot, context, lambda error: self._lane_lost(slot, error))
        except EchoCoreError as error:
            slot.move_to(PluginState.FAILED, str(error))
            await self._withdraw(slot, f"{slot.name} did not start: {slot.reason}")

    def _lane_lost(self, slot: PluginSlot, error: BaseException) -> None:
        """A lane ended by an error that is not a plugin's: say so, rather than let the queue stand still."""
        logger.error("a lane of %s ended by an error of the host", slot.name, exc_info=error)
        if slot.is_live:
            slot.move_to(PluginState.FAILED, f"the host failed it: {type(error).__name__}: {error}")

    async def _unless_stopped(self, work: Coroutine[Any, Any, object]) -> None:
        """Do it; let it be when a stop is requested."""
        await _first_of(asyncio.create_task(work), asyncio.create_task(self._stop.wait()))

    async def _idle(self) -> None:
        """Return when every source is exhausted and every message has ended."""
        await asyncio.gather(*(s.source_ended() for s in self._supervisors.values()))
        await self._transport.wait_until_settled()
        await self._told()

    async def _told(self) -> None:
        """Return when every source has been told of all that has ended."""
        await asyncio.gather(*(followed.wait_until_told() for followed in self._followed.values()))

    async def _check_health(self) -> None:
        while True:
            await self._clock.sleep(self._settings.host.health_interval_s)
            await asyncio.gather(*(s.check_health() for s in self._supervisors.values()))

    async def _shut_down(self) -> None:
        """The stop: politely for three quarters of the deadline, firmly for the rest."""
        deadline = time.monotonic() + self._settings.host.shutdown_timeout_s
        polite = deadline - (1 - _POLITE) * self._settings.host.shutdown_timeout_s
        for supervisor in self._supervisors.values():
            await supervisor.stop_source()
        await self._patiently(self._transport.wait_until_settled(), polite)
        slots = [slot for slot in upstream_first(self._slots) if slot in self._supervisors]
        for slot in slots:
            if slot not in self._followed:
                await self._shut_down_one(self._supervisors[slot], polite, deadline)
        # A source can acknowledge as long as it is not shut down, so these come after all that they feed.
        self._dispatcher.settlements.abandon()
        await self._patiently(self._told(), deadline - (1 - _TELLING) * (deadline - time.monotonic()))
        for slot, followed in self._followed.items():
            await followed.stop()
            await self._shut_down_one(self._supervisors[slot], polite, deadline)

    async def _shut_down_one(self, supervisor: Supervisor, polite: float, deadline: float) -> None:
        slot = supervisor.slot
        await self._patiently(self._dispatcher.finish(slot), polite)
        await self._withdraw(slot, "the host stopped before the plugin could handle it")
        seconds = 0.1 if self._abort.is_set() else max(0.1, deadline - time.monotonic())
        await supervisor.shut_down(seconds)

    async def _withdraw(self, slot: PluginSlot, reason: str) -> None:
        try:
            left = await self._dispatcher.withdraw(slot, reason)
        except DeadLetterError:
            logger.exception("what %s had not handled could not be kept", slot.name)
            return
        if left:
            logger.warning("%d message(s) for %s are left: %s", left, slot.name, reason)

    async def _patiently(self, work: Coroutine[Any, Any, None], until: float) -> None:
        """Wait for the work until that moment, or until `abort`."""
        seconds = max(0.0, until - time.monotonic())
        await _first_of(asyncio.create_task(work), asyncio.create_task(self._abort.wait()), timeout=seconds)


async def _first_of(*tasks: asyncio.Task[Any], timeout: float | None = None) -> None:
    """Wait until one of them ends, or for `timeout` seconds; cancel the others. Their errors are raised."""
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            await _cancelled(task)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel it and wait for its end; its own errors are raised."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
