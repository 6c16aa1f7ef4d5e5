"""What is RabbitMQ's own: its exchange and queues, its credentials and refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiormq
import pytest

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.urls import transport_for
from support.brokers import Brokers, once, open_broker
from support.servers import certificates, rabbitmq_server

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see conftest.py


@asynccontextmanager
async def operator(port: int, vhost: str = "") -> AsyncIterator[Any]:
    connection = await aiormq.connect(f"amqp://guest:guest@127.0.0.1:{port}/{vhost}")
    try:
        yield await connection.channel()
    finally:
        await connection.close()


@async_test
async def test_exchange_and_queue_are_named_as_documented_and_nothing_settled_stays(brokers: Brokers) -> None:
    await once(brokers.url("amqp", prefix="some.system"))
    async with operator(brokers.server("amqp").port) as channel:
        await channel.exchange_declare("some.system", passive=True)
        queue = await channel.queue_declare("some.system.reader", passive=True)
        assert queue.message_count == 0


@async_test
async def test_what_somebody_else_publishes_arrives_as_bytes(brokers: Brokers) -> None:
    async with transport_for(brokers.url("amqp", prefix="foreign")) as transport:
        reader = transport.subscribe("reader", ["a.#"])
        await transport.publish("a", BaseMessage(source="test", data="ours"))
        async with operator(brokers.server("amqp").port) as channel:
            await channel.basic_publish(b"{not ours}", exchange="foreign", routing_key="a.b")
        came = [*await asyncio.wait_for(reader.receive(2), 20)]
        while len(came) < 2:
            came += await asyncio.wait_for(reader.receive(2), 20)
        assert [(one.message.source, one.message.data) for one in came] == [
            ("test", "ours"),
            ("amqp", b"{not ours}"),
        ]
        for one in came:
            await one.settle()
        await transport.wait_until_settled()


@async_test
async def test_classic_queues_keep_the_promise_of_attempts(brokers: Brokers) -> None:
    async with transport_for(brokers.url("amqp", queue_type="classic")) as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", BaseMessage(source="test"))
        (first,) = await reader.receive()
        await first.retry()
        (again,) = await asyncio.wait_for(reader.receive(), 20)
        assert (first.attempt, again.attempt) == (1, 2)
        await again.settle()


@async_test
async def test_a_queue_of_another_kind_is_refused_with_the_reason(brokers: Brokers) -> None:
    await once(brokers.url("amqp", prefix="kinds", queue_type="classic"))
    async with transport_for(brokers.url("amqp", prefix="kinds")) as transport:
        with pytest.raises(TransportError, match=r"(?s)kinds\.reader.*queue_type"):
            await asyncio.wait_for(transport.subscribe("reader", ["a"]).receive(), 20)


@async_test
async def test_only_the_right_password_and_virtual_host_let_in(brokers: Brokers) -> None:
    port = brokers.server("amqp").port
    for place in (f"guest:wrong-word@127.0.0.1:{port}/", f"127.0.0.1:{port}/no%2Fsuch"):
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}") as caught:
            await open_broker(f"amqp://{place}").open()
        assert "wrong-word" not in str(caught.value)


@async_test
async def test_with_tls_the_server_is_verified(tmp_path: Path) -> None:
    certificates(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file in (tmp_path, cert, key):
        file.chmod(0o755)
    files = {"cacertfile": cert, "certfile": cert, "keyfile": key}
    options = [f"ssl_options.{name} = {file}" for name, file in files.items()]
    with rabbitmq_server(*options, tls=True) as server:
        await once(f"amqp+tls://127.0.0.1:{server.port}/?ca={cert}")
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            await open_broker(f"amqp+tls://127.0.0.1:{server.port}/").open()


@pytest.mark.parametrize("query", ["queue_type=stream", "largest=1"])
def test_options_of_rabbitmq_are_checked(query: str) -> None:
    with pytest.raises(SettingsError):
        transport_for(f"amqp://127.0.0.1/?{query}")
