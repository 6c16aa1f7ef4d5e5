"""What can be asked and done of a running host, whoever asks: the functions behind the control API."""

import asyncio
import logging
import os
from collections.abc import Collection
from typing import Final

import msgspec

from echo_core._version import __version__
from echo_core.control.documents import (
    Activate,
    Changed,
    Cluster,
    Health,
    Kept,
    Logs,
    Move,
    Moves,
    Problem,
    Status,
    Upgrade,
    Upgraded,
)
from echo_core.control.log_tail import LogTail
from echo_core.errors import ChangeRefused
from echo_core.runtime.dead_letters import DeadLetterError, DeadLetterStore
from echo_core.runtime.dead_letters.desk import LetterDesk
from echo_core.runtime.host import Host
from echo_core.runtime.message_history.desk import MessageDesk
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.registry import find_library
from echo_core.runtime.states import BROKEN, PluginState
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.workspace import BUILD_TYPES, Workspace

logger = logging.getLogger(__name__)

_WELL: Final = (PluginState.RUNNING, PluginState.FINISHED)
_GONE: Final = PluginState.STOPPED


class Board:
    """Knows the host, what keeps it as it is enabled, and what it has said."""

    def __init__(
        self,
        host: Host,
        reconciler: Reconciler,
        workspace: Workspace,
        dead_letters: DeadLetterStore,
        logs: LogTail,
        *,
        optional: Collection[str] = (),
    ) -> None:
        """`optional` are the plugins without which the host is ready all the same."""
        self._host = host
        self._reconciler = reconciler
        self._workspace = workspace
        self.letters: Final = LetterDesk(dead_letters)
        """For threads: it reads and writes a file."""
        self.messages: Final = MessageDesk(host.message_history, host.send_again)
        self._logs = logs
        self._optional = frozenset(optional)

    async def started(self) -> None:
        """Return when the host has started, and can be changed."""
        await self._host.started()

    def is_reached(self) -> None:
        """From now on this host is the one that is asked, and no other one of its workspace."""
        self._reconciler.recall_trials()

    async def status(self) -> Status:
        """The host as it is now."""
        snapshot = self._host.snapshot()
        reasons = self._reasons()
        refused = self._reconciler.refusals()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=snapshot.uptime_s,
            ready=not reasons,
            reasons=reasons,
            transport=self._host.transport_name,
            trouble=self._host.trouble(),
            plugins=tuple(snapshot.plugins),
            refused={name: Problem.of(error) for name, error in refused.items()},
            dead_letters=await self._kept(),
            upgrades=tuple(
                msgspec.structs.replace(trial, comparison=None) for trial in self._host.trials.under_way()
            ),
        )

    def cluster(self) -> Cluster:
        """All hosts that share the transport, this one first, as far as it lets them know of each other."""
        presence = self._host.presence
        return Cluster(hosts=tuple(presence.hosts()), warnings=tuple(presence.unheard()))

    def liveness(self) -> Health:
        """Whether the event loop turns: it does, or nobody would hear this."""
        return Health(ok=True)

    async def readiness(self) -> Health:
        """Whether the transport works, and every required plugin runs as it is enabled, and is well."""
        kept = await self._kept()
        reasons = self._reasons()
        return Health(ok=not reasons, reasons=reasons, dead_letters=kept)

    def _reasons(self) -> tuple[str, ...]:
        """Why the host is not ready."""
        found = []
        if not self._host.is_steady:
            found.append(("", f"the host is {'stopping' if self._host.is_stopping else 'starting'}"))
        if trouble := self._host.trouble():
            found.append(("", f"the transport does not work: {trouble}"))
        plugins = {plugin.name: plugin for plugin in reversed(self._host.snapshot().plugins)}
        for name, plugin in sorted(plugins.items()):
            if plugin.state not in (*_WELL, _GONE):
                because = f": {plugin.reason}" if plugin.reason else ""
                found.append((name, f"{name} {plugin.version} is {plugin.state.value}{because}"))
        for name, error in sorted(self._reconciler.refusals().items()):
            if name not in plugins or plugins[name].state not in BROKEN:
                found.append((name, f"{name} does not run as it is enabled: {error.what}"))
        return tuple(reason for name, reason in found if name not in self._optional)

    async def _kept(self) -> tuple[Kept, ...]:
        """The dead letters there are; a probe need not fail because they cannot be counted."""
        try:
            return tuple(map(Kept.of, await asyncio.to_thread(self.letters.store.depths)))
        except DeadLetterError as error:
            logger.warning("%s", error)
            return ()

    def plugin(self, name: str) -> PluginSnapshot:
        """The plugin of this name; raises `NotFound`."""
        found = self._host.plugin(name)
        if found is None:
            raise self._host.missing(name)
        return found

    def moves(self, name: str | None = None) -> Moves:
        """What happened to the plugin, or to all."""
        return Moves(moves=tuple(Move.of(event) for event in self._host.history.moves(name)))

    async def activate(self, name: str, wish: Activate) -> Changed:
        """Run the library and enable it; what runs before serves until it is ready."""
        library = await asyncio.to_thread(find_library, self._workspace, name, wish.build_type, wish.version)
        already = not await self._reconciler.activate(library)
        return Changed(name=name, already=already, plugin=self._host.plugin(name))

    async def deactivate(self, name: str) -> Changed:
        """Disable the plugin, drain it, and take it down."""
        changed = await self._reconciler.deactivate(name)
        return Changed(name=name, already=not changed, plugin=self._host.plugin(name))

    async def pause(self, name: str) -> Changed:
        """Let its messages wait."""
        already = self.plugin(name).state is PluginState.PAUSED
        await self._host.pause(name)
        return Changed(name=name, already=already, plugin=self._host.plugin(name))

    async def resume(self, name: str) -> Changed:
        """Go on after a pause."""
        already = self.plugin(name).state is not PluginState.PAUSED
        await self._host.resume(name)
        return Changed(name=name, already=already, plugin=self._host.plugin(name))

    async def upgrade(self, name: str, wish: Upgrade) -> Upgraded:
        """Let another version take the place of the one that runs, as planned."""
        build_type = next((kind for kind in BUILD_TYPES if kind == self.plugin(name).build_type), None)
        build_type = wish.build_type or build_type
        if build_type is None:
            raise ChangeRefused(f"{name} does not run from a library", fix="say which build_type is meant")
        library = await asyncio.to_thread(find_library, self._workspace, name, build_type, wish.version)
        await self._reconciler.upgrade(library, wish.plan)
        return self.upgraded(name)

    def upgraded(self, name: str) -> Upgraded:
        """How the plugin's upgrade stands."""
        trials = self._host.trials
        return Upgraded(
            name=name,
            trial=trials.status(name),
            outcome=trials.outcome(name),
            plugin=self._host.plugin(name),
        )

    async def deal(self, name: str, percent: float) -> Upgraded:
        """Give a canary another part."""
        await self._host.deal(name, percent)
        return self.upgraded(name)

    async def switch(self, name: str) -> Upgraded:
        """Let the other of blue and green have all."""
        await self._host.switch(name)
        return self.upgraded(name)

    async def promote(self, name: str) -> Upgraded:
        """End a trial: the new version stays."""
        await self._host.promote(name)
        return self.upgraded(name)

    async def send_back(self, name: str) -> Upgraded:
        """End a trial: the old version stays."""
        await self._host.send_back(name)
        return self.upgraded(name)

    async def roll_back(self, name: str) -> Upgraded:
        """Return to the version before."""
        await self._reconciler.roll_back(name)
        return self.upgraded(name)

    def logs(self, plugin: str | None, after: int, limit: int) -> Logs:
        """What was logged after record number `after`: the newest `limit` of it."""
        return Logs(lines=self._logs.lines(plugin=plugin, after=after, limit=limit))
