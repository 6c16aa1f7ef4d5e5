"""The control API of a real host, over real sockets, and a way to talk to it as a stranger might."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from echo_core.control.board import Board
from echo_core.control.client import HostClient
from echo_core.control.door import Door, find_door
from echo_core.control.log_tail import LogTail
from echo_core.control.server import serve
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.registry import enabled
from echo_core.workspace import Workspace
from runtime.hosting import World, running


class Served:
    """A host with its control API, and a way to talk to it as a stranger might."""

    def __init__(self, workspace: Workspace, world: World) -> None:
        self.workspace = workspace
        self.world = world
        self.host = world.host

    @property
    def door(self) -> Door:
        door = find_door(self.workspace)
        assert door is not None
        return door

    @property
    def client(self) -> HostClient:
        return HostClient(self.door, self.workspace)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
    ) -> tuple[int, Any]:
        door = self.door
        given = {"Authorization": f"Bearer {door.token if token is None else token}"} | dict(headers or {})

        def call() -> tuple[int, Any]:
            connection = http.client.HTTPConnection("127.0.0.1", door.address.port, timeout=60)
            try:
                connection.request(method, path, body, given)
                response = connection.getresponse()
                content = response.read()
                is_json = content and response.headers["Content-Type"] == "application/json"
                return response.status, json.loads(content) if is_json else content.decode()
            finally:
                connection.close()

        return await asyncio.to_thread(call)


def run(
    workspace: Workspace,
    scenario: Callable[[Served], Awaitable[None]],
    prepare: Callable[[World], None] = lambda world: None,
    *,
    message_history: Recorder | None = None,
    steady: bool = True,
    **board: Any,
) -> None:
    """Run the scenario beside a host that is served; `steady`: that has started."""

    async def main() -> None:
        world = World(workspace.root, message_history=message_history)
        prepare(world)
        reconciler = Reconciler(world.host, workspace, Store(workspace.state), known=enabled(workspace))
        logs = LogTail()
        made = Board(world.host, reconciler, workspace, world.dead_letters, logs, **board)
        async with running(world) if steady else beginning(world):
            serving = asyncio.create_task(serve(world.host, made, logs, workspace, 0))
            try:
                while find_door(workspace) is None or running_host_now(workspace) is None:
                    assert not serving.done(), serving.exception()
                    await asyncio.sleep(0.005)
                await scenario(Served(workspace, world))
            finally:
                serving.cancel()
                await asyncio.wait([serving])

    asyncio.run(main())


@asynccontextmanager
async def beginning(world: World) -> AsyncIterator[None]:
    """A host that runs, started or not."""
    task = asyncio.create_task(world.run(until_idle=False))
    try:
        yield
    finally:
        world.host.request_stop()
        await task


def running_host_now(workspace: Workspace) -> object:
    """Whether something listens; asking it for an answer would block the loop that gives it."""
    door = find_door(workspace)
    assert door is not None
    with socket.socket() as probe:
        return True if probe.connect_ex(("127.0.0.1", door.address.port)) == 0 else None
