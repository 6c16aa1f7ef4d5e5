"""What is RabbitMQ's own: its exchange and queues, its credentials and refusals."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import aiormq
import pytest
from aiormq.exceptions import DeliveryError
from pamqp.commands import Basic

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.topics import TopicPattern
from echo_core.transports import amqp as amqp_module
from echo_core.transports.amqp import AmqpSubscription, AmqpTransport, open_amqp
from echo_core.transports.base import Transport
from echo_core.transports.broker.publication import Publication
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
        came = [*await asyncio.wait_for(reader.receive(2), 60)]
        while len(came) < 2:
            came += await asyncio.wait_for(reader.receive(2), 60)
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
        (again,) = await asyncio.wait_for(reader.receive(), 60)
        assert (first.attempt, again.attempt) == (1, 2)
        await again.settle()


@async_test
async def test_a_queue_of_another_kind_is_refused_with_the_reason(brokers: Brokers) -> None:
    await once(brokers.url("amqp", prefix="kinds", queue_type="classic"))
    async with transport_for(brokers.url("amqp", prefix="kinds")) as transport:
        with pytest.raises(TransportError, match=r"(?s)kinds\.reader.*queue_type"):
            await asyncio.wait_for(transport.subscribe("reader", ["a"]).receive(), 60)


@async_test
async def test_only_the_right_password_and_virtual_host_let_in(brokers: Brokers) -> None:
    port = brokers.server("amqp").port
    wrong = {
        f"guest:wrong-word@127.0.0.1:{port}/": "mend user and password",
        f"127.0.0.1:{port}/no%2Fsuch": "",
    }
    for place, fix in wrong.items():
        with pytest.raises(TransportError, match=f"127.0.0.1:{port}") as caught:
            await open_broker(f"amqp://{place}").open()
        assert "wrong-word" not in str(caught.value)
        assert fix in caught.value.fix


def test_a_server_that_lets_no_heartbeat_be_heard_is_said_in_words() -> None:
    loop = asyncio.new_event_loop()
    closing: asyncio.Future[None] = loop.create_future()
    closing.set_exception(asyncio.CancelledError())
    assert amqp_module._reason(closing) == "the server does not answer"
    loop.close()


@async_test
async def test_a_queue_with_a_limit_holds_its_publisher_up_and_loses_nothing(brokers: Brokers) -> None:
    url, count = brokers.url("amqp", prefix="limited", create="no"), 60
    limit = {"x-queue-type": "quorum", "x-max-length": 5, "x-overflow": "reject-publish"}
    async with operator(brokers.server("amqp").port) as channel:
        await channel.exchange_declare("limited", exchange_type="topic", durable=True)
        await channel.queue_declare("limited.reader", durable=True, arguments=limit)
        await channel.queue_bind("limited.reader", "limited", routing_key="a")
    accepted: list[int] = []

    async def publish(transport: Transport) -> None:
        for number in range(count):
            await transport.publish("a", BaseMessage(source="test", data=number))
            accepted.append(number)

    async with open_broker(url) as here, open_broker(url) as other, asyncio.timeout(100):
        publishing = asyncio.create_task(publish(here))
        while "is a queue of it full?" not in here.trouble():
            await asyncio.sleep(0.01)
        assert len(accepted) < count
        came: list[int] = []
        reader = other.subscribe("reader", ["a"], queue_limit=1)
        while len(came) < count:
            for delivery in await reader.receive():
                came.append(delivery.message.data)
                await delivery.settle()
        await publishing
        assert came == accepted == list(range(count))
        assert not here.trouble()


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


class Answering:
    """A connection of aiormq's, as far as a queue is made on it."""

    def __init__(self, consumers: int = 0, messages: int = 0) -> None:
        self.consumers = consumers
        self.messages = messages
        self.did: list[str] = []
        self.is_closed = False

    async def channel(self, **options: object) -> "Answering":
        if self.is_closed:
            raise RuntimeError("the connection has ended")  # as aiormq does
        return self

    async def queue_declare(self, name: str, **options: object) -> Any:
        self.did.append("ask")
        return SimpleNamespace(consumer_count=self.consumers, message_count=self.messages)

    async def queue_bind(self, name: str, exchange: str, **options: object) -> None:
        self.did.append("bind")

    async def close(self, error: object = None) -> None:
        pass


def amqp() -> tuple[AmqpTransport, AmqpSubscription]:
    transport = open_amqp("amqp://127.0.0.1/")
    return transport, AmqpSubscription(transport, "reader", [TopicPattern("a")], 100)


@pytest.mark.parametrize(
    ("consumers", "messages", "did"),
    [(1, 0, ["ask", "agree", "bind"]), (0, 1, ["ask", "agree", "bind"]), (0, 0, ["ask", "bind"])],
)
@async_test
async def test_who_takes_from_a_queue_or_is_about_to_is_told_who_joins(
    consumers: int, messages: int, did: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, subscription = amqp()
    connection = Answering(consumers, messages)

    async def agree(subscription: object) -> list[str]:
        connection.did.append("agree")
        return []

    monkeypatch.setattr(transport, "_agree_with_peers", agree)
    await transport._ensure_queue(connection, subscription)
    assert connection.did == did


@async_test
async def test_a_connection_that_ends_while_a_queue_is_made_is_no_refusal() -> None:
    transport, subscription = amqp()
    transport._connection = connection = Answering()
    transport._succession = asyncio.create_task(asyncio.sleep(0))
    connection.is_closed = True
    with pytest.raises(ConnectionError, match="has ended"):
        await transport._establish(subscription)


@async_test
async def test_nobody_listens_before_rabbitmq_has_seen_the_end_of_the_connection_before() -> None:
    transport, subscription = amqp()
    seen = asyncio.Event()

    async def succession() -> None:
        await seen.wait()

    transport._connection = first = Answering()
    transport._succession = asyncio.create_task(succession())
    establishing = asyncio.create_task(transport._establish(subscription))
    await asyncio.sleep(0)
    assert first.did == []
    # That one is lost too: its end is what ends the waiting, and the next one has another to wait for.
    transport._connection = second = Answering()
    first.is_closed = True
    seen.set()
    with pytest.raises(ConnectionError, match="has ended"):
        await establishing
    assert second.did == []


@async_test
async def test_that_a_queue_is_full_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    transport, _ = amqp()
    for number in (1, 2):
        transport._outbox[number] = Publication(number, "a", "source", b"", None, ())
        full = DeliveryError(None, Basic.Nack(delivery_tag=number))
        await transport._publish(
            SimpleNamespace(basic_publish=AsyncMock(side_effect=full)), transport._outbox[number]
        )
    assert "is a queue of it full?" in transport.trouble()
    assert len(caplog.records) == 1
