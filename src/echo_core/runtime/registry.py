"""Which libraries there are, and which are enabled. One broken entry never hides another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from echo_core.errors import EchoCoreError, LibraryError, NotFound, WorkspaceError
from echo_core.runtime.libraries.files import replace_link
from echo_core.runtime.libraries.library import Library, LibraryInfo, peek_library, read_library
from echo_core.workspace import BUILD_TYPES, BuildType, Workspace


@dataclass(frozen=True, slots=True)
class Available:
    """A folder among the libraries: what it says of itself, or why it cannot be used."""

    name: str
    version: str
    build_type: BuildType
    path: Path
    library: LibraryInfo | None = None
    error: EchoCoreError | None = None


@dataclass(frozen=True, slots=True)
class Enabled:
    """An entry of `core/plugins/enabled`: the verified library that it stands for, or why there is none."""

    name: str
    link: Path
    build_type: BuildType | None = None
    """Whose libraries the link leads to; None if it leads elsewhere."""
    version: str = ""
    """The version it leads to, there or not; empty if it leads elsewhere."""
    library: Library | None = None
    error: EchoCoreError | None = None

    @property
    def target(self) -> str:
        """Where the link says it leads; empty for what is no link."""
        return os.readlink(self.link) if self.link.is_symlink() else ""


def available(workspace: Workspace, build_type: BuildType | None = None) -> list[Available]:
    """Every library, by name, the newest version first. Their files are not verified."""
    build_types = BUILD_TYPES if build_type is None else (build_type,)
    found = [entry for each in build_types for entry in _libraries(workspace, each)]
    found.sort(key=lambda entry: _sortable(entry.version), reverse=True)
    return sorted(found, key=lambda entry: (entry.name, entry.build_type))


def enabled(workspace: Workspace) -> list[Enabled]:
    """Every entry that is enabled, by name. No plugin code runs: each is verified, or has its reason."""
    return [_read_enabled(workspace, link) for link in _visible(workspace.enabled)]


def read_enabled(workspace: Workspace, name: str) -> Enabled | None:
    """The entry of this name, verified; None if there is none."""
    link = workspace.enabled / name
    return _read_enabled(workspace, link) if os.path.lexists(link) else None


def find_library(
    workspace: Workspace, name: str, build_type: BuildType, version: str | None = None
) -> Library:
    """The library of this version, or the newest, verified.

    Raises `NotFound`, and what `read_library` raises.
    """
    built = [entry for entry in available(workspace, build_type) if entry.name == name]
    for entry in built:
        if version in (None, entry.version):
            library = read_library(entry.path)
            _check_place(library, name, entry.version, build_type)
            return library
    others = [
        kind
        for kind in BUILD_TYPES
        for entry in available(workspace, kind)
        if entry.name == name and version in (None, entry.version)
    ]
    raise NotFound(
        f"{name} has no {build_type} library" + (f" of version {version}" if version else ""),
        where=str(workspace.libraries(build_type)),
        why=f"there is: {', '.join(entry.version for entry in built) or 'none'}",
        fix=f"echo-core build {name} {build_type}"
        + (f"; or say {others[0]}: there is a {others[0]} library" if others else ""),
    )


def enable(workspace: Workspace, library: Library) -> bool:
    """Point the plugin's link at this library, in one step; whether it did not point there before.

    Raises `WorkspaceError` when the link cannot be written, or something else is in its place.
    """
    link = workspace.enabled / library.name
    _refuse_what_is_no_link(link)
    destination = os.path.relpath(library.path, os.path.realpath(link.parent))
    if link.is_symlink() and os.readlink(link) == destination:
        return False
    with _writing(link):
        replace_link(link, destination)
    return True


def disable(workspace: Workspace, name: str) -> bool:
    """Remove the plugin's link; whether there was one. Raises `WorkspaceError` as `enable` does."""
    link = workspace.enabled / name
    _refuse_what_is_no_link(link)
    if not link.is_symlink():
        return False
    with _writing(link):
        link.unlink()
    return True


@contextmanager
def _writing(link: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{link.name} cannot be switched",
            where=str(link),
            why=error.strerror or str(error),
            fix=f"let {link.parent} be writable",
        ) from error


def _refuse_what_is_no_link(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise WorkspaceError(
            f"{link.name} among the enabled plugins is not a link",
            where=str(link),
            why="only links to libraries belong there",
            fix="move it away, and try again",
        )


def _libraries(workspace: Workspace, build_type: BuildType) -> Iterator[Available]:
    for plugin in _visible(workspace.libraries(build_type)):
        for folder in _visible(plugin) if plugin.is_dir() else ():
            library, error = None, None
            try:
                library = peek_library(folder)
                _check_place(library, plugin.name, folder.name, build_type)
            except EchoCoreError as refused:
                library, error = None, refused
            yield Available(plugin.name, folder.name, build_type, folder, library, error)


def _read_enabled(workspace: Workspace, link: Path) -> Enabled:
    folder = Path(os.path.realpath(link))  # followed once; what is read and run is this folder's
    build_type = _build_type_of(workspace, folder)
    version = folder.name if build_type else ""
    try:
        library = _library_behind(link, folder, build_type)
    except EchoCoreError as error:
        return Enabled(link.name, link, build_type, version, error=error)
    return Enabled(link.name, link, build_type, version, library)


def _build_type_of(workspace: Workspace, folder: Path) -> BuildType | None:
    """The build type of the libraries in which `folder` is <name>/<version>/."""
    for build_type in BUILD_TYPES:
        if folder.parent.parent == Path(os.path.realpath(workspace.libraries(build_type))):
            return build_type
    return None


def _library_behind(link: Path, folder: Path, build_type: BuildType | None) -> Library:
    off = f"echo-core deactivate {link.name}"
    if not link.is_symlink():
        raise _wrong_entry(link, "it is not a link", f"remove {link}")
    if build_type is None:
        raise _wrong_entry(link, f"it leads to {os.readlink(link)}, which is outside the libraries", off)
    if not folder.is_dir():
        why = f"it leads to {os.readlink(link)}, which is not there"
        raise _wrong_entry(link, why, f"echo-core build {link.name} {build_type}; or {off}")
    library = read_library(folder)
    _check_place(library, link.name, folder.name, build_type)
    return library


def _check_place(library: LibraryInfo, name: str, version: str, build_type: BuildType) -> None:
    """A library stands where its name, version and build type say."""
    says = (library.name, library.version, library.build_type)
    if says != (name, version, build_type):
        raise LibraryError(
            f"{name} {version} ({build_type}) is another plugin's library",
            where=str(library.path),
            why="it says that it is {} {} ({})".format(*says),
            fix=f"echo-core build {name} {build_type}",
        )


def _wrong_entry(link: Path, why: str, fix: str) -> LibraryError:
    return LibraryError(f"{link.name} is enabled, but there is no library", where=str(link), why=why, fix=fix)


def _visible(folder: Path) -> list[Path]:
    """What the folder holds, but for hidden entries: those are ours, half written."""
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _sortable(version: str) -> Version:
    try:
        return Version(version)
    except InvalidVersion:
        return Version("0.dev0")
