"""Where a running host is found: its address and its token, in files that only its user can read."""

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from echo_core.errors import WorkspaceError
from echo_core.workspace import Workspace

_FOLDER: Final = "control"
_ADDRESS: Final = "host.json"
_TOKEN: Final = "token"  # noqa: S105 (its file)
_LOCK: Final = "lock"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the host answers."""

    pid: int
    port: int
    version: str
    """That of Echo Core."""


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to be let in."""

    address: Address
    token: str


class DoorTaken(WorkspaceError):
    """Another host of this workspace answers the control API."""

    code = "E-SECOND-HOST"


def find_door(workspace: Workspace) -> Door | None:
    """What the last host left, though it may have ended; None if there is nothing to be read."""
    folder = workspace.state / _FOLDER
    try:
        address = msgspec.json.decode((folder / _ADDRESS).read_bytes(), type=Address)
        return Door(address=address, token=(folder / _TOKEN).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None


@contextmanager
def open_door(workspace: Workspace, address: Address) -> Iterator[str]:
    """Let this host be found in the block; gives a new token.

    Raises `DoorTaken` while another host of the workspace is found there, and OSError when nothing can be
    written.
    """
    folder = workspace.state / _FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder / _LOCK, workspace):
        token = secrets.token_urlsafe(32)
        try:
            _write(folder / _TOKEN, token.encode())
            _write(folder / _ADDRESS, msgspec.json.encode(address))
            yield token
        finally:
            for name in (_ADDRESS, _TOKEN):
                with suppress(OSError):
                    (folder / name).unlink()


@contextmanager
def _alone(lock: Path, workspace: Workspace) -> Iterator[None]:
    """Hold the lock; the system lets it go with the process, however that ends."""
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise DoorTaken(
                "another host of this workspace runs",
                where=str(workspace.root),
                why="it is the one that the control API reaches",
                fix="echo-core status shows it; this host runs on, but cannot be reached",
            ) from None
        yield
    finally:
        os.close(file)


def _write(path: Path, content: bytes) -> None:
    """Put the file there in one step, for this user alone, whatever was there before."""
    new = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    new.replace(path)
