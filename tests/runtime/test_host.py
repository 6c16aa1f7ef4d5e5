"""The promises of the host, through its public door: plugins in, numbers and dead letters out."""

import asyncio
import contextlib
import gc
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, Filter, Invalid, Plugin, PluginError, ProcessingStatus, Sink, Validator
from echo_core.errors import LibraryError
from echo_core.runtime import dispatch
from echo_core.runtime.dead_letters import DeadLetterError
from echo_core.runtime.states import PluginState
from echo_core.testing.clock import ManualClock
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import Endless, Handler, Numbers, World, manifest, running

SOURCE = manifest("counting", says=("raw",), plugin_type="source")


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


class Even(Filter):
    async def keep(self, message: BaseMessage) -> bool:
        return int(message.data) % 2 == 0


class Small(Validator):
    async def validate(self, message: BaseMessage) -> None:
        if message.data >= 8:
            raise Invalid(f"{message.data} is too large")


def test_messages_flow_through_a_chain_and_the_counts_add_up(tmp_path: Path) -> None:
    world, sink = World(tmp_path), Handler()
    world.add(Numbers(10), SOURCE)
    world.add(Small(), manifest("small", hears=("raw",), says=("valid",), plugin_type="validator"))
    world.add(Even(), manifest("even", hears=("valid",), says=("kept",), plugin_type="filter"))
    world.add(sink, manifest("sink", hears=("kept",)))

    final = run(world.run())

    assert sink.data == [0, 2, 4, 6]
    assert final["counting"].published == 10
    assert (final["small"].processed, final["small"].dead_lettered) == (8, 2)
    assert (final["even"].processed, final["even"].filtered) == (4, 4)
    assert final["sink"].processed == 4
    assert {numbers.state for numbers in final.values()} == {PluginState.STOPPED}


def test_a_message_made_while_handling_another_carries_its_receipt_and_trace(tmp_path: Path) -> None:
    world, first, last = World(tmp_path), Handler(), Handler()

    async def pass_on(message: BaseMessage) -> None:
        await first.context.publish("next", {"from": message.data})

    first.handle = pass_on
    world.add(Numbers(1), SOURCE)
    world.add(first, manifest("first", hears=("raw",), says=("next",)))
    world.add(last, manifest("last", hears=("next",)))
    run(world.run())

    (original,), (made,) = first.seen, last.seen
    assert made.parent_ids == (original.id,)
    assert made.root_id == original.id
    assert (made.source, made.version) == ("first", "1.2.3")
    trace = original.trace_context["traceparent"].split("-")[1]
    assert made.trace_context["traceparent"].split("-")[1] == trace


def test_an_exception_is_retried_and_then_dead_lettered_with_all_that_is_known(tmp_path: Path) -> None:
    world, calls = World(tmp_path), []

    def fail(message: BaseMessage) -> None:
        calls.append(message.id)
        raise ValueError(f"attempt {len(calls)}")

    plugin = Handler(fail)
    world.add(Numbers([{"text": "héllo"}]), SOURCE)
    world.add(plugin, manifest("broken", hears=("raw",)))
    final = run(world.run())

    (letter,) = world.dead_letters.newest()
    assert final["broken"].failed_attempts == 3
    assert [attempt.error for attempt in letter.attempts] == ["attempt 1", "attempt 2", "attempt 3"]
    assert {attempt.error_type for attempt in letter.attempts} == {"ValueError"}
    assert "in fail" in letter.attempts[0].traceback
    assert "echo_core" not in letter.attempts[0].traceback
    assert (letter.plugin, letter.version, letter.topic) == ("broken", "1.2.3", "raw")
    assert letter.message() == plugin.seen[0]
    assert letter.trace_id == plugin.seen[0].trace_context["traceparent"].split("-")[1]


def test_a_message_that_succeeds_on_a_later_attempt_is_processed_once(tmp_path: Path) -> None:
    world, failures = World(tmp_path), iter([ValueError("once"), ValueError("twice")])

    def fail_twice(message: BaseMessage) -> None:
        for error in failures:
            raise error

    world.add(Numbers(1), SOURCE)
    world.add(Handler(fail_twice), manifest("flaky", hears=("raw",)))
    final = run(world.run())

    assert (final["flaky"].processed, final["flaky"].failed_attempts) == (1, 2)
    assert world.dead_letters.count() == 0


def test_failed_is_dead_lettered_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(Numbers(1), SOURCE)
    world.add(Handler(lambda m: ProcessingStatus.FAILED("no use")), manifest("strict", hears=("raw",)))
    run(world.run())

    (letter,) = world.dead_letters.newest()
    assert (letter.reason, len(letter.attempts)) == ("FAILED: no use", 1)


def test_retry_later_waits_for_as_long_as_it_says(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock, answers = ManualClock(), iter([ProcessingStatus.RETRY_LATER(60)])
        world = World(tmp_path, clock=clock, health_interval_s=1_000)
        plugin = Handler(lambda m: next(answers, None))
        world.add(Numbers(1), SOURCE)
        world.add(plugin, manifest("patient", hears=("raw",)))
        running = asyncio.create_task(world.run())
        while not plugin.seen:
            await asyncio.sleep(0.001)
        await clock.advance(59)
        assert len(plugin.seen) == 1
        await clock.advance(2)
        final = await running
        assert len(plugin.seen) == 2
        assert final["patient"].processed == 1

    run(scenario())


def test_forward_publishes_and_then_settles(tmp_path: Path) -> None:
    world, sink = World(tmp_path), Handler()
    world.add(Numbers(2), SOURCE)
    world.add(
        Handler(lambda m: ProcessingStatus.FORWARD("other", m)),
        manifest("door", hears=("raw",), says=("other",)),
    )
    world.add(sink, manifest("sink", hears=("other",)))
    final = run(world.run())

    assert sink.data == [0, 1]
    assert final["door"].processed == 2
    assert all(message.receipts for message in sink.seen)


def test_publishing_outside_the_publications_is_refused_and_nothing_reaches_the_bus(tmp_path: Path) -> None:
    world, sink, sneaky = World(tmp_path), Handler(), Handler()

    async def sneak(message: BaseMessage) -> None:
        await sneaky.context.publish("secrets", message.data)

    sneaky.handle = sneak
    world.add(Numbers(1), SOURCE)
    world.add(sneaky, manifest("sneaky", hears=("raw",), says=("allowed.*",)))
    world.add(sink, manifest("sink", hears=("#",), says=()))
    run(world.run())

    (letter,) = world.dead_letters.newest(plugin="sneaky")
    assert letter.attempts[0].error_type == "PublishRefused"
    assert "may not publish to 'secrets'" in letter.reason
    assert "publications are allowed.*" in letter.reason
    assert len(sink.seen) == 1  # only the source's


@pytest.mark.parametrize("topic", ["", "a..b", "a b", "a.*", "#", "../up"])
def test_a_malformed_topic_is_refused(tmp_path: Path, topic: str) -> None:
    world, plugin = World(tmp_path), Handler()

    async def publish(message: BaseMessage) -> None:
        await plugin.context.publish(topic, 1)

    plugin.handle = publish
    world.add(Numbers(1), SOURCE)
    world.add(plugin, manifest("odd", hears=("raw",), says=("#",)))
    run(world.run())
    assert world.dead_letters.newest()[0].attempts[0].error_type == "TopicError"


def test_a_failing_message_holds_its_lane_so_that_order_is_kept(tmp_path: Path) -> None:
    world, done, attempts = World(tmp_path), [], iter([ValueError("a"), ValueError("b")])

    def handle(message: BaseMessage) -> None:
        if message.data == 3:
            for error in attempts:
                raise error
        done.append(message.data)

    world.add(Numbers(10), SOURCE)
    world.add(Handler(handle), manifest("ordered", hears=("raw",)))
    run(world.run())
    assert done == list(range(10))


def test_lanes_run_side_by_side_and_keep_the_order_of_each_key(tmp_path: Path) -> None:
    world = World(tmp_path)
    done: dict[str, list[int]] = {}
    together, most = 0, 0
    failed: set[int] = set()

    async def handle(message: BaseMessage) -> None:
        nonlocal together, most
        together += 1
        most = max(most, together)
        try:
            await asyncio.sleep(0)
            if message.data["n"] % 7 == 0 and message.data["n"] not in failed:
                failed.add(message.data["n"])
                raise ValueError("once")
        finally:
            together -= 1
        done.setdefault(message.data["key"], []).append(message.data["n"])

    world.add(Numbers([{"key": f"k\ud800{n % 5}", "n": n} for n in range(200)]), SOURCE)
    delivery = {"lanes": 8, "ordering_key": "data.key"}
    world.add(Handler(handle), manifest("keyed", hears=("raw",), delivery=delivery))
    final = run(world.run())

    assert final["keyed"].processed == 200
    assert most > 1
    for key, numbers in done.items():
        assert numbers == sorted(numbers), key


def test_several_lanes_without_a_key_share_the_work(tmp_path: Path) -> None:
    world, together = World(tmp_path), []
    inside = 0

    async def handle(message: BaseMessage) -> None:
        nonlocal inside
        inside += 1
        together.append(inside)
        while max(together) < 4:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        inside -= 1

    world.add(Numbers(50), SOURCE)
    world.add(Handler(handle), manifest("shared", hears=("raw",), delivery={"lanes": 4}))
    final = run(world.run())
    assert final["shared"].processed == 50
    assert max(together) == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("no config"), "no config"), (SystemExit(3), "SystemExit"), (KeyError("x"), "KeyError")],
)
def test_a_plugin_that_cannot_be_loaded_leaves_the_others_running(
    tmp_path: Path, error: BaseException, said: str
) -> None:
    world, sink = World(tmp_path), Handler()

    def load() -> Plugin:
        raise error

    world.add(Numbers(3), SOURCE)
    world.host.add(manifest("broken", hears=("raw",)), load)
    world.add(sink, manifest("sink", hears=("raw",)))
    final = run(world.run())

    assert sink.data == [0, 1, 2]
    assert final["broken"].state is PluginState.FAILED
    assert said in final["broken"].reason


def test_a_library_that_cannot_be_read_is_shown_with_its_reason(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.host.refuse("gone", LibraryError("the link points nowhere"))
    final = run(world.run())
    assert final["gone"].state is PluginState.FAILED
    assert "points nowhere" in final["gone"].reason
    assert [(event.name, event.state) for event in world.events] == [("gone", PluginState.FAILED)]


class Stuck(Handler):
    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    async def _maybe_hang(self, method: str) -> None:
        if self.at == method:
            await asyncio.Event().wait()

    async def init(self, context: Any) -> None:
        await super().init(context)
        await self._maybe_hang("init")

    async def shutdown(self) -> None:
        await self._maybe_hang("shutdown")

    async def health_check(self) -> bool:
        await self._maybe_hang("health_check")
        return True


@pytest.mark.parametrize("method", ["init", "shutdown"])
def test_a_deadline_ends_what_hangs_and_the_others_run(tmp_path: Path, method: str) -> None:
    world, sink = World(tmp_path), Handler()
    world.add(Numbers(3), SOURCE)
    timeouts = {"init_ms": 20, "shutdown_ms": 20}
    world.add(Stuck(method), manifest("stuck", hears=("raw",), timeouts=timeouts))
    world.add(sink, manifest("sink", hears=("raw",)))
    final = run(world.run())

    assert sink.data == [0, 1, 2]
    assert final["stuck"].state is PluginState.FAILED
    assert final["stuck"].reason.startswith(f"{method}: no answer within 0.02 s")


def test_what_was_published_to_a_plugin_that_did_not_start_is_kept(tmp_path: Path) -> None:
    class Early(Handler):
        async def init(self, context: Any) -> None:
            await super().init(context)
            await context.publish("raw", "early")

    class Late(Handler):
        async def init(self, context: Any) -> None:
            await asyncio.sleep(0)
            raise PluginError("no database")

    world = World(tmp_path)
    world.add(Early(), manifest("early", says=("raw",)))
    world.add(Late(), manifest("late", hears=("raw",)))
    final = run(world.run())
    (letter,) = world.dead_letters.newest()
    assert letter.message().data == "early"
    assert "no database" in letter.reason
    assert final["late"].dead_lettered == 1


def test_a_handler_that_is_out_of_time_is_cancelled_and_retried(tmp_path: Path) -> None:
    world, calls = World(tmp_path), []

    async def hang_once(message: BaseMessage) -> None:
        calls.append(message.data)
        if len(calls) == 1:
            await asyncio.Event().wait()

    world.add(Numbers(2), SOURCE)
    world.add(Handler(hang_once), manifest("slow", hears=("raw",), timeouts={"message_ms": 60}))
    final = run(world.run())
    assert calls == [0, 0, 1]
    assert (final["slow"].processed, final["slow"].failed_attempts) == (2, 1)


def test_waiting_for_room_downstream_does_not_use_up_a_handlers_time(tmp_path: Path) -> None:
    world, front = World(tmp_path), Handler()

    async def publish(message: BaseMessage) -> None:
        await front.context.publish("next", message.data)

    async def slow(message: BaseMessage) -> None:
        await asyncio.sleep(0.04)

    front.handle = publish
    world.add(Numbers(8), SOURCE)
    world.add(front, manifest("front", hears=("raw",), says=("next",), timeouts={"message_ms": 60}))
    world.add(Handler(slow), manifest("slow", hears=("next",), delivery={"queue_limit": 1}))
    final = run(world.run())
    assert (final["front"].processed, final["front"].failed_attempts) == (8, 0)
    assert final["slow"].processed == 8


class Mute(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


ANYTHING = [
    asyncio.CancelledError(),
    SystemExit(1),
    ValueError(),
    KeyboardInterrupt(),
    GeneratorExit(),
    BaseException(),
    BaseExceptionGroup("several", [KeyboardInterrupt()]),
    Mute(),
]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
def test_whatever_a_handler_raises_is_a_failed_attempt(
    tmp_path: Path, error: BaseException, batch_size: int
) -> None:
    world, others = World(tmp_path), Handler()

    def fail(message: BaseMessage) -> None:
        if message.data == 1:
            raise error

    class Odd(Handler):
        async def process_batch(self, topics: Any, messages: Any) -> Any:
            return [await self.process_message("raw", message) for message in messages]

    world.add(Numbers(3), SOURCE)
    world.add(Odd(fail), manifest("odd", hears=("raw",), delivery={"batch_size": batch_size}))
    world.add(others, manifest("others", hears=("raw",)))
    final = run(world.run())
    assert (final["odd"].processed, final["odd"].dead_lettered) == (2, 1)
    assert final["others"].processed == 3
    assert world.dead_letters.newest()[0].reason.startswith(type(error).__name__)


@pytest.mark.parametrize("method", ["init", "health_check", "shutdown", "produce"])
@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
def test_whatever_a_plugin_raises_becomes_its_state_alone(
    tmp_path: Path, error: BaseException, method: str
) -> None:
    async def fail(*_: Any) -> bool:
        raise error

    class Odd(Numbers):
        async def produce(self) -> AsyncIterator[Any]:
            if method == "produce":
                raise error
            yield 0
            await asyncio.Event().wait()

    async def scenario() -> None:
        clock = ManualClock()
        world, odd = World(tmp_path, clock=clock, health_interval_s=10), Odd()
        if method != "produce":
            setattr(odd, method, fail)
        world.add(odd, manifest("odd", says=("raw",), plugin_type="source"))
        world.add(Endless(), SOURCE)
        world.add(sink := Handler(), manifest("sink", hears=("raw",)))
        async with running(world) as host:
            await clock.advance(15)
            seen = len(sink.seen)
            while len(sink.seen) < seen + 10:
                await asyncio.sleep(0)
            if method != "shutdown":
                plugin = host.plugin("odd")
                assert plugin is not None
                assert plugin.state is (
                    PluginState.DEGRADED if method == "health_check" else PluginState.FAILED
                )
                assert type(error).__name__ in plugin.reason
        if method == "shutdown":
            assert world.events[-1].name == "sink"
            assert any(event.state is PluginState.FAILED for event in world.events if event.name == "odd")

    run(scenario())


@pytest.mark.parametrize("method", ["init", "health_check", "shutdown"])
def test_a_plugin_that_swallows_its_cancellation_holds_up_nobody(tmp_path: Path, method: str) -> None:
    is_over = asyncio.Event()

    async def deaf(*_: Any) -> bool:
        while not is_over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await is_over.wait()
        return True

    async def scenario() -> None:
        clock = ManualClock()
        world, odd = World(tmp_path, clock=clock, health_interval_s=10), Handler()
        setattr(odd, method, deaf)
        timeouts = {"init_ms": 20, "health_ms": 20, "shutdown_ms": 20}
        world.add(odd, manifest("odd", hears=("raw",), timeouts=timeouts))
        world.add(Endless(), SOURCE)
        world.add(sink := Handler(), manifest("sink", hears=("raw",)))
        async with running(world) as host:
            await clock.advance(15)
            while len(sink.seen) < 10:
                await asyncio.sleep(0.001)
            while method == "health_check" and "health_check" not in host.snapshot().plugins[0].reason:
                await asyncio.sleep(0.001)
        if method != "health_check":
            (failed,) = [event for event in world.events if event.state is PluginState.FAILED]
            assert (failed.name, "no answer within" in failed.reason) == ("odd", True)
        is_over.set()
        await asyncio.sleep(0.01)

    run(scenario())


def test_what_an_error_says_is_kept_up_to_a_length(tmp_path: Path) -> None:
    def fail(message: BaseMessage) -> ProcessingStatus:
        if message.data == 0:
            return ProcessingStatus.FAILED("y" * 50_000)
        raise ValueError("x" * 50_000)

    world = World(tmp_path)
    world.add(Numbers(2), SOURCE)
    world.add(Handler(fail), manifest("wordy", hears=("raw",)))
    run(world.run())
    reasons = [letter.reason for letter in world.dead_letters.newest()]
    assert [reason[-22:] for reason in reasons] == [
        f"{letter * 4}… (50,000 characters)"[-22:] for letter in "xy"
    ]
    assert all(len(reason) < 10_100 for reason in reasons)


def test_a_handler_that_is_thrown_away_with_its_loop_raises_nothing(tmp_path: Path) -> None:
    async def deaf(message: BaseMessage) -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    world = World(tmp_path, shutdown_timeout_s=0.1)
    world.add(Numbers(1), SOURCE)
    world.add(Handler(deaf), manifest("deaf", hears=("raw",)))
    loop = asyncio.new_event_loop()
    task = loop.create_task(world.run(until_idle=False))
    loop.run_until_complete(asyncio.sleep(0.05))
    world.host.request_stop()
    loop.run_until_complete(task)
    del task
    loop.close()
    gc.collect()  # a coroutine that will not be closed says so, which is a failure here


def test_a_handler_that_forgets_to_answer_is_told(tmp_path: Path) -> None:
    class Forgetful(Plugin):
        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            return None  # type: ignore[return-value]

    world = World(tmp_path)
    world.add(Numbers(1), SOURCE)
    world.add(Forgetful(), manifest("forgetful", hears=("raw",)))
    run(world.run())
    assert "process_message returned None" in world.dead_letters.newest()[0].reason


def test_health_moves_a_plugin_to_degraded_and_back(tmp_path: Path) -> None:
    class Moody(Handler):
        answers = iter([False, True])

        async def health_check(self) -> bool:
            return next(self.answers, True)

    async def scenario() -> None:
        clock = ManualClock()
        world = World(tmp_path, clock=clock, health_interval_s=10)
        world.add(Moody(), manifest("moody", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        while not any(event.state is PluginState.RUNNING for event in world.events):
            await asyncio.sleep(0.001)
        await clock.advance(25)
        world.host.request_stop()
        await running
        states = [event.state for event in world.events]
        degraded = states.index(PluginState.DEGRADED)
        assert states[degraded + 1] is PluginState.RUNNING
        assert world.events[degraded].reason == "health_check answered False"

    run(scenario())


def test_many_health_checks_do_not_begin_in_one_round_of_the_loop(tmp_path: Path) -> None:
    checked: list[object] = []

    class Checked(Handler):
        async def health_check(self) -> bool:
            checked.append(self)
            return True

    async def scenario() -> None:
        clock = ManualClock()
        world = World(tmp_path, clock=clock, health_interval_s=10)
        for number in range(100):
            world.add(Checked(), manifest(f"checked_{number}", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        while not world.host.is_steady:
            await asyncio.sleep(0.001)
        advancing, rounds = asyncio.create_task(clock.advance(15)), list[int]()
        while len(checked) < 100:
            before = len(checked)
            await asyncio.sleep(0)
            rounds.append(len(checked) - before)
        assert max(rounds) <= 20
        await advancing
        world.host.request_stop()
        await running

    run(scenario())


def test_a_stop_drains_what_is_queued_and_shuts_down_publishers_before_subscribers(tmp_path: Path) -> None:
    order: list[str] = []

    class Buffering(Handler):
        """Publishes the sum only when it ends."""

        async def shutdown(self) -> None:
            order.append("buffering")
            await self.context.publish("sums", sum(self.data))

    class Last(Handler):
        async def shutdown(self) -> None:
            order.append("last")

    async def scenario() -> None:
        world, buffering, last = World(tmp_path), Buffering(), Last()
        world.add(last, manifest("last", hears=("sums",)))
        world.add(buffering, manifest("buffering", hears=("raw",), says=("sums",)))
        world.add(Endless(), SOURCE)
        running = asyncio.create_task(world.run(until_idle=False))
        while len(buffering.seen) < 50:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = await running
        assert order == ["buffering", "last"]
        assert last.data == [sum(buffering.data)]
        assert final["counting"].published == final["buffering"].processed

    run(scenario())


def test_what_could_not_be_drained_in_time_is_kept_as_dead_letters(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stuck = World(tmp_path, shutdown_timeout_s=0.2), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        stuck.handle = hang
        world.add(Numbers(5), SOURCE)
        world.add(stuck, manifest("stuck", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(5)
        while not stuck.seen:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = await running
        assert final["stuck"].dead_lettered == 5
        kept = [letter.message().data for letter in reversed(world.dead_letters.newest())]
        assert kept == [0, 1, 2, 3, 4]
        assert "stopped before" in world.dead_letters.newest()[0].reason

    run(scenario())


def test_a_handler_that_swallows_its_cancellation_cannot_hold_up_the_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stubborn = World(tmp_path, shutdown_timeout_s=0.2), Handler()
        release = asyncio.Event()

        async def swallow(message: BaseMessage) -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        stubborn.handle = swallow
        world.add(Numbers(3), SOURCE)
        world.add(stubborn, manifest("stubborn", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(3)
        while not stubborn.seen:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = await asyncio.wait_for(running, 60)
        assert final["stubborn"].dead_lettered == 3
        assert [letter.message().data for letter in world.dead_letters.newest()] == [2, 1, 0]
        release.set()
        await asyncio.sleep(0.01)
        assert world.host.snapshot().plugins[1].processed == 0

    run(scenario())


def test_abort_does_not_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stuck = World(tmp_path, shutdown_timeout_s=3_600), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        stuck.handle = hang
        world.add(Endless(), SOURCE)
        world.add(stuck, manifest("stuck", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        while not stuck.seen:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        await asyncio.sleep(0.05)
        assert not running.done()
        world.host.abort()
        await asyncio.wait_for(running, 60)

    run(scenario())


def test_a_stop_during_the_start_does_not_wait_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stuck = World(tmp_path), Stuck("init")
        world.add(stuck, manifest("stuck", hears=("raw",), timeouts={"init_ms": 86_400_000}))
        running = asyncio.create_task(world.run(until_idle=False))
        while not stuck.calls:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = await asyncio.wait_for(running, 60)
        assert final["stuck"].state is PluginState.STOPPED

    run(scenario())


class SlowToCollect(MemoryTransport):
    """Makes its queues somewhere else, some time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.is_collecting = asyncio.Event()

    async def wait_until_collecting(self) -> None:
        self.asked.set()
        await self.is_collecting.wait()


def test_a_host_is_started_and_its_sources_begin_when_its_queues_are_there(tmp_path: Path) -> None:
    async def scenario() -> None:
        transport, sink = SlowToCollect(), Handler()
        world = World(tmp_path, transport=transport)
        world.add(Numbers(3), SOURCE)
        world.add(sink, manifest("sink", hears=("raw",)))
        started = asyncio.create_task(world.host.started())
        finished = asyncio.create_task(world.run())
        await transport.asked.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert (sink.data, started.done()) == ([], False)
        transport.is_collecting.set()
        await finished
        assert (sink.data, started.done()) == ([0, 1, 2], True)

    run(scenario())


def test_a_queue_that_is_never_made_holds_up_the_others_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_COLLECTING_S", 0.01)

    async def scenario() -> None:
        world, sink = World(tmp_path, transport=SlowToCollect()), Handler()
        world.add(Numbers(3), SOURCE)
        world.add(sink, manifest("sink", hears=("raw",)))
        await world.run()
        assert sink.data == [0, 1, 2]

    run(scenario())


def test_a_disk_that_will_not_take_a_dead_letter_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path)
    add, refusals = world.dead_letters.add, iter(range(3))

    def full(letters: Any, *, once: bool = False) -> None:
        if next(refusals, None) is not None:
            raise DeadLetterError("the dead letters cannot be written", why="database or disk is full")
        add(letters, once=once)

    monkeypatch.setattr(world.dead_letters, "add", full)
    world.add(Numbers(1), SOURCE)
    world.add(Handler(lambda m: ProcessingStatus.FAILED("no")), manifest("strict", hears=("raw",)))
    final = run(world.run())
    assert final["strict"].dead_lettered == 1
    assert world.dead_letters.count() == 1
    moves = [
        (event.state, "disk is full" in event.reason) for event in world.events if event.name == "strict"
    ]
    degraded = moves.index((PluginState.DEGRADED, True))
    assert moves[degraded + 1] == (PluginState.RUNNING, False)  # as soon as there is room, and not before
    assert moves.count((PluginState.DEGRADED, True)) == 1


def test_what_cannot_even_be_kept_at_a_stop_is_counted_as_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(letters: Any) -> None:
        raise DeadLetterError("the dead letters cannot be written", why="database or disk is full")

    async def scenario() -> None:
        world, stuck = World(tmp_path, shutdown_timeout_s=0.2), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        stuck.handle = hang
        monkeypatch.setattr(world.dead_letters, "add", full)
        world.add(Numbers(5), SOURCE)
        world.add(stuck, manifest("stuck", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(5)
        while not stuck.seen:
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = await running
        assert (final["stuck"].received, final["stuck"].in_hand, final["stuck"].dead_lettered) == (5, 5, 0)
        assert world.host.snapshot().failed

    run(scenario())


def test_a_source_that_raises_is_failed_and_what_it_published_goes_through(tmp_path: Path) -> None:
    class Torn(Numbers):
        async def produce(self) -> AsyncIterator[Any]:
            yield 1
            raise ConnectionError("torn")

    world, sink = World(tmp_path), Handler()
    world.add(Torn(), SOURCE)
    world.add(sink, manifest("sink", hears=("raw",)))
    final = run(world.run())
    assert sink.data == [1]
    assert (final["counting"].state, final["counting"].reason) == (
        PluginState.FAILED,
        "ConnectionError: torn",
    )


def test_a_blocking_plugin_runs_in_a_thread_with_its_message_and_does_not_block_the_loop(
    tmp_path: Path,
) -> None:
    writing, go_on, went_on = threading.Semaphore(0), threading.Semaphore(0), list[bool]()

    class Slow(Sink, blocking=True):
        def write(self, message: BaseMessage) -> None:
            writing.release()
            went_on.append(go_on.acquire(timeout=20))
            self.context.record_counter("written")

    async def scenario() -> None:
        world = World(tmp_path)
        world.add(Numbers(4), SOURCE)
        world.add(Slow(), manifest("slow", hears=("raw",)))
        running = asyncio.create_task(world.run())
        while not running.done():
            await asyncio.sleep(0.001)
            if writing.acquire(blocking=False):
                go_on.release()  # while it writes, the loop goes on
        assert (await running)["slow"].processed == 4

    run(scenario())
    assert went_on == [True] * 4


def test_a_full_queue_slows_the_source_and_drops_nothing(tmp_path: Path) -> None:
    world, slow, waiting = World(tmp_path), Handler(), []

    async def handle(message: BaseMessage) -> None:
        waiting.append(world.host.snapshot().plugins[1].queue)
        await asyncio.sleep(0)

    slow.handle = handle
    world.add(Numbers(500), SOURCE)
    world.add(slow, manifest("slow", hears=("raw",), delivery={"queue_limit": 10}))
    final = run(world.run())
    assert final["slow"].processed == 500
    assert max(waiting) <= 10


def test_the_state_is_on_the_telemetry_and_each_move_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add(Handler(), manifest("watched", hears=("raw",)))
    run(world.run())
    assert [event.state for event in world.events] == [
        PluginState.STARTING,
        PluginState.RUNNING,
        PluginState.STOPPING,
        PluginState.STOPPED,
    ]


def test_dead_letters_can_be_read_while_the_file_is_not_there_and_refuse_a_damaged_one(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    assert world.dead_letters.newest() == []
    assert world.dead_letters.count() == 0
    world.dead_letters.path.write_bytes(os.urandom(4_096))
    with pytest.raises(DeadLetterError, match="cannot be read"):
        world.dead_letters.newest()
    assert isinstance(sqlite3.DatabaseError(), sqlite3.Error)


def test_what_waits_in_lanes_with_a_key_is_kept_at_a_forced_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stuck = World(tmp_path, shutdown_timeout_s=0.2), Handler()

        async def hang(message: BaseMessage) -> None:
            await asyncio.Event().wait()

        stuck.handle = hang
        world.add(Numbers([{"key": n % 3} for n in range(300)]), SOURCE)
        delivery = {"lanes": 3, "ordering_key": "data.key"}
        world.add(stuck, manifest("stuck", hears=("raw",), delivery=delivery))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(300)
        world.host.request_stop()
        final = await running
        assert final["stuck"].dead_lettered == 300
        assert world.dead_letters.count() == 300

    run(scenario())


def test_of_many_plugins_not_all_begin_in_one_step_of_the_loop(tmp_path: Path) -> None:
    world = World(tmp_path)
    rounds = [0]
    begun: Counter[int] = Counter()

    class Beginning(Handler):
        async def init(self, context: Any) -> None:
            begun[rounds[0]] += 1
            await super().init(context)

    async def count() -> None:
        while True:
            rounds[0] += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        counting = asyncio.create_task(count())
        await world.run()
        counting.cancel()

    for number in range(200):
        world.add(Beginning(), manifest(f"one_{number}", hears=("raw",)))
    asyncio.run(scenario())
    assert sum(begun.values()) == 200
    assert max(begun.values()) <= 3
