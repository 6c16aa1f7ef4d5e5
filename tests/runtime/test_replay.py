"""Dead letters on their way back, over a running host and over a store alone."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.errors import MessageError, NotFound
from echo_core.message import encode, new_id
from echo_core.runtime.clock import SystemClock
from echo_core.runtime.dead_letters import (
    MOST_REPLAYS,
    REPLAYED,
    DeadLetter,
    DeadLetterStore,
    ReplayJob,
    ReplayWish,
    Selection,
)
from echo_core.runtime.replay import Replayer, replay_of, run_waiting
from echo_core.testing import async_test
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, World, manifest
from support.stores import store_at


@pytest.fixture
def letters(tmp_path: Path) -> Iterator[DeadLetterStore]:
    with contextlib.closing(DeadLetterStore(tmp_path / "dead_letters.sqlite")) as store:
        yield store


def letter(data: Any = None, **changes: Any) -> DeadLetter:
    message = BaseMessage(
        source="src", data=data, trace_context={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    )
    made = DeadLetter(
        time_ns=1_000,
        plugin="worker",
        version="1.0.0",
        topic="work.todo",
        message_id=message.id,
        root_id=message.root_id,
        trace_id="ab" * 16,
        reason="ValueError: no",
        attempts=(),
        original=encode(message),
    )
    return msgspec.structs.replace(made, **changes)


async def replayed(store: DeadLetterStore, transport: MemoryTransport, **wish: Any) -> ReplayJob:
    job = store.add_job(ReplayWish(**wish))
    await Replayer(store, transport).run_waiting()
    return store.job(job.id)


@async_test
async def test_letters_go_to_the_plugin_that_failed_and_nobody_else_the_oldest_first(
    letters: DeadLetterStore,
) -> None:
    letters.add([letter(number) for number in range(3)])
    async with (
        MemoryTransport() as transport,
        transport.subscribe("worker", ["work.#"]) as worker,
        transport.subscribe("other", ["work.#"]) as other,
    ):
        job = await replayed(letters, transport)
        assert (job.state, job.done, job.failed, job.total) == ("done", 3, 0, 3)
        deliveries = await worker.receive(10)
        assert [(d.topic, d.message.data, d.attempt) for d in deliveries] == [
            ("work.todo", number, 1) for number in range(3)
        ]
        assert other.statistics().waiting == 0
        assert letters.count() == 0


def test_a_replay_has_the_id_and_lineage_of_its_message_and_says_what_it_is() -> None:
    once = letter("data")
    message = once.message()
    sent = replay_of(once)
    assert sent.trace_context == {**message.trace_context, REPLAYED: "1"}
    assert msgspec.structs.replace(sent, trace_context=message.trace_context) == message
    assert replay_of(letter(replays=2)).trace_context[REPLAYED] == "3"


@async_test
async def test_what_the_transport_refuses_stays_and_says_why(letters: DeadLetterStore) -> None:
    letters.add([letter(1), letter(2, plugin="gone"), letter(3, original=b"no message")])
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"]):
        job = await replayed(letters, transport)
    assert (job.done, job.failed) == (1, 2)
    assert "no message" in job.reason
    assert {left.plugin for left in letters.newest()} == {"gone", "worker"}
    with pytest.raises(MessageError):
        letters.newest()[0].message()


@async_test
async def test_only_so_many_and_only_those_that_are_meant(letters: DeadLetterStore) -> None:
    letters.add([letter(number, plugin=("worker", "other")[number % 2]) for number in range(10)])
    async with (
        MemoryTransport() as transport,
        transport.subscribe("worker", ["#"], queue_limit=100) as worker,
    ):
        job = await replayed(letters, transport, selection=Selection(plugin="worker"), first=3)
        assert (job.total, job.done) == (3, 3)
        assert [d.message.data for d in await worker.receive(10)] == [0, 2, 4]
    assert letters.count() == 7


@async_test
async def test_a_letter_that_comes_back_too_often_is_quarantined_until_it_is_forced(
    letters: DeadLetterStore,
) -> None:
    letters.add([letter(replays=MOST_REPLAYS), letter(replays=MOST_REPLAYS - 1)])
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"]):
        assert (await replayed(letters, transport)).done == 1
        (held,) = letters.newest()
        assert held.is_quarantined
        assert (await replayed(letters, transport, force=True)).done == 1


class Ticking(SystemClock):
    """Sleeps by setting itself forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@async_test
async def test_a_rate_is_kept(letters: DeadLetterStore) -> None:
    letters.add([letter(number) for number in range(30)])
    clock = Ticking()
    job = letters.add_job(ReplayWish(rate=10))
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"], queue_limit=100):
        await Replayer(letters, transport, clock).run_waiting()
    assert letters.job(job.id).done == 30
    assert clock.now == pytest.approx(3.0)


@async_test
async def test_a_replay_is_carried_on_by_another_process_where_the_first_one_ended(
    letters: DeadLetterStore, tmp_path: Path
) -> None:
    letters.add([letter(number) for number in range(5)])
    job = letters.add_job(ReplayWish())
    mine = letters.take_job("a process that ends")
    assert mine is not None
    first = letters.select(Selection(), limit=2, oldest_first=True)
    letters.progress(mine, "a process that ends", replayed=first, failed=0, reason="", seen_id=first[-1].id)
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"]) as worker:
        replayer = Replayer(letters, transport)
        await replayer.run_waiting()
        assert letters.job(job.id).state == "running"  # it was heard of a moment ago
        with contextlib.closing(sqlite3.connect(letters.path)) as connection, connection:
            connection.execute("UPDATE replay_jobs SET alive_ns = 0")
        await replayer.run_waiting()
        assert letters.job(job.id).done == 5
        assert [d.message.data for d in await worker.receive(10)] == [2, 3, 4]
    assert letters.progress(mine, "a process that ends", replayed=(), failed=0, reason="", seen_id=0) is None


@async_test
async def test_a_host_replays_what_is_asked_for_and_links_the_failure_that_follows(tmp_path: Path) -> None:
    world = World(tmp_path)
    worker = Handler(lambda message: ProcessingStatus.FAILED(f"no {message.data}"))
    world.add(worker, manifest("worker", hears=("work.#",)))
    world.dead_letters.add([letter("again")])
    world.dead_letters.add_job(ReplayWish())
    numbers = await world.run()
    assert worker.data == ["again"]
    assert numbers["worker"].dead_lettered == 1
    (left,) = world.dead_letters.newest()
    assert (left.reason, left.replays) == ("FAILED: no again", 1)
    assert len(left.config_digest) == 64
    world.dead_letters.close()


@async_test
async def test_a_store_is_replayed_into_without_a_host(letters: DeadLetterStore, tmp_path: Path) -> None:
    path = tmp_path / "messages.sqlite"
    async with store_at(path) as transport, transport.subscribe("worker", ["elsewhere"]):
        pass
    letters.add([letter(number) for number in range(200)])
    letters.add_job(ReplayWish())
    await run_waiting(letters, store_at(path))
    async with store_at(path) as transport, transport.subscribe("worker", ["elsewhere"]) as worker:
        await asyncio.sleep(0)
        came: list[Any] = []
        while len(came) < 200:
            came += [delivery.message.data for delivery in await worker.receive(64)]
    assert came == list(range(200))


@async_test
async def test_a_store_in_which_nobody_ever_subscribed_by_that_name_refuses(
    letters: DeadLetterStore, tmp_path: Path
) -> None:
    letters.add([letter(1)])
    job = letters.add_job(ReplayWish())
    await run_waiting(letters, store_at(tmp_path / "messages.sqlite"))
    assert "nobody ever subscribed as 'worker'" in letters.job(job.id).reason
    assert letters.count() == 1


# What is meant


@pytest.mark.parametrize(
    ("selection", "meant"),
    [
        (Selection(), {0, 1, 2}),
        (Selection(ids=(1, 3)), {0, 2}),
        (Selection(plugin="other"), {1}),
        (Selection(error="VALUEERROR"), {0, 1}),
        (Selection(topic="work.*"), {0, 1}),
        (Selection(topic="#.x"), {2}),
        (Selection(message="trace of 2"), {2}),
        (Selection(message="root of 1"), {1}),
        (Selection(since_ns=1_001), {1, 2}),
        (Selection(until_ns=1_001), {0}),
        (Selection(plugin="worker", since_ns=1_001), {2}),
        (Selection(error="100%"), set()),
    ],
)
def test_a_selection_is_of_those_that_fit_all_it_says(
    letters: DeadLetterStore, selection: Selection, meant: set[int]
) -> None:
    letters.add(
        [
            letter(0),
            letter(1, plugin="other", root_id="root of 1", time_ns=1_001),
            letter(2, topic="a.b.x", trace_id="trace of 2", reason="late", time_ns=1_002),
        ]
    )
    found = letters.select(selection, limit=10)
    assert {one.message().data for one in found} == meant
    assert letters.count(selection=selection) == len(meant)
    assert sum(kind.count for kind in letters.kinds(selection=selection)) == len(meant)
    assert letters.discard(selection) == len(meant)
    assert letters.count() == 3 - len(meant)


def test_a_store_of_the_first_schema_is_brought_up_to_date(letters: DeadLetterStore) -> None:
    from echo_core.runtime.dead_letters import _SCHEMA

    with contextlib.closing(sqlite3.connect(letters.path)) as connection, connection:
        connection.executescript(_SCHEMA)
        connection.execute(
            "INSERT INTO dead_letters VALUES (7, 1, 'worker', '1', 't', 'm', 'r', 'x', 'why', x'90', ?)",
            (encode(BaseMessage(id=new_id(), source="s", data="old")),),
        )
    old = letters.get(7)
    assert (old.message().data, old.replays, old.config_digest, old.edited) == ("old", 0, "", None)
    letters.add([letter("new")])
    assert letters.count() == 2


def test_there_are_no_replays_where_nothing_was_ever_kept(letters: DeadLetterStore) -> None:
    assert letters.jobs() == []
    assert letters.take_job("somebody") is None
    assert letters.discard(Selection()) == 0
    assert not letters.path.exists()
    with pytest.raises(NotFound):
        letters.job(1)
    with pytest.raises(NotFound):
        letters.edit(1, b"")


def test_ten_thousand_letters_are_filtered_by_every_means(letters: DeadLetterStore) -> None:
    letters.add([letter(number, plugin=f"plugin_{number % 7}") for number in range(10_000)])
    assert (
        len(letters.select(Selection(plugin="plugin_3", error="no", topic="work.#"), limit=10_000)) == 1_429
    )
