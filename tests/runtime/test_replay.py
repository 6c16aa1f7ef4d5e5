"""Dead letters on their way back, over a running host and over a store alone."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common_telemetry import PluginTelemetry
from common_telemetry.testing import InMemoryTelemetry
from echo_core import BaseMessage, ProcessingStatus
from echo_core.errors import MessageError, NotFound
from echo_core.message import REPLAYED, encode, new_id
from echo_core.runtime.clock import SystemClock
from echo_core.runtime.dead_letters import (
    MOST_REPLAYS,
    DeadLetterError,
    DeadLetterStore,
    ReplayJob,
    ReplayWish,
    Selection,
)
from echo_core.runtime.dead_letters.letter import kind_of
from echo_core.runtime.dead_letters.measuring import DepthMeter
from echo_core.runtime.replay import Replayer, replay_of, run_to_end
from echo_core.testing import async_test
from echo_core.transports import turn
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, World, manifest, running
from support.letters import letter
from support.stores import store_at


@pytest.fixture
def letters(tmp_path: Path) -> Iterator[DeadLetterStore]:
    with contextlib.closing(DeadLetterStore(tmp_path / "dead_letters.sqlite")) as store:
        yield store


async def replayed(store: DeadLetterStore, transport: MemoryTransport, **wish: Any) -> ReplayJob:
    job = store.jobs.add(ReplayWish(**wish))
    await Replayer(store, transport).run_waiting()
    return store.jobs.get(job.id)


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
    job = letters.jobs.add(ReplayWish(rate=10))
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"], queue_limit=100):
        await Replayer(letters, transport, clock).run_waiting()
    assert letters.jobs.get(job.id).done == 30
    assert clock.now == pytest.approx(3.0)


@async_test
async def test_a_replay_is_carried_on_by_another_process_where_the_first_one_ended(
    letters: DeadLetterStore, tmp_path: Path
) -> None:
    letters.add([letter(number) for number in range(5)])
    job = letters.jobs.add(ReplayWish())
    mine = letters.jobs.take("a process that ends")
    assert mine is not None
    first = letters.select(Selection(), limit=2, oldest_first=True)
    letters.jobs.progress(
        mine, "a process that ends", replayed=first, failed=0, reason="", seen_id=first[-1].id
    )
    async with MemoryTransport() as transport, transport.subscribe("worker", ["#"]) as worker:
        replayer = Replayer(letters, transport)
        await replayer.run_waiting()
        assert letters.jobs.get(job.id).state == "running"  # it was heard of a moment ago
        with contextlib.closing(sqlite3.connect(letters.path)) as connection, connection:
            connection.execute("UPDATE replay_jobs SET alive_ns = 0")
        await replayer.run_waiting()
        assert letters.jobs.get(job.id).done == 5
        assert [d.message.data for d in await worker.receive(10)] == [2, 3, 4]
    assert (
        letters.jobs.progress(mine, "a process that ends", replayed=(), failed=0, reason="", seen_id=0)
        is None
    )


@async_test
async def test_replays_of_the_same_letters_by_two_processes_send_each_once(letters: DeadLetterStore) -> None:
    letters.add([letter(number) for number in range(300)])
    with contextlib.closing(DeadLetterStore(letters.path)) as theirs:
        ours, other = letters.jobs.add(ReplayWish()), theirs.jobs.add(ReplayWish())
        async with (
            MemoryTransport() as transport,
            transport.subscribe("worker", ["#"], queue_limit=1_000) as worker,
        ):
            await asyncio.gather(
                run_to_end(letters, Borrowed(transport), other.id, lambda job: None),
                run_to_end(theirs, Borrowed(transport), other.id, lambda job: None),
            )
            came: list[Any] = []
            while len(came) < 300:
                came += [delivery.message.data for delivery in await worker.receive(1_000)]
            assert came == list(range(300))
            assert worker.statistics().waiting == 0
        assert [letters.jobs.get(job.id).done for job in (ours, other)] == [300, 0]


class Slow(MemoryTransport):
    """Accepts the first few at once, and lets all others wait."""

    quick = 3

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        self.quick -= 1
        if self.quick < 0:
            await asyncio.Event().wait()
        await super().redeliver(subscriber, topic, message)


@async_test
async def test_a_replay_that_is_stopped_keeps_what_was_accepted_and_hands_on_the_rest(
    letters: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.runtime.replay._GRACE_S", 0.01)
    letters.add([letter(number) for number in range(5)])
    job = letters.jobs.add(ReplayWish())
    async with Slow() as transport, transport.subscribe("worker", ["#"]) as worker:
        running = asyncio.create_task(Replayer(letters, transport).run_waiting())
        while transport.quick >= 0:
            await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.wait([running])
        stopped = letters.jobs.get(job.id)
        assert (stopped.state, stopped.done, letters.count()) == ("waiting", 3, 2)
        transport.quick = 5
        await Replayer(letters, transport).run_waiting()
        assert letters.jobs.get(job.id).done == 5
        assert [d.message.data for d in await worker.receive(10)] == [0, 1, 2, 3, 4]


@async_test
async def test_a_replay_that_waits_for_its_transport_is_not_taken_for_one_that_ended(
    letters: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.runtime.replay._LOOK_S", 0.01)
    letters.add([letter(number) for number in range(5)])
    job, alive, said = letters.jobs.add(ReplayWish()), letters.jobs.alive, list[int]()

    def say(job: ReplayJob, owner: str) -> None:
        alive(job, owner)
        said.append(job.id)

    monkeypatch.setattr(letters.jobs, "alive", say)
    async with Slow() as transport, transport.subscribe("worker", ["#"]):
        running = asyncio.create_task(Replayer(letters, transport).run_waiting())
        while transport.quick >= 0:
            await asyncio.sleep(0.001)
        said.clear()
        while len(said) < 3:
            await asyncio.sleep(0.01)
        assert letters.jobs.take("another") is None
        running.cancel()
        await asyncio.wait([running])
    assert set(said) == {job.id}


@async_test
async def test_a_host_replays_what_is_asked_for_and_links_the_failure_that_follows(tmp_path: Path) -> None:
    world = World(tmp_path)
    worker = Handler(lambda message: ProcessingStatus.FAILED(f"no {message.data}"))
    world.add(worker, manifest("worker", hears=("work.#",)))
    world.dead_letters.add([letter("again")])
    world.dead_letters.jobs.add(ReplayWish())
    numbers = await world.run()
    assert worker.data == ["again"]
    assert numbers["worker"].dead_lettered == 1
    (left,) = world.dead_letters.newest()
    assert (left.reason, left.replays) == ("FAILED: no again", 1)
    assert len(left.config_digest) == 64
    world.dead_letters.close()


@async_test
async def test_a_host_replays_nothing_before_its_plugins_are_there(tmp_path: Path) -> None:
    world, worker = World(tmp_path), Handler()

    def load() -> Handler:
        time.sleep(0.2)
        return worker

    world.host.add(manifest("worker", hears=("work.#",)), load)
    world.dead_letters.add([letter("again")])
    job = world.dead_letters.jobs.add(ReplayWish())
    async with running(world):
        while not world.dead_letters.jobs.get(job.id).has_ended:
            await asyncio.sleep(0.01)
    assert (world.dead_letters.jobs.get(job.id).failed, worker.data) == (0, ["again"])
    world.dead_letters.close()


@async_test
async def test_a_store_is_replayed_into_without_a_host(letters: DeadLetterStore, tmp_path: Path) -> None:
    path = tmp_path / "messages.sqlite"
    async with store_at(path) as transport, transport.subscribe("worker", ["elsewhere"]):
        pass
    letters.add([letter(number) for number in range(200)])
    job = letters.jobs.add(ReplayWish())
    told: list[ReplayJob] = []
    assert (await run_to_end(letters, store_at(path), job.id, told.append)).done == 200
    assert told[-1].done == 200
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
    job = letters.jobs.add(ReplayWish())
    await run_to_end(letters, store_at(tmp_path / "messages.sqlite"), job.id, lambda job: None)
    assert "nobody ever subscribed as 'worker'" in letters.jobs.get(job.id).reason
    assert letters.count() == 1


class Borrowed(MemoryTransport):
    """Is opened and closed by somebody else."""

    def __init__(self, lender: MemoryTransport) -> None:
        super().__init__()
        self._lender = lender

    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        await self._lender.redeliver(subscriber, topic, message)


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
    assert sum(kind.count for kind in letters.kinds(selection)) == len(meant)
    assert letters.discard(selection) == len(meant)
    assert letters.count() == 3 - len(meant)


def test_a_store_of_the_first_schema_is_brought_up_to_date(letters: DeadLetterStore) -> None:
    from echo_core.runtime.dead_letters.database import FIRST_SCHEMA

    with contextlib.closing(sqlite3.connect(letters.path)) as connection, connection:
        connection.executescript(FIRST_SCHEMA)
        connection.execute(
            "INSERT INTO dead_letters VALUES (7, 1, 'worker', '1', 't', 'm', 'r', 'x', 'why', x'90', ?)",
            (encode(BaseMessage(id=new_id(), source="s", data="old")),),
        )
    old = letters.get(7)
    assert (old.message().data, old.replays, old.config_digest, old.edited) == ("old", 0, "", None)
    letters.add([letter("new")])
    assert letters.count() == 2


def test_there_are_no_replays_where_nothing_was_ever_kept(letters: DeadLetterStore) -> None:
    assert letters.jobs.newest() == []
    assert letters.jobs.take("somebody") is None
    assert letters.discard(Selection()) == 0
    assert not letters.path.exists()
    with pytest.raises(NotFound):
        letters.jobs.get(1)
    with pytest.raises(NotFound):
        letters.edit(1, b"")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ValueError: no 17", "ValueError: no …"),
        ("KeyError: 'lang'", "KeyError: 'lang'"),
        ("cannot read 'a b' at 10:02:31.5\nmore", "cannot read '…' at …"),
        ("can't find `transcript.raw`", "can't find `transcript.raw`"),
        ("no order 0190a1b2-77aa-7bcd-8000-0123456789ab", "no order …"),
        ("no {'number': 7, 'lang': 'de', 'text': \"it's\"}", "no {'number': …, 'lang': …, 'text': …}"),
        ("x" * 1_000, "x" * 200),
        ("", ""),
    ],
)
def test_a_reason_is_of_a_kind_whatever_the_message_said(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


@async_test
async def test_what_is_kept_is_measured_also_of_plugins_that_do_not_run_and_goes_back_to_nothing(
    letters: DeadLetterStore,
) -> None:
    memory = InMemoryTelemetry()
    meter = DepthMeter(letters, memory.context, SystemClock(), lambda: ["steady"])
    letters.add([letter(1), letter(2), letter(3, plugin="gone", time_ns=time.time_ns())])

    def measured(name: str) -> dict[Any, Any]:
        return {point.attributes["plugin.name"]: point.value for point in memory.metrics(name)}

    await meter.measure()
    assert measured("plugin.dead_letter.count") == {"worker": 2, "gone": 1, "steady": 0}
    ages = measured("plugin.dead_letter.age")
    assert ages["worker"] > 1e9
    assert 0 <= ages["gone"] < 60
    letters.discard(Selection())
    await meter.measure()
    assert measured("plugin.dead_letter.count") == {"worker": 0, "gone": 0, "steady": 0}
    assert set(measured("plugin.dead_letter.age").values()) == {0.0}


@async_test
async def test_to_measure_many_plugins_keeps_no_timer_waiting(
    letters: DeadLetterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes on with each plugin that is measured."""
    memory, now, rounds = InMemoryTelemetry(), [100.0], list[float]()
    monkeypatch.setattr(turn, "monotonic", lambda: now[0])

    def running() -> list[str]:
        return [f"plugin_{number}" for number in range(500)]

    really = memory.context.for_plugin

    def for_plugin(name: str, version: str) -> PluginTelemetry:
        now[0] += 0.000_1
        return really(name, version)

    monkeypatch.setattr(memory.context, "for_plugin", for_plugin)
    measuring = asyncio.ensure_future(
        DepthMeter(letters, memory.context, SystemClock(), running).measure(),
    )
    while not measuring.done():
        began = now[0]
        await asyncio.sleep(0)
        rounds.append(now[0] - began)
    await measuring
    assert sum(rounds) > 0.049
    assert max(rounds) < 0.003


def test_ten_thousand_letters_are_filtered_by_every_means(letters: DeadLetterStore) -> None:
    letters.add([letter(number, plugin=f"plugin_{number % 7}") for number in range(10_000)])
    assert (
        len(letters.select(Selection(plugin="plugin_3", error="no", topic="work.#"), limit=10_000)) == 1_429
    )


@async_test
async def test_letters_that_cannot_be_read_are_said_once_for_as_long_as_it_lasts(
    letters: DeadLetterStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def take(owner: str) -> None:
        nonlocal asked
        asked += 1
        raise DeadLetterError("the disk is full")

    monkeypatch.setattr("echo_core.runtime.replay._LOOK_S", 0.0)
    monkeypatch.setattr(letters.jobs, "take", take)
    async with MemoryTransport() as transport:
        watching = asyncio.create_task(Replayer(letters, transport).watch())
        while asked < 5:
            await asyncio.sleep(0)
        watching.cancel()
        await asyncio.wait([watching])
    assert caplog.text.count("replays wait") == 1
