"""Brokers that are killed, cut off, slowed and robbed under load: nothing accepted is lost, and order holds.

Each fault comes once or twice here, and fifty times in `make faults` (`ECHO_CORE_KILLS`).
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.base import Subscription
from echo_core.transports.broker.transport import BrokerTransport
from support.brokers import FAULTS, SCHEMES, Brokers, open_broker
from support.proxy import Proxy
from support.servers import SURVIVE_A_KILL, Server

BLOWS = max(1, (int(os.environ.get("ECHO_CORE_KILLS", "50")) - 50) // 19)
"""50 in `make faults`."""
PATIENCE_S = 60.0
WRITTEN_S = {"amqp": 3.5}
"""RabbitMQ forgets a quorum queue, and what it confirmed, that it is killed within 3 seconds of making."""

pytestmark = [
    pytest.mark.parametrize("scheme", SCHEMES),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # client libraries, of failed connections
    pytest.mark.timeout(180 + 30 * BLOWS),
]


class Load:
    """A source, a plugin that passes on, and a sink, at work on one transport."""

    def __init__(self, transport: BrokerTransport) -> None:
        self.transport = transport
        self.accepted: list[int] = []
        self.came: Counter[int] = Counter()
        self.worked: list[int] = []
        """What the plugin in the middle has handled, in its order."""
        self.order: list[int] = []
        """What the sink has."""
        self._workers = [
            asyncio.create_task(self._pass_on(transport.subscribe("worker", ["load.in"]))),
            asyncio.create_task(self._sink(transport.subscribe("sink", ["load.out"]))),
        ]
        self._source: asyncio.Task[None] | None = None

    async def _pass_on(self, subscription: Subscription) -> None:
        while True:
            for delivery in await subscription.receive(64):
                self.worked.append(delivery.message.data)
                made = delivery.message.derive(delivery.message.data, source="worker")
                await self.transport.publish("load.out", made)
                await delivery.settle()

    async def _sink(self, subscription: Subscription) -> None:
        while True:
            for delivery in await subscription.receive(64):
                self.came[delivery.message.data] += 1
                self.order.append(delivery.message.data)
                await delivery.settle()

    def begin(self) -> None:
        """Publish from now on."""
        self._source = asyncio.create_task(self._produce())

    async def _produce(self) -> None:
        number = 0
        while True:
            await self.transport.publish("load.in", BaseMessage(source="source", data=number))
            self.accepted.append(number)
            number += 1
            await asyncio.sleep(0.001)

    async def flows(self) -> None:
        """Return when a hundred messages more have come than now."""
        enough = len(self.order) + 100
        async with asyncio.timeout(PATIENCE_S):
            while len(self.order) < enough:
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Publish no more, and return when everything that was accepted has come."""
        assert self._source is not None
        self._source.cancel()
        await asyncio.wait([self._source])
        async with asyncio.timeout(PATIENCE_S):
            while set(self.accepted) - set(self.came):
                await asyncio.sleep(0.02)
            await self.transport.wait_until_settled()
        self.must_be_in_order()

    def must_be_in_order(self) -> None:
        """What came first was handled first, by each of the two; what came twice is looked at once."""
        for handled in (self.worked, self.order):
            first = list(dict.fromkeys(handled))
            late = [number for number, before in zip(first[1:], first, strict=False) if number < before]
            assert not late, f"these were handled after later ones: {late[:20]}"

    async def leave(self) -> None:
        """End the workers."""
        for worker in (*self._workers, *([self._source] if self._source else [])):
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker


@asynccontextmanager
async def load_on(url: str) -> AsyncIterator[Load]:
    async with open_broker(url) as transport:
        load = Load(transport)
        try:
            load.begin()
            await load.flows()
            yield load
        finally:
            await load.leave()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


def through(proxy: Proxy, scheme: str) -> str:
    return f"{scheme}://127.0.0.1:{proxy.port}/?prefix=load&lease=2"


@async_test
async def test_a_server_that_is_killed_and_started_again_loses_nothing(scheme: str) -> None:
    with FAULTS[scheme]() as server:
        server.needs(SURVIVE_A_KILL)
        async with load_on(f"{scheme}://127.0.0.1:{server.port}/?prefix=load&lease=2") as load:
            await asyncio.sleep(WRITTEN_S.get(scheme, 0))
            for _ in range(BLOWS):
                await asyncio.sleep(random.uniform(0, 0.3))
                await asyncio.to_thread(server.kill)
                await until(load.transport.trouble)
                await asyncio.to_thread(server.start)
                await load.flows()
                assert load.transport.trouble() == ""
            await load.end()


@async_test
async def test_a_connection_that_is_cut_again_and_again_loses_nothing(scheme: str, brokers: Brokers) -> None:
    async with Proxy(brokers.server(scheme).port) as proxy:
        url = brokers.url(scheme, lease=2).replace(f":{brokers.server(scheme).port}", f":{proxy.port}")
        async with load_on(url) as load:
            for _ in range(2 * BLOWS):
                await asyncio.sleep(random.uniform(0, 0.2))
                proxy.cut()
                await load.flows()
            await load.end()
            twice = sum(count - 1 for count in load.came.values())
            assert twice < len(load.came)  # at least once is no licence to say everything twice


@async_test
async def test_a_slow_connection_slows_and_keeps_everything_in_order(scheme: str, brokers: Brokers) -> None:
    async with Proxy(brokers.server(scheme).port) as proxy:
        url = brokers.url(scheme).replace(f":{brokers.server(scheme).port}", f":{proxy.port}")
        async with load_on(url) as load:
            proxy.delay_s = 0.005
            await load.flows()
            proxy.delay_s = 0.0
            await load.end()
            assert load.order == list(range(len(load.order)))


@async_test
async def test_a_broker_that_lost_its_queues_gets_them_back(
    scheme: str, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    url = brokers.url(scheme, prefix="robbed", lease=2)
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a.#"])
        await transport.publish("a", BaseMessage(source="test", data="before"))
        (held,) = await reader.receive()
        await ROBBERS[scheme](brokers.server(scheme))
        await held.settle()  # of a queue that is no more; that is no error
        async with asyncio.timeout(PATIENCE_S):
            await transport.publish("a.b", BaseMessage(source="test", data="after"))
            await transport.publish("a", BaseMessage(source="test", data="last"))
            came: list[Any] = []
            while "last" not in came:
                for delivery in await reader.receive(8):
                    came.append(delivery.message.data)
                    await delivery.settle()
            await transport.wait_until_settled()
            while transport.trouble() or "works again" not in caplog.text:
                await asyncio.sleep(0.02)
        assert came[-1] == "last"


@async_test
async def test_what_is_published_for_a_host_that_is_away_when_the_broker_loses_its_queue_waits_for_it(
    scheme: str, brokers: Brokers
) -> None:
    if scheme == "kafka":
        pytest.skip("what Kafka has lost is made by the hosts that read it")
    server = brokers.server(scheme)
    path = "?prefix=robbed&lease=2"
    async with (
        Proxy(server.port) as proxy,
        open_broker(f"{scheme}://127.0.0.1:{proxy.port}/{path}") as away,
        open_broker(f"{scheme}://127.0.0.1:{server.port}/{path}") as here,
    ):
        reader, _ = away.subscribe("reader", ["a.#"]), here.subscribe("other", ["b"])
        for transport in (away, here):
            await transport.wait_until_collecting()
        await until(lambda: here.peers.share("reader"))
        proxy.cut(refuse=True)
        await until(lambda: not away.is_connected)
        await ROBBERS[scheme](server)
        publishing = asyncio.create_task(here.publish("a.b", BaseMessage(source="test", data="mine")))
        await asyncio.wait([publishing], timeout=3)  # it waits on RabbitMQ
        proxy.mend()
        async with asyncio.timeout(PATIENCE_S):
            await publishing
            while (delivery := (await reader.receive())[0]).message.data != "mine":
                await delivery.settle()


async def _delete_stream(server: Server) -> None:
    import nats

    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    await client.jetstream().delete_stream("ROBBED")
    await client.close()


async def _delete_keys(server: Server) -> None:
    from redis.asyncio import Redis

    async with Redis(port=server.port) as client:
        await client.delete(*[key async for key in client.scan_iter("{robbed}*")])


async def _delete_queue(server: Server) -> None:
    import aiormq

    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{server.port}/")
    channel = await connection.channel()
    await channel.queue_delete("robbed.reader")
    await connection.close()


async def _delete_topics(server: Server) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{server.port}")
    await client.start()
    await client.delete_topics(["robbed", "robbed.reader"])
    await client.close()


ROBBERS: dict[str, Callable[[Server], Awaitable[None]]] = {
    "nats": _delete_stream,
    "redis": _delete_keys,
    "amqp": _delete_queue,
    "kafka": _delete_topics,
}
