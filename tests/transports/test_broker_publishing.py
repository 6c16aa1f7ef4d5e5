"""In what order publications go to a broker that loses connections and refuses some; no broker is needed."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from echo_core.message import BaseMessage, decode
from echo_core.testing import async_test
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import Publication
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.endpoint import parse_endpoint


class Scripted(BrokerTransport):
    """Its broker takes what is sent to it, and answers when the test says so."""

    broker = "Scripted"

    def __init__(self) -> None:
        super().__init__(parse_endpoint("scripted://broker/", port=1, options=frozenset()))
        self.sent: list[tuple[str, Any]] = []
        """By whom, and what."""
        self.unanswered: list[int] = []
        self.handed_back: list[tuple[Hashable, float]] = []
        """The keys of deliveries, and their delays in seconds."""
        self.pause = asyncio.Event()
        """Sending waits for it, as for a full socket."""
        self.pause.set()

    async def _connect(self) -> None:
        pass

    async def _disconnect(self) -> None:
        pass

    async def _resume(self, subscription: BrokerSubscription) -> None:
        pass

    async def _establish(self, subscription: BrokerSubscription) -> None:
        pass

    async def _stop(self, subscription: BrokerSubscription) -> None:
        pass

    async def _send(self, publication: Publication) -> None:
        message = decode(publication.payload)
        self.sent.append((message.source, message.data))
        self.unanswered.append(publication.number)
        await self.pause.wait()

    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        pass

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        pass

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        self.handed_back.append((delivery.key, delay))

    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        pass

    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        return Backlog(0, 0)

    async def take(self) -> list[Any]:
        """Accept all that was sent; returns what was sent since it was called last."""
        for number in self.unanswered:
            await self._accepted(number)
        self.unanswered.clear()
        sent, self.sent = [data for _, data in self.sent], []
        return sent

    async def pass_time(self) -> None:
        """Long enough for what was refused to be sent again, if it may be."""
        for publisher in list(self._held_back):
            self._held_back[publisher] = 0.0
        await self._send_what_is_due(1.0)

    async def lose_connection(self) -> None:
        self._connection_lost("the test says so")
        self.sent.clear()
        self.unanswered.clear()


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    transport = Scripted()
    transport._open = transport.is_connected = True  # not opened: the test is what looks after it
    publishing: list[asyncio.Task[None]] = []
    transport_publish = transport.publish

    async def publish(topic: str, message: BaseMessage) -> None:
        publishing.append(asyncio.create_task(transport_publish(topic, message)))
        await asyncio.sleep(0)

    transport.publish = publish  # type: ignore[method-assign]
    yield transport
    for task in publishing:
        task.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)


async def say(transport: Scripted, *data: Any, by: str = "source") -> None:
    for one in data:
        await transport.publish("a", BaseMessage(source=by, data=one))


@async_test
async def test_what_is_published_while_old_publications_are_sent_again_goes_after_them() -> None:
    async with scripted() as transport:
        await say(transport, 1, 2, 3)
        await transport.lose_connection()
        await say(transport, 4)
        transport.pause.clear()
        connecting = asyncio.create_task(transport._connection_made())
        await asyncio.sleep(0.01)
        assert [data for _, data in transport.sent] == [1]
        await say(transport, 5)  # there is a connection, and 2 is not on it yet
        transport.pause.set()
        await connecting
        await say(transport, 6)
        assert await transport.take() == [1, 2, 3, 4, 5, 6]


@async_test
async def test_a_connection_that_is_lost_while_they_are_sent_again_begins_anew() -> None:
    async with scripted() as transport:
        await say(transport, 1, 2)
        await transport.lose_connection()
        transport.pause.clear()
        connecting = asyncio.create_task(transport._connection_made())
        await asyncio.sleep(0.01)
        await transport.lose_connection()
        await say(transport, 3)
        transport.pause.set()
        await connecting
        await say(transport, 4)
        assert await transport.take() == []
        await transport._connection_made()
        assert await transport.take() == [1, 2, 3, 4]


@async_test
async def test_what_follows_a_publication_that_is_refused_waits_for_it_and_others_do_not() -> None:
    async with scripted() as transport:
        await say(transport, 1)
        transport._refused(transport.unanswered.pop(), "no room")
        await say(transport, 2)
        await say(transport, "other", by="another")
        assert await transport.take() == [1, "other"]
        await transport.pass_time()
        await say(transport, 3)
        assert await transport.take() == [1, 2, 3]


@async_test
async def test_what_was_on_its_way_behind_one_that_is_refused_is_not_sent_twice() -> None:
    async with scripted() as transport:
        await say(transport, 1, 2)
        transport._refused(transport.unanswered.pop(0), "no room")
        await transport.pass_time()  # the answer to 2 is awaited: it may be refused too
        assert await transport.take() == [1, 2]
        await transport.pass_time()
        assert await transport.take() == [1]


@async_test
async def test_those_that_are_refused_again_and_again_keep_their_order() -> None:
    async with scripted() as transport:
        await say(transport, 1, 2)
        for number in (3, 4, 5):
            for refused in transport.unanswered:
                transport._refused(refused, "no room")
            transport.unanswered.clear()
            transport.sent.clear()
            await say(transport, number)
            await transport.pass_time()
            assert [data for _, data in transport.sent] == list(range(1, number + 1))
        await transport.take()
        await say(transport, 6)
        assert await transport.take() == [6]
