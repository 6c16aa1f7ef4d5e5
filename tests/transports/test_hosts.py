"""Hosts with plugins on brokers: promises 1 to 3, over several hosts, in one trace."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import BaseMessage, Plugin
from echo_core.manifest import Manifest
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.settings import HostSettings, Settings
from echo_core.runtime.statistics import HostSnapshot
from echo_core.testing import async_test
from echo_core.transports.kafka.reading import KafkaSubscription
from echo_core.transports.local import LocalTransport
from runtime.hosting import Handler, Numbers, manifest
from support.brokers import SCHEMES, SHARING, Brokers, open_broker
from support.servers import MOVE_PARTITIONS

pytestmark = [
    pytest.mark.parametrize("scheme", SCHEMES),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # see conftest.py
]

COUNT = 200


class Passing(Handler):
    """Publishes what it hears."""

    def __init__(self, to: str) -> None:
        super().__init__(self._pass_on)
        self._to = to

    async def _pass_on(self, message: BaseMessage) -> None:
        await self.context.publish(self._to, message.data)


class Machine:
    """A host, and what only it has."""

    def __init__(self, folder: Path, url: str, name: str, local: tuple[str, ...] = ()) -> None:
        self.dead_letters = DeadLetterStore(folder / f"{name}.sqlite")
        self.telemetry = TelemetryContext.from_config(TelemetryConfig(), environ={})
        self.transport = open_broker(url)
        self.host = Host(
            settings=Settings(host=HostSettings(shutdown_timeout_s=8)),
            transport=LocalTransport(self.transport, local) if local else self.transport,
            telemetry=self.telemetry,
            dead_letters=self.dead_letters,
            environ={},
        )
        self._running: asyncio.Task[HostSnapshot] | None = None

    def add(self, plugin: Plugin, of: Manifest) -> None:
        self.host.add(of, lambda: plugin)

    async def run(self, *, until_idle: bool) -> HostSnapshot:
        try:
            final = await self.host.run(until_idle=until_idle)
        finally:
            self.telemetry.shutdown()
        for plugin in final.plugins:
            ended = plugin.processed + plugin.filtered + plugin.dead_lettered
            assert plugin.received == ended + plugin.in_hand
        return final

    async def begin(self) -> None:
        """Run until `end`; returns when the plugins are there, and their queues."""
        self._running = asyncio.create_task(self.run(until_idle=False))
        await until(lambda: all(plugin.state.value == "running" for plugin in self.host.snapshot().plugins))
        await until(lambda: self.transport.is_ready)

    @property
    def has_its_part(self) -> bool:
        """Whether it has some of Kafka's partitions, and not all; other brokers have none."""
        parts = [one.assigned() for one in self.transport._ever if isinstance(one, KafkaSubscription)]
        return all(0 < len(assigned) < SHARING["kafka"]["partitions"] for assigned in parts)

    async def end(self) -> HostSnapshot:
        assert self._running is not None
        self.host.request_stop()
        return await asyncio.wait_for(self._running, 60)


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def trace_of(message: BaseMessage) -> str:
    return message.trace_context["traceparent"].split("-")[1]


@async_test
async def test_a_pipeline_over_three_hosts_handles_everything_in_one_trace_a_message(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    url = brokers.url(scheme)
    first, last = Passing("half"), Handler()
    source, middle, end = (Machine(tmp_path, url, name) for name in ("source", "middle", "end"))
    source.add(Numbers(COUNT), manifest("counter", says=("raw",)))
    middle.add(first, manifest("first", hears=("raw",), says=("half",)))
    end.add(last, manifest("last", hears=("half",)))
    await end.begin()
    await middle.begin()
    await source.run(until_idle=True)
    await until(lambda: len(last.seen) >= COUNT)
    await middle.end()
    await end.end()
    assert sorted(last.data) == list(range(COUNT))
    began = {message.data: trace_of(message) for message in first.seen}
    assert {message.data: trace_of(message) for message in last.seen} == began
    assert len(set(began.values())) == COUNT


@async_test
async def test_a_failing_message_is_retried_and_dead_lettered_with_its_bytes(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    tries: list[Any] = []

    def refuse(message: BaseMessage) -> None:
        tries.append(message.data)
        if message.data == 3:
            raise ValueError("not this one")

    machine = Machine(tmp_path, brokers.url(scheme), "only")
    machine.add(Numbers(6), manifest("counter", says=("raw",)))
    machine.add(Handler(refuse), manifest("refusing", hears=("raw",)))
    final = await machine.run(until_idle=True)
    numbers = {plugin.name: plugin for plugin in final.plugins}["refusing"]
    assert (numbers.processed, numbers.dead_lettered) == (5, 1)
    assert tries == [0, 1, 2, 3, 3, 3, 4, 5]
    with ExitStack() as stack:
        store = DeadLetterStore(tmp_path / "only.sqlite")
        stack.callback(store.close)
        (letter,) = store.newest()
        assert letter.message().data == 3
        assert len(letter.attempts) == 3


@async_test
async def test_a_host_that_joins_takes_part_and_one_that_leaves_loses_nothing(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    brokers.server(scheme).needs(MOVE_PARTITIONS)
    url = brokers.url(scheme, **SHARING.get(scheme, {}))

    async def slowly(message: BaseMessage) -> None:
        # One host alone is slower: some brokers take a second to give another host its part.
        await asyncio.sleep(0.002 if workers[1].seen else 0.02)

    workers = [Handler(slowly), Handler(slowly)]
    leaving, staying, source = (Machine(tmp_path, url, name) for name in ("leaving", "staying", "source"))
    shared = manifest("worker", hears=("raw",), delivery={"queue_limit": 20})
    leaving.add(workers[0], shared)
    staying.add(workers[1], shared)
    source.add(Numbers(COUNT), manifest("counter", says=("raw",)))
    await leaving.begin()
    running = asyncio.create_task(source.run(until_idle=True))
    await until(lambda: len(workers[0].seen) > 20)
    await staying.begin()
    await until(lambda: len(workers[1].seen) > 5)
    await leaving.end()
    await running
    await until(lambda: len({*workers[0].data, *workers[1].data}) == COUNT)
    await staying.end()
    done = [*workers[0].data, *workers[1].data]
    assert set(done) == set(range(COUNT))
    assert len(done) < 1.2 * COUNT


@async_test
async def test_two_versions_of_a_plugin_on_two_hosts_share_its_messages_and_lose_none(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    url = brokers.url(scheme, **SHARING.get(scheme, {}))

    async def slowly(message: BaseMessage) -> None:
        await asyncio.sleep(0.002)

    old, new = Handler(slowly), Handler(slowly)
    first, second, source = (Machine(tmp_path, url, name) for name in ("first", "second", "source"))
    first.add(old, manifest("worker", hears=("raw",), version="1.0.0"))
    second.add(new, manifest("worker", hears=("raw",), version="2.0.0"))
    source.add(Numbers(COUNT), manifest("counter", says=("raw",)))
    await first.begin()
    await second.begin()
    # Where partitions cannot be handed over from a host that is at work, nobody is at work yet.
    await until(lambda: all(machine.has_its_part for machine in (first, second)))
    await source.run(until_idle=True)
    await until(lambda: len({*old.data, *new.data}) == COUNT)
    await first.end()
    await second.end()
    assert old.data
    assert new.data


@async_test
async def test_two_versions_that_hear_different_topics_get_what_is_theirs_and_share_the_rest(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    url = brokers.url(scheme, **SHARING.get(scheme, {}))

    async def slowly(message: BaseMessage) -> None:
        await asyncio.sleep(0.002)

    old, new = Handler(slowly), Handler(slowly)
    first, second = Machine(tmp_path, url, "first"), Machine(tmp_path, url, "second")
    first.add(old, manifest("worker", hears=("both", "old.*"), version="1.0.0"))
    second.add(new, manifest("worker", hears=("both", "new.#"), version="2.0.0"))
    async with open_broker(url) as source:
        await first.begin()
        joining = asyncio.create_task(second.begin())
        numbers = range(COUNT)
        topics = ["both", "old.a", "new", "new.a.b"]
        if MOVE_PARTITIONS not in brokers.server(scheme).lacks:
            for number in numbers:  # while the second one comes, too
                await source.publish("old.a", BaseMessage(source="source", data=f"old.a {number}"))
        await joining
        await until(lambda: all(machine.has_its_part for machine in (first, second)))
        for number in numbers:
            for topic in topics:
                await source.publish(topic, BaseMessage(source="source", data=f"{topic} {number}"))
        theirs = {topic: {f"{topic} {number}" for number in numbers} for topic in topics}
        await until(lambda: theirs["old.a"] <= {*old.data})
        await until(lambda: theirs["new"] | theirs["new.a.b"] <= {*new.data})
        await until(lambda: theirs["both"] <= {*old.data, *new.data})
    assert {message.split()[0] for message in old.data} <= {"both", "old.a"}
    assert {message.split()[0] for message in new.data} <= {"both", "new", "new.a.b"}
    for machine in (first, second):
        assert (await machine.end()).plugins[0].dead_lettered == 0


@async_test
async def test_local_topics_keep_to_the_host_and_its_dead_letters_settle_what_they_came_from(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    def refuse(message: BaseMessage) -> None:
        if message.data == 3:
            raise ValueError("not this one")

    url, first, last = brokers.url(scheme), Passing("half"), Handler(refuse)
    work = Machine(tmp_path, url, "work", local=("half",))
    work.add(first, manifest("first", hears=("raw",), says=("half",)))
    work.add(last, manifest("last", hears=("half",)))
    await work.begin()
    source = Machine(tmp_path, url, "source")
    source.add(Numbers(6), manifest("counter", says=("raw",)))
    await source.run(until_idle=True)
    await until(lambda: {0, 1, 2, 4, 5} <= set(last.data))
    await asyncio.wait_for(work.transport.wait_until_settled(), 60)
    numbers = {plugin.name: plugin for plugin in work.host.snapshot().plugins}
    assert [one.name for one in work.transport._subscriptions] == ["first"]
    assert (numbers["last"].processed, numbers["last"].dead_lettered) == (5, 1)
    await work.end()


@async_test
async def test_what_a_host_that_stops_has_not_handled_locally_comes_to_the_next_one(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    async def hang(message: BaseMessage) -> None:
        begun.set()
        await asyncio.Event().wait()

    url = brokers.url(scheme)
    stopping = Machine(tmp_path, url, "stopping", local=("half",))
    stopping.add(Passing("half"), manifest("first", hears=("raw",), says=("half",)))
    stopping.add(Handler(hang), manifest("last", hears=("half",)))
    await stopping.begin()
    source = Machine(tmp_path, url, "source")
    source.add(Numbers(5), manifest("counter", says=("raw",)))
    running = asyncio.create_task(source.run(until_idle=True))
    await begun.wait()
    stopping.host.abort()
    assert (await stopping.end()).plugins[-1].dead_lettered == 0
    last = Handler()
    following = Machine(tmp_path, url, "following", local=("half",))
    following.add(Passing("half"), manifest("first", hears=("raw",), says=("half",)))
    following.add(last, manifest("last", hears=("half",)))
    await following.begin()
    await running
    await until(lambda: set(last.data) == set(range(5)))
    await following.end()
