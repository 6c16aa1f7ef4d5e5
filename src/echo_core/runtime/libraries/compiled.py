"""Compiled packages: those with extension modules, and the packages which they need.

An interpreter cannot load two versions of an extension module, nor drop one. So such a package keeps
its real name, is shared by the plugins that carry the same version, and every other version is refused;
unless it can do without its compiled modules, because it carries the Python sources of all of them.
"""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from packaging.utils import NormalizedName, canonicalize_name

from echo_core.errors import PluginLoadError
from echo_core.runtime.libraries.store import Site
from echo_core.runtime.libraries.wheel import Wheel

logger = logging.getLogger(__name__)

_CURE: Final = (
    'give the plugin a process of its own, "isolation": "process" in its manifest.json; or let both depend '
    "on one version, and restart the host if it runs: a process keeps a compiled package until it ends"
)


@dataclass
class _Package:
    """A compiled package in this process: whose it is, and which scopes (by prefix) use it."""

    version: str
    plugin: str
    site: Site | None
    """Where it is imported from; None: the host's own installation."""
    names: frozenset[str]
    users: set[str] = field(default_factory=set)

    @property
    def is_bound(self) -> bool:
        """Whether another version has to stay out."""
        return bool(self.users) or any(name in sys.modules for name in self.names)


class CompiledPackages:
    """Which compiled packages this process holds, and in which version."""

    def __init__(self) -> None:
        self._packages: dict[NormalizedName, _Package] = {}

    def admit(self, plugin: str, prefix: str, site: Site) -> frozenset[str]:
        """Enter the compiled packages of the site for the scope `prefix`; gives their top-level names.

        Raises `PluginLoadError`, and enters nothing, if one is in the process in another version.
        """
        self._forget_unbound()
        entries = self._entries(plugin, site.wheels, site)
        for package in entries.values():
            package.users.add(prefix)
        self._packages.update(entries)
        return frozenset[str]().union(*(package.names for package in entries.values()))

    def release(self, prefix: str) -> None:
        """The scope `prefix` is gone. What was imported stays; what never was makes room."""
        for package in self._packages.values():
            package.users.discard(prefix)
        self._forget_unbound()

    def _forget_unbound(self) -> None:
        self._packages = {name: package for name, package in self._packages.items() if package.is_bound}

    def site_of(self, top_level: str) -> Site | None:
        """The site to import this name from, if it is that of a compiled package carried by a library."""
        for package in self._packages.values():
            if top_level in package.names:
                return package.site
        return None

    def expect(self, plugin: str, wheels: Sequence[Wheel]) -> None:
        """Enter the compiled packages of a plugin that is to be in this process, if it can be."""
        with contextlib.suppress(PluginLoadError):
            entries = self._entries(plugin, wheels, None)
            for package in entries.values():
                package.users.add(plugin)
            self._packages.update(entries)

    def check(self, plugin: str, wheels: Sequence[Wheel]) -> None:
        """Raise `PluginLoadError` if `admit` would, without entering anything."""
        self._entries(plugin, wheels, None)

    def _entries(
        self, plugin: str, wheels: Sequence[Wheel], site: Site | None
    ) -> dict[NormalizedName, _Package]:
        kept_out = {wheel.name: self._obstacle(wheel) for wheel in compiled_wheels(wheels)}
        spared = {
            wheel.name for wheel in wheels if kept_out.get(wheel.name) and wheel.has_sources_of_extensions
        }
        entries = {}
        for wheel in compiled_wheels(wheels, spared):
            if why := kept_out[wheel.name]:
                raise _refusal(plugin, wheel, why)
            entries[wheel.name] = self._packages.get(wheel.name) or _new(plugin, wheel, site)
        for wheel in wheels:
            if wheel.name in spared and site is not None:
                logger.warning(
                    "%s runs %s %s from its Python sources, slower than compiled: %s",
                    *(plugin, wheel.name, wheel.version, kept_out[wheel.name]),
                )
        return entries

    def _obstacle(self, wheel: Wheel) -> str:
        """What keeps this wheel out of the process; empty if nothing does."""
        present = self._packages.get(wheel.name)
        if present:
            is_same = present.version == wheel.version
            return "" if is_same else f"{present.plugin} has {present.version} in the host's process"
        if installed := _installed(wheel):
            return "" if installed == wheel.version else f"the host itself has {installed}"
        for name in sorted(wheel.top_levels):
            for package in self._packages.values():
                if name in package.names:
                    return f"{package.plugin} has another package named {name} there"
            if importlib.util.find_spec(name):
                return f"the host has another module named {name}"
        return ""


def check_host(
    plugin: str, wheels: Sequence[Wheel], others: Iterable[tuple[str, Sequence[Wheel]]] = ()
) -> None:
    """Raise `PluginLoadError` if what is installed beside Echo Core keeps one of the wheels out.

    Or what one of the `others` brings, by plugin, which are only looked at where that may be.
    """
    packages = CompiledPackages()
    packages.check(plugin, wheels)
    if compiled_wheels(wheels):
        for name, theirs in others:
            packages.expect(name, theirs)
        packages.check(plugin, wheels)


def _installed(wheel: Wheel) -> str:
    """The version that is installed beside Echo Core; empty for none."""
    try:
        return metadata.version(wheel.name)
    except metadata.PackageNotFoundError:
        return ""


def _new(plugin: str, wheel: Wheel, site: Site | None) -> _Package:
    if _installed(wheel):
        return _Package(wheel.version, "the host", None, wheel.top_levels)
    return _Package(wheel.version, plugin, site, wheel.top_levels)


def compiled_wheels(wheels: Sequence[Wheel], spared: Iterable[NormalizedName] = ()) -> list[Wheel]:
    """The wheels with extension modules, with those that they need or share a top-level name with.

    Those that are `spared` do not count for their extension modules. All of the others are imported under
    real names: a compiled module imports what it needs by real name.
    """
    found = {wheel.name for wheel in wheels if wheel.has_extension_modules} - set(spared)
    while True:
        inside = [wheel for wheel in wheels if wheel.name in found]
        needed = {canonicalize_name(requirement.name) for wheel in inside for requirement in wheel.requires}
        names = frozenset[str]().union(*(wheel.top_levels for wheel in inside))
        more = {wheel.name for wheel in wheels if wheel.name in needed or wheel.top_levels & names} - found
        if not more:
            return inside
        found |= more


def _refusal(plugin: str, wheel: Wheel, why: str) -> PluginLoadError:
    return PluginLoadError(
        f"{plugin} needs the compiled package {wheel.name} {wheel.version}, and cannot have it",
        where=str(wheel.path),
        why=f"{why}, and an interpreter holds one version of a compiled package",
        fix=_CURE,
    )
