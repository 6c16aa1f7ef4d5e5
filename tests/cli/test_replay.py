"""`echo-core replay`: what was kept is sent again, and what was not is refused with the setting."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from echo_core.message import BaseMessage
from echo_core.runtime.message_history.store import FILE_NAME
from echo_core.transports.urls import transport_for
from echo_core.workspace import SETTINGS_FILE, Workspace
from runtime.message_history.history import accept, recording

Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / SETTINGS_FILE).write_text('[host]\ntransport = "sqlite://"\n')
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def recorded(workspace: Workspace, payloads: str = "all") -> BaseMessage:
    with recording(workspace.state / FILE_NAME, payloads=payloads) as recorder:
        recorder.subscribed("key", "worker", ["t.#"])
        return accept(recorder, BaseMessage(source="mic", data={"text": "hello"}), "t.raw")


async def received(workspace: Workspace, message: BaseMessage | None = None) -> BaseMessage | None:
    """What waits for the worker. With `message`, only see to it that the store knows the worker."""
    async with transport_for("sqlite://", workspace.root) as transport:
        worker = transport.subscribe("worker", ["t.#"])
        if message is not None:
            await transport.publish("other", message)
            return None
        (delivery,) = await worker.receive()
        await delivery.settle()
        return delivery.message


def test_a_kept_message_is_sent_again_and_can_be_followed(call: Call, workspace: Workspace) -> None:
    old = recorded(workspace)
    asyncio.run(received(workspace, old))
    would = call("replay", old.id, "--dry-run")
    assert would.stdout == f"{old.id} would be sent to all who subscribe to t.raw\n"
    done = call("replay", old.id, "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "echo-core.replay/1"
    new = asyncio.run(received(workspace))
    assert new is not None
    assert document["messages"] == [
        {"id": old.id, "topic": "t.raw", "plugin": "", "sent_as": new.id},
    ]
    assert new.data == {"text": "hello"}
    assert new.id in call("trace", old.id).stdout


def test_what_was_not_kept_is_refused_with_the_setting(call: Call, workspace: Workspace) -> None:
    done = call("replay", recorded(workspace, payloads="off").id)
    assert done.returncode == 1
    assert "error[E-REPLAY]" in done.stderr
    assert 'payloads = "all"' in done.stderr


def test_a_plugin_that_did_not_have_it_is_refused(call: Call, workspace: Workspace) -> None:
    done = call("replay", recorded(workspace).id, "--from", "sink")
    assert done.returncode == 3
    assert "no message of this path was for 'sink'" in done.stderr


def test_without_a_host_what_waits_in_hosts_is_refused(call: Call, workspace: Workspace) -> None:
    old = recorded(workspace)
    workspace.settings_file.write_text("")
    done = call("replay", old.id)
    assert done.returncode == 5
    assert "error[E-NO-HOST]" in done.stderr
