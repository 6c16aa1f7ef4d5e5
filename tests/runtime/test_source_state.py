"""A source goes on where its messages have ended: `context.state`, through the host's public door."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, Many, ProcessingStatus, Source
from echo_core.errors import StateError, StoreError, TransportError
from echo_core.runtime.checkpoints import CheckpointStore
from echo_core.runtime.settings import Tier
from echo_core.runtime.states import PluginState
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, World, manifest, offer, running
from runtime.isolation.tiers import TIERS, Tiers
from support.stores import store_at

SOURCE = manifest("log", says=("raw", "other"), plugin_type="source")
SINK = manifest("end", hears=("raw",))


class Log(Source):
    """Yields numbers from where it was, up to `end`, and then waits to be stopped if there is a `hold`."""

    def __init__(self, end: int = 10, *, hold: bool = False) -> None:
        self.end = end
        self.hold = hold

    async def produce(self) -> AsyncIterator[Any]:
        state = self.context.state
        for number in range(state.get("next", 0), self.end):
            state["next"] = number + 1
            yield number
        if self.hold:
            await asyncio.Event().wait()


def kept(world: World, name: str = "log") -> Any:
    found = world.checkpoints.load(name)
    return None if found is None else found.values()


def sink_of(world: World, source: Source, handle: Any = None, **of: Any) -> Handler:
    sink = Handler(handle)
    world.add(source, SOURCE)
    world.add(sink, manifest("end", hears=("raw",), **of))
    return sink


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_the_next_run_goes_on_where_everything_had_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    first = sink_of(world, Log(4))
    asyncio.run(world.run())
    assert kept(world) == {"next": 4}
    world = World(tmp_path)
    second = sink_of(world, Log(6))
    asyncio.run(world.run())
    assert (first.data, second.data) == ([0, 1, 2, 3], [4, 5])
    assert kept(world) == {"next": 6}


def test_nothing_is_kept_of_a_message_before_all_that_was_made_of_it_has_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, middle, held = World(tmp_path), Handler(), asyncio.Event()

        async def derive(message: BaseMessage) -> None:
            await middle.context.publish("made", message.data)

        async def hold(message: BaseMessage) -> None:
            if message.data == 2:
                await held.wait()

        middle.handle = derive
        world.add(Log(4, hold=True), SOURCE)
        world.add(middle, manifest("middle", hears=("raw",), says=("made",)))
        world.add(Handler(hold), manifest("end", hears=("made",), delivery={"lanes": 4}))
        async with running(world):
            await until(lambda: kept(world) == {"next": 2})
            await asyncio.sleep(0.1)  # 3 has ended, and 2 has not
            assert kept(world) == {"next": 2}
            held.set()
            await until(lambda: kept(world) == {"next": 4})

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", [ProcessingStatus.FILTERED, ProcessingStatus.FAILED("no")])
def test_a_message_that_was_filtered_or_dead_lettered_has_ended(
    tmp_path: Path, answer: ProcessingStatus
) -> None:
    world = World(tmp_path)
    sink_of(world, Log(3), lambda message: answer)
    asyncio.run(world.run())
    assert kept(world) == {"next": 3}


def test_what_had_not_ended_comes_again_with_the_same_ids(tmp_path: Path) -> None:
    async def life() -> list[BaseMessage]:
        """Seven messages are published, four end, and nothing is heard of the host again."""
        world = World(tmp_path, shutdown_timeout_s=0.2)
        sink = sink_of(world, Log(7, hold=True))

        async def hang(message: BaseMessage) -> None:
            if message.data == 4:
                await asyncio.Event().wait()

        sink.handle = hang
        run = asyncio.create_task(world.host.run())
        await until(lambda: len(sink.seen) == 5 and kept(world) == {"next": 4})
        # Killed: what would be written from here on is not.
        world.checkpoints.save = lambda checkpoints: None  # type: ignore[method-assign]
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        return sink.seen

    first = asyncio.run(life())
    world = World(tmp_path)
    second = sink_of(world, Log(7))
    asyncio.run(world.run())
    assert second.data == [4, 5, 6]
    assert second.seen[0].id == first[4].id
    assert len({message.id for message in first + second.seen}) == 7


def test_what_a_stop_leaves_in_a_store_is_not_passed_over_and_has_one_id(tmp_path: Path) -> None:
    async def life(*, hangs: bool) -> list[BaseMessage]:
        world = World(tmp_path, transport=store_at(tmp_path / "messages.sqlite"), shutdown_timeout_s=0.2)
        sink = sink_of(world, Log(6, hold=hangs))

        async def hang(message: BaseMessage) -> None:
            if hangs and message.data == 2:
                await asyncio.Event().wait()

        sink.handle = hang
        if not hangs:
            await world.run()
            assert kept(world) == {"next": 6}
            return sink.seen
        run = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: len(sink.seen) == 3 and world.transport.unsettled() >= 4)
        world.host.request_stop()
        await run
        assert kept(world) == {"next": 2}
        return sink.seen

    first, second = asyncio.run(life(hangs=True)), asyncio.run(life(hangs=False))
    assert [message.data for message in first] == [0, 1, 2]
    assert {message.data for message in second} == {2, 3, 4, 5}
    assert len({message.id for message in first + second}) == 6


def test_the_same_data_from_another_state_or_at_another_time_is_another_message(tmp_path: Path) -> None:
    class Ticks(Source):
        async def produce(self) -> AsyncIterator[Any]:
            self.context.state["runs"] = self.context.state.get("runs", 0) + 1
            for _ in range(3):
                yield "tick"

    ids = []
    for _ in range(2):
        world = World(tmp_path)
        sink = sink_of(world, Ticks())
        asyncio.run(world.run())
        ids += [message.id for message in sink.seen]
    assert len(set(ids)) == 6
    assert all(message_id[14] == "7" and message_id[19] in "89ab" for message_id in ids)


def test_many_at_a_time_belong_to_one_position(tmp_path: Path) -> None:
    class Pages(Source):
        async def produce(self) -> AsyncIterator[Any]:
            state = self.context.state
            for page in range(state.get("page", 0), 3):
                state["page"] = page + 1
                yield Many([f"{page}.{number}" for number in range(5)])

    async def scenario() -> None:
        world, held = World(tmp_path), asyncio.Event()

        async def hold(message: BaseMessage) -> None:
            if message.data == "1.3":
                await held.wait()

        world.add(Pages(), manifest("log", says=("raw",), plugin_type="source", delivery={"queue_limit": 2}))
        world.add(Handler(hold), SINK)
        async with running(world):
            await until(lambda: kept(world) == {"page": 1})
            held.set()
            await until(lambda: kept(world) == {"page": 3})

    asyncio.run(scenario())


def test_a_publication_that_is_refused_moves_nothing(tmp_path: Path) -> None:
    class Hopeful(Log):
        async def produce(self) -> AsyncIterator[Any]:
            async for number in super().produce():
                yield ("nowhere", number) if number == 2 else number

    world = World(tmp_path)
    sink = sink_of(world, Hopeful(5))
    numbers = asyncio.run(world.run())
    assert numbers["log"].state is PluginState.FAILED
    assert sink.data == [0, 1]
    assert kept(world) == {"next": 2}


def test_a_publication_that_is_not_accepted_moves_nothing_and_holds_nothing_up(tmp_path: Path) -> None:
    class Refuses(MemoryTransport):
        async def publish(self, topic: str, message: BaseMessage) -> None:
            if message.data == 2:
                raise TransportError("not today")
            await super().publish(topic, message)

    class Stubborn(Log):
        async def produce(self) -> AsyncIterator[Any]:
            state = self.context.state
            for number in range(4):
                state["next"] = number + 1
                with contextlib.suppress(TransportError):
                    await self.context.publish("raw", number)
                if number == 2:
                    await until(lambda: kept(world) == {"next": 2})
                    await asyncio.sleep(0.1)
                    assert kept(world) == {"next": 2}
            return
            yield

    world = World(tmp_path, transport=Refuses())
    sink = sink_of(world, Stubborn())
    asyncio.run(world.run())
    assert sink.data == [0, 1, 3]
    assert kept(world) == {"next": 4}


def test_a_damaged_store_fails_the_source(tmp_path: Path) -> None:
    class Damaged(MemoryTransport):
        async def publish(self, topic: str, message: BaseMessage) -> None:
            raise StoreError("it is damaged")

    world = World(tmp_path, transport=Damaged())
    sink_of(world, Log(4))
    assert asyncio.run(world.run())["log"].state is PluginState.FAILED


def test_another_version_goes_on_where_the_one_before_it_stopped(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, held = World(tmp_path), asyncio.Event()
        sink = sink_of(world, Log(3, hold=True), lambda message: held.wait())
        async with running(world) as host:
            await until(lambda: len(sink.seen) == 1)
            new = manifest("log", says=("raw",), plugin_type="source", version="2")
            upgrade = asyncio.create_task(host.activate(offer(Log(5, hold=True), new)))
            await asyncio.sleep(0.05)
            held.set()
            await upgrade
            await until(lambda: kept(world) == {"next": 5})
        assert sink.data == [0, 1, 2, 3, 4]
        checkpoint = world.checkpoints.load("log")
        assert checkpoint is not None
        assert checkpoint.version == "2"

    asyncio.run(scenario())


def test_a_source_that_was_switched_off_goes_on_when_it_is_switched_on_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        sink = sink_of(world, Log(3, hold=True))
        async with running(world) as host:
            await until(lambda: len(sink.seen) == 3)
            await host.deactivate("log")
            assert kept(world) == {"next": 3}
            world.checkpoints.reset("log")  # nobody holds it any more
            await host.activate(offer(Log(4, hold=True), SOURCE))
            await until(lambda: len(sink.seen) == 7)
        assert sink.data == [0, 1, 2, 0, 1, 2, 3]
        assert len({message.id for message in sink.seen}) == 7

    asyncio.run(scenario())


def test_of_two_hosts_one_writes_and_the_source_of_the_other_fails(tmp_path: Path) -> None:
    async def scenario() -> None:
        one, other = World(tmp_path), World(tmp_path)
        sink_of(one, Log(3, hold=True))
        sink = sink_of(other, Log(5))
        async with running(one):
            await until(lambda: kept(one) == {"next": 3})
            with pytest.raises(StateError, match="a host runs log and writes its state"):
                one.checkpoints.reset("log")
            await other.run()
        (reason,) = [event.reason for event in other.events if event.state is PluginState.FAILED]
        assert "a host runs log and writes its state" in reason
        assert sink.data == []
        one.checkpoints.reset("log")

    asyncio.run(scenario())


def test_where_the_transport_does_not_say_how_messages_end_their_acceptance_counts(tmp_path: Path) -> None:
    class Silent(MemoryTransport):
        """Like a broker: it never calls `on_accept`."""

        @property
        def on_accept(self) -> None:
            return None

        @on_accept.setter
        def on_accept(self, callback: Any) -> None: ...

    async def scenario() -> None:
        world, held = World(tmp_path, transport=Silent()), asyncio.Event()
        sink_of(world, Log(3, hold=True), lambda message: held.wait())
        async with running(world):
            await until(lambda: kept(world) == {"next": 3})
            held.set()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (
            "x" * 65_536,
            "the state of log is too large; because it has 65,5.. bytes, and at most 65,536 are kept",
        ),
        (object(), "the state of log cannot be kept"),
    ],
)
def test_what_cannot_be_kept_fails_the_source_with_the_reason(
    tmp_path: Path, value: Any, complaint: str
) -> None:
    class Greedy(Source):
        async def produce(self) -> AsyncIterator[Any]:
            self.context.state["all"] = value
            yield 1

    world = World(tmp_path)
    sink_of(world, Greedy())
    asyncio.run(world.run())
    reasons = [event.reason for event in world.events if event.state is PluginState.FAILED]
    assert len(reasons) == 1
    assert re.match(complaint, reasons[0]), reasons[0]


def test_only_a_source_has_a_state(tmp_path: Path) -> None:
    world = World(tmp_path)
    sink: Handler = sink_of(world, Log(1), lambda message: sink.context.state)
    asyncio.run(world.run())
    (letter,) = world.dead_letters.newest()
    assert "only a source has one" in letter.reason


def test_a_blocking_source_has_one_too(tmp_path: Path) -> None:
    class Blocking(Source, blocking=True):
        def produce(self) -> Iterator[Any]:
            for number in range(self.context.state.get("next", 0), 3):
                yield number
                self.context.state["next"] = number + 1

    for expected in ([0, 1, 2], []):
        world = World(tmp_path)
        sink = sink_of(world, Blocking())
        asyncio.run(world.run())
        assert sink.data == expected
        assert kept(world) == {"next": 3}


def test_what_changes_within_a_value_is_noticed(tmp_path: Path) -> None:
    class Files(Source):
        async def produce(self) -> AsyncIterator[Any]:
            files = self.context.state.setdefault("files", {})
            for name in "ab":
                files[name] = len(files)
                yield name

    world = World(tmp_path)
    sink_of(world, Files())
    asyncio.run(world.run())
    assert kept(world) == {"files": {"a": 0, "b": 1}}


def test_a_source_without_a_state_leaves_nothing_on_disk(tmp_path: Path) -> None:
    class Plain(Source):
        async def produce(self) -> AsyncIterator[Any]:
            yield 1

    world = World(tmp_path)
    sink_of(world, Plain())
    asyncio.run(world.run())
    assert not list(tmp_path.glob("checkpoints*"))


def test_a_damaged_file_fails_who_needs_it_and_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "checkpoints.sqlite").write_bytes(b"no database" * 1_000)
    world = World(tmp_path)
    sink = sink_of(world, Log(3))
    asyncio.run(world.run())
    (reason,) = [event.reason for event in world.events if event.state is PluginState.FAILED]
    assert "the states of sources cannot be read" in reason
    assert "move it away" in reason
    assert sink.data == []


COUNTING = """
    import asyncio
    import os

    from echo_core import Many, Source

    class Counting(Source):
        async def produce(self):
            state = self.context.state
            for number in range(state.get("next", 0), 6):
                if number == self.context.config.get("dies_at") and not state.get("died"):
                    state["died"] = True
                    yield "about to die"
                    await asyncio.sleep(0.2)
                    os.kill(os.getpid(), 9)
                state["next"] = number + 1
                yield number if number != 2 else Many([2, "two"])

    def create_plugin():
        return Counting()
"""


def run_tier(folder: Path, tier: Tier, **config: Any) -> list[BaseMessage]:
    tiers, sink = Tiers(folder, tier), Handler()
    tiers.add(COUNTING, "log", subscriptions=[], publications=["raw"], plugin_type="source", config=config)
    tiers.world.add(sink, SINK)
    asyncio.run(tiers.world.run())
    assert kept(tiers.world)["next"] == 6
    return sink.seen


@pytest.mark.parametrize("tier", TIERS)
def test_in_both_tiers_it_goes_on_where_it_was(tmp_path: Path, tier: Tier) -> None:
    first = run_tier(tmp_path, tier)
    assert [message.data for message in first] == [0, 1, 2, "two", 3, 4, 5]
    assert run_tier(tmp_path, tier) == []
    with contextlib.closing(CheckpointStore(tmp_path / "checkpoints.sqlite")) as store:
        store.reset("log")
    again = run_tier(tmp_path, tier)
    assert [message.data for message in again] == [message.data for message in first]
    assert not {message.id for message in again} & {message.id for message in first}


@pytest.mark.parametrize("tier", TIERS)
def test_a_store_that_takes_nothing_for_now_slows_the_source_and_does_not_fail_it(
    tmp_path: Path, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[BaseMessage] = []
    publish = MemoryTransport.publish

    def refuse(self: MemoryTransport, topic: str, message: BaseMessage) -> Any:
        if message.data == 4 and len(refused) < 3:
            refused.append(message)
            error = StoreError("the disk is full")
            error.may_pass = True
            raise error
        return publish(self, topic, message)

    monkeypatch.setattr(MemoryTransport, "publish", refuse)
    monkeypatch.setattr("echo_core.runtime.source_context._RETRY_S", 0.0)
    seen = run_tier(tmp_path, tier)
    assert [message.data for message in seen] == [0, 1, 2, "two", 3, 4, 5]
    assert [message.id for message in refused] == [seen[5].id] * 3


class Together(Source):
    """Keeps no state, and is told of no end."""

    async def produce(self) -> AsyncIterator[Any]:
        yield 0
        await self.context.publish_batch("raw", [1, 2, 3, 4, 5])


def test_it_slows_a_source_that_keeps_no_state_too_and_what_it_took_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [2, 0, 1]
    publish_batch, publish = MemoryTransport.publish_batch, MemoryTransport.publish

    def full(accepted: int) -> StoreError:
        error = StoreError("the disk is full")
        error.may_pass, error.accepted = True, accepted
        return error

    async def refuse_some(self: MemoryTransport, topic: str, messages: Sequence[BaseMessage]) -> None:
        if failures:
            await publish_batch(self, topic, messages[: failures[0]])
            raise full(failures.pop(0))
        await publish_batch(self, topic, messages)

    async def refuse(self: MemoryTransport, topic: str, message: BaseMessage) -> None:
        if message.data == 0 and not refused:
            refused.append(message)
            raise full(0)
        await publish(self, topic, message)

    refused: list[BaseMessage] = []
    monkeypatch.setattr(MemoryTransport, "publish", refuse)
    monkeypatch.setattr(MemoryTransport, "publish_batch", refuse_some)
    monkeypatch.setattr("echo_core.runtime.source_context._RETRY_S", 0.0)
    world, sink = World(tmp_path), Handler()
    world.add(Together(), manifest("log", says=("raw",), plugin_type="source"))
    world.add(sink, SINK)
    numbers = asyncio.run(world.run())
    assert sink.data == [0, 1, 2, 3, 4, 5]
    assert sink.seen[0].id == refused[0].id
    assert (failures, numbers["log"].published, numbers["log"].reason) == ([], 6, "")


def test_a_process_that_dies_is_followed_by_one_that_goes_on(tmp_path: Path) -> None:
    seen = run_tier(tmp_path, "process", dies_at=4)
    assert [message.data for message in seen] == [0, 1, 2, "two", 3, "about to die", 4, 5]
