"""Plugins from libraries, run by a real host in either tier."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echo_core import Plugin
from echo_core.runtime.isolation.keeper import spec_of
from echo_core.runtime.isolation.plugin import RemotePlugin
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import load
from echo_core.runtime.settings import IsolationSettings, PluginIsolation, Settings, Tier
from echo_core.workspace import Workspace
from runtime.hosting import FAST_RETRIES, World
from support.libraries import make_library, make_workspace

TIERS: tuple[Tier, ...] = ("in_process", "process")


class Tiers:
    """A workspace and a host; `add` makes a plugin of code and runs it in the tier."""

    def __init__(self, folder: Path, tier: Tier = "process", **world: Any) -> None:
        self.tier = tier
        self.workspace: Workspace = make_workspace(folder)
        self.world = World(folder, **world)
        self.remote: dict[str, RemotePlugin] = {}

    def library(self, code: str, name: str = "subject", **manifest: Any) -> Library:
        document = {
            "subscriptions": ["in"],
            "publications": ["out"],
            "delivery": FAST_RETRIES,
            "timeouts": {"init_ms": 60_000},  # a busy machine takes its time to start a process
        }
        return make_library(self.workspace, name, code=code, **(document | manifest))

    def plugin(
        self, library: Library, *, environ: Mapping[str, str] | None = None, **isolation: Any
    ) -> Plugin:
        if self.tier == "in_process":
            return load(library, Store(self.workspace.state)).plugin
        isolation.setdefault("spare", False)  # or tests that count processes have to reckon with it
        settings = Settings(isolation=IsolationSettings(plugins={library.name: PluginIsolation(**isolation)}))
        spec = spec_of(library, self.workspace.state, settings, {**os.environ, **(environ or {})})
        remote = self.remote[library.name] = RemotePlugin(spec)
        return remote

    def add(self, code: str, name: str = "subject", **more: Any) -> Library:
        """Run this code as a plugin; `memory_mb`, `block_s` and `environ` are for its process."""
        own = {
            key: more.pop(key)
            for key in ("memory_mb", "block_s", "processes", "spare", "environ", "environment")
            if key in more
        }
        library = self.library(code, name, **more)
        self.world.host.add(library.manifest, lambda: self.plugin(library, **own))
        return library

    def pid(self, name: str = "subject") -> int:
        return self.remote[name].keeper.pid
