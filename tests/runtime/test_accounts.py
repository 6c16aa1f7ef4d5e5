"""What became of messages, by the exported metrics alone: a receiver can balance the books of a host."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common_telemetry.testing import OtlpReceiver, ReceivedPoint
from echo_core import BaseMessage, ProcessingStatus
from echo_core.plugin import Answer
from echo_core.runtime.roster import Roster
from echo_core.runtime.settings import Tier
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.statistics import Statistics
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, Numbers, World, manifest, offer, running
from runtime.isolation.tiers import TIERS, Tiers

Books = dict[str, dict[str, int]]
"""By plugin: what each metric says in the last export, outcomes under their own names."""
SOURCE = manifest("counting", says=("raw",), plugin_type="source")


def books(receiver: OtlpReceiver, version: str | None = None) -> Books:
    """What came last of each series, with zero for what there is none of."""
    found: Books = {}
    last: dict[Any, ReceivedPoint] = {}
    for point in receiver.metrics():
        if point.name.startswith("plugin.message.") and point.kind == "sum":
            last[point.name, tuple(sorted(point.attributes.items()))] = point
    for (name, _), point in last.items():
        attributes = point.attributes
        if name == "plugin.message.shed" or version not in (None, attributes["plugin.version"]):
            continue
        book = found.setdefault(attributes["plugin.name"], Counter())
        book[attributes.get("echo.message.outcome", name.removeprefix("plugin.message."))] += int(point.value)
    return found


def ended(book: dict[str, int]) -> int:
    return book["processed"] + book["filtered"] + book["dead_lettered"] + book["shed"]


def check_balance(book: dict[str, int], published: int) -> None:
    """The two sums that docs/telemetry.md gives, against what was published for the plugin."""
    assert book["consumed"] == ended(book) - book["shed"] + book["returned"] + book["in_hand"], book
    assert published == ended(book) + book["in_hand"] + book["waiting"], (published, book)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0)


def answering() -> Callable[[BaseMessage], Any]:
    """Every fifth message is filtered, failed, failed again and again, or well at the second attempt."""
    tried = Counter[str]()

    def answer(message: BaseMessage) -> Any:
        kind = message.data % 5
        tried[message.id] += 1
        if kind == 0:
            return ProcessingStatus.FILTERED
        if kind == 1:
            return ProcessingStatus.FAILED("no good")
        is_ill = kind == 2 or (kind == 3 and tried[message.id] == 1)
        return ProcessingStatus.RETRY_LATER(0.001) if is_ill else None

    return answer


class Batches(Handler):
    """The same, many at a time."""

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        return [await self.process_message("raw", message) for message in messages]


@pytest.mark.parametrize("in_batches", [False, True])
def test_every_outcome_is_counted_and_a_message_once_however_often_it_is_tried(
    tmp_path: Path, *, in_batches: bool
) -> None:
    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        world.add(Numbers(50), SOURCE)
        delivery = {"batch_size": 7} if in_batches else {}
        world.add(Batches(answering()), manifest("handler", hears=("raw",), delivery=delivery))
        final = asyncio.run(world.run())
        told = books(receiver)

    assert final["handler"].failed_attempts == 10 + 3 * 10 + 10
    assert told["counting"] == {"published": 50}
    assert told["handler"] == Counter(consumed=50, processed=20, filtered=10, dead_lettered=20)


@pytest.mark.parametrize("tier", TIERS)
def test_the_books_of_a_plugin_in_a_process_of_its_own_are_the_hosts(tmp_path: Path, tier: Tier) -> None:
    subject = """
        from echo_core import Plugin, ProcessingStatus

        class Subject(Plugin):
            async def process_message(self, topic, message):
                if message.data == 1:
                    return ProcessingStatus.FILTERED
                if message.data == 2:
                    return ProcessingStatus.FAILED("no")
                if message.data == 3:
                    raise ValueError("always")
                await self.context.publish("out", message.data)
                return ProcessingStatus.ACKNOWLEDGED

        def create_plugin():
            return Subject()
    """
    with OtlpReceiver() as receiver:
        tiers = Tiers(tmp_path, tier, otel=receiver.environ())
        tiers.world.add(Numbers(10), manifest("feed", says=("in",), plugin_type="source"))
        tiers.add(subject)
        tiers.world.add(Handler(), manifest("drain", hears=("out",)))
        asyncio.run(tiers.world.run())
        told = books(receiver)

    subject_book = Counter(told["subject"])
    assert subject_book == Counter(consumed=10, processed=7, filtered=1, dead_lettered=2, published=7)
    assert told["drain"]["processed"] == 7


def test_what_is_in_hand_and_what_waits_is_told_while_it_does(tmp_path: Path) -> None:
    async def scenario(receiver: OtlpReceiver) -> None:
        world, go = World(tmp_path, otel=receiver.environ()), asyncio.Event()

        async def wait(message: BaseMessage) -> None:
            await go.wait()

        busy = Handler(wait)
        world.add(Numbers(100), SOURCE)
        world.add(busy, manifest("busy", hears=("raw",), delivery={"lanes": 2}))
        async with running(world):
            await until(lambda: len(busy.seen) == 2 and busy.context.transport.unsettled() == 100)
            await asyncio.to_thread(world.telemetry.flush, 30)
            book = books(receiver)["busy"]
            assert (book["in_hand"], book["waiting"]) == (2, 98)
            check_balance(book, 100)
            go.set()
        book = books(receiver)["busy"]
        assert (book["processed"], book["in_hand"], book["waiting"]) == (100, 0, 0)

    with OtlpReceiver() as receiver:
        asyncio.run(scenario(receiver))


def test_what_is_shed_has_ended_too(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())

        async def slowly(message: BaseMessage) -> None:
            await asyncio.sleep(0.001)

        world.add(Numbers(200), SOURCE)
        shedding = {"queue_limit": 5, "when_full": "shed_oldest"}
        world.add(Handler(slowly), manifest("handler", hears=("raw",), delivery=shedding))
        final = asyncio.run(world.run())["handler"]
        book = books(receiver)["handler"]
        by_reason = receiver.metrics("plugin.message.shed")[-1]

    assert book["shed"] == final.shed["queue_full"] > 0
    assert by_reason.value == book["shed"]
    check_balance(book, 200)


def test_totals_go_on_over_versions_pauses_and_a_return_of_the_same_version(tmp_path: Path) -> None:
    async def scenario(receiver: OtlpReceiver) -> None:
        transport = MemoryTransport()
        world = World(tmp_path, otel=receiver.environ(), transport=transport, drain_timeout_s=0.01)
        stuck = asyncio.Event()

        async def hold(message: BaseMessage) -> None:
            await stuck.wait()

        old = Handler(hold)
        first, second = (manifest("handler", hears=("raw",), version=one) for one in ("1.0", "2.0"))
        world.add(old, first)
        async with running(world) as host:
            for number in range(10):
                await transport.publish("raw", BaseMessage(source="test", data=number))
            await until(lambda: old.seen)
            await host.pause("handler")  # the one in hand goes back
            await asyncio.to_thread(world.telemetry.flush, 30)
            book = books(receiver)["handler"]
            assert (book["consumed"], book["returned"], book["waiting"]) == (1, 1, 10)
            check_balance(book, 10)
            await host.activate(offer(Handler(), second))
            await host.resume("handler")
            await transport.wait_until_settled()
            await host.activate(offer(Handler(), first))
            await transport.publish("raw", BaseMessage(source="test", data=10))
            await transport.wait_until_settled()
            await host.deactivate("handler")
            await asyncio.to_thread(world.telemetry.flush, 30)
            at_the_end = books(receiver)["handler"]
            await host.activate(offer(Handler(), first))
            await transport.publish("raw", BaseMessage(source="test", data=11))
            await transport.wait_until_settled()
        assert Counter(at_the_end) == Counter(consumed=12, returned=1, processed=11)
        assert Counter(books(receiver, "1.0")["handler"]) == Counter(consumed=3, returned=1, processed=2)
        assert Counter(books(receiver, "2.0")["handler"]) == Counter(consumed=10, processed=10)

    with OtlpReceiver() as receiver:
        asyncio.run(scenario(receiver))


def test_numbers_that_move_from_one_place_to_another_are_not_told_meanwhile(tmp_path: Path) -> None:
    """Of two builds of one version the one that goes leaves its numbers to the other."""
    world, roster = World(tmp_path), Roster()

    def slot(count: int) -> PluginSlot:
        made = world.host._new_slot("handler", manifest("handler"), "production")
        made.statistics.taken = made.statistics.processed = count
        return made

    first, second = slot(3), slot(4)
    roster.add(first)
    roster.add(second)
    told: list[Any] = []

    class Watched(Statistics):
        def absorb(self, other: Statistics) -> None:
            super().absorb(other)
            told.append(roster.account("handler", "1.2.3"))

    watched = Watched()
    watched.taken = watched.processed = 4
    second.statistics = watched
    before = roster.account("handler", "1.2.3")
    roster.remove(first)
    after = roster.account("handler", "1.2.3")
    assert told == [None]
    assert before == after
    assert after is not None
    assert after.processed == 7


def test_an_account_is_of_one_moment_though_another_thread_reads_it() -> None:
    numbers, stop = Statistics(), threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not stop.is_set():
            seen.append(numbers.account().in_hand)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200_000):
        numbers.taken += 1
        numbers.processed += 1
    stop.set()
    reader.join()
    assert set(seen) <= {0, 1}
