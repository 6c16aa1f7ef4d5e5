"""What is NATS's own: its subjects, its credentials, its streams and consumers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js import JetStreamContext

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.topics import TopicPattern
from echo_core.transports.nats import filters_for
from echo_core.transports.urls import transport_for
from strategies import patterns, topics
from support.brokers import Brokers, once, open_broker
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
        (delivery,) = await asyncio.wait_for(reader.receive(), 20)
        assert (delivery.message.source, delivery.message.data) == ("nats", b"{not ours}")
        await delivery.retry()
        (again,) = await asyncio.wait_for(reader.receive(), 20)
        assert again.message.id == delivery.message.id
        await again.settle()


@pytest.mark.parametrize(
    ("arguments", "userinfo"),
    [(["--user", "me", "--pass", "hidden"], "me:hidden"), (["--auth", "hidden"], "hidden")],
)
@async_test
async def test_only_the_right_credentials_let_in(arguments: list[str], userinfo: str) -> None:
    with nats_server(*arguments) as server:
        await once(f"nats://{userinfo}@127.0.0.1:{server.port}/")
        with pytest.raises(TransportError, match=r"(?i)authorization|reset by peer") as caught:
            await open_broker(f"nats://me:wrong-word@127.0.0.1:{server.port}/").open()
        assert "wrong-word" not in str(caught.value)


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


@async_test
async def test_with_tls_the_server_is_verified(tmp_path: Path) -> None:
    certificates(tmp_path)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    with nats_server("--tls", "--tlscert", str(cert), "--tlskey", str(key)) as server:
        await once(f"nats+tls://127.0.0.1:{server.port}/?ca={cert}")
        with pytest.raises(TransportError, match=r"(?i)certificate"):
            await open_broker(f"nats+tls://127.0.0.1:{server.port}/").open()


@pytest.mark.parametrize("query", ["stream=a.b", "stream=", "storage=paper", "replicas=0"])
def test_options_of_nats_are_checked(query: str) -> None:
    with pytest.raises(SettingsError):
        transport_for(f"nats://127.0.0.1/?{query}")
