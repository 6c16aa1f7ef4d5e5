"""What became of messages, and messages sent again, over the control API."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from control.serving import Served, run
from echo_core.message import BaseMessage
from echo_core.workspace import Workspace
from runtime.hosting import Handler, Numbers, World, manifest
from runtime.message_history.history import recording
from support.libraries import make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def run_with_two(
    workspace: Workspace, scenario: Callable[[Served, Handler], Awaitable[None]], **history: Any
) -> None:
    """The scenario, in a host that records, and in which a worker has had two messages."""
    worker = Handler()

    def prepare(world: World) -> None:
        world.add(Numbers(2), manifest("counter", says=("a",)))
        world.add(worker, manifest("worker", hears=("a",)))

    async def begin(served: Served) -> None:
        while len(worker.seen) < 2:
            await asyncio.sleep(0.001)
        await scenario(served, worker)

    with recording(workspace.root / "history.sqlite", **history) as recorder:
        run(workspace, begin, prepare, message_history=recorder)


def test_a_path_is_told_up_to_this_moment_and_a_message_is_sent_again(workspace: Workspace) -> None:
    async def scenario(served: Served, worker: Handler) -> None:
        await served.world.transport.wait_until_settled()
        code, newest = await served.ask("GET", "/v1/messages?limit=5")
        first, second = worker.seen
        assert (code, [each["id"] for each in newest["origins"]]) == (200, [second.id, first.id])
        assert newest["origins"][0]["states"] == {"processed": 1}
        code, path = await served.ask("GET", f"/v1/messages/{first.id}")
        assert (code, path["messages"][0]["visits"][0]["state"]) == (200, "processed")
        body = b'{"plugin": "worker", "dry_run": true}'
        code, would = await served.ask("POST", f"/v1/messages/{first.id}/replay", body)
        assert (code, would["messages"][0]["sent_as"]) == (200, "")
        code, done = await served.ask("POST", f"/v1/messages/{first.id}/replay")
        assert code == 200
        while len(worker.seen) < 3:
            await asyncio.sleep(0.001)
        assert worker.seen[2].id == done["messages"][0]["sent_as"]
        code, path = await served.ask("GET", f"/v1/messages/{worker.seen[2].id}")
        assert [step["id"] for step in path["messages"]] == [first.id, worker.seen[2].id]

    run_with_two(workspace, scenario, payloads="all")


def test_unknown_and_ambiguous_ids_are_refused_as_such(workspace: Workspace) -> None:
    async def scenario(served: Served, worker: Handler) -> None:
        code, answer = await served.ask("GET", f"/v1/messages/{BaseMessage(source='x').id}")
        assert (code, answer["error"]["code"]) == (404, "E-NOT-FOUND")
        code, answer = await served.ask("GET", f"/v1/messages/{worker.seen[0].id[:7]}")
        assert (code, answer["error"]["code"]) == (400, "E-AMBIGUOUS")
        code, answer = await served.ask("POST", f"/v1/messages/{worker.seen[0].id}/replay")
        assert (code, answer["error"]["code"]) == (409, "E-REPLAY")

    run_with_two(workspace, scenario)


def test_a_host_that_records_nothing_says_so(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        code, answer = await served.ask("GET", "/v1/messages/x")
        assert (code, answer["error"]["fix"]) == (
            404,
            "set enabled = true under [history] of echo-core.toml",
        )

    run(workspace, scenario)
