"""What the memory transport promises beyond the contract: bounds over all its queues, whatever the graph."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence

import pytest

from echo_core.errors import QueueFull
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.base import Bounds, Subscription
from echo_core.transports.memory import MemoryTransport


def message(data: object = None, source: str = "test") -> BaseMessage:
    return BaseMessage(source=source, data=data)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def publish_all(transport: MemoryTransport, topic: str, messages: Sequence[BaseMessage]) -> None:
    for each in messages:
        await transport.publish(topic, each)


async def handle(subscription: Subscription, work: Callable[[BaseMessage], Awaitable[None]]) -> None:
    async for delivery in subscription:
        await work(delivery.message)
        await delivery.settle()


@async_test
async def test_thousands_of_publishers_at_once_are_held_back_before_they_put_anything() -> None:
    async with MemoryTransport() as transport, transport.subscribe("slow", ["a"], queue_limit=10) as slow:
        publishing = asyncio.gather(*(transport.publish("a", message(n)) for n in range(5_000)))
        await turns()
        assert slow.statistics().waiting == 16
        most = 0
        came: list[object] = []
        while len(came) < 5_000:
            most = max(most, slow.statistics().waiting)
            for delivery in await slow.receive(64):
                came.append(delivery.message.data)
                await delivery.settle()
        await publishing
        assert most <= 16
        assert came == list(range(5_000))


@async_test
async def test_publishers_that_give_up_while_they_wait_hold_up_no_others() -> None:
    async with MemoryTransport() as transport, transport.subscribe("slow", ["a"], queue_limit=1) as slow:
        publishers = [asyncio.ensure_future(transport.publish("a", message(n))) for n in range(20)]
        await turns()
        for publisher in publishers[2:-1]:
            publisher.cancel()
        taken = [*await slow.receive(10), *await slow.receive(10)]
        for publisher in publishers[2:-1]:
            publisher.cancel()
        await turns()
        taken += await asyncio.wait_for(slow.receive(10), 60)
        assert [delivery.message.data for delivery in taken] == [0, 1, 19]


@async_test
async def test_a_source_at_a_queue_that_a_cycle_has_filled_waits_and_gets_no_error() -> None:
    async with MemoryTransport() as transport, transport.subscribe("loop", ["a"], queue_limit=2) as loop:
        for number in range(50):  # a plugin that publishes to itself
            await transport.publish("a", message(number, source="loop"))
        from_outside = asyncio.ensure_future(transport.publish("a", message("outside")))
        await turns()
        assert loop.statistics().waiting == 50
        came: list[object] = []
        while "outside" not in came:
            for delivery in await loop.receive(10):
                came.append(delivery.message.data)
                await delivery.settle()
        await from_outside
        assert came == [*range(50), "outside"]


@async_test
async def test_what_cycles_pile_up_is_bounded_and_one_without_end_leaves_room_for_others() -> None:
    async with MemoryTransport() as transport:
        transport.limit(Bounds(messages=4_000))
        transport.subscribe("endless", ["endless"], queue_limit=10)
        transport.subscribe("other", ["other"], queue_limit=10)
        with pytest.raises(QueueFull, match="'endless' is at its hard bound"):
            await publish_all(transport, "endless", [message(source="endless")] * 10_000)
        assert transport.unsettled() <= 10 + 500  # half of the pool
        await publish_all(transport, "other", [message(source="other")] * 200)
        assert transport.unsettled() <= 4_000


@async_test
async def test_all_queues_together_stay_within_the_bound_whatever_each_of_them_may_hold() -> None:
    async with MemoryTransport() as transport:
        transport.limit(Bounds(messages=1_000))
        readers = [transport.subscribe(f"r{n}", ["a"], queue_limit=1_000) for n in range(20)]
        publishing = asyncio.gather(*(transport.publish("a", message(n)) for n in range(200)))
        await turns()
        assert transport.unsettled() <= 1_000
        assert all(reader.statistics().waiting >= 10 for reader in readers)
        for reader in readers[1:]:
            await reader.close()
        left: list[object] = []
        while len(left) < 200:
            left += [delivery.message.data for delivery in await readers[0].receive(64)]
        await publishing
        assert left == list(range(200))


@pytest.mark.parametrize("size", [1_000, 100_000, 5_000_000])
@async_test
async def test_large_messages_make_the_queues_shorter(size: int) -> None:
    bound = 20_000_000
    async with MemoryTransport() as transport, transport.subscribe("slow", ["a"]) as slow:
        transport.limit(Bounds(bytes=bound))
        small, unmeasured = 100, 15
        await publish_all(transport, "a", [message(b"")] * small)
        publishing = asyncio.create_task(publish_all(transport, "a", [message(b"x" * size)] * 2_000))
        await turns()
        waiting = slow.statistics().waiting - small
        assert 1 <= waiting <= bound / size + unmeasured
        publishing.cancel()


@async_test
async def test_a_source_waits_for_the_queue_that_its_messages_fill_and_others_pass_the_same_plugin() -> None:
    """Both a and b go through `hub`; the sink of a stands still."""
    async with MemoryTransport() as transport:
        hub = transport.subscribe("hub", ["in.*"], queue_limit=100)
        transport.subscribe("stuck", ["out.a"], queue_limit=100)
        free = transport.subscribe("free", ["out.b"], queue_limit=100)
        arrived = 0

        async def pass_on(arriving: BaseMessage) -> None:
            await transport.publish(f"out.{arriving.source}", arriving.derive(None, source="hub"))

        async def count(arriving: BaseMessage) -> None:
            nonlocal arrived
            arrived += 1

        async def source(name: str) -> None:
            while True:
                while (room := transport.congestion(name)) is not None:
                    await room
                await transport.publish(f"in.{name}", message(source=name))
                await asyncio.sleep(0)

        tasks = [
            asyncio.create_task(work)
            for work in (handle(hub, pass_on), handle(free, count), source("a"), source("b"))
        ]
        await turns(200)
        before = arrived
        await turns(1_000)
        assert arrived - before > 100
        for task in tasks:
            task.cancel()


@async_test
async def test_many_subscriptions_are_made_quickly_enough_to_be_counted_in_shares() -> None:
    async with MemoryTransport() as transport:
        made = [transport.subscribe(f"s{n}", [f"t.{n}"]) for n in range(1_000)]
        assert sum(subscription.queue_limit for subscription in made) <= 25_000
        for subscription in made[1:]:
            await subscription.close()
        assert made[0].queue_limit == 1_000


@pytest.mark.parametrize("subscribed", [True, False])
@async_test
async def test_a_publisher_that_never_waits_leaves_the_loop_to_others_now_and_then(
    subscribed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemoryTransport() as transport:
        if subscribed:
            transport.subscribe("reader", ["a"], queue_limit=10_000)
        monkeypatch.setattr("echo_core.transports.turn.monotonic", itertools.count().__next__)  # a round each
        publishing = asyncio.create_task(publish_all(transport, "a", [message()] * 3_200))
        rounds = 0
        while not publishing.done():
            await asyncio.sleep(0)
            rounds += 1
        assert rounds >= 40
