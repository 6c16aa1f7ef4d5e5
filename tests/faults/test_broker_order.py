"""What came first is handled first, whatever becomes of connections: on one host, for each broker.

A message may come twice. Of the first time that each comes, the order is that in which they were accepted.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.broker.subscription import BrokerSubscription
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.kafka.transport import KafkaTransport
from faults.test_brokers import BLOWS, until
from runtime.hosting import Handler, manifest
from support.brokers import SCHEMES, Brokers, open_broker
from support.proxy import Proxy
from support.servers import END_SESSIONS, MOVE_PARTITIONS
from transports.test_hosts import Machine

pytestmark = [
    pytest.mark.parametrize("scheme", SCHEMES),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # client libraries, of failed connections
    pytest.mark.timeout(180),
]

PATIENCE_S = 60.0
LOSSES: dict[str, Callable[[Proxy], None]] = {
    "both sides see it": Proxy.cut,
    "the broker does not see it": Proxy.cut_near,
}


class Far:
    """A host behind a proxy, and a source that is not."""

    def __init__(self, proxy: Proxy, host: BrokerTransport, source: BrokerTransport) -> None:
        self.proxy = proxy
        self.host = host
        self.source = source
        self.published = 0

    async def publish(self, count: int) -> None:
        numbers = range(self.published, self.published + count)
        await self.source.publish_batch("a", [BaseMessage(source="source", data=one) for one in numbers])
        self.published += count


@asynccontextmanager
async def far_from(brokers: Brokers, scheme: str, **options: object) -> AsyncIterator[Far]:
    near = brokers.url(scheme, **options)
    async with Proxy(brokers.server(scheme).port) as proxy:
        url = near.replace(f":{brokers.server(scheme).port}", f":{proxy.port}")
        async with open_broker(near) as source, open_broker(url) as host:
            yield Far(proxy, host, source)


async def known_to(source: BrokerTransport, name: str) -> None:
    """Return when what the source publishes is for the queue: on Kafka it hears of it a moment later."""
    if isinstance(source, KafkaTransport):
        await until(lambda: source._registry.patterns(name))


async def handle(reader: BrokerSubscription, enough: Callable[[list[int]], bool]) -> list[int]:
    """Settle one after another what comes; the numbers in the order in which they were handled."""
    handled: list[int] = []
    async with asyncio.timeout(PATIENCE_S):
        while not enough(handled):
            for delivery in await reader.receive(7):
                handled.append(delivery.message.data)
                await delivery.settle()
    return handled


def firsts(handled: Iterable[int]) -> list[int]:
    """Without what came again."""
    return list(dict.fromkeys(handled))


@pytest.mark.parametrize("loss", LOSSES)
@async_test
async def test_what_was_on_its_way_when_the_connection_was_lost_comes_before_what_follows(
    scheme: str, loss: str, brokers: Brokers
) -> None:
    async with far_from(brokers, scheme, lease=4) as far:
        reader = far.host.subscribe("reader", ["a"])
        await reader.until_ready()
        await known_to(far.source, "reader")
        await far.publish(1)
        handled = await handle(reader, lambda handled: len(handled) == 1)
        far.proxy.swallow()
        await far.publish(20)
        await asyncio.sleep(0.3)  # the broker sends them, into the void
        before = far.proxy.connections
        LOSSES[loss](far.proxy)
        far.proxy.mend()
        await far.publish(10)
        await until(lambda: far.proxy.connections > before and far.host.is_connected)
        await asyncio.sleep(0.5)  # the host listens again
        await far.publish(10)
        handled += await handle(reader, lambda now: 40 in now and len({*now}) >= 40)
        assert firsts(handled) == list(range(41))
        await asyncio.wait_for(far.host.wait_until_settled(), PATIENCE_S)


@async_test
async def test_what_is_in_hand_when_the_connection_is_lost_is_settled_before_what_follows(
    scheme: str, brokers: Brokers
) -> None:
    async with far_from(brokers, scheme, lease=4) as far:
        reader = far.host.subscribe("reader", ["a"])
        await reader.until_ready()
        await known_to(far.source, "reader")
        await far.publish(30)
        async with asyncio.timeout(PATIENCE_S):
            held = [*await reader.receive(1)]
            for loss in LOSSES.values():
                loss(far.proxy)
                await far.publish(5)
                held += await reader.receive(3)
        assert [delivery.message.data for delivery in held] == list(range(len(held)))
        for delivery in held:
            await delivery.settle()
        following = await handle(reader, lambda now: 39 in now)
        assert firsts(following) == list(range(len(held), 40))
        await asyncio.wait_for(far.host.wait_until_settled(), PATIENCE_S)


@async_test
async def test_publications_that_are_sent_again_are_not_overtaken(scheme: str, brokers: Brokers) -> None:
    async with far_from(brokers, scheme, lease=4) as far:
        worker = far.host.subscribe("worker", ["a"])
        sink = far.source.subscribe("sink", ["out"])
        await sink.until_ready()
        await worker.until_ready()
        await known_to(far.source, "worker")
        await known_to(far.host, "sink")
        await far.publish(1)
        (delivery,) = await asyncio.wait_for(worker.receive(), PATIENCE_S)
        count = 0
        for _ in range(3 * BLOWS):
            for loss in (*LOSSES.values(), Proxy.cut):
                end = count + 150
                while count < end:  # it does not wait for the broker's answers: many are on their way
                    await far.host.publish("out", delivery.message.derive(count, source="worker"))
                    count += 1
                    if count == end - 75:
                        loss(far.proxy)
                    elif count % 10 == 0:
                        await asyncio.sleep(0.002)
        await delivery.settle()
        handled = await handle(sink, lambda now: len({*now}) == count)
        assert firsts(handled) == list(range(count))


class Steps(Handler):
    """Handles messages of several keys, a few of them never with success, and sees that keys are in order."""

    def __init__(self) -> None:
        super().__init__(self._step)
        self.begun: dict[int, list[int]] = defaultdict(list)
        """By key, in the order in which they began for the first time."""
        self.faults: list[str] = []
        self._at_work: dict[int, int] = {}
        self._done: set[int] = set()

    async def _step(self, message: BaseMessage) -> None:
        key, number = message.data["key"], message.data["number"]
        begun = self.begun[key]
        if key in self._at_work:
            self.faults.append(f"{number} began while {self._at_work[key]} was in hand")
        if number not in begun:
            self.faults += [f"{number} began before {late}" for late in begun if late > number]
            self.faults += [
                f"{number} began, and {open_} had not ended" for open_ in begun if open_ not in self._done
            ]
            begun.append(number)
        self._at_work[key] = number
        try:
            await asyncio.sleep(0.001 * (number % 3))
            if number % 20 == 0:
                raise ValueError("never this one")
        finally:
            del self._at_work[key]
            self._done.add(number)


@async_test
async def test_a_host_with_lanes_keeps_the_messages_of_each_key_in_order(
    scheme: str, brokers: Brokers, tmp_path: Path
) -> None:
    steps, count = Steps(), 0
    near = brokers.url(scheme, lease=4)
    async with Proxy(brokers.server(scheme).port) as proxy, open_broker(near) as source:
        host = Machine(tmp_path, near.replace(f":{brokers.server(scheme).port}", f":{proxy.port}"), "host")
        lanes = {"lanes": 4, "ordering_key": "data.key"}
        host.add(steps, manifest("steps", hears=("a",), delivery=lanes))
        await host.begin()
        await known_to(source, "steps")

        async def publish(more: int) -> None:
            nonlocal count
            data = [{"key": number % 7, "number": number} for number in range(count, count + more)]
            await source.publish_batch("a", [BaseMessage(source="source", data=one) for one in data])
            count += more

        for _ in range(2 * BLOWS):
            for loss in LOSSES.values():
                await publish(100)
                await asyncio.sleep(0.05)
                proxy.swallow()
                await publish(50)
                await asyncio.sleep(0.05)
                loss(proxy)
                proxy.mend()
                await publish(50)
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, steps.begun.values())) < count:
                await asyncio.sleep(0.02)
        await asyncio.wait_for(host.transport.wait_until_settled(), PATIENCE_S)
        final = await host.end()
    assert steps.faults == []
    assert all(begun == sorted(begun) for begun in steps.begun.values())
    assert final.plugins[0].dead_lettered >= count // 20


@async_test
async def test_what_a_host_held_that_was_killed_comes_first_to_the_one_that_is_started_next(
    scheme: str, brokers: Brokers
) -> None:
    brokers.server(scheme).needs(END_SESSIONS)
    near = brokers.url(scheme, lease=20)
    async with Proxy(brokers.server(scheme).port) as proxy, open_broker(near) as source:
        killed = open_broker(near.replace(f":{brokers.server(scheme).port}", f":{proxy.port}"))
        await killed.open()
        reader = killed.subscribe("reader", ["a"])
        await reader.until_ready()
        await until(lambda: killed._wants_said)  # others may hear of it when it is dead
        numbers = iter(range(60))
        for number in range(30):
            await source.publish("a", BaseMessage(source="source", data=next(numbers)))
            if number == 20:
                await asyncio.wait_for(reader.receive(3), PATIENCE_S)
        proxy.cut(refuse=True)  # and no word of good-bye
        for number in numbers:
            await source.publish("a", BaseMessage(source="source", data=number))
        async with open_broker(near) as following:
            again = following.subscribe("reader", ["a"])
            handled = await handle(again, lambda now: len({*now}) == 60)
            assert firsts(handled) == list(range(60))
        await killed.close()


@async_test
async def test_several_hosts_keep_the_messages_of_each_key_in_order(scheme: str, brokers: Brokers) -> None:
    options = {"partitions": 4, "ordering_key": "data.key"} if scheme == "kafka" else {}
    url = brokers.url(scheme, lease=6, **options)
    async with open_broker(url) as source:
        if not source.capabilities.ordered_over_hosts:
            pytest.skip(f"{source.broker} keeps order on one host, not over several")
        brokers.server(scheme).needs(MOVE_PARTITIONS)
        begun: dict[int, dict[int, None]] = defaultdict(dict)

        async def work(reader: BrokerSubscription) -> None:
            async for delivery in reader:
                begun[delivery.message.data["key"]][delivery.message.data["number"]] = None
                await asyncio.sleep(0.001)
                await delivery.settle()

        workers: list[asyncio.Task[None]] = []
        async with AsyncExitStack() as staying, AsyncExitStack() as leaving:
            for number in range(600):
                if number in (0, 100, 200):
                    stack = leaving if number == 100 else staying
                    host = await stack.enter_async_context(open_broker(url))
                    reader = host.subscribe("reader", ["a"])
                    await reader.until_ready()
                    await known_to(source, "reader")
                    workers.append(asyncio.create_task(work(reader)))
                if number == 400:
                    await leaving.aclose()
                data = {"key": number % 7, "number": number}
                await source.publish("a", BaseMessage(source="source", data=data))
            await until(lambda: sum(map(len, begun.values())) == 600)
            assert all(list(numbers) == sorted(numbers) for numbers in begun.values())
        await asyncio.gather(*workers, return_exceptions=True)
