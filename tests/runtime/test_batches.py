"""Batches through the host's public door: what is handed over together, and what becomes of each."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_core import (
    BaseMessage,
    Ending,
    Filter,
    Invalid,
    Many,
    Plugin,
    ProcessingStatus,
    Router,
    Sink,
    Source,
    Transformer,
    Validator,
)
from echo_core.plugin import Answer
from echo_core.runtime.states import PluginState
from echo_core.testing.clock import ManualClock
from runtime.hosting import Handler, Numbers, World, manifest, running

SOURCE = manifest("counting", says=("raw",), plugin_type="source")
OK = ProcessingStatus.ACKNOWLEDGED


class ManyNumbers(Source):
    """Yields all of them at once."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    async def produce(self) -> AsyncIterator[Many]:
        yield Many(self.items)


class Batcher(Handler):
    """Answers for each message of a batch as its function says, and remembers how they came."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer
        self.batches: list[list[Any]] = []
        self.topics: list[str] = []
        self.alone: list[Any] = []

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        self.alone.append(message.data)
        return await super().process_message(topic, message)

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        self.topics += topics
        self.seen += messages
        self.batches.append([message.data for message in messages])
        return [self.answer(message) if self.answer else OK for message in messages]


def of(name: str, size: int = 4, **more: Any) -> Any:
    return manifest(
        name,
        hears=more.pop("hears", ("raw",)),
        delivery={"batch_size": size} | more.pop("delivery", {}),
        **more,
    )


def run(world: World) -> Any:
    return asyncio.run(world.run())


def test_messages_are_handed_over_together_and_the_counts_add_up(tmp_path: Path) -> None:
    world, plugin = World(tmp_path), Batcher()
    world.add(ManyNumbers(range(10)), SOURCE)
    world.add(plugin, of("batcher"))
    final = run(world)

    assert plugin.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert plugin.topics == ["raw"] * 10
    assert not plugin.alone
    assert (final["batcher"].processed, final["counting"].published) == (10, 10)


def test_messages_are_let_go_when_they_are_settled_and_not_with_the_next_batch(tmp_path: Path) -> None:
    class Payload(dict[str, int]):
        """Data that can be referred to weakly."""

    left: list[bool] = []

    class Forgetful(Batcher):
        async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> list[Answer]:
            payloads.extend(weakref.ref(message.data) for message in messages)
            return [OK] * len(messages)

    class Waiting(Source):
        async def produce(self) -> AsyncIterator[Many]:
            await self.context.publish_batch("raw", [Payload() for _ in range(4)])
            yield Many()
            await world.transport.wait_until_settled()
            await asyncio.sleep(0)
            left.extend(payload() is not None for payload in payloads)

    payloads: list[weakref.ref[Payload]] = []
    world = World(tmp_path)
    world.add(Waiting(), SOURCE)
    world.add(Forgetful(), of("batcher"))
    run(world)
    assert left == [False] * 4


def test_each_message_of_a_batch_ends_in_its_own_way(tmp_path: Path) -> None:
    answers = {
        0: OK,
        1: ProcessingStatus.FILTERED,
        2: ProcessingStatus.FAILED("no use"),
        3: ValueError("odd"),
    }
    world, plugin = World(tmp_path), Batcher(lambda message: answers[message.data])
    world.add(ManyNumbers(range(4)), SOURCE)
    world.add(plugin, of("batcher"))
    final = run(world)["batcher"]

    (letter,) = world.dead_letters.newest()
    assert (final.processed, final.filtered, final.dead_lettered, final.failed_attempts) == (2, 1, 1, 2)
    assert letter.reason == "FAILED: no use"
    assert plugin.alone == [3]  # what failed and may be tried again is, alone


def test_what_raises_is_found_by_trying_each_alone(tmp_path: Path) -> None:
    class Poisoned(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            if any(message.data == 2 for message in messages):
                raise ValueError("poison")
            return await super().process_batch(topics, messages)

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            if message.data == 2:
                raise ValueError("poison alone")
            return await super().process_message(topic, message)

    world, plugin = World(tmp_path), Poisoned()
    world.add(ManyNumbers(range(8)), SOURCE)
    world.add(plugin, of("batcher"))
    final = run(world)["batcher"]

    (letter,) = world.dead_letters.newest()
    assert letter.message().data == 2
    assert [attempt.error for attempt in letter.attempts] == ["poison", "poison alone", "poison alone"]
    assert plugin.alone == [0, 1, 3]
    assert plugin.batches == [[4, 5, 6, 7]]
    assert (final.processed, final.dead_lettered) == (7, 1)


def test_a_failed_message_is_tried_again_before_the_next_batch(tmp_path: Path) -> None:
    order: list[Any] = []

    class Watched(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            order.append([message.data for message in messages])
            return [ProcessingStatus.RETRY_LATER(0) if message.data == 1 else OK for message in messages]

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            order.append(message.data)
            return OK

    world = World(tmp_path)
    world.add(ManyNumbers(range(6)), SOURCE)
    world.add(Watched(), of("batcher", 3))
    run(world)
    assert order == [[0, 1, 2], 1, [3, 4, 5]]


@pytest.mark.parametrize("answer", [None, [], [OK], (OK,) * 5, "done"])
def test_an_answer_that_does_not_fit_fails_the_batch_and_says_so(tmp_path: Path, answer: Any) -> None:
    class Odd(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            return answer  # type: ignore[no-any-return]

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            raise ValueError("and alone too")

    world = World(tmp_path)
    world.add(ManyNumbers([0, 1]), SOURCE)
    world.add(Odd(), of("batcher"))
    run(world)
    assert world.dead_letters.count() == 2
    assert "process_batch returned" in world.dead_letters.newest()[0].attempts[0].error


def test_something_that_is_no_status_is_dead_lettered(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(ManyNumbers([0]), SOURCE)
    world.add(Batcher(lambda message: "done"), of("batcher"))
    run(world)
    assert "process_batch returned 'done', no ProcessingStatus" in world.dead_letters.newest()[0].reason


def test_what_is_forwarded_goes_out_in_order_and_is_made_from_its_own_message(tmp_path: Path) -> None:
    def forward(message: BaseMessage) -> ProcessingStatus:
        if message.data == 2:
            return ProcessingStatus.FORWARD("even", message)
        return ProcessingStatus.FORWARD("odd" if message.data % 2 else "even", message.data * 10)

    world, plugin, reader = World(tmp_path), Batcher(forward), Handler()
    world.add(ManyNumbers(range(4)), SOURCE)
    world.add(plugin, of("batcher", says=("even", "odd")))
    world.add(reader, manifest("reader", hears=("#",)))
    final = run(world)

    came = [message for message in reader.seen if message.source == "batcher"]
    assert [message.data for message in came] == [0, 10, 2, 30]
    assert [message.parent_ids for message in came] == [(message.id,) for message in plugin.seen]
    assert (final["batcher"].processed, final["batcher"].published) == (4, 4)


def test_what_is_published_in_a_batch_is_made_from_all_of_it_or_from_what_it_says(tmp_path: Path) -> None:
    class Publishing(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            await super().process_batch(topics, messages)
            await self.context.publish("out", "sum")
            await self.context.publish_batch("out", ["a", "b"], made_from=messages[:2])
            for message in self.context.one_by_one(messages):
                await self.context.publish("out", message.data)
            return [OK] * len(messages)

    world, plugin, reader = World(tmp_path), Publishing(), Handler()
    world.add(ManyNumbers([1, 2, 3]), SOURCE)
    world.add(plugin, of("batcher", says=("out",)))
    world.add(reader, manifest("reader", hears=("out",)))
    run(world)

    ids = [message.id for message in plugin.seen]
    assert [(message.data, message.parent_ids) for message in reader.seen] == [
        ("sum", tuple(ids)),
        ("a", (ids[0],)),
        ("b", (ids[1],)),
        (1, (ids[0],)),
        (2, (ids[1],)),
        (3, (ids[2],)),
    ]
    assert {message.root_id for message in reader.seen} == set(ids)


def test_publishing_many_is_refused_where_publishing_one_is(tmp_path: Path) -> None:
    class Sneaky(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            await self.context.publish_batch("secrets", [1])
            return [OK] * len(messages)

    world = World(tmp_path)
    world.add(ManyNumbers([0]), SOURCE)
    world.add(Sneaky(), of("sneaky", says=("allowed",), delivery={"max_attempts": 1}))
    run(world)
    assert "may not publish to 'secrets'" in world.dead_letters.newest()[0].reason


@pytest.mark.parametrize(
    ("data", "more", "told"),
    [
        ([BaseMessage(source="x")], {}, "gave publish_batch a message"),
        ([1, 2], {"made_from": []}, "publishes 2, made from 0 messages"),
    ],
)
def test_publish_batch_says_what_it_cannot_take(tmp_path: Path, data: Any, more: Any, told: str) -> None:
    class Wrong(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            await self.context.publish_batch("out", data, **more)
            return [OK] * len(messages)

    world = World(tmp_path)
    world.add(ManyNumbers([0]), SOURCE)
    world.add(Wrong(), of("wrong", says=("out",), delivery={"max_attempts": 1}))
    run(world)
    assert told in world.dead_letters.newest()[0].reason


def test_a_batch_may_have_several_topics(tmp_path: Path) -> None:
    class TwoTopics(Source):
        async def produce(self) -> AsyncIterator[Any]:
            yield ("raw.a", Many([1, 2]))
            yield ("raw.b", 3)

    world, plugin = World(tmp_path), Batcher()
    world.add(TwoTopics(), manifest("two", says=("raw.*",), plugin_type="source"))
    world.add(plugin, of("batcher", hears=("raw.*",)))
    run(world)
    assert plugin.topics == ["raw.a", "raw.a", "raw.b"]
    assert plugin.data == [1, 2, 3]


def test_a_batch_waits_for_more_and_not_for_longer_than_it_may(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        world, plugin = World(tmp_path, clock=clock, health_interval_s=1_000), Batcher()
        world.add(plugin, of("batcher", 3, delivery={"batch_wait_ms": 500}))
        running = asyncio.create_task(world.run(until_idle=False))
        while world.host.snapshot().plugins[0].state is not PluginState.RUNNING:
            await asyncio.sleep(0.001)
        for number in (1, 2):
            await world.transport.publish("raw", BaseMessage(source="test", data=number))
        await clock.advance(0.4)
        assert plugin.batches == []
        await clock.advance(0.2)
        assert plugin.batches == [[1, 2]]
        for number in (3, 4, 5, 6):
            await world.transport.publish("raw", BaseMessage(source="test", data=number))
        await clock.advance(0)
        assert plugin.batches == [[1, 2], [3, 4, 5]]  # full: no need to wait
        world.host.request_stop()
        while not running.done():
            await clock.advance(0.1)
        await running
        assert plugin.batches == [[1, 2], [3, 4, 5], [6]]

    asyncio.run(scenario())


def test_a_message_that_comes_again_is_handled_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, plugin = World(tmp_path), Batcher()
        await world.transport.open()
        other = world.transport.subscribe("batcher", ["raw"])
        world.transport.subscribe = lambda *a, **k: other  # type: ignore[method-assign]
        for number in range(3):
            await world.transport.publish("raw", BaseMessage(source="test", data=number))
        for delivery in reversed([(await other.receive(1))[0] for _ in range(2)]):
            await delivery.retry()
        world.add(plugin, of("batcher"))
        await world.run()
        assert plugin.alone == [0, 1]
        assert plugin.batches == [[2]]

    asyncio.run(scenario())


def test_a_batch_that_is_out_of_time_is_cancelled_and_its_messages_tried_alone(tmp_path: Path) -> None:
    class Slow(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            await asyncio.Event().wait()
            return []

    world, plugin = World(tmp_path), Slow()
    world.add(ManyNumbers([0, 1]), SOURCE)
    world.add(plugin, of("slow", timeouts={"message_ms": 50}))
    final = run(world)["slow"]
    assert plugin.alone == [0, 1]
    assert (final.processed, final.failed_attempts) == (2, 2)


def test_a_stop_in_the_middle_of_a_batch_keeps_every_message(tmp_path: Path) -> None:
    class Hanging(Batcher):
        async def process_batch(
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            world.host.abort()
            await asyncio.Event().wait()
            return []

    world = World(tmp_path, shutdown_timeout_s=0.2)
    world.add(ManyNumbers(range(6)), SOURCE)
    world.add(Hanging(), of("hanging"))
    final = asyncio.run(world.run(until_idle=False))["hanging"]
    assert sorted(letter.message().data for letter in world.dead_letters.newest()) == list(range(6))
    assert (final.received, final.dead_lettered, final.queue, final.in_hand) == (6, 6, 0, 0)


def test_a_plugin_without_process_batch_is_refused_where_its_manifest_asks_for_batches(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.add(ManyNumbers([1]), SOURCE)
    world.add(Handler(), of("single"))
    final = run(world)["single"]
    assert final.state is PluginState.FAILED
    assert "has no process_batch" in final.reason


def test_a_blocking_batch_runs_in_the_plugins_threads(tmp_path: Path) -> None:
    class InThread(Plugin, blocking=True):
        def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:  # type: ignore[override]
            return OK

        def process_batch(  # type: ignore[override]
            self, topics: Sequence[str], messages: Sequence[BaseMessage]
        ) -> Sequence[Answer]:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return [OK] * len(messages)

    world = World(tmp_path)
    world.add(ManyNumbers(range(3)), SOURCE)
    world.add(InThread(), of("threaded"))
    final = run(world)["threaded"]
    assert (final.processed, final.failed_attempts) == (3, 0)


class Small(Validator):
    async def validate(self, message: BaseMessage) -> None:
        if message.data == "crash":
            raise ValueError("crash")
        if message.data == "bad":
            raise Invalid("bad")


class Even(Filter):
    async def keep(self, message: BaseMessage) -> bool:
        if message.data == "crash":
            raise ValueError("crash")
        return bool(message.data != "drop")


class Shout(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        if message.data == "crash":
            raise ValueError("crash")
        return {"drop": None, "bad": ("special", "BAD"), "split": Many(["sp", "lit"])}.get(
            message.data, str(message.data).upper()
        )


class ByWord(Router):
    async def route(self, message: BaseMessage) -> Any:
        if message.data == "crash":
            raise ValueError("crash")
        return {"drop": (), "split": ("out", "special")}.get(message.data, "out")


class Writes(Sink):
    async def write(self, message: BaseMessage) -> None:
        if message.data == "crash":
            raise ValueError("crash")


@pytest.mark.parametrize("role", [Small, Even, Shout, ByWord, Writes])
@settings(max_examples=15, deadline=None)
@given(words=st.lists(st.sampled_from(["ok", "fine", "bad", "drop", "split", "crash"]), max_size=12))
def test_a_role_does_the_same_in_batches_as_with_one_message_at_a_time(
    tmp_path_factory: pytest.TempPathFactory, role: type[Plugin], words: list[str]
) -> None:
    def outcome(size: int) -> Any:
        world, reader = World(tmp_path_factory.mktemp("world")), Handler()
        world.add(ManyNumbers(words), SOURCE)
        world.add(role(), of("role", size, says=("out", "special")))
        world.add(reader, manifest("reader", hears=("out", "special")))
        final = run(world)["role"]
        origin = {letter.message_id for letter in world.dead_letters.newest(limit=100)}
        made = [(m.data, len(m.receipts), m.parent_ids[0] in origin) for m in reader.seen]
        letters = sorted(letter.reason for letter in world.dead_letters.newest(limit=100))
        return made, letters, final.processed, final.filtered, final.dead_lettered, final.published

    assert outcome(5) == outcome(1)


def test_a_sink_may_write_many_at_once_and_say_which_were_not(tmp_path: Path) -> None:
    class Store(Sink):
        def __init__(self) -> None:
            self.rows: list[Any] = []

        async def write(self, message: BaseMessage) -> None:
            self.rows.append(("alone", message.data))

        async def write_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Exception | None] | None:
            self.rows.append([message.data for message in messages])
            if messages[0].data == 0:
                return None
            return [ValueError("constraint") if message.data == 3 else None for message in messages]

    world, sink = World(tmp_path), Store()
    world.add(ManyNumbers(range(4)), SOURCE)
    world.add(sink, of("store", 2))
    final = run(world)["store"]
    assert sink.rows == [[0, 1], [2, 3], ("alone", 3)]
    assert (final.processed, final.failed_attempts) == (4, 1)


def test_a_transformer_may_transform_many_at_once(tmp_path: Path) -> None:
    class Model(Transformer, blocking=True):
        def transform(self, message: BaseMessage) -> Any:
            return message.data

        def transform_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Any]:  # type: ignore[override]
            return [message.data * 2 for message in messages]

    world, reader = World(tmp_path), Handler()
    world.add(ManyNumbers(range(3)), SOURCE)
    world.add(Model(), of("model", says=("out",)))
    world.add(reader, manifest("reader", hears=("out",)))
    run(world)
    assert reader.data == [0, 2, 4]


def test_numbers_come_one_by_one_or_many_at_a_time_and_are_the_same(tmp_path: Path) -> None:
    for source in (Numbers(5), ManyNumbers(range(5))):
        world, reader = World(tmp_path), Handler()
        world.add(source, SOURCE)
        world.add(reader, manifest("reader", hears=("raw",)))
        run(world)
        assert reader.data == list(range(5))
        ids = [message.id for message in reader.seen]
        assert ids == sorted(set(ids))


class Acknowledging(ManyNumbers):
    """Told how each of its messages ended."""

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__(items)
        self.told: list[tuple[Any, Ending]] = []

    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        self.told.append((message.data, ending))


@pytest.mark.parametrize("limit", [2, 1_000])
def test_a_source_that_yields_many_learns_how_each_ended(tmp_path: Path, limit: int) -> None:
    answers = {1: ProcessingStatus.FILTERED, 2: ProcessingStatus.FAILED("no"), 3: ValueError("once")}
    world, source = World(tmp_path), Acknowledging(range(5))
    world.add(
        source, manifest("counting", says=("raw",), plugin_type="source", delivery={"queue_limit": limit})
    )
    world.add(Batcher(lambda message: answers.get(message.data, OK)), of("batcher", 3))
    run(world)
    assert sorted(source.told) == [
        (0, Ending.PROCESSED),
        (1, Ending.FILTERED),
        (2, Ending.DEAD_LETTERED),
        (3, Ending.PROCESSED),
        (4, Ending.PROCESSED),
    ]


@pytest.mark.parametrize("rounds", range(12))
def test_a_pause_that_does_not_wait_loses_nothing_that_a_batch_has_just_got(
    tmp_path: Path, rounds: int
) -> None:
    """It comes `rounds` rounds of the event loop after another message for a batch that waits for more."""

    async def scenario() -> None:
        world = World(tmp_path, drain_timeout_s=1e-9)
        sender, batcher = Handler(), Batcher()
        world.add(sender, manifest("sender", says=("raw",)))
        world.add(batcher, of("waiting", delivery={"batch_wait_ms": 10_000}))
        async with running(world) as host:
            await sender.context.publish("raw", 0)
            await asyncio.sleep(0.01)
            await sender.context.publish("raw", 1)
            for _ in range(rounds):
                await asyncio.sleep(0)
            await host.pause("waiting")
            for number in (2, 3):
                await sender.context.publish("raw", number)
            await host.resume("waiting")
            await world.transport.wait_until_settled()
        assert batcher.data == [0, 1, 2, 3]

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [100, 1_000])
def test_what_was_accepted_of_a_batch_before_it_was_refused_is_counted(tmp_path: Path, count: int) -> None:
    class OfItsOwn(Handler):
        """Publishes to itself, more than there is room for."""

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            if topic == "raw":
                await self.context.publish_batch("more", range(count))
            return OK

    world = World(tmp_path, max_in_flight_messages=50)
    world.add(Numbers(1), SOURCE)
    delivery = {"max_attempts": 1}
    world.add(OfItsOwn(), manifest("circle", hears=("raw", "more"), says=("more",), delivery=delivery))
    final = run(world)
    assert (final["circle"].dead_lettered, world.dead_letters.newest()[0].attempts[0].error_type) == (
        1,
        "QueueFull",
    )
    assert final["circle"].published > 10
    assert final["counting"].published + final["circle"].published == final["circle"].received
