"""Serves the control API beside a host, on its event loop."""

import asyncio
import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any, Final

from echo_core._version import __version__
from echo_core.control.board import Board
from echo_core.control.door import Address, DoorTaken, open_door
from echo_core.control.log_tail import LogTail
from echo_core.runtime.host import Host
from echo_core.workspace import Workspace

logger = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_GRACE_S: Final = 2
"""How long requests that are being answered may go on when the host has ended."""
_HEAVY: Final = ("uvicorn", "echo_core.control.app")


async def serve(host: Host, board: Board, logs: LogTail, workspace: Workspace, port: int) -> None:
    """Answer from the host's start to its end, when this is cancelled; `port` 0 is any free one.

    Where another host of the workspace answers already, this one is not reached, and says so.
    """
    with logs.listening():
        await host.started()
        uvicorn, app = [await asyncio.to_thread(importlib.import_module, name) for name in _HEAVY]
        with _listening(port) as listener:
            address = Address(pid=os.getpid(), port=listener.getsockname()[1], version=__version__)
            try:
                with open_door(workspace, address) as token:
                    server = _make_server(uvicorn, app.make_app(board, token, address.port))
                    await _answer(server, listener)
            except DoorTaken as error:
                logger.warning("%s", error)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket on which whoever comes can wait from now on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_LOOPBACK, port))
        listener.listen()
        yield listener


async def _answer(server: Any, listener: socket.socket) -> None:
    """Until cancelled; then requests under way have a moment to end."""
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="control API")
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await asyncio.wait([serving], timeout=_GRACE_S + 1)


def _make_server(uvicorn: Any, app: Any) -> Any:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="h11",
        ws="none",
        loop="none",
        timeout_graceful_shutdown=_GRACE_S,
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # signals are the host's
    return server
