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
from echo_core.errors import SettingsError
from echo_core.runtime.host import Host
from echo_core.workspace import Workspace

logger = logging.getLogger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_RETRY_S: Final = 2.0
_PATIENCE_S: Final = 1.0
"""So long a host may start undisturbed; one that takes longer can be asked what it waits for."""
_GRACE_S: Final = 2
"""How long requests that are being answered may go on when the host has ended."""
_HEAVY: Final = ("uvicorn", "echo_core.control.app")


async def serve(host: Host, board: Board, logs: LogTail, workspace: Workspace, port: int) -> None:
    """Answer until this is cancelled, from the host's start on, or from a second after it began to start.

    `port` 0 is any free one. Where another host of the workspace answers already, this one is not reached,
    and says so. Raises `SettingsError` when it cannot listen on the port.
    """
    with logs.listening():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await host.started()
        uvicorn, app = [await asyncio.to_thread(importlib.import_module, name) for name in _HEAVY]
        with _listening(port) as listener:
            address = Address(pid=os.getpid(), port=listener.getsockname()[1], version=__version__)
            with contextlib.ExitStack() as door:
                try:
                    token = await _open_door(door, workspace, address)
                except DoorTaken as error:
                    logger.warning("%s", error)
                    return
                board.is_reached()
                server = _make_server(uvicorn, app.make_app(board, token, address.port))
                await _answer(server, listener)


async def _open_door(door: contextlib.ExitStack, workspace: Workspace, address: Address) -> str:
    """The token. A disk that takes no file now may take it later: until then nobody finds the host."""
    is_said = False
    while True:
        try:
            return door.enter_context(open_door(workspace, address))
        except OSError as error:
            if not is_said:
                logger.error("the control API is not to be found until the disk takes its files: %s", error)
            is_said = True
        await asyncio.sleep(_RETRY_S)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket on which whoever comes can wait from now on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_LOOPBACK, port))
        except OSError as error:
            raise SettingsError(
                f"the control API cannot listen on port {port}",
                where="control_port under [host] of echo-core.toml",
                why=error.strerror or str(error),
                fix="name another port, or 0 for any that is free; this host runs on, but cannot be reached",
            ) from error
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
