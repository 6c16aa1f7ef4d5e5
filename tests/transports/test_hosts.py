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
from runtime.hosting import Handler, Numbers, manifest
from support.brokers import SCHEMES, Brokers, open_broker

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

    def __init__(self, folder: Path, url: str, name: str) -> None:
        self.dead_letters = DeadLetterStore(folder / f"{name}.sqlite")
        self.telemetry = TelemetryContext.from_config(TelemetryConfig(), environ={})
        self.transport = open_broker(url)
        self.host = Host(
            settings=Settings(host=HostSettings(shutdown_timeout_s=8)),
            transport=self.transport,
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

    async def end(self) -> HostSnapshot:
        assert self._running is not None
        self.host.request_stop()
        return await asyncio.wait_for(self._running, 20)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
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
    url = brokers.url(scheme)

    async def slowly(message: BaseMessage) -> None:
        await asyncio.sleep(0.002)

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
