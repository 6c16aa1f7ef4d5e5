"""Kept messages, sent again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage
from echo_core.errors import NoHost, NotFound
from echo_core.runtime.message_history.records import FAILED
from echo_core.runtime.message_history.replay import (
    NotReplayable,
    Replayed,
    send,
    send_alone,
    what_to_send,
)
from echo_core.runtime.settings import HistorySettings, HostSettings, Settings
from echo_core.testing import async_test
from echo_core.transports.urls import transport_for
from echo_core.workspace import Workspace
from runtime.hosting import Handler, Numbers, World, manifest, running
from runtime.message_history.history import Handed, accept, asking, recording, visit
from runtime.message_history.test_path import Publisher, on, trace


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def planned(file: Path, asked: str, plugin: str = "") -> list[Any]:
    found: list[Any] = asking(file, lambda history: what_to_send(history, asked, plugin))
    return found


@async_test
async def test_a_message_is_sent_to_all_as_a_new_one_in_a_new_trace(tmp_path: Path, file: Path) -> None:
    worker, other = Publisher("b"), Handler()
    with recording(file, payloads="all") as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(1), manifest("counter", says=("a",)))
        world.add(worker, manifest("worker", hears=("a",), says=("b",)))
        world.add(other, manifest("other", hears=("#",)))
        async with running(world):
            while len(other.seen) < 2:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(recorder.flush)
            done = await world.host.send_again(planned(file, worker.seen[0].id))
            while len(other.seen) < 4:
                await asyncio.sleep(0.001)
    old, new = worker.seen
    assert [(each.id, each.sent_as) for each in done.messages] == [(old.id, new.id)]
    assert (new.data, new.source, new.parent_ids) == (old.data, old.source, (old.id,))
    path = trace(file, old.id)
    assert [step.topic for step in path.messages] == ["a", "b", "a", "b"]
    assert [step.is_replay for step in path.messages] == [False, False, True, False]
    first, second = (step.trace_id for step in path.messages if step.topic == "b")
    assert first != second
    assert on(path, "a").trace_id == first


@async_test
async def test_one_plugin_has_again_what_it_had_and_nobody_else(tmp_path: Path, file: Path) -> None:
    worker, sink, other = Publisher("b", "b"), Handler(), Handler()
    with recording(file, payloads="all") as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(1), manifest("counter", says=("a",)))
        world.add(worker, manifest("worker", hears=("a",), says=("b",)))
        world.add(sink, manifest("sink", hears=("b",)))
        world.add(other, manifest("other", hears=("#",)))
        async with running(world):
            while len(other.seen) < 3 or len(sink.seen) < 2:
                await asyncio.sleep(0.001)
            await asyncio.to_thread(recorder.flush)
            done = await world.host.send_again(planned(file, worker.seen[0].id, "sink"))
            while len(sink.seen) < 4:
                await asyncio.sleep(0.001)
    assert len(other.seen) == 3
    assert {each.sent_as for each in done.messages} == {each.id for each in sink.seen[2:]}
    path = trace(file, sink.seen[2].id)
    (step,) = [step for step in path.messages if step.id == sink.seen[2].id]
    assert (step.only, [each.plugin for each in step.visits]) == ("sink", ["sink"])
    assert visit(step, "sink").state == "processed"
    # What was replayed already is not what it had of the first message, and can be replayed by its own id.
    assert {again.old for again in planned(file, worker.seen[0].id, "sink")} == {
        each.id for each in sink.seen[:2]
    }
    assert [again.old for again in planned(file, sink.seen[2].id, "sink")] == [sink.seen[2].id]


def test_what_was_not_kept_is_refused_with_the_setting(file: Path) -> None:
    with recording(file) as recorder:
        made = accept(recorder, BaseMessage(source="origin", data=1))
    with pytest.raises(NotReplayable, match="was not kept") as raised:
        planned(file, made.id)
    assert 'payloads = "all"' in raised.value.fix


def test_what_was_masked_is_refused_with_the_fields(file: Path) -> None:
    with recording(file, payloads="all", mask=("email",)) as recorder:
        made = accept(recorder, BaseMessage(source="origin", data={"email": "a@b.c"}))
    with pytest.raises(NotReplayable, match="not kept as it was") as raised:
        planned(file, made.id)
    assert raised.value.why == "masked are email"


def test_a_plugin_that_had_none_of_it_is_refused_with_those_that_had(file: Path) -> None:
    with recording(file, payloads="all") as recorder:
        made = accept(recorder, BaseMessage(source="origin", data=1))
        recorder.of("worker", "1").failed(Handed("t.a", made, 1), 1, FAILED, 0.0, 0.0, "E", "no")
    with pytest.raises(NotFound, match="was for 'sink'") as raised:
        planned(file, made.id, "sink")
    assert raised.value.why == "they were for worker"
    assert [again.old for again in planned(file, made.id, "worker")] == [made.id]


def alone(file: Path, workspace: Workspace, **host: Any) -> Replayed:
    settings = Settings(host=HostSettings(**host), history=HistorySettings(path=str(file)))
    with recording(file, payloads="all") as recorder:
        made = accept(recorder, BaseMessage(source="origin", data=1), "t.a")
    return send_alone(planned(file, made.id, ""), settings, workspace)


def test_without_a_host_it_is_sent_where_messages_wait_outside_of_hosts(tmp_path: Path, file: Path) -> None:
    transport = transport_for("sqlite://messages.sqlite", tmp_path)

    async def prepare() -> None:
        async with transport:
            transport.subscribe("worker", ["t.#"])
            await transport.publish(
                "other", BaseMessage(source="x")
            )  # the subscription is in the file by then

    asyncio.run(prepare())
    done = alone(file, Workspace(tmp_path), transport="sqlite://messages.sqlite")

    async def receive() -> BaseMessage:
        async with transport_for("sqlite://messages.sqlite", tmp_path) as again:
            (delivery,) = await again.subscribe("worker", ["t.#"]).receive()
            await delivery.settle()
            return delivery.message

    message = asyncio.run(receive())
    assert message.id == done.messages[0].sent_as
    assert {step.id for step in trace(file, message.id).messages} == {message.id, done.messages[0].id}


@pytest.mark.parametrize(
    "host",
    [{"transport": "memory://"}, {"transport": "sqlite://messages.sqlite", "local": ("t.*",)}],
    ids=["memory", "local"],
)
def test_without_a_host_what_waits_in_hosts_is_refused(
    tmp_path: Path, file: Path, host: dict[str, Any]
) -> None:
    with pytest.raises(NoHost):
        alone(file, Workspace(tmp_path), **host)


@async_test
async def test_nothing_is_recorded_of_what_was_not_accepted(file: Path) -> None:
    with recording(file, payloads="all") as recorder:
        made = accept(recorder, BaseMessage(source="origin", data=1))
        await asyncio.to_thread(recorder.flush)
        transport = transport_for("memory://")
        with pytest.raises(Exception, match="closed"):
            await send(planned(file, made.id), transport, recorder)
    assert len(trace(file, made.id).messages) == 1
