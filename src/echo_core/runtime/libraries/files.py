"""Writing to disk so that a reader sees the old or the new, never a half of either."""

import ctypes
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex. A symlink is not followed: it raises `OSError`."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_hashed(source: Path, target: Path) -> str:
    """Copy the file and give the sha256 of what was copied, so that nothing can change in between."""
    digest = hashlib.sha256()
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as reader, open(target, "xb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


def differences(
    folder: Path, expected: Mapping[str, str], *, besides: frozenset[str] = frozenset()
) -> Iterator[str]:
    """What is not as expected below `folder`, each named: missing, extra, modified or no real file.

    `expected` gives the sha256 by path. No link is followed.
    """
    found = {name: mode for name, mode in _contents(folder, "") if name not in besides}
    for name in sorted(expected.keys() - found.keys()):
        yield f"{name} is missing"
    for name, mode in sorted(found.items()):
        if name not in expected:
            yield f"{name} is not part of the release"
        elif not stat.S_ISREG(mode):
            yield f"{name} is a link or a device, not a file"
        elif not _is(folder / name, expected[name]):
            yield f"{name} was modified after the build"


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new hidden folder on `target`'s file system, to fill and then hand to `replace_directory`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_directory(new: Path, target: Path, *, durable: bool = True) -> None:
    """Put `new` in `target`'s place in one step; what was there before is removed.

    A `durable` one is on the disk when it takes its place; without, a loss of power may damage it.
    Where the system cannot exchange two directories, there is an instant with neither of them, but
    never one with a half: after a crash just then, building or loading again makes it whole.
    """
    if durable:
        _sync_tree(new)
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        with folder_beside(target) as aside:
            target.rename(aside / "old")
            new.rename(target)
    if durable:
        _sync(target.parent)
    shutil.rmtree(new, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A hidden file beside `path`, which takes its place in one step once the block has ended well.

    It may be read by whom the file that was there before was, and it is on the disk.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with new.open("xb") as file:
            with suppress(FileNotFoundError):
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write the file's new content beside it, and put it in place in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)


def replace_link(link: Path, destination: str) -> None:
    """Make `link` a symlink with this text, in one step, whether or not there was one before."""
    link.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{link.name}.", dir=link.parent) as folder:
        new = Path(folder, link.name)
        new.symlink_to(destination)
        new.replace(link)
    _sync(link.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that this file stands for, against other threads and processes; waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _contents(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Everything below `folder` that is not a real folder, by its path with slashes, with its mode."""
    with os.scandir(folder) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _contents(folder / entry.name, f"{prefix}{entry.name}/")
            else:
                yield prefix + entry.name, mode


def _is(path: Path, sha256: str) -> bool:
    try:
        return sha256_of(path) == sha256
    except OSError:
        return False


def _exchange(one: Path, other: Path) -> bool:
    """Swap two directories in one step; False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # a C library without it: not Linux, or an old one
        return False
    here = ctypes.c_int(_AT_FDCWD)
    status: int = renameat2(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE))
    return status == 0


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
