"""A source learns how its messages ended, through the host's public door."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, Ending, FinishedPrefix, PluginError, ProcessingStatus, Source
from echo_core.message import Receipt
from echo_core.runtime.dead_letters import DeadLetterError
from echo_core.runtime.states import PluginState
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, World, manifest

SOURCE = manifest("log", says=("raw", "other"), plugin_type="source")


class Log(Source):
    """Yields what it is given and remembers what it is told."""

    def __init__(self, items: Any = (1,)) -> None:
        self.items = items
        self.told: list[tuple[Any, Ending]] = []
        self.calls: list[str] = []

    async def produce(self) -> AsyncIterator[Any]:
        for item in self.items:
            yield item

    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        self.told.append((message.data, ending))
        self.calls.append("settled")

    async def shutdown(self) -> None:
        self.calls.append("shutdown")


def run(world: World) -> Any:
    return asyncio.run(world.run())


def derive(plugin: Handler, topic: str, *data: Any) -> None:
    """Let the plugin publish `data` for each message that it handles."""

    async def publish(message: BaseMessage) -> None:
        for item in data:
            await plugin.context.publish(topic, item)

    plugin.handle = publish


def test_a_message_is_settled_when_all_that_was_made_from_it_has_ended(tmp_path: Path) -> None:
    world, log, middle, released = World(tmp_path), Log([1]), Handler(), asyncio.Event()
    derive(middle, "made", "a", "b")

    async def end(message: BaseMessage) -> None:
        if message.data == "b":
            assert log.told == []
            for _ in range(20):
                await asyncio.sleep(0)
            assert log.told == []
            released.set()

    world.add(log, SOURCE)
    world.add(middle, manifest("middle", hears=("raw",), says=("made",)))
    world.add(Handler(end), manifest("end", hears=("made",)))
    run(world)
    assert released.is_set()
    assert log.told == [(1, Ending.PROCESSED)]


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (None, Ending.PROCESSED),
        (ProcessingStatus.FILTERED, Ending.FILTERED),
        (ProcessingStatus.FAILED("no"), Ending.DEAD_LETTERED),
        (ProcessingStatus.FORWARD("made", 1), Ending.PROCESSED),
    ],
)
def test_the_worst_of_all_ends_is_told(tmp_path: Path, answer: Any, ending: Ending) -> None:
    world, log, middle = World(tmp_path), Log([1]), Handler()
    derive(middle, "made", "a", "b", "c")
    says = ("made",) if answer and answer.topic else ()
    hears = ("raw",) if says else ("made",)

    world.add(log, SOURCE)
    world.add(middle, manifest("middle", hears=("raw",), says=("made",)))
    world.add(
        Handler(lambda m: answer if m.data in ("b", 1) else None), manifest("odd", hears=hears, says=says)
    )
    run(world)
    assert log.told == [(1, ending)]


def test_retries_fan_out_and_messages_that_nobody_wants(tmp_path: Path) -> None:
    world, failures = World(tmp_path), iter([ValueError("once")])
    log = Log([1, ("other", "unwanted"), 2])

    def fail_once(message: BaseMessage) -> None:
        for error in failures:
            raise error

    world.add(log, SOURCE)
    world.add(Handler(fail_once), manifest("flaky", hears=("raw",)))
    world.add(Handler(), manifest("steady", hears=("raw",)))
    run(world)
    assert sorted(log.told, key=str) == [
        ("unwanted", Ending.FILTERED),
        (1, Ending.PROCESSED),
        (2, Ending.PROCESSED),
    ]


def test_messages_that_share_a_root_are_settled_together(tmp_path: Path) -> None:
    first = Receipt(message_id="0190d3f0-0000-7000-8000-000000000000", source="elsewhere", hop=1)
    drafts = [BaseMessage(source="elsewhere", data=n, receipts=(first,)) for n in range(3)]
    world, log = World(tmp_path), Log(drafts)
    world.add(log, SOURCE)
    world.add(Handler(lambda m: ProcessingStatus.FILTERED), manifest("end", hears=("raw",)))
    run(world)
    assert log.told == [(n, Ending.FILTERED) for n in range(3)]


def test_offsets_are_committed_over_finished_prefixes_only(tmp_path: Path) -> None:
    committed: list[int] = []

    class Kafkaesque(Log):
        def __init__(self) -> None:
            super().__init__()
            self.prefix = FinishedPrefix[int]()

        async def produce(self) -> AsyncIterator[Any]:
            for offset in range(100):
                message = BaseMessage(source=self.name, data=offset)
                self.prefix.begin(message.id, offset)
                yield message

        async def settled(self, message: BaseMessage, ending: Ending) -> None:
            await super().settled(message, ending)
            if (offset := self.prefix.end(message.id)) is not None:
                committed.append(offset)

    async def work(message: BaseMessage) -> None:
        for _ in range(message.data * 7 % 5):
            await asyncio.sleep(0)
        while message.data == 0 and not log.told:  # it is not the first to end
            await asyncio.sleep(0)

    world, log = World(tmp_path), Kafkaesque()
    world.add(log, SOURCE)
    world.add(Handler(work), manifest("parallel", hears=("raw",), delivery={"lanes": 8}))
    run(world)
    assert committed[-1] == 99
    assert committed == sorted(committed)
    assert [data for data, _ in log.told] != sorted(data for data, _ in log.told)  # they ended in any order


def test_a_blocking_source_is_told_in_a_thread_of_its_own(tmp_path: Path) -> None:
    class Slow(Source, blocking=True):
        def __init__(self) -> None:
            self.told: list[Any] = []

        def produce(self) -> Iterator[Any]:
            yield from range(3)

        def settled(self, message: BaseMessage, ending: Ending) -> None:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            self.told.append(message.data)

    world, slow = World(tmp_path), Slow()
    world.add(slow, SOURCE)
    world.add(Handler(), manifest("end", hears=("raw",)))
    run(world)
    assert sorted(slow.told) == [0, 1, 2]


def test_settled_must_be_of_the_same_kind_as_produce() -> None:
    with pytest.raises(PluginError, match=r"Mixed\.settled must be of the same kind"):

        class Mixed(Source, blocking=True):
            def produce(self) -> Iterator[Any]:
                yield 1

            async def settled(self, message: BaseMessage, ending: Ending) -> None:
                pass


@pytest.mark.parametrize("error", [ValueError("broker is gone"), SystemExit(1), asyncio.CancelledError()])
def test_what_settled_raises_degrades_the_source_until_it_succeeds(
    tmp_path: Path, error: BaseException
) -> None:
    class Torn(Log):
        async def settled(self, message: BaseMessage, ending: Ending) -> None:
            await super().settled(message, ending)
            if message.data == 1:
                raise error

        async def produce(self) -> AsyncIterator[Any]:
            for item in (0, 1, 2):
                yield item
                while len(self.told) <= item:
                    await asyncio.sleep(0)

    world, torn = World(tmp_path), Torn()
    world.add(torn, SOURCE)
    world.add(Handler(), manifest("end", hears=("raw",)))
    run(world)
    assert len(torn.told) == 3
    states = [(event.state, event.reason.partition(":")[0]) for event in world.events if event.name == "log"]
    assert states[-5:-2] == [
        (PluginState.DEGRADED, "settled"),
        (PluginState.RUNNING, ""),
        (PluginState.FINISHED, ""),
    ]


def test_a_call_that_does_not_answer_is_ended_and_the_next_one_made(tmp_path: Path) -> None:
    class Hangs(Log):
        async def settled(self, message: BaseMessage, ending: Ending) -> None:
            await super().settled(message, ending)
            if message.data == 0:
                await asyncio.Event().wait()

    world, log = World(tmp_path), Hangs([0, 1])
    world.add(log, manifest("log", says=("raw",), plugin_type="source", timeouts={"message_ms": 20}))
    world.add(Handler(), manifest("end", hears=("raw",)))
    run(world)
    assert [data for data, _ in log.told] == [0, 1]


def test_a_source_may_have_so_many_messages_under_way_and_then_waits(tmp_path: Path) -> None:
    world, most, held = World(tmp_path), 0, 0

    class Counting(Log):
        async def produce(self) -> AsyncIterator[Any]:
            nonlocal most, held
            for item in range(50):
                yield item
                held += 1
                most = max(most, held)

        async def settled(self, message: BaseMessage, ending: Ending) -> None:
            nonlocal held
            await super().settled(message, ending)
            held -= 1

    async def work(message: BaseMessage) -> None:
        await asyncio.sleep(0)

    log = Counting()
    world.add(log, manifest("log", says=("raw",), plugin_type="source", delivery={"queue_limit": 4}))
    world.add(Handler(work), manifest("end", hears=("raw",)))
    run(world)
    assert len(log.told) == 50
    assert most <= 4


@pytest.mark.parametrize("kept", [True, False])
def test_a_forced_stop_settles_what_is_left_and_shuts_the_source_down_after_that(
    tmp_path: Path, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        world, log, stuck = World(tmp_path, shutdown_timeout_s=0.2), Log(range(5)), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        def refuse(letters: Any) -> None:
            raise DeadLetterError("no room")

        stuck.handle = hang
        if not kept:
            monkeypatch.setattr(world.dead_letters, "add", refuse)
        world.add(log, SOURCE)
        world.add(stuck, manifest("stuck", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(5)
        while not stuck.seen:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        await running
        ending = Ending.DEAD_LETTERED if kept else Ending.UNFINISHED
        assert sorted(log.told) == [(n, ending) for n in range(5)]
        assert log.calls == ["settled"] * 5 + ["shutdown"]

    asyncio.run(scenario())


def test_nothing_is_followed_for_sources_that_do_not_ask(tmp_path: Path) -> None:
    class Plain(Source):
        async def produce(self) -> AsyncIterator[Any]:
            yield 1

    world, seen = World(tmp_path), []
    world.add(Plain(), SOURCE)
    world.add(
        Handler(
            lambda m: seen.append((world.transport.on_accept, dict(world.host._dispatcher.settlements.open)))
        ),
        manifest("end", hears=("raw",)),
    )
    run(world)
    assert seen == [(None, {})]


class SaysNothing(MemoryTransport):
    """Does not report what it accepts, as a broker; and answers a publisher late."""

    @property
    def on_accept(self) -> None:
        """Nobody is called."""
        return None

    @on_accept.setter
    def on_accept(self, call: object) -> None:
        pass

    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, message)
        for _ in range(50):
            await asyncio.sleep(0)


def test_a_message_that_ended_before_its_publication_returned_is_told_once(tmp_path: Path) -> None:
    world, log = World(tmp_path, transport=SaysNothing()), Log([1, 2, 3])
    world.add(log, SOURCE)
    world.add(Handler(), manifest("end", hears=("raw",)))
    run(world)
    assert log.told == [(number, Ending.ACCEPTED) for number in (1, 2, 3)]
