"""What befalls brokers beside being killed: after each nothing accepted is lost, and nobody restarts a host.

While it lasts `trouble()` says what is wrong, which `echo-core status` shows; when it is over, nothing.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echo_core.message import BaseMessage
from echo_core.testing import async_test
from faults.test_brokers import BLOWS, PATIENCE_S, WRITTEN_S, load_on, until
from support.brokers import SHARING, Brokers, kafka_on, open_broker
from support.namespace import Namespace, namespace
from support.operators import GUARDED, RabbitOperator, fill, small_disk
from support.proxy import Proxy
from support.servers import (
    END_SESSIONS,
    MOVE_PARTITIONS,
    REFUSE_WHEN_FULL,
    SURVIVE_A_KILL,
    nats_server,
    rabbitmq_server,
    redis_server,
)

THOROUGH = BLOWS > 1
"""In `make faults`; some of these take half a minute each."""
SCHEMES = ("nats", "redis", "amqp", "kafka") if THOROUGH else ("nats", "kafka")
thorough = pytest.mark.skipif(not THOROUGH, reason="takes long: make faults")
LEASES_S = {"kafka": 6}
"""The shortest, where it is longer than is asked for."""
MEMBER = Path(__file__).parent / "member.py"

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # client libraries, of failed connections
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme in GUARDED])
@async_test
async def test_credentials_that_are_revoked_and_given_back_lose_nothing(scheme: str) -> None:
    with GUARDED[scheme]() as guarded:
        async with load_on(f"{guarded.url}?prefix=load&lease=2") as load:
            await asyncio.to_thread(guarded.revoke)
            await until(load.transport.trouble)
            accepted = len(load.accepted)
            await asyncio.sleep(1)
            assert load.transport.trouble()
            assert len(load.accepted) <= accepted + 1
            await asyncio.to_thread(guarded.restore)
            await load.flows()
            await load.end()
            assert load.transport.trouble() == ""


class Member:
    """A host in a process of its own, perhaps behind a cable."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.got: Counter[int] = Counter()
        self.trouble = ""
        self._process = process
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "got" in said:
                self.got[said["got"]] += 1
            else:
                self.trouble = said["trouble"]

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def member(url: str, apart: Namespace | None = None) -> AsyncIterator[Member]:
    command = [*(apart.prefix if apart else []), sys.executable, str(MEMBER), url, "worker"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    one = Member(process)
    try:
        yield one
    finally:
        await one.end()


@thorough
@pytest.mark.parametrize("scheme", SCHEMES)
@async_test
async def test_a_host_that_is_cut_off_from_the_network_loses_its_work_to_others_and_comes_back(
    scheme: str, brokers: Brokers
) -> None:
    server = brokers.server(scheme)
    server.needs(MOVE_PARTITIONS, END_SESSIONS)
    url = brokers.url(scheme, **SHARING.get(scheme, {}))  # the lease is the default
    async with AsyncExitStack() as stack:
        cable = stack.enter_context(namespace())
        way = await stack.enter_async_context(Proxy(server.port, cable.address))
        far_url = url.replace(f"127.0.0.1:{server.port}", f"{cable.address}:{way.port}")
        transport = await stack.enter_async_context(open_broker(url))
        sink = transport.subscribe("sink", ["load.out"])
        await transport.subscribe("worker", ["load.in"]).close()  # its queue is there from now on
        far = await stack.enter_async_context(member(far_url, cable))
        near = await stack.enter_async_context(member(url))
        came: Counter[int] = Counter()

        async def collect() -> None:
            while True:
                for delivery in await sink.receive(64):
                    came[delivery.message.data] += 1
                    await delivery.settle()

        collecting = asyncio.create_task(collect())
        accepted = 0

        async def publish(count: int) -> None:
            nonlocal accepted
            for _ in range(count):
                await transport.publish("load.in", BaseMessage(source="source", data=accepted))
                accepted += 1

        while not (far.got and near.got):
            await publish(20)
            await asyncio.sleep(0.1)
        await publish(200)
        cable.pull()
        pulled = time.monotonic()
        await publish(100)
        await until(lambda: len(came) == accepted)
        assert time.monotonic() - pulled < 10 + PATIENCE_S / 2  # the lease, and room for a busy machine
        await until(lambda: far.trouble)
        cable.plug()
        await until(lambda: not far.trouble)
        before = sum(far.got.values())
        while sum(far.got.values()) <= before + 5:  # it takes part again, and was not started again
            await publish(20)
            await asyncio.sleep(0.1)
        await until(lambda: len(came) == accepted)
        await asyncio.wait_for(transport.wait_until_settled(), PATIENCE_S)
        collecting.cancel()


@async_test
async def test_a_disk_that_is_full_holds_redis_up_and_loses_nothing() -> None:
    with small_disk(16) as disk, redis_server("--dir", str(disk)) as server:
        async with load_on(f"redis://127.0.0.1:{server.port}/?prefix=load&lease=2") as load:
            filler = fill(disk)
            await until(load.transport.trouble)
            assert "space" in load.transport.trouble()
            filler.unlink()
            await load.flows()
            await load.end()
            assert load.transport.trouble() == ""


@async_test
async def test_a_disk_that_is_full_holds_kafka_up_and_loses_nothing() -> None:
    with small_disk(256) as disk, kafka_on(disk) as server:
        server.needs(REFUSE_WHEN_FULL, SURVIVE_A_KILL)
        async with load_on(f"kafka://127.0.0.1:{server.port}/?prefix=load") as load:
            filler = fill(disk)
            await until(load.transport.trouble)
            filler.unlink()
            if not server.is_running:  # Apache Kafka ends when it has no disk to write to
                await asyncio.to_thread(server.start)
            await load.flows()
            await load.end()
            assert load.transport.trouble() == ""


@pytest.mark.parametrize("scheme", SCHEMES)
@async_test
async def test_a_host_that_answers_nobody_for_longer_than_its_lease_gets_everything_in_order(
    scheme: str, brokers: Brokers
) -> None:
    async with load_on(brokers.url(scheme, lease=2)) as load:
        for _ in range(2):
            time.sleep(LEASES_S.get(scheme, 2) + 1)  # noqa: ASYNC251  (a plugin that blocks the loop)
            await load.flows()
        await load.end()


@async_test
async def test_a_stream_without_room_holds_nats_up_and_loses_nothing(tmp_path: Path) -> None:
    config = tmp_path / "server.conf"
    config.write_text("jetstream { max_file_store: 2MB }")
    with nats_server("--config", str(config)) as server:
        async with open_broker(f"nats://127.0.0.1:{server.port}/?prefix=load") as transport:
            reader = transport.subscribe("reader", ["load"], queue_limit=10_000)
            accepted: list[int] = []

            async def fill() -> None:
                for number in range(400):
                    message = BaseMessage(source="source", data={"number": number, "text": "x" * 10_000})
                    await transport.publish("load", message)
                    accepted.append(number)

            filling = asyncio.create_task(fill())
            await until(transport.trouble)
            assert "resource" in transport.trouble() or "storage" in transport.trouble()
            assert len(accepted) < 400
            came: dict[int, None] = {}
            async with asyncio.timeout(PATIENCE_S):
                while len(came) < 400:
                    for delivery in await reader.receive(16):
                        came[delivery.message.data["number"]] = None
                        await delivery.settle()
                await filling
            assert list(came) == list(range(400))
            assert transport.trouble() == ""


@thorough
@async_test
async def test_a_disk_alarm_holds_rabbitmq_up_and_loses_nothing() -> None:
    with rabbitmq_server() as server:
        operator = RabbitOperator(server)
        async with load_on(f"amqp://127.0.0.1:{server.port}/?prefix=load&lease=2") as load:
            await asyncio.sleep(WRITTEN_S["amqp"])
            await asyncio.to_thread(operator.call, "set_disk_free_limit", "100000000000000")
            held = len(load.accepted)
            await until(lambda: load.transport.trouble() or len(load.accepted) > held + 2_000)
            assert "short of memory or disk" in load.transport.trouble()
            await asyncio.to_thread(operator.call, "set_disk_free_limit", "1000000")
            await load.flows()
            await load.end()
            assert load.transport.trouble() == ""


@async_test
async def test_a_consumer_so_slow_that_nats_throws_it_out_gets_everything(tmp_path: Path) -> None:
    config = tmp_path / "server.conf"
    config.write_text("max_payload: 64KB\nmax_pending: 1MB\nwrite_deadline: '200ms'")
    count, text = 600, "x" * 40_000
    with nats_server("--config", str(config)) as server:
        url = f"nats://127.0.0.1:{server.port}/?prefix=load&lease=2"
        async with open_broker(url) as source, open_broker(url) as transport:
            await source.subscribe("reader", ["load"]).close()  # its queue is there from now on
            for number in range(count):
                await source.publish("load", BaseMessage(source="source", data=[number, text]))
            reader = transport.subscribe("reader", ["load"])
            came: Counter[int] = Counter()
            async with asyncio.timeout(PATIENCE_S):
                while len(came) < count:
                    for delivery in await reader.receive(8):
                        came[delivery.message.data[0]] += 1
                        await delivery.settle()
                    while "Slow Consumer" not in server.said:
                        time.sleep(0.05)  # noqa: ASYNC251  (a plugin that blocks the loop)
                await transport.wait_until_settled()
            assert list(came) == list(range(count))


@pytest.mark.parametrize("scheme", SCHEMES)
@async_test
async def test_a_message_that_was_published_twice_is_delivered_twice_and_ends_twice(
    scheme: str, brokers: Brokers
) -> None:
    async with open_broker(brokers.url(scheme)) as transport:
        reader = transport.subscribe("reader", ["a"])
        message = BaseMessage(source="test", data=1)
        for _ in range(2):
            await transport.publish("a", message)
        ids: list[str] = []
        while len(ids) < 2:
            for delivery in await asyncio.wait_for(reader.receive(2), PATIENCE_S):
                ids.append(delivery.message.id)
                await delivery.settle()
        assert ids == [message.id] * 2
        await asyncio.wait_for(transport.wait_until_settled(), PATIENCE_S)
