"""The store: libraries unpacked, each under its digest. Plugin code is imported from nowhere else."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from echo_core.errors import LibraryError
from echo_core.runtime.libraries.files import (
    copy_hashed,
    differences,
    folder_beside,
    locked,
    replace_directory,
    sha256_of,
)
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.wheel import Wheel, read_wheel, unpack


@dataclass(frozen=True, eq=False)
class Site:
    """A library's modules, unpacked and verified, and the wheels that they come from, the plugin's first."""

    path: Path
    wheels: tuple[Wheel, ...]

    @cached_property
    def files(self) -> dict[str, str]:
        """The sha256 of every file, by its path below the site."""
        return {path: member.sha256 for wheel in self.wheels for path, member in wheel.files.items()}


class Store:
    """The unpacked libraries of one host, or of several hosts with one state folder.

    An entry `<state>/store/<digest>/` holds the library's wheels and `site/`, what they unpack to. It is
    complete or absent, never a half, and it is verified whenever it is asked for: an entry in which
    anything changed does not run, but is made anew.
    """

    def __init__(self, state: Path) -> None:
        self.state: Final = state
        self._root = state / "store"

    def ingest(self, library: Library) -> Site:
        """The library's site, unpacked now or before; waits while another host unpacks the same.

        Raises `LibraryError` if the library changed since it was read, or cannot be unpacked.
        """
        entry = self._root / library.digest
        try:
            with locked(self._root / f"{library.digest}.lock"):
                return _intact(entry, library) or _make(entry, library)
        except OSError as error:
            raise LibraryError(
                f"{library.name} {library.version} cannot be unpacked",
                where=str(error.filename or entry),
                why=error.strerror or str(error),
                fix="let the state folder be writable, with room for the library; or build the library again",
            ) from error


def _intact(entry: Path, library: Library) -> Site | None:
    """The site of this entry, if entry and site are whole and exactly the library's."""
    try:
        if any(sha256_of(entry / name) != library.release.files[name].sha256 for name in library.wheels):
            return None
        site = Site(entry / "site", tuple(read_wheel(entry / name) for name in library.wheels))
        return None if any(differences(site.path, site.files)) else site
    except FileNotFoundError:
        return None


def _make(entry: Path, library: Library) -> Site:
    """Unpack the library to this entry. What is unpacked is what was hashed: the copy, not the library."""
    with folder_beside(entry) as new:
        for name in library.wheels:
            copy = new / name
            copy.parent.mkdir(exist_ok=True)
            if copy_hashed(library.path / name, copy) != library.release.files[name].sha256:
                raise _changed(library, f"{name} changed while it was read")
            unpack(read_wheel(copy), new / "site")
        # Not durable: an entry that was damaged is made anew, and syncing takes most of the time.
        replace_directory(new, entry, durable=False)
    site = _intact(entry, library)
    if site is None:
        raise _changed(library, f"{entry} changed while it was written")
    return site


def _changed(library: Library, why: str) -> LibraryError:
    return LibraryError(
        f"{library.name} {library.version} changed while it was loaded",
        where=str(library.path),
        why=why,
        fix="build the plugin again, and let nothing else write there",
    )
