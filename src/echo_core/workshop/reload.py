"""The development loop: what is saved in the workshop is built, and takes the place of what runs."""

import asyncio
import importlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from time import perf_counter
from typing import Final

from echo_core.errors import EchoCoreError, HostStopping, NotFound
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.library import Library, read_library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.offer import offer_of
from echo_core.workshop.build import build
from echo_core.workshop.source import plugin_sources
from echo_core.workspace import Workspace

_QUIET_MS: Final = 20
"""A burst of changes is over when nothing has changed for so long."""
_BURST_MS: Final = 200
_PAUSE_MS: Final = 1_000
"""Time without a change after which what was not looked at yet is."""
_MADE_BY_TOOLS: Final = ("__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache", ".hypothesis")
Said = Callable[[str, str, EchoCoreError | None], None]


class Reloader:
    """Builds plugins of the workshop for a host, at its start and at each change.

    A change that cannot be built, or does not come up, changes nothing: what ran before runs on.
    """

    def __init__(self, workspace: Workspace, store: Store, said: Said, *, only: Collection[str] = ()) -> None:
        """`said` hears of each plugin what was done, or an error."""
        self._workspace = workspace
        self._store = store
        self._said = said
        self._only = frozenset(only)
        self._trouble: dict[str, str] = {}
        self._begun: dict[str, str] = {}
        """The digest of each that the host was given at its start."""

    def begin(self, host: Host) -> None:
        """Give the host each plugin as it is now; one that cannot be built is FAILED, until it is mended."""
        for name in self._names():
            try:
                library = self._build(name)
                host.offer(offer_of(library, self._store))
                self._begun[name] = library.digest
            except EchoCoreError as error:
                host.refuse(name, error, build_type="development")
                self._complain(name, error)

    async def watch(self, host: Host) -> None:
        """Follow the workshop until cancelled."""
        await host.started()
        watchfiles = await asyncio.to_thread(importlib.import_module, "watchfiles")
        self._workspace.workshop.mkdir(parents=True, exist_ok=True)
        seen: set[str] = set()
        before: set[str] | None = set(self._names())
        async for changes in watchfiles.awatch(
            self._workspace.workshop,
            watch_filter=None,
            debounce=_BURST_MS,
            step=_QUIET_MS,
            rust_timeout=_PAUSE_MS,
            yield_on_timeout=True,
        ):
            names = self._touched(Path(path) for _, path in changes)
            if not changes and before is not None:
                # They may have been saved, made or thrown away before the watching began.
                names, before = (before | set(self._names())) - seen, None
            seen |= names
            await asyncio.gather(*(self._swap(host, name) for name in sorted(names)))

    def _touched(self, paths: Iterable[Path]) -> set[str]:
        """The plugins that these files belong to; what tools write is nobody's."""
        found = set()
        for path in paths:
            name, *rest = path.relative_to(self._workspace.workshop).parts or (".",)
            is_ours = not any(part in _MADE_BY_TOOLS for part in rest) and not name.startswith(".")
            # A plugin that is created, or thrown away, is one change of its folder.
            if is_ours and (rest or not path.is_file()) and (not self._only or name in self._only):
                found.add(name)
        return found

    async def _swap(self, host: Host, name: str) -> None:
        began = perf_counter()
        try:
            if name not in self._names():
                await host.deactivate(name)
                self._said(name, "is taken down", None)
                return
            library = await asyncio.to_thread(self._build, name)
            running = host.plugin(name)
            if running is not None and running.is_live and running.digest == library.digest:
                if self._trouble.pop(name, None):
                    self._said(name, "is in order again, as what runs", None)
                return
            if self._begun.pop(name, None) == library.digest:  # it has just failed, and said so
                return
            await host.activate(offer_of(library, self._store))
        except (HostStopping, NotFound):
            return
        except EchoCoreError as error:
            if name in self._names():  # else it was thrown away meanwhile, which is the next change
                self._complain(name, error)
        else:
            self._trouble.pop(name, None)
            self._said(name, f"is swapped in {perf_counter() - began:.2f} s", None)

    def _complain(self, name: str, error: EchoCoreError) -> None:
        """Say it once: editors save a file more often than they change it."""
        if self._trouble.get(name) != str(error):
            self._trouble[name] = str(error)
            self._said(name, "", error)

    def _names(self) -> list[str]:
        return [name for name in plugin_sources(self._workspace) if not self._only or name in self._only]

    def _build(self, name: str) -> Library:
        return read_library(build(self._workspace, name).path)
