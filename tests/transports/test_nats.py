"""What is NATS's own: its subjects, its credentials, its streams and consumers."""

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, ConsumerInfo

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.topics import TopicPattern
from echo_core.transports import nats as nats_module
from echo_core.transports.nats import NatsSubscription, NatsTransport, filters_for, open_nats
from echo_core.transports.urls import transport_for
from strategies import patterns, topics
from support.brokers import Brokers, once, open_broker
from support.proxy import Proxy
from support.servers import certificates, nats_server

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see conftest.py


def nats_match(subject: list[str], topic: list[str]) -> bool:
    if subject[:1] == [">"]:
        return bool(topic)
    if not subject or not topic:
        return not subject and not topic
    return subject[0] in ("*", topic[0]) and nats_match(subject[1:], topic[1:])


@given(st.lists(patterns(), min_size=1, max_size=5), topics(), st.booleans())
def test_filters_cover_every_topic_that_is_meant_once(wanted: list[str], topic: str, many: bool) -> None:
    compiled = [TopicPattern(pattern) for pattern in wanted]
    filters = filters_for(compiled, many=many)
    covering = [one for one in filters if nats_match(one.split("."), topic.split("."))]
    assert len(covering) <= 1  # the server refuses filters that overlap
    if any(pattern.matches(topic) for pattern in compiled):
        assert covering
    if not many:
        assert len(filters) == 1


@pytest.mark.parametrize(
    ("wanted", "filters"),
    [
        (["a.b"], ["a.b"]),
        (["a.*"], ["a.*"]),
        (["a.#"], ["a.>", "a"]),
        (["#"], [">"]),
        (["#.z"], [">"]),
        (["a.#.z"], ["a.>"]),
        (["a.b", "a.*"], ["a.*"]),
        (["a.*", "*.b"], [">"]),
        (["a.b.*", "a.*.c"], ["a.>"]),
        (["a.b", "c.d"], ["a.b", "c.d"]),
    ],
)
def test_filters_are_as_narrow_as_nats_allows(wanted: list[str], filters: list[str]) -> None:
    assert sorted(filters_for([TopicPattern(pattern) for pattern in wanted])) == sorted(filters)


@asynccontextmanager
async def operator(port: int, **more: Any) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(f"nats://127.0.0.1:{port}", **more)
    try:
        yield client.jetstream()
    finally:
        await client.close()


@async_test
async def test_stream_and_consumer_are_named_and_made_as_documented(brokers: Brokers) -> None:
    url = brokers.url("nats", prefix="some.system", lease=3)
    await once(url)
    async with operator(brokers.server("nats").port) as jetstream:
        stream = await jetstream.stream_info("SOME_SYSTEM")
        assert stream.config.subjects == ["some.system.>"]
        assert stream.config.retention == "interest"
        assert stream.state.messages == 0  # settled by everybody who wanted it
        consumer = await jetstream.consumer_info("SOME_SYSTEM", "reader")
        assert consumer.config.filter_subject == "some.system.a"
        assert consumer.config.ack_wait == 3


@async_test
async def test_an_operators_stream_is_used_as_it_is(brokers: Brokers) -> None:
    url = brokers.url("nats", prefix="theirs", stream="THEIRS") + "&create=no"
    async with operator(brokers.server("nats").port) as jetstream:
        await jetstream.add_stream(name="THEIRS", subjects=["theirs.>"], max_msg_size=2_000)
        await jetstream.add_consumer("THEIRS", durable_name="reader", filter_subject="theirs.>")
    await once(url)
    transport = open_broker(url)
    async with transport:
        assert transport.payload_limit == 2_000


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"subjects": ["other.>"]}, "does not hold bad"),
        ({"subjects": ["bad.>"], "retention": "workqueue"}, "to one plugin only"),
        ({"subjects": ["bad.>"], "max_bytes": 1_000_000}, "drops the oldest"),
        ({"subjects": ["bad.>"], "max_msgs": 10, "discard": "old"}, "--discard=new"),
    ],
)
@async_test
async def test_a_stream_that_cannot_serve_is_refused(
    brokers: Brokers, config: dict[str, Any], complaint: str
) -> None:
    name = f"BAD{len(complaint)}"
    async with operator(brokers.server("nats").port) as jetstream:
        await jetstream.add_stream(name=name, **config)
    try:
        with pytest.raises(TransportError, match=complaint):
            await open_broker(brokers.url("nats", prefix="bad", stream=name)).open()
    finally:
        async with operator(brokers.server("nats").port) as jetstream:
            await jetstream.delete_stream(name)


@async_test
async def test_what_somebody_else_publishes_arrives_as_bytes(brokers: Brokers) -> None:
    url = brokers.url("nats", prefix="foreign")
    async with transport_for(url) as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("b", BaseMessage(source="test"))
        await asyncio.sleep(0.05)
        async with operator(brokers.server("nats").port) as jetstream:
            await jetstream.publish("foreign.a", b"{not ours}")
        (delivery,) = await asyncio.wait_for(reader.receive(), 60)
        assert (delivery.message.source, delivery.message.data) == ("nats", b"{not ours}")
        await delivery.retry()
        (again,) = await asyncio.wait_for(reader.receive(), 60)
        assert again.message.id == delivery.message.id
        await again.settle()


@async_test
async def test_what_a_new_connection_brings_at_once_waits_for_what_the_old_one_lost(brokers: Brokers) -> None:
    server = brokers.server("nats").port
    near = brokers.url("nats", lease=4)
    async with Proxy(server) as proxy, open_broker(near) as source:
        url = near.replace(f":{server}", f":{proxy.port}")
        async with transport_for(url) as transport:
            assert isinstance(transport, NatsTransport)
            reader = transport.subscribe("reader", ["a"])
            await reader.until_ready()
            await asyncio.sleep(0.1)  # it has asked for messages
            client, arrived = transport._client, reader._arrivals
            flush = client.flush

            async def publish(numbers: range) -> None:
                await source.publish_batch("a", [BaseMessage(source="test", data=one) for one in numbers])

            async def flush_late(timeout: int = 10) -> None:
                """The client's last step before it says that there is a connection again."""
                await flush(timeout)
                if client.stats["reconnects"] and reader._arrivals == arrived:
                    await publish(range(10, 20))
                    async with asyncio.timeout(60):
                        while reader._arrivals < arrived + 10:
                            await asyncio.sleep(0.01)

            client.flush = flush_late  # type: ignore[method-assign]
            proxy.swallow()
            await publish(range(10))
            await asyncio.sleep(0.3)  # the server sends them, into the void
            proxy.cut()
            proxy.mend()
            handled: list[int] = []
            async with asyncio.timeout(60):
                while len(handled) < 20:
                    for delivery in await reader.receive(7):
                        handled.append(delivery.message.data)
                        await delivery.settle()
            assert handled == list(range(20))


@pytest.mark.parametrize(
    ("arguments", "userinfo"),
    [(["--user", "me", "--pass", "hidden"], "me:hidden"), (["--auth", "hidden"], "hidden")],
)
@async_test
async def test_only_the_right_credentials_let_in(arguments: list[str], userinfo: str) -> None:
    with nats_server(*arguments) as server:
        await once(f"nats://{userinfo}@127.0.0.1:{server.port}/")
        with pytest.raises(TransportError, match=r"(?i)authorization") as caught:
            await open_broker(f"nats://me:wrong-word@127.0.0.1:{server.port}/").open()
        assert "wrong-word" not in str(caught.value)
        assert caught.value.fix == "mend user and password"


@pytest.mark.usefixtures("nats_gives_up_soon")
@async_test
async def test_a_server_that_hangs_up_on_a_password_is_said_to_refuse_it() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.10.0","auth_required":true,"max_payload":1024}\r\n')
        await reader.readline()
        # The answer is lost behind the reset.
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportError, match=r"(?i)authorization") as caught:
            await open_broker(f"nats://me:wrong-word@127.0.0.1:{port}/").open()
        assert caught.value.fix == "mend user and password"


@async_test
async def test_an_nkey_lets_in(tmp_path: Path) -> None:
    import nkeys

    pair = nkeys.from_seed(nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER))
    (tmp_path / "seed").write_bytes(bytes(pair.seed))
    config = tmp_path / "server.conf"
    config.write_text(f"authorization {{ users = [ {{ nkey: {pair.public_key.decode()} }} ] }}")
    with nats_server("--config", str(config)) as server:
        await once(f"nats://127.0.0.1:{server.port}/?nkey={tmp_path / 'seed'}")
        with pytest.raises(TransportError):
            await open_broker(f"nats://127.0.0.1:{server.port}/").open()


@pytest.mark.usefixtures("nats_gives_up_soon")
@async_test
async def test_with_tls_the_server_is_verified(tmp_path: Path) -> None:
    certificates(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    with nats_server("--tls", "--tlscert", str(cert), "--tlskey", str(key)) as server:
        await once(f"nats+tls://127.0.0.1:{server.port}/?ca={cert}")
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            await open_broker(f"nats+tls://127.0.0.1:{server.port}/").open()


@pytest.mark.parametrize("offers", [{}, {"tls_required": False}])
@pytest.mark.usefixtures("nats_gives_up_soon")
@async_test
async def test_a_server_without_tls_is_told_nothing_where_tls_was_asked_for(offers: dict[str, bool]) -> None:
    heard = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        info = {"version": "2.10.0", "max_payload": 1024, "auth_required": True, **offers}
        writer.write(b"INFO %s\r\n" % json.dumps(info).encode())
        while data := await reader.read(1_000):
            heard += data
            writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TransportError, match="offers no TLS"):
            await open_broker(f"nats+tls://me:hidden@127.0.0.1:{port}/").open()
    assert heard == b""


@pytest.mark.usefixtures("nats_gives_up_soon")
@async_test
async def test_tls_is_used_where_the_server_leaves_it_to_us(tmp_path: Path) -> None:
    certificates(tmp_path)
    config = tmp_path / "server.conf"
    files = f'cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem"'
    config.write_text(f"allow_non_tls: true\ntls {{ {files} }}")
    with nats_server("--config", str(config)) as server:
        await once(f"nats+tls://127.0.0.1:{server.port}/?ca={tmp_path / 'cert.pem'}")
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            await open_broker(f"nats+tls://127.0.0.1:{server.port}/").open()


@pytest.mark.parametrize("query", ["stream=a.b", "stream=", "storage=paper", "replicas=0"])
def test_options_of_nats_are_checked(query: str) -> None:
    with pytest.raises(SettingsError):
        transport_for(f"nats://127.0.0.1/?{query}")


def unopened() -> tuple[NatsTransport, NatsSubscription]:
    transport = open_nats("nats://127.0.0.1/")
    return transport, NatsSubscription(transport, "reader", [TopicPattern("a")], 100)


@async_test
async def test_what_comes_waits_where_the_connection_was_lost_again() -> None:
    transport, subscription = unopened()
    transport.is_connected = True
    subscription.connection_lost()
    with pytest.raises(ConnectionError, match="lost again"):
        transport._hand_on_what_came(subscription, connection=-1)
    assert subscription._arriving is subscription._aside
    transport._hand_on_what_came(subscription, transport._connections)
    assert subscription._arriving is subscription._buffer


@pytest.mark.parametrize(("missing", "looks"), [([3, 2, 2, 1, 0], 5), ([3, 3, 3, 3, 3], 4)])
@async_test
async def test_what_was_on_its_way_is_waited_for_while_it_comes_and_no_longer_however_slow_the_machine(
    missing: list[int], looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, subscription = unopened()
    answers = list(missing)

    async def look_at(subscription: NatsSubscription) -> ConsumerInfo:
        return ConsumerInfo(
            "reader", "STREAM", ConsumerConfig(), created=datetime.now(UTC), num_ack_pending=answers.pop(0)
        )

    monkeypatch.setattr(nats_module, "_AGAIN_S", 0.001)
    monkeypatch.setattr(nats_module, "monotonic", itertools.count(step=1_000).__next__)
    monkeypatch.setattr(transport, "_look_at", look_at)
    await transport._take_what_is_owed(subscription, 0.003)
    assert len(missing) - len(answers) == looks


@async_test
async def test_what_is_missing_after_a_lost_connection_was_lost_and_not_given_to_another_host() -> None:
    transport, subscription = unopened()
    subscription.transport = transport

    async def comes(number: int) -> None:
        reply = f"$JS.ACK.ECHO.reader.1.{number}.{number}.0.0"
        await subscription.on_message(Msg(transport._client, "echo.a", reply, b"{}"))

    await comes(1)
    subscription.connection_lost()
    await comes(2)  # it had come on the old connection
    await comes(50)
    assert subscription.is_alone
    subscription.sort_in(lambda delivery: delivery.key)
    await comes(60)
    assert not subscription.is_alone
