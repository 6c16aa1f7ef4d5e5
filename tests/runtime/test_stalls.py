"""What stands still is seen and named: deaf handlers, plugins without progress, a blocked loop."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from echo_core import BaseMessage, Ending, Plugin, ProcessingStatus, Source
from echo_core.plugin import Answer
from echo_core.runtime import lane, stacks
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.dispatch import Dispatcher, _Feeding
from echo_core.runtime.slot import PluginEvent
from echo_core.runtime.states import PluginState
from echo_core.runtime.watchdog import Watchdog
from echo_core.testing.clock import ManualClock
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Handler, Numbers, World, manifest

SOURCE = manifest("counting", says=("raw",), plugin_type="source")
OK = ProcessingStatus.ACKNOWLEDGED


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def test_where_there_are_many_plugins_each_is_asked_in_its_turn(tmp_path: Path) -> None:
    dispatcher = Dispatcher(MemoryTransport(), DeadLetterStore(tmp_path / "letters"), ManualClock())
    asked: list[int] = []

    class Asked:
        def __init__(self, number: int) -> None:
            self.number = number

        def look(self, now: float) -> None:
            asked.append(self.number)

    plugins: dict[Any, Any] = {number: _Feeding((), (), progress=Asked(number)) for number in range(120)}  # type: ignore[arg-type]
    dispatcher._feeding = plugins
    ticks: list[int] = []
    for _ in range(6):
        before = len(asked)
        dispatcher._check(0.0)
        ticks.append(len(asked) - before)
    assert max(ticks) <= 50
    assert sorted(asked) == sorted([*range(120), *range(120)])


def state_of(world: World, number: int = 1) -> PluginState:
    return world.host.snapshot().plugins[number].state


def test_a_handler_that_goes_on_after_its_cancellation_is_named_with_its_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        let_go = asyncio.Event()

        async def deaf_to_all(message: BaseMessage) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        world, plugin = World(tmp_path), Handler(deaf_to_all)
        world.add(Numbers(3), SOURCE)
        world.add(plugin, manifest("deaf", hears=("raw",), timeouts={"message_ms": 50}))
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: state_of(world) is PluginState.STALLED)
        reason = world.host.snapshot().plugins[1].reason
        assert "goes on although it was cancelled after 0.05 s" in reason
        assert f"{__file__}:" in reason
        assert "in deaf_to_all" in reason
        let_go.set()
        await until(lambda: not world.transport.unsettled())
        await until(lambda: state_of(world) is PluginState.RUNNING)
        world.host.request_stop()
        final = (await running)["deaf"]
        assert (final.processed, final.failed_attempts) == (3, 0)  # it has answered after all

    asyncio.run(scenario())


@pytest.mark.parametrize("delivery", [{}, {"batch_size": 3}])
def test_a_handler_that_swallowed_its_cancellation_and_waits_again_is_cancelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivery: dict[str, Any]
) -> None:
    monkeypatch.setattr(lane, "_DEAF_AFTER_S", 0.05)

    async def waits_twice() -> ProcessingStatus:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
        return OK

    class Twice(Handler):
        async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> list[Answer]:
            return [await waits_twice()]

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            return await waits_twice()

    world = World(tmp_path)
    world.add(Numbers(3), SOURCE)
    world.add(Twice(), manifest("twice", hears=("raw",), delivery=delivery, timeouts={"message_ms": 50}))
    final = asyncio.run(world.run())["twice"]
    assert (final.received, final.dead_lettered) == (3, 3)
    assert {letter.attempts[-1].error_type for letter in world.dead_letters.newest()} == {"TimeoutError"}


async def deaf_for_ever(message: BaseMessage) -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if message.data == "let go":
                raise


class NeverReturns(Plugin, blocking=True):
    def __init__(self, let_go: threading.Event) -> None:
        self.let_go = let_go

    def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:  # type: ignore[override]
        self.let_go.wait(60)
        return OK


@pytest.mark.parametrize("how", ["deaf", "thread"])
def test_a_run_that_is_to_end_gives_up_a_plugin_that_does_not_let_itself_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(lane, "_DEAF_AFTER_S", 0.05)
    let_go, told = threading.Event(), list[Ending]()

    class Asking(Numbers):
        async def settled(self, message: BaseMessage, ending: Ending) -> None:
            told.append(ending)

    async def scenario() -> None:
        world, good = World(tmp_path), Handler()
        world.add(Asking(5), SOURCE)
        plugin = Handler(deaf_for_ever) if how == "deaf" else NeverReturns(let_go)
        world.add(plugin, manifest("bad", hears=("raw",), timeouts={"message_ms": 50, "shutdown_ms": 100}))
        world.add(good, manifest("good", hears=("raw",)))
        final = await world.run()
        let_go.set()
        assert final["bad"].state is PluginState.FAILED
        place = "in deaf_for_ever" if how == "deaf" else "in process_message"
        assert place in final["bad"].reason
        assert (final["bad"].received, final["bad"].dead_lettered, final["bad"].in_hand) == (5, 5, 0)
        assert sorted(letter.message().data for letter in world.dead_letters.newest()) == [*range(5)]
        assert good.data == [*range(5)]
        assert told == [Ending.DEAD_LETTERED] * 5

    loop = asyncio.new_event_loop()  # not `asyncio.run`, which would wait for what is deaf
    loop.run_until_complete(scenario())
    loop.close()


def test_a_trial_that_does_not_end_is_named_where_the_circuit_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "_DEAF_AFTER_S", 0.05)

    async def scenario() -> None:
        let_go = asyncio.Event()

        async def fails_then_is_deaf(message: BaseMessage) -> None:
            if message.data < 3:
                raise ConnectionError
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        world = World(tmp_path)
        world.add(Numbers(5), SOURCE)
        delivery = {"max_attempts": 1, "circuit_failures": 3}
        of = manifest("deaf", hears=("raw",), delivery=delivery, timeouts={"message_ms": 50})
        world.add(Handler(fails_then_is_deaf), of)
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: "its trial does not end" in world.host.snapshot().plugins[1].reason)
        plugin = world.host.snapshot().plugins[1]
        assert plugin.state is PluginState.CIRCUIT_OPEN
        assert "in fails_then_is_deaf" in plugin.reason
        let_go.set()
        await until(lambda: state_of(world) is PluginState.RUNNING)
        world.host.request_stop()
        assert (await running)["deaf"].processed == 2

    asyncio.run(scenario())


def test_a_late_answer_does_not_shield_the_next_handler_from_its_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def late_once(message: BaseMessage) -> None:
            if message.data == 0:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return
            await asyncio.Event().wait()

        world = World(tmp_path)
        world.add(Numbers(2), SOURCE)
        delivery = {"max_attempts": 1}
        of = manifest("late", hears=("raw",), delivery=delivery, timeouts={"message_ms": 50})
        world.add(Handler(late_once), of)
        final = (await world.run())["late"]
        assert (final.processed, final.dead_lettered) == (1, 1)

    asyncio.run(scenario())


def test_a_stop_reaches_a_lane_whose_handler_has_answered_late(tmp_path: Path) -> None:
    async def scenario() -> None:
        async def late_once(message: BaseMessage) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if message.data:
                    raise
                world.host.abort()

        world = World(tmp_path)
        world.add(Numbers(2), SOURCE)
        world.add(Handler(late_once), manifest("late", hears=("raw",), timeouts={"message_ms": 50}))
        began = time.monotonic()
        final = (await world.run(until_idle=False))["late"]
        assert time.monotonic() - began < 10
        assert (final.processed, final.dead_lettered, final.in_hand) == (1, 1, 0)

    asyncio.run(scenario())


def stalling_world(tmp_path: Path, clock: ManualClock, handle: Any, **more: Any) -> World:
    world = World(tmp_path, clock=clock, health_interval_s=100_000, stalled_after_s=10)
    world.add(Numbers(3), SOURCE)
    world.add(Handler(handle), manifest("slow", hears=("raw",), timeouts={"message_ms": 60_000}, **more))
    return world


def test_a_plugin_with_work_that_gets_on_with_nothing_is_stalled_until_it_does(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock, let_go = ManualClock(), asyncio.Event()

        async def waits_for_ever(message: BaseMessage) -> None:
            await let_go.wait()

        world = stalling_world(tmp_path, clock, waits_for_ever)
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: world.host.snapshot().plugins[1].in_hand == 1)
        await asyncio.sleep(0.1)
        await clock.advance(65)  # a handler may take its 60 s, and 10 more
        await asyncio.sleep(0.2)
        assert state_of(world) is PluginState.RUNNING
        await clock.advance(10)
        await until(lambda: state_of(world) is PluginState.STALLED)
        reason = world.host.snapshot().plugins[1].reason
        assert "nothing has ended for" in reason
        assert "in waits_for_ever" in reason
        let_go.set()
        await until(lambda: state_of(world) is PluginState.RUNNING)
        world.host.request_stop()
        await running

    asyncio.run(scenario())


def test_an_idle_plugin_is_never_stalled(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        world = stalling_world(tmp_path, clock, None)
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: world.host.snapshot().plugins[1].processed == 3)
        for _ in range(5):
            await clock.advance(1_000)
            await asyncio.sleep(0.06)
        assert state_of(world) is PluginState.RUNNING
        world.host.request_stop()
        await running
        assert PluginState.STALLED not in {event.state for event in world.events}

    asyncio.run(scenario())


def test_a_plugin_that_fails_all_the_time_is_not_stalled(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()

        def fails(message: BaseMessage) -> None:
            raise ValueError("always")

        more = {"max_attempts": 1_000, "backoff_ms": 1, "circuit_failures": 0}
        world = stalling_world(tmp_path, clock, fails, delivery=more)
        running = asyncio.create_task(world.run(until_idle=False))
        for _ in range(12):
            await clock.advance(10)
            await asyncio.sleep(0.06)
        assert PluginState.STALLED not in {event.state for event in world.events}
        world.host.abort()
        await running

    asyncio.run(scenario())


def test_a_message_that_waits_for_its_attempt_with_others_behind_it_stalls_the_plugin(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        later = ProcessingStatus.RETRY_LATER(3_600)
        world = stalling_world(tmp_path, clock, lambda message: later, delivery={"lanes": 2})
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: world.host.snapshot().plugins[1].failed_attempts == 2)
        await asyncio.sleep(0.1)
        await clock.advance(75)
        await until(lambda: state_of(world) is PluginState.STALLED)
        assert "waits for its next attempt" in world.host.snapshot().plugins[1].reason
        world.host.abort()
        await running

    asyncio.run(scenario())


class Threaded(Plugin, blocking=True):
    """Its first call does not return until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.done: list[Any] = []

    def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:  # type: ignore[override]
        if message.data == 0:
            self.let_go.wait(20)
        self.done.append(message.data)
        return OK


def test_a_thread_that_does_not_return_costs_no_message_its_attempts(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        world, plugin = World(tmp_path, clock=clock, health_interval_s=100_000), Threaded()
        world.add(Numbers(3), SOURCE)
        world.add(plugin, manifest("stuck", hears=("raw",), timeouts={"message_ms": 50}))
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: world.host.snapshot().plugins[1].failed_attempts == 1)
        await clock.advance(1)
        await until(lambda: world.host.snapshot().plugins[1].in_hand == 1)
        await asyncio.sleep(0.2)  # four deadlines
        assert world.host.snapshot().plugins[1].failed_attempts == 1
        await clock.advance(100)
        await until(lambda: state_of(world) is PluginState.STALLED)
        reason = world.host.snapshot().plugins[1].reason
        assert "all of its 1 threads are taken" in reason
        assert "in process_message" in reason
        plugin.let_go.set()
        await until(lambda: not world.transport.unsettled())
        world.host.request_stop()
        final = (await running)["stuck"]
        assert (final.processed, final.dead_lettered) == (3, 0)

    asyncio.run(scenario())


def test_a_plugin_that_blocks_its_threads_does_not_delay_its_neighbours(tmp_path: Path) -> None:
    class Blocks(Plugin):
        """Calls what blocks from a coroutine, as many times as there are messages."""

        def __init__(self) -> None:
            self.let_go = threading.Event()

        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            await self.context.run_blocking(self.let_go.wait, 20)
            return OK

    async def scenario() -> None:
        blocks, quick = Blocks(), Handler(None)

        async def in_thread(message: BaseMessage) -> None:
            await quick.context.run_blocking(time.monotonic)

        quick.handle = in_thread
        world = World(tmp_path)
        world.add(Numbers(200), SOURCE)
        world.add(blocks, manifest("blocks", hears=("raw",), delivery={"lanes": 64}))
        world.add(quick, manifest("quick", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: world.host.snapshot().plugins[2].processed == 200)
        assert world.host.snapshot().plugins[1].processed == 0
        blocks.let_go.set()
        world.host.request_stop()
        await running

    asyncio.run(scenario())


class Told(logging.Handler):
    """Sets an event at the first record of the watchdog that tells of what the test blocks the loop by.

    Where the machine does something else for as long as that, others may be told before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []
        self.told = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())
        if self.found("in block") or self.found("in produce"):
            self.told.set()

    def found(self, place: str) -> list[str]:
        return [record for record in self.records if place in record]


@pytest.fixture
def watchdog_log() -> Any:
    handler, logger = Told(), logging.getLogger("echo_core.runtime.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


class BlockingSource(Source):
    def __init__(self, told: threading.Event) -> None:
        self.told = told

    async def produce(self) -> AsyncIterator[Any]:
        self.told.wait(20)
        yield 1
        await asyncio.Event().wait()


def blocks_the_loop(told: threading.Event, in_task: bool) -> Handler:
    async def block() -> None:
        told.wait(20)

    async def handle(message: BaseMessage) -> None:
        if in_task:
            await asyncio.create_task(block())
        else:
            await block()

    return Handler(handle)


@pytest.mark.parametrize("who", ["handler", "source"])
def test_what_blocks_the_loop_is_named_with_its_stack_while_it_does(
    tmp_path: Path, watchdog_log: Told, who: str
) -> None:
    world = World(tmp_path, blocked_after_s=0.1)
    if who == "source":
        world.add(BlockingSource(watchdog_log.told), manifest("blocker", says=("raw",), plugin_type="source"))
        world.add(Handler(), manifest("reader", hears=("raw",)))
        function = "produce"
    else:
        world.add(Numbers(1), SOURCE)
        blocker = blocks_the_loop(watchdog_log.told, in_task=False)
        world.add(blocker, manifest("blocker", hears=("raw",)))
        function = "block"

    async def scenario() -> None:
        running = asyncio.create_task(world.run(until_idle=False))
        await until(lambda: bool(told()))
        world.host.request_stop()
        await running

    def told() -> list[PluginEvent]:
        degraded = [event for event in world.events if event.state is PluginState.DEGRADED]
        return [event for event in degraded if f"in {function}" in event.reason]

    asyncio.run(scenario())
    (record,) = watchdog_log.found(f"in {function}")
    assert "blocker blocks the event loop: nothing else has run for" in record
    assert "pytest" not in record  # what has started the process says nothing of it
    (event,) = told()
    assert event.name == "blocker"
    assert "it blocked the event loop for" in event.reason


@pytest.mark.parametrize("method", ["init", "shutdown"])
def test_who_blocks_the_loop_while_it_starts_or_stops_is_named(
    tmp_path: Path, method: str, watchdog_log: Told
) -> None:
    async def block(*_: Any) -> None:
        watchdog_log.told.wait(20)

    world, odd = World(tmp_path, blocked_after_s=0.05), Handler()
    setattr(odd, method, block)
    world.add(odd, manifest("odd", hears=("raw",)))
    asyncio.run(world.run())
    (record,) = watchdog_log.found("in block")
    assert "odd blocks the event loop" in record


def test_a_task_of_a_plugins_own_that_blocks_the_loop_is_told_by_its_code(
    tmp_path: Path, watchdog_log: Told
) -> None:
    world = World(tmp_path, blocked_after_s=0.1)
    world.add(Numbers(1), SOURCE)
    world.add(blocks_the_loop(watchdog_log.told, in_task=True), manifest("blocker", hears=("raw",)))
    asyncio.run(world.run())
    assert watchdog_log.found("in block")


def test_a_busy_loop_that_lets_others_run_is_not_blocked(tmp_path: Path, watchdog_log: Told) -> None:
    world = World(tmp_path)
    world.add(Numbers(2_000), SOURCE)
    world.add(Handler(), manifest("busy", hears=("raw",)))
    asyncio.run(world.run())
    assert watchdog_log.records == []


def look_while_it_waits(watchdog: Watchdog, loop_thread: int) -> None:
    while not stacks.is_waiting(stacks.frames_of_thread(loop_thread)):
        time.sleep(0)
    watchdog._beat -= 2e6
    watchdog._check()


def test_a_loop_that_has_nothing_to_do_is_not_told_as_blocked() -> None:
    """Its beat is late where the machine did something else, or slept."""
    looked: list[object] = []

    async def scenario() -> None:
        watchdog = Watchdog(1e6, lambda frames: looked.append(frames))
        watchdog.start()
        try:
            await asyncio.to_thread(look_while_it_waits, watchdog, threading.get_ident())
            assert watchdog.beat() is None
        finally:
            watchdog.stop()

    asyncio.run(scenario())
    assert looked == []


def test_a_late_beat_that_was_nobodys_fault_hides_no_plugin_that_blocks_the_loop_after_it(
    watchdog_log: Told,
) -> None:
    plugin: Any = SimpleNamespace(name="blocker", about=None)
    owners = [None, None, plugin, plugin]

    def look_while_it_blocks(watchdog: Watchdog) -> None:
        def look() -> None:
            for _ in range(4):
                watchdog._check()

        looking = threading.Thread(target=look)
        looking.start()
        looking.join()

    async def scenario() -> None:
        watchdog = Watchdog(1e6, lambda frames: owners.pop(0))
        watchdog.start()
        try:
            await asyncio.to_thread(look_while_it_waits, watchdog, threading.get_ident())
            look_while_it_blocks(watchdog)
            caught = watchdog.beat()
        finally:
            watchdog.stop()
        assert caught is not None
        assert caught.owner is plugin

    asyncio.run(scenario())
    assert [record.partition(" ")[0] for record in watchdog_log.records] == ["something", "blocker"]
    assert owners == [plugin]  # nobody looks any more
