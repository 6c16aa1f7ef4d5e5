"""Plugins that would rather lose messages than slow those that send them; every lost one is counted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common_telemetry.testing import OtlpReceiver
from echo_core import BaseMessage, Ending, Source
from runtime.hosting import Handler, Numbers, World, manifest
from runtime.test_settlement import Log

SOURCE = manifest("counting", says=("raw",), plugin_type="source")


def slow(name: str, when_full: str, **delivery: Any) -> Any:
    return manifest(name, hears=("raw",), delivery={"queue_limit": 10, "when_full": when_full, **delivery})


class FirstThenOthers(Source):
    """Yields the first number, and the others when that is in hand."""

    def __init__(self, count: int, handler: Handler) -> None:
        self.count = count
        self.handler = handler

    async def produce(self) -> AsyncIterator[int]:
        yield 0
        while not self.handler.seen:
            await asyncio.sleep(0)
        for number in range(1, self.count):
            yield number


class Gate:
    """Lets no message through before `others` have seen everything."""

    def __init__(self, others: Handler, count: int) -> None:
        self._others = others
        self._count = count

    async def __call__(self, message: BaseMessage) -> None:
        while len(self._others.seen) < self._count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("when_full", ["shed_newest", "shed_oldest"])
def test_what_is_kept_is_the_oldest_or_the_newest_and_nobody_is_slowed(
    tmp_path: Path, when_full: str
) -> None:
    world, quick = World(tmp_path), Handler()
    busy = Handler(Gate(quick, 500))
    world.add(FirstThenOthers(500, busy), SOURCE)
    world.add(busy, slow("busy", when_full))
    world.add(quick, manifest("quick", hears=("raw",)))
    final = asyncio.run(world.run())

    # The first was in hand before the others came; the source was never slowed, or this would not end.
    kept = range(1, 11) if when_full == "shed_newest" else range(490, 500)
    assert busy.data == [0, *kept]
    assert final["quick"].processed == 500
    assert final["busy"].shed == {"queue_full": 489}
    assert (final["busy"].received, final["busy"].queue, final["busy"].in_hand) == (11, 0, 0)
    assert world.dead_letters.count() == 0


def test_lanes_with_a_key_stay_in_order_while_messages_are_shed(tmp_path: Path) -> None:
    world, quick = World(tmp_path), Handler()
    gate, done = Gate(quick, 300), dict[int, list[int]]()

    async def handle(message: BaseMessage) -> None:
        await gate(message)
        done.setdefault(message.data["key"], []).append(message.data["n"])

    world.add(Numbers([{"key": n % 5, "n": n} for n in range(300)]), SOURCE)
    world.add(Handler(handle), slow("keyed", "shed_oldest", lanes=4, ordering_key="data.key"))
    world.add(quick, manifest("quick", hears=("raw",)))
    final = asyncio.run(world.run())

    assert final["keyed"].processed + final["keyed"].shed["queue_full"] == 300
    assert final["keyed"].processed < 50
    assert all(numbers == sorted(numbers) for numbers in done.values())


def test_a_stop_keeps_what_was_not_shed(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, quick = World(tmp_path, shutdown_timeout_s=0.2), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        stuck = Handler(hang)
        world.add(FirstThenOthers(50, stuck), SOURCE)
        world.add(stuck, slow("stuck", "shed_newest"))
        world.add(quick, manifest("quick", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        while len(quick.seen) < 50:
            await asyncio.sleep(0.001)
        queue = {plugin.name: plugin.queue for plugin in world.host.snapshot().plugins}
        assert queue["stuck"] == 10
        world.host.request_stop()
        final = await running
        assert final["stuck"].dead_lettered + final["stuck"].shed["queue_full"] == 50
        kept = [letter.message().data for letter in reversed(world.dead_letters.newest())]
        assert kept == list(range(final["stuck"].dead_lettered))

    asyncio.run(scenario())


def test_a_source_is_told_what_was_shed(tmp_path: Path) -> None:
    world, log, quick = World(tmp_path), Log(range(50)), Handler()
    world.add(log, manifest("log", says=("raw",), plugin_type="source"))
    world.add(Handler(Gate(quick, 50)), slow("busy", "shed_oldest"))
    world.add(quick, manifest("quick", hears=("raw",)))
    final = asyncio.run(world.run())
    shed = [data for data, ending in log.told if ending is Ending.SHED]
    assert len(shed) == final["busy"].shed["queue_full"] > 0
    assert len(log.told) == 50


def test_each_shed_message_is_measured_by_reason(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        world, quick = World(tmp_path, otel=receiver.environ()), Handler()
        world.add(Numbers(100), SOURCE)
        world.add(Handler(Gate(quick, 100)), slow("busy", "shed_oldest"))
        world.add(quick, manifest("quick", hears=("raw",)))
        final = asyncio.run(world.run())
        points = [point for point in receiver.metrics() if point.name == "plugin.message.shed"]
    newest = points[-1]
    assert newest.value == final["busy"].shed["queue_full"]
    assert (newest.attributes["plugin.name"], newest.attributes["message.topic"]) == ("busy", "raw")
    assert newest.attributes["reason"] == "queue_full"
