"""How a transport gets its connection and its queues back; no broker is needed."""

import asyncio
import itertools
from collections.abc import Callable, Iterator

import pytest

from echo_core.errors import TransportError
from echo_core.testing import async_test
from echo_core.transports.broker import connection as connection_module
from echo_core.transports.broker import transport as transport_module
from echo_core.transports.broker.recovery import within
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from transports.test_broker_publishing import Scripted


class Listening(Scripted):
    """Its broker answers who wants to listen when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work: list[str] = []
        self.done: list[str] = []
        self.stopped: list[str] = []
        self.answer = asyncio.Event()
        self.meanwhile: Callable[[BrokerSubscription], None] | None = None
        """What happens while the next one is answered."""

    async def _listen(self, what: str, subscription: BrokerSubscription) -> None:
        self.at_work.append(what)
        try:
            await self.answer.wait()
            happens, self.meanwhile = self.meanwhile, None
            if happens is not None:
                happens(subscription)
            self.done.append(what)
        finally:
            self.at_work.remove(what)

    async def _establish(self, subscription: BrokerSubscription) -> None:
        await self._listen("establish", subscription)

    async def _resume(self, subscription: BrokerSubscription) -> None:
        await self._listen(f"resume {self._connections}", subscription)

    async def _stop(self, subscription: BrokerSubscription) -> None:
        self.stopped.append(subscription.name)


async def opened() -> Listening:
    transport = Listening()
    await transport.open()
    return transport


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@async_test
async def test_a_connection_that_is_lost_while_one_listens_ends_that_before_it_begins_anew() -> None:
    transport = await opened()
    transport.answer.set()
    reader = transport.subscribe("reader", ["a"])
    await until(lambda: reader.is_ready)
    transport.answer.clear()
    for _ in range(2):
        await transport.lose_connection()
        await transport._connection_made()
        await until(lambda: transport.at_work == [f"resume {transport._connections}"])
    transport.answer.set()
    await until(lambda: transport.done[-1] == "resume 2")
    assert transport.done == ["establish", "resume 2"]
    await transport.close()


@async_test
async def test_a_queue_that_is_made_while_the_connection_is_lost_is_listened_to_on_the_new_one() -> None:
    transport = await opened()
    reader = transport.subscribe("reader", ["a"])
    await until(lambda: transport.at_work)
    await transport.lose_connection()
    await transport._connection_made()  # it is not ready, so nobody resumes it
    transport.answer.set()
    await until(lambda: reader.is_ready)
    assert transport.done == ["establish", "establish"]
    await transport.close()


@async_test
async def test_a_queue_that_is_lost_while_it_is_made_is_made_again() -> None:
    transport = await opened()
    transport.meanwhile = lambda subscription: transport._lost(subscription, "somebody has deleted it")
    transport.answer.set()
    reader = transport.subscribe("reader", ["a"])
    await until(lambda: reader.is_ready)
    assert transport.done == ["establish", "establish"]
    assert transport.trouble() == ""
    await transport.close()


@async_test
async def test_each_of_two_subscriptions_of_a_name_gets_its_queue_back() -> None:
    transport = await opened()
    transport.answer.set()
    readers = [transport.subscribe("reader", ["a"]) for _ in range(2)]  # as for a canary
    await until(lambda: all(reader.is_ready for reader in readers))
    transport.done.clear()
    for reader in readers:
        transport._lost(reader, "somebody has deleted it")
    await until(lambda: all(reader.is_ready for reader in readers))
    assert transport.done == ["establish", "establish"]
    await transport.close()


@async_test
async def test_who_closes_while_it_begins_to_listen_does_not_listen_afterwards() -> None:
    transport = await opened()
    transport.answer.set()
    reader = transport.subscribe("reader", ["a"])
    await until(lambda: reader.is_ready)
    transport.answer.clear()
    await transport.lose_connection()
    await transport._connection_made()
    await until(lambda: transport.at_work)
    transport._troubles.begin("listening for reader", "the broker does not answer")
    await reader.close()
    assert transport.at_work == []
    assert transport.stopped == ["reader"]
    assert transport.trouble() == ""  # nobody wants it to listen any more
    await transport.close()


@async_test
async def test_what_a_client_breaks_off_by_itself_is_tried_again_and_not_taken_for_the_end() -> None:
    async def broken_off() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError, match="broken off"):
        await within(1, broken_off())


class Fleeting(Scripted):
    """Connections are lost as soon as they are made, so many times."""

    lost = 0
    made = 0

    async def _connect(self) -> None:
        self.made += 1
        if self.lost:
            self.lost -= 1
            # The client says so before anybody knows that there is a connection.
            asyncio.get_running_loop().call_soon(self._cut_off, "it was lost again")
            await asyncio.sleep(0)


@async_test
async def test_a_connection_that_is_lost_before_it_is_used_is_made_again() -> None:
    transport = Fleeting()
    await transport.open()
    transport.lost = 2
    transport._cut_off("the test says so")
    await until(lambda: transport.is_connected)
    assert transport.made == 4
    assert transport.trouble() == ""
    await transport.close()


@async_test
async def test_a_first_connection_that_is_lost_at_once_is_none() -> None:
    transport = Fleeting()
    transport.lost = 1
    with pytest.raises(TransportError, match="it was lost again"):
        await transport.open()


@async_test
async def test_what_nobody_has_thought_of_does_not_end_the_looking_after(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(transport_module, "TICK_S", 0.0)
    monkeypatch.setattr(transport_module, "_FAULT_S", 0.0)
    transport = Scripted()
    looked_after: list[float] = []

    async def tick(now: float) -> None:
        looked_after.append(now)
        if len(looked_after) == 1:
            raise ValueError("nobody has thought of it")

    monkeypatch.setattr(transport, "_tick", tick)
    await transport.open()
    await until(lambda: len(looked_after) > 1)
    assert "nobody has thought of it" in caplog.text
    await transport.close()


@async_test
async def test_that_nothing_is_left_is_believed_when_it_was_seen_twice_in_a_row() -> None:
    nothing, something = Backlog(0, 0), Backlog(0, 1)
    answers = [nothing, something, nothing, something, nothing, nothing]
    asked = 0

    class Wavering(Scripted):
        async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
            nonlocal asked
            asked += 1
            return answers[asked - 1]

    transport = Wavering()
    transport._open = transport.is_connected = True  # not opened: nobody else looks after it
    reader = transport.subscribe("reader", ["a"])
    await until(lambda: reader.is_ready)
    await asyncio.wait_for(transport.wait_until_settled(), 60)
    assert asked == len(answers)
    await transport.close()


@async_test
async def test_the_pauses_go_on_growing_while_connections_do_not_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[int] = []

    def backoff() -> Iterator[float]:
        for number in itertools.count():
            pauses.append(number)
            yield 0.0

    async def lose() -> int:
        """How far along the pauses the one was after which there was a connection."""
        pauses.clear()
        transport._cut_off("it was cut")
        await until(lambda: transport.is_connected)
        return pauses[-1]

    monkeypatch.setattr(connection_module, "backoff", backoff)
    transport = await opened()
    assert [await lose() for _ in range(10)] == [0, 1, 2, 3, 4, 5, 6, 6, 6, 6]
    monkeypatch.setattr(connection_module, "_LASTING_S", 0.0)
    assert await lose() == 0
    await transport.close()
