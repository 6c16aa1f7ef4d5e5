"""All that a host does leaves the event loop to others often enough, whoever floods whom."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.errors import QueueFull
from echo_core.runtime import lane, source_context
from echo_core.runtime.context import AT_ONCE
from echo_core.transports import memory, turn
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, Numbers, World, manifest

PUBLICATION_S = 0.000_01
"""What one takes by the clock of these tests; about as much as it takes with everything traced."""
ROUND_S = 0.003
"""2 ms at most, and what a publisher does before it asks for the time."""


class Clock(MemoryTransport):
    """Time goes on with each message that is published, and with nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.now = time.monotonic()  # deadlines are held by the real one

    async def publish(self, topic: str, message: BaseMessage) -> None:
        self.now += PUBLICATION_S
        await super().publish(topic, message)

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        self.now += PUBLICATION_S * len(messages)
        await super().publish_batch(topic, messages)


@pytest.mark.parametrize("publishers", [1, 10, 100])
def test_plugins_that_make_hundreds_of_one_message_keep_no_timer_waiting(
    tmp_path: Path, publishers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rounds, each = Clock(), list[float](), 20_000 // publishers
    for module in (lane, source_context, turn):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)

    class Amplifier(Handler):
        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            for number in range(each):
                await self.context.publish("many", number)
            return ProcessingStatus.ACKNOWLEDGED

    async def scenario() -> None:
        world, sink = World(tmp_path, transport=clock), Handler()
        world.add(Numbers(1), manifest("counting", says=("one",), plugin_type="source"))
        for number in range(publishers):
            world.add(Amplifier(), manifest(f"amplifier_{number}", hears=("one",), says=("many",)))
        world.add(sink, manifest("sink", hears=("many",)))
        running = asyncio.create_task(world.run())
        while not running.done():
            began = clock.now
            await asyncio.sleep(0)
            rounds.append(clock.now - began)
        assert len(sink.seen) == publishers * each

    asyncio.run(scenario())
    assert max(rounds) < ROUND_S


def test_a_thousand_publications_that_are_refused_keep_no_timer_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal costs more than a message does: an exception, with its stack in a span and a log record."""
    clock, rounds = Clock(), list[float]()
    for module in (lane, source_context, turn):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    refuse = memory._overflow

    def refused(subscription: memory.MemorySubscription, topic: str) -> QueueFull:
        clock.now += 0.000_5
        return refuse(subscription, topic)

    monkeypatch.setattr(memory, "_overflow", refused)

    class OfItsOwn(Handler):
        """Publishes to itself, far more than there is room for."""

        refused = 0

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            if topic == "one":
                made = (self.context.publish("many", number) for number in range(1_000))
                results = await asyncio.gather(*made, return_exceptions=True)
                self.refused = sum(isinstance(result, QueueFull) for result in results)
            return ProcessingStatus.ACKNOWLEDGED

    async def scenario() -> None:
        world, circle = World(tmp_path, transport=clock, max_in_flight_messages=200), OfItsOwn()
        world.add(Numbers(1), manifest("counting", says=("one",), plugin_type="source"))
        world.add(circle, manifest("circle", hears=("one", "many"), says=("many",)))
        running = asyncio.create_task(world.run())
        while not running.done():
            began = clock.now
            await asyncio.sleep(0)
            rounds.append(clock.now - began)
        assert circle.refused > 500

    asyncio.run(scenario())
    # What `gather` begins all at once, a publication each, and no more than that.
    assert max(rounds) < 1_000 * PUBLICATION_S + ROUND_S


def test_many_that_are_published_at_once_keep_no_timer_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rounds, counts = Clock(), list[float](), list[int]()
    for module in (lane, source_context, turn):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)

    class ManyAtOnce(Handler):
        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            made = await self.context.publish_batch("many", range(10_000))
            counts.append(len(made))
            assert [one.data for one in made] == list(range(10_000))
            return ProcessingStatus.ACKNOWLEDGED

    async def scenario() -> None:
        world, sink = World(tmp_path, transport=clock), Handler()
        world.add(Numbers(2), manifest("counting", says=("one",), plugin_type="source"))
        world.add(ManyAtOnce(), manifest("amplifier", hears=("one",), says=("many",)))
        world.add(sink, manifest("sink", hears=("many",)))
        running = asyncio.create_task(world.run())
        while not running.done():
            began = clock.now
            await asyncio.sleep(0)
            rounds.append(clock.now - began)
        assert sink.data == [*range(10_000)] * 2

    asyncio.run(scenario())
    assert counts == [10_000, 10_000]
    assert max(rounds) < AT_ONCE * PUBLICATION_S + ROUND_S < 0.02
