"""What is Kafka's own: its topics, its keys, what others write there."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from echo_core.errors import SettingsError, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.endpoint import parse_endpoint
from echo_core.transports.kafka import OPTIONS
from echo_core.transports.kafka import transport as kafka_transport
from echo_core.transports.kafka.client import client_options
from echo_core.transports.urls import transport_for
from support.brokers import Brokers, once, open_broker

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # see conftest.py

PATIENCE_S = 60


@asynccontextmanager
async def admin(brokers: Brokers) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=f"127.0.0.1:{brokers.server('kafka').port}")
    await client.start()
    yield client
    await client.close()


@asynccontextmanager
async def producer(brokers: Brokers) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=f"127.0.0.1:{brokers.server('kafka').port}")
    await client.start()
    yield client
    await client.stop()


@asynccontextmanager
async def consumer(brokers: Brokers) -> AsyncIterator[AIOKafkaConsumer]:
    client = AIOKafkaConsumer(bootstrap_servers=f"127.0.0.1:{brokers.server('kafka').port}")
    await client.start()
    yield client
    await client.stop()


def options(url: str) -> dict[str, Any]:
    return client_options(parse_endpoint(url, port=9092, options=OPTIONS, environ={}))


@async_test
async def test_topics_are_named_as_documented(brokers: Brokers) -> None:
    prefix = f"{brokers.prefix()}.system"
    await once(brokers.url("kafka", prefix=prefix))
    async with admin(brokers) as client:
        topics = [topic for topic in await client.list_topics() if topic.startswith(prefix)]
        assert sorted(topics) == [prefix, f"{prefix}-hosts", f"{prefix}.reader"]
        offsets = await client.list_consumer_group_offsets(f"{prefix}.reader")
    assert [committed.offset for committed in offsets.values()] == [1]


@async_test
async def test_what_somebody_else_writes_arrives_as_bytes_and_a_tombstone_as_none(brokers: Brokers) -> None:
    prefix = brokers.prefix()
    url = brokers.url("kafka", prefix=prefix)
    async with open_broker(url) as transport, producer(brokers) as client:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", BaseMessage(source="test", data="ours"))
        await client.send_and_wait(f"{prefix}.reader", b"{not ours}", headers=[("topic", b"a")])
        await client.send_and_wait(f"{prefix}.reader", None, key=b"gone", headers=[("topic", b"a")])
        await client.send_and_wait(f"{prefix}.reader", b"for nobody", headers=[("topic", b"b")])
        await client.send_and_wait(f"{prefix}.reader", b"without a topic")
        came: list[BaseMessage] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(came) < 3:
                for delivery in await reader.receive():
                    came.append(delivery.message)
                    await delivery.settle()
            await transport.wait_until_settled()
    assert [message.data for message in came] == ["ours", b"{not ours}", b""]
    assert [message.source for message in came] == ["test", "kafka", "kafka"]


@async_test
async def test_a_key_keeps_its_order_over_partitions_and_what_has_none_goes_round(brokers: Brokers) -> None:
    url = brokers.url("kafka", partitions=4, ordering_key="data.speaker")
    speakers = ["anna", "ben", "chloé", "dan", "eve"]
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a"])
        for number in range(100):
            said = {"speaker": speakers[number % 5], "number": number}
            await transport.publish("a", BaseMessage(source="test", data=said))
        for number in range(40):
            await transport.publish("a", BaseMessage(source="test", data={"number": number}))
        of: dict[str | None, list[int]] = defaultdict(list)
        partitions: dict[str | None, set[int]] = defaultdict(set)
        async with asyncio.timeout(PATIENCE_S):
            while sum(map(len, of.values())) < 140:
                for delivery in await reader.receive(16):
                    speaker = delivery.message.data.get("speaker")
                    of[speaker].append(delivery.message.data["number"])
                    partitions[speaker].add(delivery.key[0])  # type: ignore[attr-defined]
                    await delivery.settle()
    for at, speaker in enumerate(speakers):
        assert of[speaker] == list(range(at, 100, 5))
        assert len(partitions[speaker]) == 1
    assert len({next(iter(partitions[speaker])) for speaker in speakers}) > 1
    assert partitions[None] == {0, 1, 2, 3}


@async_test
async def test_what_is_settled_is_deleted(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_transport, "_DELETE_S", 0.1)
    prefix = brokers.prefix()
    url = brokers.url("kafka", prefix=prefix)
    place = TopicPartition(f"{prefix}.reader", 0)
    async with open_broker(url) as transport, consumer(brokers) as client:
        reader = transport.subscribe("reader", ["a"])
        for number in range(10):
            await transport.publish("a", BaseMessage(source="test", data=number))
        async with asyncio.timeout(PATIENCE_S):
            taken = 0
            while taken < 8:
                for delivery in await reader.receive(1):
                    await delivery.settle()
                    taken += 1
            while (await client.beginning_offsets([place]))[place] < 8:
                await asyncio.sleep(0.05)
        assert (await client.beginning_offsets([place]))[place] == 8


@async_test
async def test_other_programs_can_ask_for_messages_and_say_that_they_want_no_more(brokers: Brokers) -> None:
    prefix = brokers.prefix()
    url = brokers.url("kafka", prefix=prefix)
    place = TopicPartition(f"{prefix}.tool", 0)
    async with (
        open_broker(url) as transport,
        admin(brokers) as topics,
        producer(brokers) as theirs,
        consumer(brokers) as client,
    ):
        await theirs.send_and_wait(prefix, msgspec.json.encode(["captions.#"]), key=b"tool")
        async with asyncio.timeout(PATIENCE_S):
            while f"{prefix}.tool" not in await topics.list_topics():
                await transport.publish("captions.en", BaseMessage(source="test", data="said"))
                await transport.publish("else", BaseMessage(source="test", data="said"))
            assert (await client.end_offsets([place]))[place] > 0
            await theirs.send_and_wait(prefix, None, key=b"tool")
            before = -1
            while before != (before := (await client.end_offsets([place]))[place]):
                await transport.publish("captions.en", BaseMessage(source="test", data="said"))
                await asyncio.sleep(0.1)


@async_test
async def test_a_record_whose_key_cannot_name_a_queue_is_passed_over(brokers: Brokers) -> None:
    prefix = brokers.prefix()
    url = brokers.url("kafka", prefix=prefix)
    await once(url)  # the topics are there
    async with producer(brokers) as theirs:
        for key in (b"no name", b"", "\u00fcber".encode(), b"x" * 250):
            await theirs.send_and_wait(prefix, msgspec.json.encode(["#"]), key=key)
    await once(url)


@async_test
async def test_a_queue_that_was_deleted_while_its_plugin_is_elsewhere_is_made_again(brokers: Brokers) -> None:
    prefix = brokers.prefix()
    url = brokers.url("kafka", prefix=prefix)
    async with transport_for(url) as transport:
        await transport.subscribe("reader", ["a"]).close()
    async with admin(brokers) as client:
        await client.delete_topics([f"{prefix}.reader"])
    async with asyncio.timeout(PATIENCE_S), transport_for(url) as transport:
        await transport.publish("a", BaseMessage(source="test", data="kept"))
    async with asyncio.timeout(PATIENCE_S), transport_for(url) as transport:
        (delivery,) = await transport.subscribe("reader", ["a"]).receive()
        assert delivery.message.data == "kept"
        await delivery.settle()


@async_test
async def test_a_name_that_kafka_does_not_take_is_refused(brokers: Brokers) -> None:
    async with transport_for(brokers.url("kafka")) as transport:
        with pytest.raises(TransportError, match="no name of a topic of Kafka's"):
            transport.subscribe("not a name", ["a"])


def test_a_user_says_who_it_is_by_sasl() -> None:
    told = options("kafka+tls://anna:s3cret@broker/?sasl=SCRAM-SHA-512")
    assert told["security_protocol"] == "SASL_SSL"
    assert told["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (told["sasl_plain_username"], told["sasl_plain_password"]) == ("anna", "s3cret")
    assert options("kafka://anna:s3cret@a,[::1]:9093")["security_protocol"] == "SASL_PLAINTEXT"
    assert options("kafka://anna:s3cret@a,[::1]:9093")["bootstrap_servers"] == ["a:9092", "[::1]:9093"]
    assert options("kafka://broker")["security_protocol"] == "PLAINTEXT"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("sasl=PLAIN", "needs a user"),
        ("sasl=GSSAPI", "sasl=GSSAPI is wrong"),
        ("ordering_key=speaker", "ordering_key=speaker is wrong"),
        ("partitions=0", "partitions=0 is wrong"),
        ("replicas=many", "replicas=many is wrong"),
    ],
)
def test_options_that_are_wrong_are_refused(query: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        transport_for(f"kafka://broker/?{query}")
