"""Compiled packages: those with extension modules, and the packages which they need.

An interpreter cannot load two versions of an extension module, nor drop one. So such a package keeps
its real name, is shared by the plugins that carry the same version, and every other version is refused.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from packaging.utils import NormalizedName, canonicalize_name

from echo_core.errors import PluginLoadError
from echo_core.runtime.libraries.store import Site
from echo_core.runtime.libraries.wheel import Wheel

_CURE: Final = (
    "let both depend on one version; a process keeps a compiled package until it ends, "
    "so restart the host after that"
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
        wheels = compiled_wheels(site.wheels)
        entries = {wheel.name: self._entry(plugin, wheel, site) for wheel in wheels}
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

    def _entry(self, plugin: str, wheel: Wheel, site: Site) -> _Package:
        present = self._packages.get(wheel.name)
        if present:
            if present.version != wheel.version:
                raise _refusal(plugin, wheel, f"{present.plugin} brought {present.version} into this process")
            return present
        try:
            installed = metadata.version(wheel.name)
        except metadata.PackageNotFoundError:
            return self._new(plugin, wheel, site)
        if installed != wheel.version:
            raise _refusal(plugin, wheel, f"the host itself has {installed}")
        return _Package(installed, "the host", None, wheel.top_levels)

    def _new(self, plugin: str, wheel: Wheel, site: Site) -> _Package:
        for name in sorted(wheel.top_levels):
            for package in self._packages.values():
                if name in package.names:
                    raise _refusal(plugin, wheel, f"{package.plugin} brought another package named {name}")
            if importlib.util.find_spec(name):
                raise _refusal(plugin, wheel, f"the host has another module named {name}")
        return _Package(wheel.version, plugin, site, wheel.top_levels)


def compiled_wheels(wheels: tuple[Wheel, ...]) -> list[Wheel]:
    """The wheels with extension modules, with those that they need or share a top-level name with.

    All of them are imported under real names: a compiled module imports what it needs by real name.
    """
    found = {wheel.name for wheel in wheels if wheel.has_extension_modules}
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
