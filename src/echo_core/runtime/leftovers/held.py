"""What the plugin's own objects hold open: files, sockets, timers, pools of threads, processes.

We follow references from its instance, its modules, and the local variables of what it has running. We step
into its own objects, containers, and objects of the standard library, and into nothing else: what lies behind
an object of the host, of a shared package, or behind the event loop is not the plugin's to close.
"""

import asyncio
import gc
import io
import logging
import multiprocessing.pool
import multiprocessing.process
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from echo_core.runtime.leftovers.leftover import Leftover
from echo_core.runtime.leftovers.owner import Owner

_STEP: Final = 500
"""Objects looked at before the event loop has its turn: less than a millisecond."""
_MOST: Final = 100_000
_STANDARD: Final = sys.stdlib_module_names
_CLOSED_TO_US: Final = (
    *(ModuleType, BuiltinFunctionType, CodeType, FrameType, Context),
    *(logging.Logger, logging.Manager, asyncio.AbstractEventLoop, threading.Thread),
    *(str, bytes, bytearray, int, float, complex),
)
_CONTAINERS: Final = (dict, list, tuple, set, frozenset, deque)
_LARGEST: Final = 10_000
"""Items; what has more is a table of data, and no place where handles are kept."""
_STREAMS: Final = 2
"""Descriptors up to this one are the process's own."""

Find = tuple[Leftover, Callable[[], object]]
"""What was found, and what ends it."""


class Held:
    """Everything found by following the plugin's references."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._seen: set[int] = set()
        self.finds: list[Find] = []
        self.tasks: list[asyncio.Task[Any]] = []
        """Tasks that it holds, and that nothing of the host's waits for."""
        self.children: list[Callable[[float], object]] = []
        """Wait for the end of a child, for at most so many seconds."""
        self.handlers: list[logging.Handler] = []
        """Log handlers that it holds."""

    async def search(self, roots: Iterable[object]) -> None:
        """Follow the references; the event loop has its turns meanwhile."""
        waiting: list[object] = [tuple(roots)]
        while waiting and len(self._seen) < _MOST:
            for _ in range(min(_STEP, len(waiting))):
                for found in self._within(waiting.pop()):
                    if id(found) not in self._seen:
                        self._seen.add(id(found))
                        waiting.append(found)
            await asyncio.sleep(0)

    def _within(self, value: Any) -> Iterator[object]:
        """What to look at next, from here."""
        kind = type(value)
        if isinstance(value, _CONTAINERS):
            if len(value) <= _LARGEST:
                yield from gc.get_referents(value)
        elif isinstance(value, MethodType | CellType | partial):
            yield from gc.get_referents(value)
        elif isinstance(value, FunctionType):
            if self._owner.has(value):
                yield from filter(None, (value.__closure__, value.__defaults__, value.__kwdefaults__))
        elif isinstance(value, type):
            if self._owner.has(value):
                yield dict(vars(value))
        elif isinstance(value, _CLOSED_TO_US):
            if isinstance(value, threading.Timer) and value.is_alive():
                self._add("timer", self._owner.named(value.function), "cancelled", value.cancel)
        elif not self._note(value) and self._may_enter(kind):
            yield from gc.get_referents(value)

    def _may_enter(self, kind: type) -> bool:
        return self._owner.has(kind) or kind.__module__.partition(".")[0] in _STANDARD

    def _add(self, kind: str, name: str, outcome: str, end: Callable[[], object]) -> None:
        self.finds.append((Leftover(kind, name, outcome), end))

    def _note(self, value: Any) -> bool:
        """Note what has to be ended; whether there is nothing to look for behind it."""
        for kind, note in _NOTES.items():
            if isinstance(value, kind):
                with suppress(Exception):  # in whatever state it is
                    note(self, value)
                return True
        return False

    def _task(self, task: asyncio.Task[Any]) -> None:
        self.tasks.append(task)

    def _handler(self, handler: logging.Handler) -> None:
        self.handlers.append(handler)

    def _file(self, file: io.IOBase) -> None:
        if file in (sys.stdout, sys.stderr):
            return
        if not file.closed and file.fileno() > _STREAMS:
            self._add("file", str(getattr(file, "name", file)), "closed", file.close)

    def _socket(self, connection: socket.socket) -> None:
        if connection.fileno() >= 0:
            self._add("socket", _addresses(connection), "closed", connection.close)

    def _server(self, server: asyncio.Server) -> None:
        if server.sockets:
            self._add("server", _addresses(server.sockets[0]), "closed", server.close)

    def _transport(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            if transport.get_returncode() is None:
                self._popen(transport.get_extra_info("subprocess"))
                self._add("connection", f"to child process {transport.get_pid()}", "closed", transport.close)
        elif not transport.is_closing():
            connection = transport.get_extra_info("socket")
            name = _addresses(connection) if connection is not None else repr(transport)
            self._add("connection", name, "closed", getattr(transport, "abort", transport.close))

    def _handle(self, handle: asyncio.TimerHandle) -> None:
        if not handle.cancelled() and handle.when() > asyncio.get_running_loop().time():
            name = self._owner.named(getattr(handle, "_callback", handle))
            self._add("timer", name, "cancelled", handle.cancel)

    def _executor(self, executor: Executor) -> None:
        if getattr(executor, "_shutdown", getattr(executor, "_shutdown_thread", False)):
            return
        workers = getattr(executor, "_threads", None) or getattr(executor, "_processes", None) or ()
        if workers:
            name = f"{type(executor).__name__} with {len(workers)} workers"
            self._add(
                "executor", name, "shut down", partial(executor.shutdown, wait=False, cancel_futures=True)
            )

    def _popen(self, child: "subprocess.Popen[Any]") -> None:
        if child.poll() is None:
            self._add("child process", f"{child.pid} ({_command(child.args)})", "killed", child.kill)
            self.children.append(partial(_wait, child))

    def _process(self, child: multiprocessing.process.BaseProcess) -> None:
        if child.is_alive():
            self._add("child process", f"{child.pid} ({child.name})", "killed", child.kill)
            self.children.append(child.join)

    def _pool(self, pool: multiprocessing.pool.Pool) -> None:
        if getattr(pool, "_state", "") == "RUN":
            self._add("executor", "multiprocessing.Pool", "terminated", partial(_in_thread, pool.terminate))

    def _database(self, connection: sqlite3.Connection) -> None:
        files = [file for _, _, file in connection.execute("PRAGMA database_list")]
        self._add("database", ", ".join(filter(None, files)) or "in memory", "closed", connection.close)


_NOTES: Final[dict[Any, Callable[[Held, Any], None]]] = {
    asyncio.Task: Held._task,
    logging.Handler: Held._handler,
    io.IOBase: Held._file,
    socket.socket: Held._socket,
    asyncio.Server: Held._server,
    asyncio.BaseTransport: Held._transport,
    asyncio.TimerHandle: Held._handle,
    Executor: Held._executor,
    subprocess.Popen: Held._popen,
    multiprocessing.process.BaseProcess: Held._process,
    multiprocessing.pool.Pool: Held._pool,
    sqlite3.Connection: Held._database,
}


def _addresses(connection: Any) -> str:
    ends = []
    for ask in (connection.getsockname, connection.getpeername):
        with suppress(OSError):
            ends.append(str(ask()))
    return " to ".join(ends) or repr(connection)


def _command(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else " ".join(map(str, arguments))


def _wait(child: "subprocess.Popen[Any]", seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        child.wait(seconds)


def _in_thread(function: Callable[[], object]) -> None:
    """It may take its time, and nobody needs to wait for it."""
    threading.Thread(target=function, name="echo-core leftovers", daemon=True).start()
