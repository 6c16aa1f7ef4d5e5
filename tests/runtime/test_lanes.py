"""Lanes through the host's public door: what is in flight, and what a failing key holds up."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage
from runtime.hosting import Handler, Numbers, World, manifest

SOURCE = manifest("counting", says=("raw",), plugin_type="source")


@pytest.mark.parametrize("most", [1, 2, 5, 40])
@pytest.mark.parametrize(
    "delivery",
    [{}, {"lanes": 8}, {"lanes": 8, "ordering_key": "data"}, {"batch_size": 16}],
    ids=["one lane", "lanes", "keyed lanes", "batches"],
)
def test_no_more_is_taken_than_may_be_in_flight(tmp_path: Path, most: int, delivery: dict[str, Any]) -> None:
    taken: list[int] = []
    subscription: Any = None

    class Watching(Handler):
        async def process_batch(self, topics: Any, messages: Any) -> Any:
            return [await self.process_message("raw", message) for message in messages]

    async def handle(message: BaseMessage) -> None:
        taken.append(subscription.statistics().unsettled)
        await asyncio.sleep(0)

    world = World(tmp_path)
    subscribe = world.transport.subscribe

    def remember(*args: Any, **more: Any) -> Any:
        nonlocal subscription
        subscription = subscribe(*args, **more)
        return subscription

    world.transport.subscribe = remember  # type: ignore[method-assign]
    world.add(Numbers(200), SOURCE)
    world.add(Watching(handle), manifest("few", hears=("raw",), delivery=delivery | {"max_in_flight": most}))
    final = asyncio.run(world.run())["few"]
    assert final.processed == 200
    assert max(taken) <= most


def test_a_failing_key_holds_only_its_lane(tmp_path: Path) -> None:
    async def scenario() -> None:
        is_down, done = True, list[int]()

        def handle(message: BaseMessage) -> None:
            if message.data["key"] == "bad" and is_down:
                raise ConnectionError("not this one")
            done.append(message.data["n"])

        items = [
            {"n": number, "key": "bad" if number % 10 == 0 else f"k{number % 7}"} for number in range(200)
        ]
        world = World(tmp_path)
        more = {"lanes": 16, "ordering_key": "data.key", "max_attempts": 1_000, "backoff_max_ms": 50}
        world.add(Numbers(items), SOURCE)
        world.add(Handler(handle), manifest("keyed", hears=("raw",), delivery=more))
        running = asyncio.create_task(world.run())
        async with asyncio.timeout(60):
            while len(done) < 180:
                await asyncio.sleep(0.01)
        is_down = False
        assert (await running)["keyed"].processed == 200
        bad = [number for number in done if number % 10 == 0]
        assert bad == sorted(bad)

    asyncio.run(scenario())
