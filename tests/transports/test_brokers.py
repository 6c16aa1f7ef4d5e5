"""What every transport over a broker promises beyond the contract, on real servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echo_core.errors import EchoCoreError, MessageTooLarge, TransportClosed, TransportError
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.base import Delivery, Subscription
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.kafka.reading import KafkaSubscription
from strategies import messages, patterns, topics
from support.brokers import SCHEMES, SHARING, Brokers, open_broker
from support.proxy import Proxy
from support.servers import END_SESSIONS, MOVE_PARTITIONS

pytestmark = [
    pytest.mark.parametrize("scheme", SCHEMES),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # see conftest.py
]


def message(data: Any = None) -> BaseMessage:
    return BaseMessage(source="test", data=data)


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken.extend(await subscription.receive(count - len(taken)))
    return taken


async def settle(deliveries: list[Delivery]) -> list[Any]:
    for delivery in deliveries:
        await delivery.settle()
    return [delivery.message.data for delivery in deliveries]


def through(proxy: Proxy, url: str) -> str:
    """The same URL, by way of the proxy."""
    head, _, query = url.partition("/?")
    return f"{head.rpartition(':')[0]}:{proxy.port}/?{query}"


@asynccontextmanager
async def proxied(brokers: Brokers, scheme: str, **options: object) -> AsyncIterator[tuple[Proxy, str]]:
    async with Proxy(brokers.server(scheme).port) as proxy:
        yield proxy, through(proxy, brokers.url(scheme, **options))


def examples(scheme: str, most: int) -> int:
    """How many a property is tried with: a group of Kafka's takes a third of a second to form."""
    return most // 5 if scheme == "kafka" else most


async def until(condition: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@async_test
async def test_messages_wait_at_the_broker_while_nobody_is_there(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme)
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a.#"])
        await transport.publish("a.b", message(1))
        await settle(await take(reader, 1))
    async with open_broker(url) as transport:
        await transport.publish("a.b", message(2))
        await transport.publish("a", message(3))
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a.#"])
        assert await settle(await take(reader, 2)) == [2, 3]
        await transport.wait_until_settled()


@async_test
async def test_what_another_host_publishes_arrives_as_soon_as_the_queue_is_said_to_be_there(
    scheme: str, brokers: Brokers
) -> None:
    if scheme == "kafka":
        pytest.skip("the other host is told of the queue by Kafka, a moment later")
    url = brokers.url(scheme)
    async with open_broker(url) as one, open_broker(url) as other:
        reader = one.subscribe("reader", ["a"])
        await one.wait_until_collecting()
        await other.publish("a", message(1))
        assert await settle(await take(reader, 1)) == [1]


@async_test
async def test_hosts_that_subscribe_with_one_name_share_its_messages(scheme: str, brokers: Brokers) -> None:
    brokers.server(scheme).needs(MOVE_PARTITIONS)
    url, count = brokers.url(scheme), 300
    came: list[Any] = []

    async def work(subscription: Subscription) -> None:
        async for delivery in subscription:
            came.append(delivery.message.data)
            await delivery.settle()

    async with open_broker(url) as one, open_broker(url) as other:
        workers = [
            asyncio.create_task(work(host.subscribe("reader", ["a"], queue_limit=10)))
            for host in (one, other)
        ]
        await one.publish("a", message(-1))
        await asyncio.sleep(0.05)
        for number in range(count):
            await one.publish("a", message(number))
        await one.wait_until_settled()
        await other.wait_until_settled()
        assert sorted(came) == [-1, *range(count)]
    await asyncio.gather(*workers)


@async_test
async def test_what_a_closing_host_holds_goes_to_another_at_once(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme, lease=100)
    async with open_broker(url) as leaving:
        held = leaving.subscribe("reader", ["a"])
        for number in range(3):
            await leaving.publish("a", message(number))
        first = await take(held, 1)
        assert first[0].message.data == 0
    async with asyncio.timeout(60), open_broker(url) as staying:
        again = await take(staying.subscribe("reader", ["a"]), 3)
        assert await settle(again) == [0, 1, 2]


@async_test
async def test_what_a_dead_host_held_goes_to_another_after_the_lease(scheme: str, brokers: Brokers) -> None:
    brokers.server(scheme).needs(END_SESSIONS)
    async with proxied(brokers, scheme, lease=1) as (proxy, far):
        near = far.replace(f":{proxy.port}/", f":{brokers.server(scheme).port}/")
        dead = open_broker(far)
        await dead.open()
        held = dead.subscribe("reader", ["a"])
        await dead.publish("a", message("held"))
        await take(held, 1)
        proxy.stall()  # as when its machine loses power: no word of goodbye
        async with open_broker(near) as alive:
            (again,) = await take(alive.subscribe("reader", ["a"]), 1)
            assert (again.message.data, again.attempt) == ("held", 2)
            await again.settle()
        proxy.cut(refuse=True)
        await dead.close()


@async_test
async def test_a_delivery_that_is_long_in_hand_is_not_taken_back(scheme: str, brokers: Brokers) -> None:
    brokers.server(scheme).needs(MOVE_PARTITIONS)
    url = brokers.url(scheme, lease=1)
    async with open_broker(url) as one, open_broker(url) as other:
        mine = one.subscribe("reader", ["a"])
        await one.publish("a", message("slow"))
        (delivery,) = await take(mine, 1)
        theirs = other.subscribe("reader", ["a"])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await theirs.receive()
        await delivery.settle()
        await other.wait_until_settled()


@async_test
async def test_attempts_are_counted_by_the_broker(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme)
    for attempt in (1, 2, 3):
        async with open_broker(url) as transport:
            reader = transport.subscribe("reader", ["a"])
            if attempt == 1:
                await transport.publish("a", message("again"))
            (delivery,) = await take(reader, 1)
            assert delivery.attempt == attempt


@async_test
async def test_deliveries_settle_after_a_new_connection_and_do_not_come_again(
    scheme: str, brokers: Brokers
) -> None:
    async with proxied(brokers, scheme, lease=1) as (proxy, url), open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a"])
        for number in range(3):
            await transport.publish("a", message(number))
        deliveries = await take(reader, 3)
        proxy.cut()
        await settle(deliveries)  # the broker cannot hear it
        await transport.publish("a", message("after"))
        assert await settle(await take(reader, 1)) == ["after"]
        await transport.wait_until_settled()
        assert proxy.connections >= 2


@async_test
async def test_a_publication_waits_for_the_connection_and_is_accepted_then(
    scheme: str, brokers: Brokers, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxied(brokers, scheme) as (proxy, url), open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", message("before"))
        await settle(await take(reader, 1))
        proxy.cut(refuse=True)
        await until(lambda: transport.trouble())
        assert "connection" in transport.trouble()
        publishing = asyncio.create_task(transport.publish("a", message("meanwhile")))
        await asyncio.sleep(0.3)
        assert not publishing.done()
        proxy.mend()
        await asyncio.wait_for(publishing, 60)
        assert "meanwhile" in await settle(await take(reader, 1))
        assert transport.trouble() == ""
    assert "trying again" in caplog.text
    assert "works again" in caplog.text


@async_test
async def test_nothing_is_settled_before_what_was_made_from_it_is_accepted(
    scheme: str, brokers: Brokers
) -> None:
    async with proxied(brokers, scheme, lease=100) as (proxy, url), open_broker(url) as transport:
        worker = transport.subscribe("worker", ["in"])
        await transport.subscribe("next", ["out"]).until_ready()
        await transport.publish("in", message("parent"))
        (delivery,) = await take(worker, 1)
        proxy.stall()
        async with asyncio.timeout(60):  # it is handed over, and the handler goes on
            await transport.publish("out", delivery.message.derive("child", source="worker"))
            await delivery.settle()
        await asyncio.sleep(0.2)
        assert worker.statistics().unsettled == 1
        proxy.mend()
        await until(lambda: worker.statistics().unsettled == 0)


@async_test
async def test_a_source_waits_until_its_message_is_accepted(scheme: str, brokers: Brokers) -> None:
    async with proxied(brokers, scheme) as (proxy, url), open_broker(url) as transport:
        transport.subscribe("reader", ["a"])
        await transport.publish("a", message(1))
        proxy.stall()
        publishing = asyncio.create_task(transport.publish("a", message(2)))
        await asyncio.sleep(0.2)
        assert not publishing.done()
        proxy.mend()
        await asyncio.wait_for(publishing, 60)


@async_test
async def test_a_message_that_is_too_large_is_refused_with_the_limit(scheme: str, brokers: Brokers) -> None:
    async with open_broker(brokers.url(scheme)) as transport:
        reader = transport.subscribe("reader", ["a"])
        transport.payload_limit = min(transport.payload_limit, 2**20)
        with pytest.raises(MessageTooLarge, match=f"takes {transport.payload_limit:,}"):
            await transport.publish("a", message(b"x" * transport.payload_limit))
        largest = b"x" * (transport.payload_limit - 1_000)
        await transport.publish("a", message(largest))
        assert await settle(await take(reader, 1)) == [largest]
        await transport.wait_until_settled()


def test_messages_arrive_byte_for_byte(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme)

    @settings(max_examples=examples(scheme, 25), suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.lists(messages(), min_size=1, max_size=5, unique_by=lambda one: one.id))
    @async_test
    async def check(published: list[BaseMessage]) -> None:
        async with open_broker(url) as transport:
            reader = transport.subscribe("reader", ["a"])
            for one in published:
                await transport.publish("a", one)
            deliveries = await take(reader, len(published))
            await settle(deliveries)
            assert [delivery.message for delivery in deliveries] == published

    check()


@pytest.mark.parametrize("data", [None, b"", "", b"\x00\xff\r\n\r\n", {}, "\x00"])
@async_test
async def test_empty_and_binary_payloads_arrive(scheme: str, brokers: Brokers, data: Any) -> None:
    async with open_broker(brokers.url(scheme)) as transport:
        reader = transport.subscribe("reader", ["a"])
        carried = BaseMessage(
            source="test", data=data, trace_context={"traceparent": "00-ab-cd-01", "tracestate": "a=b,c=d"}
        )
        await transport.publish("a", carried)
        (delivery,) = await take(reader, 1)
        assert delivery.message == carried
        await delivery.settle()


def naive_match(pattern: list[str], topic: list[str]) -> bool:
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(naive_match(pattern[1:], topic[at:]) for at in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and naive_match(pattern[1:], topic[1:])


def test_patterns_mean_on_the_broker_what_the_naive_matcher_says(scheme: str, brokers: Brokers) -> None:
    @settings(max_examples=examples(scheme, 15), suppress_health_check=list(HealthCheck), deadline=None)
    @given(
        st.lists(st.lists(patterns(), min_size=1, max_size=3), min_size=1, max_size=4),
        st.lists(topics(), min_size=1, max_size=8),
    )
    @async_test
    async def check(subscriptions: list[list[str]], published: list[str]) -> None:
        async with open_broker(brokers.url(scheme)) as transport:
            readers = [
                transport.subscribe(f"reader{number}", [*wanted, "the.end"])
                for number, wanted in enumerate(subscriptions)
            ]
            for topic in [*published, "the.end"]:
                await transport.publish(topic, message())
            for reader, wanted in zip(readers, subscriptions, strict=True):
                came: list[str] = []
                while "the.end" not in came:
                    for delivery in await take(reader, 1):
                        came.append(delivery.topic)
                        await delivery.settle()
                words = [pattern.split(".") for pattern in wanted]
                assert came[:-1] == [
                    topic for topic in published if any(naive_match(one, topic.split(".")) for one in words)
                ]

    check()


@async_test
async def test_a_plugin_that_changes_its_patterns_keeps_what_waits(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme)
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a.*"])
        await transport.publish("a.b", message(1))
        await settle(await take(reader, 1))
    async with open_broker(url) as transport:
        reader = transport.subscribe("reader", ["a.#", "c"])
        await transport.publish("c", message(2))
        await transport.publish("a.b.c", message(3))
        assert await settle(await take(reader, 2)) == [2, 3]
        await transport.wait_until_settled()


def silence(transport: BrokerTransport, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let nobody hear what it wants, until what is returned is called."""

    async def say_nothing() -> None:
        pass

    monkeypatch.setattr(transport, "_say_what_is_wanted", say_nothing)

    def speak() -> None:
        monkeypatch.undo()
        transport._wants_said = 0.0

    return speak


def have_their_parts(*subscriptions: Subscription) -> bool:
    """Whether each has some of Kafka's partitions; other brokers have none."""
    return all(one.assigned() for one in subscriptions if isinstance(one, KafkaSubscription))


async def collect(subscription: Subscription, got: list[Any]) -> None:
    """Settle what comes, until it is closed."""
    with contextlib.suppress(TransportClosed):
        while True:
            got += await settle(list(await subscription.receive(100)))


@async_test
async def test_what_is_for_a_host_that_was_not_heard_yet_is_kept_for_it(
    scheme: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = brokers.url(scheme, **SHARING.get(scheme, {}))
    numbers = list(range(300))
    got: tuple[list[Any], list[Any]] = [], []
    async with open_broker(url) as first, open_broker(url) as second, open_broker(url) as source:
        old = first.subscribe("reader", ["both", "old"], queue_limit=50)
        await until(lambda: first.is_ready)
        speak = silence(second, monkeypatch)
        monkeypatch.setattr(first.peers, "look", lambda: None)  # however long it takes to publish
        new = second.subscribe("reader", ["both", "new"], queue_limit=50)
        await until(lambda: second.is_ready)
        await until(lambda: have_their_parts(old, new), 60)
        taking = [asyncio.create_task(collect(one, got[at])) for at, one in enumerate((old, new))]
        for number in numbers:
            await source.publish("new", message(number))
        await until(lambda: first.peers._unwanted, 60)  # it was given some
        speak()
        await until(lambda: set(numbers) <= {*got[1]}, 60)
    await asyncio.gather(*taking)
    assert got[0] == []


@async_test
async def test_versions_that_begin_without_knowing_of_each_other_get_what_is_theirs_soon(
    scheme: str, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = brokers.url(scheme, **SHARING.get(scheme, {}))
    got: dict[str, list[Any]] = {"old": [], "new": []}
    async with open_broker(url) as first, open_broker(url) as second, open_broker(url) as source:
        hosts = {"old": first, "new": second}
        speaking = [silence(host, monkeypatch) for host in hosts.values()]
        subscriptions = {topic: host.subscribe("reader", [topic]) for topic, host in hosts.items()}
        await until(lambda: first.is_ready and second.is_ready)
        for speak in speaking:
            speak()
        taking = [asyncio.create_task(collect(one, got[topic])) for topic, one in subscriptions.items()]

        async def publish() -> None:
            while not all(got.values()):
                for topic in hosts:
                    await source.publish(topic, message(topic))
                await asyncio.sleep(0.1)

        await asyncio.wait_for(publish(), 60)
        await source.publish("old", message("last"))
        await source.publish("new", message("last"))
        await until(lambda: all("last" in data for data in got.values()), 60)
    await asyncio.gather(*taking)
    assert {*got["old"], *got["new"]} == {"old", "new", "last"}
    assert "new" not in got["old"]
    assert "old" not in got["new"]


@async_test
async def test_prefixes_keep_systems_on_one_broker_apart(scheme: str, brokers: Brokers) -> None:
    async with open_broker(brokers.url(scheme)) as one, open_broker(brokers.url(scheme)) as other:
        mine, theirs = one.subscribe("reader", ["#"]), other.subscribe("reader", ["#"])
        await one.publish("a", message("mine"))
        await other.publish("a", message("theirs"))
        assert await settle(await take(mine, 1)) == ["mine"]
        assert await settle(await take(theirs, 1)) == ["theirs"]
        assert one.unsettled() == other.unsettled() == 0


@async_test
async def test_without_leave_to_create_what_is_missing_is_refused(scheme: str, brokers: Brokers) -> None:
    url = brokers.url(scheme)
    refused = open_broker(url + "&create=no")
    with pytest.raises(TransportError, match="create=no"):
        async with refused:
            await refused.subscribe("reader", ["a"]).receive()
    async with open_broker(url) as transport:  # the operator makes it
        await transport.subscribe("reader", ["a"]).close()
    async with open_broker(url + "&create=no") as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", message("welcome"))
        assert (await take(reader, 1))[0].message.data == "welcome"


@pytest.mark.usefixtures("nats_gives_up_soon")
@async_test
async def test_a_server_that_is_not_there_is_said_with_place_and_reason(
    scheme: str, brokers: Brokers
) -> None:
    transport = open_broker(f"{scheme}://somebody:secret-word@127.0.0.1:1/")
    with pytest.raises(TransportError, match=r"127\.0\.0\.1:1") as caught:
        await transport.open()
    assert "secret-word" not in f"{caught.value!r} {caught.value} {transport.endpoint!r}"
    with pytest.raises(TransportClosed):
        await transport.publish("a", message())
    await transport.close()


@pytest.mark.parametrize("query", ["colour=red", "create=perhaps", "lease=0", "lease=soon", "prefix=a..b"])
def test_wrong_options_are_refused(scheme: str, brokers: Brokers, query: str) -> None:
    with pytest.raises(EchoCoreError, match=r"colour|perhaps|lease|a\.\.b"):
        open_broker(f"{scheme}://127.0.0.1/?{query}")


@async_test
async def test_a_closing_transport_tells_whoever_waits(scheme: str, brokers: Brokers) -> None:
    async with proxied(brokers, scheme) as (proxy, url):
        transport = open_broker(url)
        await transport.open()
        reader = transport.subscribe("reader", ["b"])
        await transport.publish("a", message())
        proxy.cut(refuse=True)
        await until(lambda: transport.trouble())
        publishing = asyncio.create_task(transport.publish("a", message()))
        receiving = asyncio.create_task(take(reader, 1))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await transport.close()
            for waiting in (publishing, receiving):
                with pytest.raises(TransportClosed):
                    await waiting


@async_test
async def test_order_holds_through_many_messages_and_batches(scheme: str, brokers: Brokers) -> None:
    async with open_broker(brokers.url(scheme)) as transport:
        reader = transport.subscribe("reader", ["a"], queue_limit=5_000)
        for start in range(0, 3_000, 500):
            await transport.publish_batch("a", [message(number) for number in range(start, start + 500)])
        came: list[Any] = []
        while len(came) < 3_000:
            came += await settle(list(await reader.receive(64)))
        assert came == list(range(3_000))
        await transport.wait_until_settled()
