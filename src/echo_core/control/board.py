"""What can be asked and done of a running host, whoever asks: the functions behind the control API."""

import asyncio
import os
from collections.abc import Collection
from typing import Final

from echo_core._version import __version__
from echo_core.control.documents import (
    Activate,
    Changed,
    DeadLetters,
    Health,
    Logs,
    Move,
    Moves,
    Problem,
    Status,
    Upgrade,
    Upgraded,
)
from echo_core.control.log_tail import LogTail
from echo_core.errors import ChangeRefused, NotFound
from echo_core.runtime.dead_letters import DeadLetter, DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.registry import find_library
from echo_core.runtime.states import BROKEN, PluginState
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.workspace import BUILD_TYPES, Workspace

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
        self._dead_letters = dead_letters
        self._logs = logs
        self._optional = frozenset(optional)

    def status(self) -> Status:
        """The host as it is now."""
        snapshot = self._host.snapshot()
        health = self.readiness()
        refused = self._reconciler.refusals()
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=snapshot.uptime_s,
            ready=health.ok,
            reasons=health.reasons,
            plugins=tuple(snapshot.plugins),
            refused={name: Problem.of(error) for name, error in refused.items()},
        )

    def readiness(self) -> Health:
        """Whether every plugin that is required runs, as it is enabled, and is well."""
        found = [] if self._host.is_steady else [("", "the host is starting or stopping")]
        plugins = {plugin.name: plugin for plugin in reversed(self._host.snapshot().plugins)}
        for name, plugin in sorted(plugins.items()):
            if plugin.state not in (*_WELL, _GONE):
                because = f": {plugin.reason}" if plugin.reason else ""
                found.append((name, f"{name} {plugin.version} is {plugin.state.value}{because}"))
        for name, error in sorted(self._reconciler.refusals().items()):
            if name not in plugins or plugins[name].state not in BROKEN:
                found.append((name, f"{name} does not run as it is enabled: {error.what}"))
        reasons = tuple(reason for name, reason in found if name not in self._optional)
        return Health(ok=not reasons, reasons=reasons)

    def plugin(self, name: str) -> PluginSnapshot:
        """The plugin of this name; raises `NotFound`."""
        found = self._host.plugin(name)
        if found is None:
            raise NotFound(f"no plugin {name!r} runs", fix="echo-core status shows what runs")
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

    async def dead_letters(self, plugin: str | None, limit: int) -> DeadLetters:
        """The newest dead letters, of one plugin or of all."""
        store = self._dead_letters
        letters = await asyncio.to_thread(store.newest, plugin=plugin, limit=limit)
        total = await asyncio.to_thread(store.count, plugin=plugin)
        return DeadLetters(total=total, letters=tuple(letters))

    async def dead_letter(self, number: int) -> DeadLetter:
        """One dead letter; raises `NotFound`."""
        return await asyncio.to_thread(self._dead_letters.get, number)

    def logs(self, plugin: str | None, after: int, limit: int) -> Logs:
        """What was logged after record number `after`: the newest `limit` of it."""
        return Logs(lines=self._logs.lines(plugin=plugin, after=after, limit=limit))
