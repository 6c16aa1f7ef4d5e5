"""The host: starts plugins, feeds them, watches them, and stops them in the right order."""

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from common_telemetry import TelemetryContext
from echo_core.errors import EchoCoreError, HostStopping, NotFound
from echo_core.manifest import Manifest
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.activation import Activation
from echo_core.runtime.changes import Changes
from echo_core.runtime.checkpoints import CheckpointStore
from echo_core.runtime.clock import Clock, SystemClock
from echo_core.runtime.config import effective_config
from echo_core.runtime.context import HostContext
from echo_core.runtime.dead_letters import DeadLetterError, DeadLetterStore
from echo_core.runtime.dead_letters.measuring import DepthMeter
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.history import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.message_history.replay import Again, Replayed, send
from echo_core.runtime.offer import Offer
from echo_core.runtime.order import upstream_first
from echo_core.runtime.presence import Presence
from echo_core.runtime.replay import Replayer
from echo_core.runtime.roster import Roster
from echo_core.runtime.settings import Settings
from echo_core.runtime.settlement import Followed
from echo_core.runtime.slot import PluginEvent, PluginSlot
from echo_core.runtime.source_context import SourceContext
from echo_core.runtime.source_progress import Progresses
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot
from echo_core.runtime.supervisor import Supervisor
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.trials import Trials
from echo_core.transports.base import Transport
from echo_core.transports.urls import without_secrets

logger = logging.getLogger(__name__)

_CHECKED_AT_ONCE: Final = 20
"""Health checks that begin in one round of the event loop: a thousand would hold up all else."""
_POLITE: Final = 0.75
"""Share of the stop's deadline in which what is under way may end by itself."""
_TELLING: Final = 0.5
"""Share of what is left of the deadline in which sources are told how their messages ended."""


class Host:
    """Runs plugins on a transport: `add` them, then `run` once; meanwhile they may come and go.

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
        checkpoints: CheckpointStore | None = None,
        message_history: Recorder | None = None,
        clock: Clock | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Without `checkpoints`, sources keep their state for as long as the host lives.

        `message_history` records what becomes of messages, and is the caller's to start and to close.
        """
        self._settings = settings
        self._transport = transport
        self._telemetry = telemetry
        self._dead_letters = dead_letters
        self._progresses = Progresses(checkpoints)
        self._replayer = Replayer(dead_letters, transport)
        self._clock = clock or SystemClock()
        self._environ = environ
        self.message_history = message_history
        self._dispatcher = Dispatcher(transport, dead_letters, self._clock, message_history)
        self._roster = Roster()
        self._depths = DepthMeter(dead_letters, telemetry, self._clock, self._roster.names)
        self._changes = Changes()
        self._activation = Activation(self._roster, self._dispatcher, settings.host, self._supervise)
        self.trials = Trials(self._activation, self._dispatcher, self._changes, settings.host.drain_timeout_s)
        """Upgrades under way; what changes them goes through the methods here."""
        self._refused: dict[PluginSlot, EchoCoreError] = {}
        self.history = History()
        """Every move of a plugin from state to state, as far back as there is room."""
        self.presence = Presence(transport, self.snapshot, settings.host.local)
        """The hosts that share the transport."""
        self._listeners: list[Callable[[PluginEvent], None]] = [self.history.record]
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()
        self._began = time.monotonic()
        self._giving_up: set[asyncio.Task[None]] = set()

    def add(
        self,
        manifest: Manifest,
        load: Callable[[], Plugin],
        *,
        build_type: str = "",
        unload: Callable[[], None] = lambda: None,
    ) -> None:
        """Run this plugin too. `load` makes the instance (it may import, and raise); `unload` undoes it."""
        self.offer(Offer(manifest=manifest, load=load, unload=unload, build_type=build_type))

    def offer(self, offer: Offer) -> None:
        """Run this plugin too; before `run`."""
        self._supervise(offer)

    def refuse(self, name: str, error: EchoCoreError, *, build_type: str = "") -> None:
        """Show this plugin as FAILED: there is not even something to load. Before `run`."""
        slot = self._new_slot(name, None, build_type)
        self._roster.add(slot)
        self._refused[slot] = error

    async def activate(self, offer: Offer) -> None:
        """Run this plugin from now on; one of the same name serves until this one is ready.

        Raises `PluginInitError` when it does not come up (then what ran before runs on), `HostStopping`
        before `started` and after a stop was requested.
        """
        await self._change_untried(offer.manifest.name, lambda: self._activation.activate(offer))
        self.trials.forget(offer.manifest.name)

    async def upgrade(self, offer: Offer, plan: Plan) -> None:
        """Let this version take the place of the one that runs, as planned.

        graceful and immediate: done on return. The others are under way then: see `trials`, `deal`,
        `switch`, `promote`, `send_back`. Raises `PluginInitError` when it does not come up, `NotFound` and
        `ChangeRefused` where there is nothing to upgrade, `BadRequest`, `HostStopping`.
        """
        plan.check()
        name = offer.manifest.name
        self._activation.known(name)
        if plan.strategy in ("graceful", "immediate"):
            drain_s = 0.0 if plan.strategy == "immediate" else None
            await self._change_untried(name, lambda: self._activation.activate(offer, drain_s=drain_s))
            self.trials.forget(name)
        else:
            await self._change_untried(name, lambda: self.trials.begin(offer, plan))

    async def deal(self, name: str, percent: float) -> None:
        """canary: give the new version another part of the keys. Raises `ChangeRefused`, `HostStopping`."""
        await self._changes.make(name, self.trials.deal(name, percent))

    async def switch(self, name: str) -> None:
        """blue-green: let the other version have all. Raises `ChangeRefused`, `HostStopping`."""
        await self._changes.make(name, self.trials.switch(name))

    async def promote(self, name: str) -> None:
        """Promote the new version of an upgrade under way. Raises `ChangeRefused`, `HostStopping`."""
        await self._changes.make(name, self.trials.promote(name))

    async def send_back(self, name: str) -> None:
        """Keep the old version of an upgrade under way. Raises `ChangeRefused`, `HostStopping`."""
        await self._changes.make(name, self.trials.send_back(name))

    async def _change_untried(self, name: str, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Make the change unless an upgrade of the plugin is under way."""

        async def make() -> None:
            self.trials.check_none(name)
            await change()

        await self._changes.make(name, make())

    async def deactivate(self, name: str) -> None:
        """Drain this plugin, and take it down. Raises `NotFound`, `HostStopping`."""

        async def make() -> None:
            if self.trials.status(name) is not None:
                await self.trials.send_back(name)
            await self._activation.deactivate(name)

        await self._changes.make(name, make())

    async def pause(self, name: str) -> None:
        """Let this plugin's messages wait. Raises `NotFound`, `ChangeRefused`, `HostStopping`."""
        await self._change_untried(name, lambda: self._activation.pause(name))

    async def resume(self, name: str) -> None:
        """Go on after `pause`. Raises `NotFound`, `ChangeRefused`, `HostStopping`."""
        await self._change_untried(name, lambda: self._activation.resume(name))

    async def started(self) -> None:
        """Return when all that were added came up, or failed: from now on they may come and go."""
        await self._started.wait()

    def _supervise(self, offer: Offer) -> Supervisor:
        slot = self._new_slot(offer.manifest.name, offer.manifest, offer.build_type, offer.digest)
        slot.unload = offer.unload
        load = offer.in_tier(self._settings, self._environ)
        supervisor = Supervisor(slot, offer.manifest, load, self._make_context)
        self._roster.add(slot, supervisor)
        return supervisor

    def _new_slot(
        self, name: str, manifest: Manifest | None, build_type: str, digest: str = ""
    ) -> PluginSlot:
        version = manifest.version if manifest else ""
        return PluginSlot(
            name=name,
            build_type=build_type,
            manifest=manifest,
            digest=digest,
            telemetry=self._telemetry.for_plugin(name, version, PluginState.LOADING.value),
            report=self._report,
        )

    async def _make_context(self, slot: PluginSlot, manifest: Manifest) -> HostContext:
        kind = await self._kind_of_context(slot, manifest)
        recorder = self.message_history
        return kind(
            manifest,
            effective_config(manifest, self._settings, self._environ),
            self._transport,
            slot.telemetry,
            telemetry=self._telemetry,
            statistics=slot.statistics,
            threads=slot.threads,
            history=None if recorder is None else recorder.of(slot.name, slot.version),
        )

    async def _kind_of_context(self, slot: PluginSlot, manifest: Manifest) -> Callable[..., HostContext]:
        source = slot.plugin
        if not isinstance(source, Source):
            return HostContext
        followed = Followed(
            slot.name,
            source.tell if source.is_told_of_settlement() else None,
            manifest.delivery.queue_limit,
            manifest.timeouts.message_ms / 1_000,
            degrade=slot.degrade,
            recover=slot.recover,
        )
        if followed.is_told:
            slot.followed = followed

        def follow() -> None:
            slot.followed = followed
            self._dispatcher.follow(slot)

        return functools.partial(
            SourceContext,
            turn=self._dispatcher.turn,
            settlements=self._dispatcher.settlements,
            followed=followed,
            progress=await self._progresses.open(slot.name),
            progresses=self._progresses,
            follow=follow,
        )

    def events(self, callback: Callable[[PluginEvent], None]) -> None:
        """Call `callback` at every move of a plugin from state to state."""
        self._listeners.append(callback)

    def _report(self, event: PluginEvent) -> None:
        for listener in self._listeners:
            listener(event)

    def snapshot(self) -> HostSnapshot:
        """The numbers of this moment; safe at any time."""
        return HostSnapshot(uptime_s=time.monotonic() - self._began, plugins=self._roster.snapshot())

    def plugin(self, name: str) -> PluginSnapshot | None:
        """The plugin that goes by this name; None if there is none. Safe at any time."""
        slot = self._roster.named(name)
        return slot.snapshot() if slot is not None else None

    def missing(self, name: str) -> NotFound:
        """The error for a name that no plugin goes by."""
        return self._roster.missing(name)

    @property
    def transport_name(self) -> str:
        """The transport's URL, without what is secret in it."""
        return without_secrets(self._settings.host.transport)

    async def send_again(self, messages: Sequence[Again]) -> Replayed:
        """Send messages of the history again; raises `HostStopping`, `TransportError`."""
        if not self.is_steady:
            raise HostStopping("the host is starting or stopping", fix="try again when it runs")
        return await send(messages, self._transport, self.message_history)

    def trouble(self) -> str:
        """What keeps the transport from working at this moment; empty when nothing does."""
        return self._transport.trouble()

    @property
    def is_steady(self) -> bool:
        """Whether it has started, and was not told to stop."""
        return self._started.is_set() and not self._stop.is_set()

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

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
        try:
            return await self._run(until_idle=until_idle)
        finally:
            self._dispatcher.let_go()

    async def _run(self, *, until_idle: bool) -> HostSnapshot:
        self._began = time.monotonic()
        self._transport.limit(self._settings.host.bounds)
        self._dispatcher.bounds = self._settings.host.bounds
        self._dispatcher.blocked_after_s = self._settings.host.blocked_after_s
        self._dispatcher.stalled_after_s = self._settings.host.stalled_after_s
        self._dispatcher.must_end = until_idle
        self._dispatcher.give_up = self._give_up
        await self._transport.open()
        watch = asyncio.create_task(self._dispatcher.watch(), name="deadlines")
        health = asyncio.create_task(self._check_health(), name="health checks")
        replays = asyncio.create_task(self._replay(), name="replays")
        depths = asyncio.create_task(self._depths.watch(), name="dead letters")
        trials = asyncio.create_task(self.trials.watch(), name="trials")
        presence = asyncio.create_task(self.presence.watch(), name="presence")
        try:
            await self._unless_stopped(self._start())
            await self._unless_stopped(self._idle() if until_idle else asyncio.Event().wait())
        finally:
            await _cancelled(trials)
            await self._changes.close()
            await self.trials.end()
            await _cancelled(health)
            await _cancelled(replays)
            await _cancelled(depths)
            await self._shut_down()
            await _cancelled(watch)
            await _cancelled(presence)
            await self._progresses.close()
            await self._transport.close()
            self._dead_letters.close()
        return self.snapshot()

    async def _start(self) -> None:
        for slot, error in self._refused.items():
            slot.move_to(PluginState.FAILED, str(error))
        supervisors = self._roster.supervisors()
        turn = self._dispatcher.turn  # so that what else there is to do has its turn after each
        for supervisor in supervisors:
            await supervisor.load()
            await turn.give()
        loaded = [s for s in supervisors if s.slot.state is PluginState.LOADING]
        for supervisor in loaded:
            self._dispatcher.collect(supervisor.slot)
            self._dispatcher.follow(supervisor.slot)
            await turn.give()
        async with asyncio.TaskGroup() as inits:
            for supervisor in loaded:
                inits.create_task(supervisor.init())
                await asyncio.sleep(0)  # it begins, before the next is made
        for supervisor in loaded:
            await self._activation.open(supervisor)
            await turn.give()
        await self._dispatcher.until_collecting()
        for supervisor in loaded:
            if supervisor.slot.is_source and supervisor.slot.is_live:
                supervisor.start_source()
        self._changes.open()
        self._started.set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, object]) -> None:
        """Do it; let it be when a stop is requested."""
        await _first_of(asyncio.create_task(work), asyncio.create_task(self._stop.wait()))

    async def _idle(self) -> None:
        """Return when all sources are exhausted, every message has ended, and no change began meanwhile."""
        changes = -1
        while changes != self._changes.begun:
            changes = self._changes.begun
            await self._changes.settled()
            await asyncio.gather(*(s.source_ended() for s in self._roster.supervisors()))
            with contextlib.suppress(DeadLetterError):  # `watch` says so
                await self._replayer.run_waiting()
            await self._transport.wait_until_settled()
            await self._told()

    def _give_up(self, slot: PluginSlot, reason: str) -> None:
        """The plugin would keep a run that is to end from ending: it gets nothing more, and that is kept."""
        slot.move_to(PluginState.FAILED, reason)

        async def withdraw() -> None:
            with contextlib.suppress(HostStopping):
                await self._changes.make(slot.name, self._activation.withdraw(slot, reason))

        task = asyncio.create_task(withdraw(), name=f"{slot.name} is given up")
        self._giving_up.add(task)
        task.add_done_callback(self._giving_up.discard)

    async def _told(self) -> None:
        """Return when every source has been told of all that has ended."""
        followed = [slot.followed for slot in self._roster.slots() if slot.followed is not None]
        await asyncio.gather(*(source.wait_until_told() for source in followed))

    async def _replay(self) -> None:
        """Not before the plugins are there: what nobody subscribes to is refused."""
        await self._started.wait()
        await self._replayer.watch()

    async def _check_health(self) -> None:
        while True:
            await self._clock.sleep(self._settings.host.health_interval_s)
            async with asyncio.TaskGroup() as checks:
                for number, supervisor in enumerate(self._roster.supervisors(), 1):
                    checks.create_task(supervisor.check_health())
                    if not number % _CHECKED_AT_ONCE:
                        await asyncio.sleep(0)

    async def _shut_down(self) -> None:
        """The stop: politely for three quarters of the deadline, firmly for the rest."""
        deadline = time.monotonic() + self._settings.host.shutdown_timeout_s
        polite = deadline - (1 - _POLITE) * self._settings.host.shutdown_timeout_s
        for supervisor in self._roster.supervisors():
            await supervisor.stop_source()
        slots = self._roster.slots()
        # What a durable transport keeps is for the next run, or for another host: what is held here ends.
        # And with a paused plugin some would never be settled.
        is_kept = self._transport.capabilities.durable
        if not is_kept and all(slot.state is not PluginState.PAUSED for slot in slots):
            await self._patiently(self._transport.wait_until_settled(), polite)
        for slot in upstream_first([slot for slot in slots if slot.followed is None]):
            await self._shut_down_one(slot, polite, deadline)
        # A source can acknowledge as long as it is not shut down, so these come after all that they feed.
        self._dispatcher.settlements.abandon()
        await self._patiently(self._told(), deadline - (1 - _TELLING) * (deadline - time.monotonic()))
        for slot in slots:
            if slot.followed is not None:
                await slot.followed.stop()
                await self._shut_down_one(slot, polite, deadline)

    async def _shut_down_one(self, slot: PluginSlot, polite: float, deadline: float) -> None:
        supervisor = self._roster.supervisor(slot)
        if supervisor is None:
            return
        await self._patiently(self._dispatcher.finish(slot), polite)
        await self._activation.withdraw(slot, "the host stopped before the plugin could handle it")
        seconds = 0.1 if self._abort.is_set() else max(0.1, deadline - time.monotonic())
        await supervisor.shut_down(seconds, "the host stops")

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
