"""A plugin's process as the operating system has it: started, watched for its end, and ended.

Its end is told by a file descriptor of the process itself (pidfd), never by an end of file: a grandchild can
keep every pipe open. Signals go through it too, so that they never reach whoever got the number next.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from echo_core.errors import PluginLoadError
from echo_core.runtime.isolation import page as pages
from echo_core.runtime.isolation.page import Page

_BOOTSTRAP: Final = str(Path(__file__).with_name("bootstrap.py"))
_MARK: Final = "ECHO_CORE_PROCESS"
_LOST: Final = {
    70: "lost its connection to the host, and ended",
    71: "found its host gone when it started, and ended",
    72: "did not understand its host, and ended",
}
"""The exit codes of a process's own."""
_STACK_BYTES: Final = 64 * 1024
_COUNTED: Final = 10_000
"""Processes; more are as bad as these."""
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `code` as `subprocess` has it, negative for a signal."""

    code: int

    @property
    def by_signal(self) -> int:
        """The signal that ended it; 0 if none did."""
        return -self.code if self.code < 0 else 0

    def __str__(self) -> str:
        if not self.by_signal:
            return _LOST.get(self.code, f"ended by itself with exit code {self.code}")
        try:
            name = signal.Signals(self.by_signal).name
        except ValueError:
            name = "unknown"
        return f"was ended by signal {self.by_signal} ({name})"


class WorkerProcess:
    """One process. It lives in a session of its own, so what it starts can be ended with it."""

    def __init__(
        self,
        title: str,
        *,
        environ: Mapping[str, str],
        lanes: int,
        incarnation: int,
        memory_mb: int,
        sdk: Mapping[str, Any],
        python: Sequence[str] = (sys.executable, "-I", "-S", "-X", "utf8"),
    ) -> None:
        """Start it. Call on the thread of the event loop: the process dies with the one that started it."""
        if sys.platform == "win32":
            raise PluginLoadError(
                f"{title} cannot have a process of its own here",
                why="handing an open socket to a new process needs a POSIX system",
                fix='run it with "isolation": "in_process", or on Linux or macOS',
            )
        self._descendants: dict[int, bytes] = {}
        """What it has started and had not ended at the last look, by number, with when each began."""
        self._mark = f"{os.getpid()}-{secrets.token_hex(8)}"
        self.socket, theirs = socket.socketpair()
        page_fd = pages.make_file(lanes)
        self._stacks, stacks = os.pipe()
        os.set_blocking(self._stacks, False)
        given = {
            "socket": theirs.fileno(),
            "page": page_fd,
            "stacks": stacks,
            "parent": os.getpid(),
            "lanes": lanes,
            "incarnation": incarnation,
            "memory_mb": memory_mb,
            "sdk": sdk,
        }
        try:
            self._popen = subprocess.Popen(
                [*python, _BOOTSTRAP, title, json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environ, _MARK: self._mark},
                pass_fds=(theirs.fileno(), page_fd, stacks),
                start_new_session=True,
                bufsize=0,
            )
            self.page = Page(page_fd, lanes)
        except BaseException:
            self.socket.close()
            os.close(self._stacks)
            raise
        finally:
            theirs.close()
            os.close(page_fd)
            os.close(stacks)
        self.pid = self._popen.pid
        self._pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watch_for_end()

    @property
    def outputs(self) -> tuple[int, int]:
        """Its stdout and its stderr, to be drained."""
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        return self._popen.stdout.fileno(), self._popen.stderr.fileno()

    @property
    def has_ended(self) -> bool:
        """Whether `ended` would return at once."""
        return self._ended.done()

    async def ended(self) -> Exit:
        """Return when it has ended and left nothing of itself in the process table."""
        return await asyncio.shield(self._ended)

    def _watch_for_end(self) -> None:
        loop = asyncio.get_running_loop()
        if self._pidfd >= 0:
            loop.add_reader(self._pidfd, self._reap)
            return

        def wait() -> None:
            code = self._popen.wait()
            with contextlib.suppress(RuntimeError):  # the loop is gone
                loop.call_soon_threadsafe(self._settle, code)

        threading.Thread(target=wait, name=f"end of {self.pid}", daemon=True).start()

    def _reap(self) -> None:
        found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        if found is None:
            return
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._popen.returncode = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._settle(self._popen.returncode)

    def _settle(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(Exit(code))

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.has_ended:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                self._popen.send_signal(number)

    def kill(self) -> None:
        """End it and all it has started, at once."""
        if not self.has_ended:
            self.look_at_descendants()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        self.send(signal.SIGKILL)

    def kill_descendants(self) -> int:
        """End what it has started and left behind; how many those were. Linux only.

        They show by the mark in their environment, or were seen below it at the last look.
        """
        own = f"{_MARK}={self._mark}".encode()
        killed = 0
        for pid in _processes():
            with contextlib.suppress(OSError):
                if pid != self.pid and (
                    self._is_known(pid) or own in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                ):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def look_at_descendants(self) -> int:
        """How many processes it has started, and those in their turn, that have not ended. Linux only.

        They are remembered: what loses its parent is below this one no more. One that has ended, and that
        nobody has waited for, counts too, because it holds its number.
        """
        found: dict[int, bytes] = {}
        waiting = [self.pid]
        while waiting and len(found) < _COUNTED:
            for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    pids = list(map(int, children.read_text().split()))
                    found |= {pid: _runs_since(pid) for pid in pids}
                    waiting += pids
        found |= {pid: began for pid, began in self._descendants.items() if self._is_known(pid)}
        self._descendants = found
        return len(found)

    def _is_known(self, pid: int) -> bool:
        """Whether it was seen below this one at the last look, and still runs."""
        began = self._descendants.get(pid)
        return bool(began) and began == _runs_since(pid)

    def ask_for_stacks(self) -> None:
        """Have it write the stacks of its threads; `stacks` has them a moment later."""
        self.send(signal.SIGUSR1)

    def stacks(self) -> str:
        """What was written of stacks since the last time."""
        try:
            return os.read(self._stacks, _STACK_BYTES).decode("utf-8", "replace").strip()
        except (BlockingIOError, OSError):
            return ""

    @property
    def is_stopped(self) -> bool:
        """Whether a signal has stopped it (SIGSTOP). Linux only."""
        return _stat(self.pid, 0) == b"T"

    @property
    def resident_mb(self) -> float:
        """Its resident memory in MiB; 0 where that cannot be known."""
        try:
            pages_held = int(Path(f"/proc/{self.pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError, ValueError):
            return 0.0
        return pages_held * _PAGE_SIZE / 1_048_576

    def close(self) -> None:
        """Give back what the host holds of it. Only once it has ended."""
        self.socket.close()
        for pipe in (self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        os.close(self._stacks)
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.page.close()


def _processes() -> Iterator[int]:
    try:
        entries = os.listdir("/proc")
    except OSError:
        return
    for entry in entries:
        if entry.isdigit():
            yield int(entry)


def _runs_since(pid: int) -> bytes:
    """When the process began, in the kernel's own measure: with the number it tells one from all others.

    Empty for one that has ended, also where nobody has waited for it.
    """
    return b"" if _stat(pid, 0) == b"Z" else _stat(pid, 19)


def _stat(pid: int, index: int) -> bytes:
    """One of the fields of /proc/PID/stat, counted from the state; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[index]
    except (OSError, IndexError):
        return b""
