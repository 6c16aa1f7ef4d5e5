"""Topics that stay in the process: what the broker delivered is settled after all that came of it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.testing.transport_contract import TRANSPORT_CHECKS, TransportCheck
from echo_core.topics import TopicSet
from echo_core.transports.base import Capabilities, Delivery, Subscription
from echo_core.transports.local import LocalTransport
from echo_core.transports.memory import MemoryDelivery, MemorySubscription, MemoryTransport
from support.brokers import SCHEMES, Brokers, open_broker
from support.proxy import Proxy

PATIENCE_S = 60.0


class Keeping(MemoryTransport):
    """Stands for a broker: what is not settled would come again in another run."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        durable=True,
        shared=False,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        reports_acceptance=True,
        redelivers_to_one=True,
    )


async def one(subscription: Subscription) -> Delivery:
    (delivery,) = await asyncio.wait_for(subscription.receive(1), PATIENCE_S)
    return delivery


def made_from(delivery: Delivery, by: str, data: Any = None) -> BaseMessage:
    return delivery.message.derive(data, source=by)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("local", [("#",), ("no.such",), ("a",)], ids=["all", "none", "some"])
@async_test
async def test_it_keeps_every_promise_of_a_transport(local: tuple[str, ...], check: TransportCheck) -> None:
    await check(lambda: LocalTransport(MemoryTransport(), local))


@async_test
async def test_what_the_broker_delivered_is_settled_after_all_that_was_made_from_it() -> None:
    broker = Keeping()
    async with LocalTransport(broker, ["step.#"]) as transport:
        first = transport.subscribe("first", ["raw"])
        second = transport.subscribe("second", ["step.*"])
        third = transport.subscribe("third", ["step.two"])
        await transport.publish("raw", BaseMessage(source="outside"))
        raw = await one(first)
        await transport.publish("step.one", made_from(raw, "first"))
        await raw.settle()
        assert broker.unsettled() == 1
        step = await one(second)
        await transport.publish("step.two", made_from(step, "second"))
        await step.settle()
        assert broker.unsettled() == 1  # of the second step two deliveries are left
        await (await one(second)).settle()
        assert broker.unsettled() == 1
        await (await one(third)).settle()
        assert (broker.unsettled(), transport.unsettled()) == (0, 0)
        await asyncio.wait_for(transport.wait_until_settled(), PATIENCE_S)


@async_test
async def test_a_message_that_is_published_to_two_local_topics_is_waited_for_twice() -> None:
    broker = Keeping()
    async with LocalTransport(broker, ["step.#"]) as transport:
        first, second = transport.subscribe("first", ["raw"]), transport.subscribe("second", ["step.*"])
        await transport.publish("raw", BaseMessage(source="outside"))
        raw = await one(first)
        draft = made_from(raw, "first")
        await transport.publish("step.one", draft)
        await transport.publish("step.two", draft)
        await raw.settle()
        await (await one(second)).settle()
        assert broker.unsettled() == 1
        await (await one(second)).settle()
        assert broker.unsettled() == 0


@async_test
async def test_what_nobody_hears_holds_nothing_up_and_merged_messages_hold_up_all_of_theirs() -> None:
    broker = Keeping()
    async with LocalTransport(broker, ["step.#"]) as transport:
        first, second = transport.subscribe("first", ["raw"]), transport.subscribe("second", ["step.one"])
        for _ in range(3):
            await transport.publish("raw", BaseMessage(source="outside"))
        taken = [await one(first) for _ in range(3)]
        await transport.publish("step.none", made_from(taken[0], "first"))
        both = taken[1].message.derive(None, source="first")
        receipts = (*both.receipts, *taken[2].message.derive(None, source="first").receipts)
        await transport.publish("step.one", BaseMessage(source="first", receipts=receipts))
        await type(taken[0]).settle_batch(taken)
        assert broker.unsettled() == 2
        await (await one(second)).settle()
        assert broker.unsettled() == 0


@async_test
async def test_what_a_plugin_that_leaves_has_not_handled_comes_again_from_the_broker() -> None:
    async with LocalTransport(Keeping(), ["step"]) as transport:
        first, second = transport.subscribe("first", ["raw"]), transport.subscribe("second", ["step"])
        await transport.publish("raw", BaseMessage(source="outside", data="it"))
        raw = await one(first)
        await transport.publish("step", made_from(raw, "first"))
        await raw.settle()
        step = await one(second)
        assert transport.keeps(step)
        await second.close()
        await step.retry()
        again = await one(first)
        assert (again.message.id, again.attempt) == (raw.message.id, 2)
        await again.settle()
        assert transport.unsettled() == 0


@async_test
async def test_a_local_retry_stays_local_and_what_began_here_is_kept_by_nobody() -> None:
    broker = Keeping()
    async with LocalTransport(broker, ["step"]) as transport:
        reader = transport.subscribe("reader", ["step"])
        await transport.publish("step", BaseMessage(source="source"))
        step = await one(reader)
        assert not transport.keeps(step)
        await step.retry()
        again = await one(reader)
        assert (again.attempt, broker.unsettled()) == (2, 0)
        await again.settle()


@async_test
async def test_only_a_subscription_to_more_than_local_topics_needs_a_queue_of_the_broker() -> None:
    asked: list[tuple[str, list[str]]] = []

    class Asked(Keeping):
        def subscribe(self, name: str, patterns: Any, **more: Any) -> Any:
            asked.append((name, list(patterns)))
            return super().subscribe(name, patterns, **more)

    async with LocalTransport(Asked(), ["step.#", "a.*"]) as transport:
        for name, patterns in (("inner", ["step", "a.b"]), ("both", ["step.x", "#"]), ("outer", ["raw"])):
            transport.subscribe(name, patterns)
        assert asked == [("both", ["#"]), ("outer", ["raw"])]


class Watched(MemoryDelivery):
    """Says who settles what."""

    settled: ClassVar[list[tuple[str, str]]] = []

    def settle(self) -> Awaitable[None]:
        self.settled.append((self._subscription.name, self.message.id))
        return super().settle()

    @classmethod
    async def settle_batch(cls, deliveries: Sequence[Self]) -> None:
        for delivery in deliveries:
            await delivery.settle()


class Watching(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        taken = await super().receive(limit)
        for delivery in taken:
            delivery.__class__ = Watched
        return taken


class Observed(Keeping):
    """A broker that is seen to be told of settlements."""

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        made = super().subscribe(name, patterns, queue_limit=queue_limit)
        made.__class__ = Watching
        return made


PLUGINS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.lists(st.sampled_from("abcd"), max_size=2), st.booleans()),
    min_size=1,
    max_size=3,
    unique_by=lambda plugin: plugin[0],
)


@settings(max_examples=40, deadline=None)
@given(plugins=PLUGINS, local=st.lists(st.sampled_from("abcd#"), max_size=3), count=st.integers(1, 6))
def test_whatever_is_local_all_ends_and_nothing_is_settled_before_what_came_of_it(
    plugins: list[tuple[str, list[str], bool]], local: list[str], count: int
) -> None:
    asyncio.run(_in_a_world(plugins, local, count))


async def _in_a_world(plugins: list[tuple[str, list[str], bool]], local: list[str], count: int) -> None:
    """Each plugin hears everything, and passes it on for two generations, to the topics that it says."""
    is_local = TopicSet(local)
    left: Counter[tuple[str, str]] = Counter()
    """By plugin and message of the broker's: local deliveries below it that have not ended."""
    below: dict[tuple[str, str], tuple[str, str] | None] = {}
    """The same for each local delivery: where it came from; None where it began here."""
    Watched.settled.clear()

    async def handle(transport: LocalTransport, name: str, says: list[str], delivery: Delivery) -> None:
        key = (name, delivery.message.id)
        origin = below[key] if delivery.topic in is_local else key
        for topic in says if len(delivery.message.receipts) < 2 else ():
            made = made_from(delivery, name)
            if topic in is_local:
                below.update({(plugin[0], made.id): origin for plugin in plugins})
                left[origin or ("", "")] += len(plugins)
            await transport.publish(topic, made)
        if delivery.topic in is_local:
            left[origin or ("", "")] -= 1
        assert not any(left[settled] for settled in Watched.settled)

    async def work(transport: LocalTransport, name: str, says: list[str], in_batches: bool) -> None:
        subscription = transport.subscribe(name, ["#"], queue_limit=3)
        while True:
            taken = await subscription.receive(4)
            for delivery in taken:
                await handle(transport, name, says, delivery)
                if not in_batches:
                    await delivery.settle()
            if in_batches:
                await type(taken[0]).settle_batch(taken)

    async with LocalTransport(Observed(), local) as transport:
        workers = [asyncio.create_task(work(transport, *plugin)) for plugin in plugins]
        await asyncio.sleep(0)
        for number in range(count):
            message = BaseMessage(source="outside", data=number)
            below.update({(plugin[0], message.id): None for plugin in plugins})
            await transport.publish("abcd"[number % 4], message)
        async with asyncio.timeout(PATIENCE_S):
            await transport.wait_until_settled()
        assert transport.unsettled() == 0
        assert not +left
        for worker in workers:
            worker.cancel()
        for ended in await asyncio.gather(*workers, return_exceptions=True):
            assert isinstance(ended, asyncio.CancelledError)


@pytest.mark.parametrize("scheme", SCHEMES)
@async_test
async def test_over_a_broker_whose_connection_breaks_local_steps_lose_nothing(
    scheme: str, brokers: Brokers
) -> None:
    count = 300
    async with Proxy(brokers.server(scheme).port) as proxy:
        url = brokers.url(scheme, lease=2).replace(f":{brokers.server(scheme).port}", f":{proxy.port}")
        broker = open_broker(url)
        async with LocalTransport(broker, ["step"]) as transport:
            came: set[int] = set()

            async def pass_on(name: str, hears: str, says: str) -> None:
                subscription = transport.subscribe(name, [hears])
                while True:
                    for delivery in await subscription.receive(16):
                        await transport.publish(says, made_from(delivery, name, delivery.message.data))
                        await delivery.settle()

            async def end() -> None:
                subscription = transport.subscribe("end", ["done"])
                while True:
                    for delivery in await subscription.receive(16):
                        came.add(delivery.message.data)
                        await delivery.settle()

            workers = [
                asyncio.create_task(work)
                for work in (pass_on("first", "raw", "step"), pass_on("second", "step", "done"), end())
            ]
            await asyncio.sleep(0)  # they subscribe
            for number in range(count):
                await transport.publish("raw", BaseMessage(source="outside", data=number))
                if number in (100, 200):
                    proxy.cut()
            async with asyncio.timeout(PATIENCE_S):
                while len(came) < count:
                    await asyncio.sleep(0.01)
                await transport.wait_until_settled()
            assert came == set(range(count))
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
