"""What is enabled, and what runs: brought together when either changes.

The links in `core/plugins/enabled` are the operator's wish. A wish that cannot be granted changes nothing:
what ran before runs on, and the reason is kept here until the wish is granted or another one takes its place.
"""

import asyncio
import contextlib
import importlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from common_telemetry.attributes import PLUGIN_NAME
from echo_core.errors import ChangeRefused, EchoCoreError, HostStopping, NotFound
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.files import replace_link
from echo_core.runtime.libraries.library import Library, read_library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.offer import offer_of
from echo_core.runtime.registry import Enabled, disable, enable, read_enabled
from echo_core.runtime.upgrade.plan import Plan
from echo_core.workspace import Workspace

logger = logging.getLogger(__name__)

_LOOK_AGAIN_MS: Final = 5_000
"""Time after which the folder is looked at in any case: it may have been put in another's place."""
_QUIET_MS: Final = 20
"""A burst of changes is over when nothing has changed for so long."""
_BURST_MS: Final = 200


class Reconciler:
    """Obeys the enabled folder, and whoever asks directly; one change at a time for each plugin."""

    def __init__(
        self,
        host: Host,
        workspace: Workspace,
        store: Store,
        *,
        known: Iterable[Enabled] = (),
        includes: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`known`: what the host was given before it began; `includes`: which plugins are its own at all."""
        self._host = host
        self._workspace = workspace
        self._store = store
        self._includes = includes
        self._seen = {entry.name: entry.target for entry in known}
        self._refusals = {entry.name: entry.error for entry in known if entry.error is not None}
        self._running = {entry.name: entry.library for entry in known if entry.library is not None}
        self._on_trial: dict[str, Library] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Of each plugin. Else a link that was read before a change would be obeyed after it, and undo it."""
        host.trials.on_ended = self._trial_ended

    def refusals(self) -> Mapping[str, EchoCoreError]:
        """Why plugins do not run as they are enabled, by name; those that do are not in it."""
        return dict(self._refusals)

    async def watch(self) -> None:
        """Follow the folder until cancelled."""
        await self._host.started()
        watchfiles = await asyncio.to_thread(importlib.import_module, "watchfiles")  # after the plugins
        self._workspace.enabled.mkdir(parents=True, exist_ok=True)
        await self.reconcile()
        async for _ in watchfiles.awatch(
            self._workspace.enabled,
            watch_filter=None,
            debounce=_BURST_MS,
            step=_QUIET_MS,
            rust_timeout=_LOOK_AGAIN_MS,
            yield_on_timeout=True,
            recursive=False,
        ):
            await self.reconcile()

    async def reconcile(self) -> None:
        """Grant every wish that changed since the last time."""
        wishes = _links(self._workspace.enabled)
        if wishes is None:
            return
        changed = {
            name
            for name in wishes.keys() | self._seen.keys()
            if wishes.get(name) != self._seen.get(name) and self._includes(name)
        }
        self._seen = wishes
        await asyncio.gather(*(self._grant(name) for name in sorted(changed)))

    async def activate(self, library: Library) -> bool:
        """Run the library, and enable it once it runs; if it does not come up, all is as before.

        Returns whether anything had to be done.
        Raises what `Host.activate` raises, and `ChangeRefused` for a plugin that is not this host's.
        """
        self._check(library.name)
        async with self._turns[library.name]:
            before = self._host.plugin(library.name)
            try:
                changed = await self._run(library)
            except EchoCoreError:
                if before is None:
                    await self._stop(library.name)
                raise
            changed |= enable(self._workspace, library)
            self._refusals.pop(library.name, None)
            return changed

    async def upgrade(self, library: Library, plan: Plan) -> None:
        """Let the library take the place of what runs, as planned; it is enabled when it has done so.

        Raises what `Host.upgrade` raises, and `ChangeRefused` for a plugin that is not this host's.
        """
        self._check(library.name)
        async with self._turns[library.name]:
            await self._upgrade(library, plan)

    async def _upgrade(self, library: Library, plan: Plan) -> None:
        name = library.name
        running = self._host.plugin(name)
        if running is not None and running.digest == library.digest:
            raise ChangeRefused(
                f"{name} {library.version} is what runs",
                fix=f'raise "version" in its manifest.json, then echo-core build {name}',
            )
        await self._host.upgrade(offer_of(library, self._store), plan)
        if self._host.trials.status(name) is not None:
            self._on_trial[name] = library
            self._remember("trials", library)
        else:
            self._took_over(library)
            enable(self._workspace, library)
        self._refusals.pop(name, None)

    async def roll_back(self, name: str) -> None:
        """Return to the version that ran before; from a trial, to the one that still runs.

        Raises `ChangeRefused` where none is known, and what `upgrade` raises.
        """
        self._check(name)
        async with self._turns[name]:
            if self._host.trials.status(name) is not None:
                await self._host.send_back(name)
                return
            link = self._link("previous", name)
            if not link.is_symlink():
                raise ChangeRefused(
                    f"no version of {name} is known to have run before this one",
                    fix=f"echo-core list shows what there is, echo-core upgrade {name} VERSION runs it",
                )
            library = await asyncio.to_thread(_read_linked, link)
            await self._upgrade(library, Plan())

    def _trial_ended(self, name: str, is_promoted: bool) -> None:
        library = self._on_trial.pop(name, None)
        if library is None:
            return
        if is_promoted:
            self._took_over(library)
            enable(self._workspace, library)
        self._link("trials", name).unlink(missing_ok=True)

    def recall_trials(self) -> None:
        """Tell of the trials that earlier hosts did not bring to an end. Only for the host that is asked."""
        for link in sorted(self._link("trials", "").glob("*")):
            if self._includes(link.name) and link.name not in self._on_trial:
                self._host.trials.recall(link.name, Path(os.readlink(link)).name)
                with contextlib.suppress(OSError):  # then it is told again
                    link.unlink()

    def _took_over(self, library: Library) -> None:
        """Remember what ran before, over the host's end too."""
        before = self._running.get(library.name)
        self._running[library.name] = library
        if before is not None and before.path != library.path:
            self._remember("previous", before)

    def _remember(self, what: str, library: Library) -> None:
        link = self._link(what, library.name)
        link.parent.mkdir(parents=True, exist_ok=True)
        replace_link(link, os.path.relpath(library.path, os.path.realpath(link.parent)))

    def _link(self, what: str, name: str) -> Path:
        """What is to be known when this host has ended: which library was the plugin's `what`."""
        return self._workspace.state / what / name

    async def deactivate(self, name: str) -> bool:
        """Disable the plugin, drain it and take it down; whether anything had to be done."""
        self._check(name)
        async with self._turns[name]:
            changed = disable(self._workspace, name)
            self._refusals.pop(name, None)
            return await self._stop(name) or changed

    async def _grant(self, name: str) -> None:
        async with self._turns[name]:
            await self._obey(name)

    async def _obey(self, name: str) -> None:
        try:
            entry = await asyncio.to_thread(read_enabled, self._workspace, name)
            if entry is None:
                await self._stop(name)
            elif entry.library is None:
                raise entry.error or NotFound(f"{name} has no library")
            else:
                await self._run(entry.library)
        except HostStopping:
            return
        except EchoCoreError as error:
            self._refusals[name] = error
            about = {PLUGIN_NAME: name}
            logger.warning("%s is enabled, and what runs is as before: %s", name, error, extra=about)
        else:
            self._refusals.pop(name, None)

    async def _run(self, library: Library) -> bool:
        running = self._host.plugin(library.name)
        if running is not None and running.is_live and running.digest == library.digest:
            return False
        await self._host.activate(offer_of(library, self._store))
        self._took_over(library)
        return True

    async def _stop(self, name: str) -> bool:
        try:
            await self._host.deactivate(name)
        except NotFound:
            return False
        return True

    def _check(self, name: str) -> None:
        if not self._includes(name):
            raise ChangeRefused(f"{name} is not this host's", why="it was started for other plugins only")


def _read_linked(link: Path) -> Library:
    return read_library(Path(os.path.realpath(link)))


def _links(folder: Path) -> dict[str, str] | None:
    """Where each entry leads, empty for what is no link; None when the folder cannot be read just now."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        return {entry.name: os.readlink(entry.path) if entry.is_symlink() else "" for entry in entries}
    except OSError:
        return None
