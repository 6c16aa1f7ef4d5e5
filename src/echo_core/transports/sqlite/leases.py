"""Which hosts share a store, and which of them are dead.

A live host holds a lock on a file of its own beside the store: the kernel lets it go when the process
ends, however it ends. One that lives but shows no life (stopped, or hung) is told by its row's expiry,
which is monotonic time, the same for all processes of a machine and untouched by its calendar clock.
"""

import contextlib
import fcntl
import glob
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from echo_core.errors import StoreError
from echo_core.transports.sqlite import schema
from echo_core.write_ahead import in_use

_TRIES: Final = 100


class HostLock:
    """The proof that a host lives, as long as it is held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:  # somebody is just looking whether its host lives
                time.sleep(0.01)
        os.close(self._file)
        raise StoreError("another host has this one's lock", where=str(path))

    def say(self, document: bytes) -> None:
        """Let whoever reads the file know this."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, document, 0)

    def release(self) -> None:
        """Let it go; the file goes too."""
        self.path.unlink(missing_ok=True)
        os.close(self._file)


def lock_path(store: Path, host: int) -> Path:
    """Where the lock of that host of that store is."""
    return store.with_name(f"{store.name}-host{host}")


def is_alive(store: Path, host: int) -> bool:
    """Whether a process holds that host's lock, or may: another user's lock cannot be looked at."""
    try:
        file = os.open(lock_path(store, host), os.O_RDWR)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def forget(store: Path, host: int) -> None:
    """Remove the lock file of a host that is dead."""
    lock_path(store, host).unlink(missing_ok=True)


def living(store: Path) -> list[int]:
    """The hosts of the store that run now, by their locks alone: the store itself may be unreadable."""
    prefix = f"{store.name}-host"
    numbers = [file.name.removeprefix(prefix) for file in store.parent.glob(f"{glob.escape(prefix)}*")]
    return sorted(int(number) for number in numbers if number.isdigit() and is_alive(store, int(number)))


def said(store: Path) -> dict[str, bytes]:
    """What each host that runs now says."""
    found: dict[str, bytes] = {}
    for host in living(store):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found[str(host)] = lock_path(store, host).read_bytes()
    return found


@contextlib.contextmanager
def alone(store: Path) -> Iterator[None]:
    """Keep hosts, and others that change it, from the store for the block.

    Raises `StoreError` while there are any.
    """
    if not (store.exists() or schema.repaired_path(store).exists()):
        yield  # whoever opens it says so
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(in_use(store, alone=True))
        except BlockingIOError:
            raise _in_use(store) from None
        except OSError as error:
            raise schema.failed(store, "locked", error) from error
        if living(store):
            raise _in_use(store)
        yield


def _in_use(store: Path) -> StoreError:
    hosts = living(store)
    return StoreError(
        "the store is in use",
        where=str(store),
        why=f"{len(hosts)} host(s) run on it: {', '.join(str(host) for host in hosts)}"
        if hosts
        else "another command has it: a host that starts, or store repair, compact or forget",
        fix="stop them first" if hosts else "wait until it has ended, and try again",
    )
