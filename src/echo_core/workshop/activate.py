"""Switching plugins on and off: one relative symlink, written in one step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from echo_core.errors import NotFound
from echo_core.manifest import FILE_NAME
from echo_core.runtime.config import check_config
from echo_core.runtime.libraries.library import Library, read_library
from echo_core.runtime.offer import check_beside_host
from echo_core.runtime.registry import Available, available, disable, enable, enabled
from echo_core.runtime.settings import load_settings
from echo_core.workshop.lookup import not_found
from echo_core.workshop.source import plugin_sources
from echo_core.workspace import BuildType, Workspace


@dataclass(frozen=True, slots=True)
class Activation:
    """What was switched on."""

    name: str
    version: str
    build_type: BuildType
    link: Path
    already: bool
    """It was on before, just so; nothing was written."""


@dataclass(frozen=True, slots=True)
class Deactivation:
    """What was switched off."""

    name: str
    link: Path
    already: bool
    """It was off before; nothing was removed."""


def activate(
    workspace: Workspace, name: str, build_type: BuildType, version: str | None = None
) -> Activation:
    """Enable this version of the plugin, or its newest (PEP 440), instead of any that was enabled before.

    The library is validated first; if it fails, what was enabled stays so. Raises `NotFound`,
    `LibraryError`, `ManifestError`, `ConfigError` for defaults that contradict the `config_schema`,
    `SettingsError`, or `PluginLoadError` for a compiled package that the host, or another plugin that is
    enabled for its process, has in another version.
    """
    return activate_found(workspace, find(workspace, name, build_type, version))


def activate_found(workspace: Workspace, library: Library) -> Activation:
    """Enable a library that `find` has found. A host that runs judges by itself what it can hold."""
    check_beside_host(library, load_settings(workspace), _enabled(workspace))
    already = not enable(workspace, library)
    link = workspace.enabled / library.name
    return Activation(library.name, library.version, library.build_type, link, already)


def find(workspace: Workspace, name: str, build_type: BuildType, version: str | None = None) -> Library:
    """The library that `activate` would enable, validated; raises what it raises."""
    entry = _entry(workspace, name, build_type, version)
    if entry.error:
        raise entry.error
    library = read_library(entry.path)
    where = str(library.path / FILE_NAME)
    check_config(library.manifest, library.manifest.config, where=where, complete=False)
    check_beside_host(library, load_settings(workspace))
    return library


def _enabled(workspace: Workspace) -> Iterator[Library]:
    for entry in enabled(workspace):  # verified file by file, so only if somebody asks
        if entry.library is not None:
            yield entry.library


def check_known(workspace: Workspace, name: str) -> None:
    """Raise `NotFound`, with what is near, for a plugin that is neither written, built nor enabled here."""
    links = {entry.name for entry in workspace.enabled.glob("[!.]*")}
    known = links | set(plugin_sources(workspace)) | {entry.name for entry in available(workspace)}
    if name not in known:
        raise not_found(
            "plugin", name, known, where=str(workspace.root), fix="echo-core list shows what there is"
        )


def deactivate(workspace: Workspace, name: str) -> Deactivation:
    """Disable the plugin, so that the host no longer runs it; raises `NotFound` for an unknown one."""
    check_known(workspace, name)
    already = not disable(workspace, name)
    return Deactivation(name, workspace.enabled / name, already)


def _entry(workspace: Workspace, name: str, build_type: BuildType, version: str | None) -> Available:
    libraries = available(workspace, build_type)
    versions = [entry for entry in libraries if entry.name == name]
    where = str(workspace.libraries(build_type))
    if not versions:
        raise _nothing_built(workspace, name, build_type, {entry.name for entry in libraries}, where)
    if version is None:
        return versions[0]
    for entry in versions:
        if entry.version == version:
            return entry
    fix = f"echo-core build {name} {build_type} builds the version that its manifest states"
    raise not_found(
        f"{build_type} library of {name} in version",
        version,
        (e.version for e in versions),
        where=where,
        fix=fix,
    )


def _nothing_built(
    workspace: Workspace, name: str, build_type: BuildType, existing: set[str], where: str
) -> NotFound:
    if name in plugin_sources(workspace):
        return NotFound(
            f"{name} has no {build_type} library",
            where=where,
            why="its source is in the workshop, and was not built",
            fix=f"echo-core build {name} {build_type}",
        )
    return not_found(
        f"{build_type} library", name, existing, where=where, fix="echo-core list shows what there is"
    )
