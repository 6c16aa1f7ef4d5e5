"""A built library: one version of one plugin, with everything that it needs, in one directory.

The format is written down in docs/libraries.md. A library is read as data: no plugin code runs here.
"""

import hashlib
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from echo_core import manifest as manifests
from echo_core._version import __version__
from echo_core.errors import LibraryError
from echo_core.manifest import API_VERSION, Manifest
from echo_core.runtime.libraries.files import differences
from echo_core.runtime.libraries.platform import contradiction
from echo_core.runtime.libraries.wheel import read_wheel
from echo_core.workspace import BuildType

FORMAT: Final = 1
RELEASE_FILE: Final = "release.json"
LOCK_FILE: Final = "requirements.lock"
WHEELS: Final = "wheels"
ANY_PLATFORM: Final = "any"


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of a library must be. `size` is in bytes."""

    sha256: str
    size: int


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`release.json`: what was built, for where, and every file of it."""

    format: int
    name: str
    version: str
    build_type: BuildType
    api_version: str
    """The plugin interface it was built for: MAJOR.MINOR."""
    python: str
    """The versions of Python it runs on (PEP 440)."""
    platform: str
    """The platform it runs on, or "any"."""
    source: str
    """sha256 of the source, the lock and the builder: an equal one would build the same again."""
    files: dict[str, FileRecord]
    """Every file but this one, by its path with forward slashes."""
    digest: str
    """`inventory_digest` of the files: the library's identity."""


@dataclass(frozen=True, slots=True)
class LibraryInfo:
    """What a library says of itself. Enough to list it, not to run it: nothing has been verified."""

    path: Path
    manifest: Manifest
    release: Release

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.manifest.name

    @property
    def version(self) -> str:
        """The plugin's version."""
        return self.manifest.version

    @property
    def build_type(self) -> BuildType:
        """Development or production."""
        return self.release.build_type

    @property
    def digest(self) -> str:
        """The identity of the content: equal content has an equal digest, whatever the build type."""
        return self.release.digest


@dataclass(frozen=True, slots=True)
class Library(LibraryInfo):
    """A library whose every file was what its release says, and which fits this host, when it was read."""

    @property
    def wheels(self) -> tuple[str, ...]:
        """Paths of its wheels within it; the plugin's own is the first."""
        own = own_wheel(self.name, self.version)
        return own, *sorted(path for path in self.release.files if path.startswith(f"{WHEELS}/"))


def own_wheel(name: str, version: str) -> str:
    """File name of the plugin's own wheel."""
    return f"{name}-{version.replace('-', '_')}-py3-none-any.whl"


def inventory_digest(files: Mapping[str, FileRecord]) -> str:
    """sha256, in hex, over one line `<sha256> <size> <path>` a file, in the order of the paths."""
    lines = (f"{file.sha256} {file.size} {path}\n" for path, file in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def this_platform() -> str:
    """The platform, as `release.json` names it."""
    return sysconfig.get_platform()


def this_python() -> str:
    """The release of the running Python: MAJOR.MINOR.MICRO."""
    return ".".join(map(str, sys.version_info[:3]))


def peek_library(path: Path) -> LibraryInfo:
    """What the library at `path` says of itself, for listings.

    Raises `LibraryError` or `ManifestError` if that cannot be read or contradicts itself.
    """
    release = _read_release(path)
    return LibraryInfo(path, _read_manifest(path, release), release)


def read_library(path: Path) -> Library:
    """The library at `path`, verified: every file is what the release says, none is missing, none is extra.

    Raises `LibraryError` (every file at fault named; or a Python, platform or platform package that does
    not fit) or `ManifestError` (also when this Echo Core is not one that the plugin asks for).
    """
    path = path.resolve()
    release = _read_release(path)
    expected = {name: file.sha256 for name, file in release.files.items()}
    faults = list(differences(path, expected, besides=frozenset({RELEASE_FILE})))
    if faults:
        raise _damaged(path, "\n".join(faults))
    library = Library(path, _read_manifest(path, release), release)
    manifests.check_host(library.manifest, host_version=__version__, where=str(path / manifests.FILE_NAME))
    _check_fit(library)
    return library


def _read_release(path: Path) -> Release:
    if not path.is_dir():
        raise LibraryError(
            "there is no library", where=str(path), why="it is not a folder", fix="build the plugin again"
        )
    try:
        raw = (path / RELEASE_FILE).read_bytes()
        stated = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if stated != FORMAT:
            raise _damaged(
                path, f"its {RELEASE_FILE} has format {stated!r}, and this Echo Core reads {FORMAT}"
            )
        release = msgspec.json.decode(raw, type=Release)
    except OSError as error:
        raise _damaged(path, f"{RELEASE_FILE}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"{RELEASE_FILE}: {error}") from error
    if release.digest != inventory_digest(release.files):
        raise _damaged(path, f"{RELEASE_FILE}: its digest is not that of the files it lists")
    return release


def _read_manifest(path: Path, release: Release) -> Manifest:
    manifest = manifests.read(path / manifests.FILE_NAME)
    if (manifest.name, manifest.version) != (release.name, release.version):
        raise _damaged(
            path,
            f"{RELEASE_FILE} is of {release.name} {release.version}, "
            f"{manifests.FILE_NAME} of {manifest.name} {manifest.version}",
        )
    return manifest


def _check_fit(library: Library) -> None:
    """Raise `LibraryError` unless this Python, this platform and the platform packages suit the library."""
    release = library.release
    offered, wanted = _major_minor(API_VERSION), _major_minor(release.api_version)
    if wanted[0] != offered[0] or wanted > offered:
        raise _misfit(
            library, f"it was built for plugin interface {release.api_version}; this host has {API_VERSION}"
        )
    wheels = [read_wheel(library.path / name) for name in library.wheels]
    if not (
        _admits(release.python, this_python())
        and release.platform in (ANY_PLATFORM, this_platform())
        and all(wheel.fits_here for wheel in wheels)
    ):
        raise _misfit(
            library,
            f"it was built for Python {release.python or '3'} on {_platform_in_words(release)}; "
            f"this is Python {this_python()} on {this_platform()}",
        )
    for wheel in wheels:
        for requirement in wheel.requires:
            if reason := contradiction(requirement):
                raise _misfit(
                    library,
                    f"{reason} (by {wheel.name} {wheel.version}); the host shares its own with plugins",
                )


def _platform_in_words(release: Release) -> str:
    return "any platform" if release.platform == ANY_PLATFORM else release.platform


def _admits(specifier: str, version: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except InvalidSpecifier:
        return False


def _major_minor(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        return (-1,)


def _damaged(path: Path, why: str) -> LibraryError:
    return LibraryError(
        "the library is damaged or was modified", where=str(path), why=why, fix="build the plugin again"
    )


def _misfit(library: LibraryInfo, why: str) -> LibraryError:
    return LibraryError(
        f"{library.name} {library.version} does not fit this host",
        where=str(library.path),
        why=why,
        fix=f"build it here: echo-core build {library.name} {library.build_type}",
    )
