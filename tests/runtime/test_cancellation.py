"""Who may end a lane: the host, by cancelling it, at any moment; and no plugin code that does the same."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.plugin import Answer
from echo_core.runtime import dispatch
from echo_core.runtime.dead_letters import DeadLetter
from echo_core.transports.base import Transport
from echo_core.transports.local import LocalTransport
from echo_core.transports.memory import MemoryDelivery, MemoryTransport
from echo_core.transports.turn import Turn, Waiter
from runtime.hosting import Handler, Numbers, World, manifest

SOURCE = manifest("counting", says=("raw",), plugin_type="source")
OK = ProcessingStatus.ACKNOWLEDGED


def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def and_waits(message: BaseMessage) -> ProcessingStatus:
    cancel_own_task()
    await asyncio.sleep(0)
    return OK


async def and_answers(message: BaseMessage) -> ProcessingStatus:
    cancel_own_task()
    return OK


async def and_raises(message: BaseMessage) -> ProcessingStatus:
    cancel_own_task()
    raise ValueError("after that")


class AsBatch(Handler):
    """Does with a batch what it does with a message."""

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        for message in messages:
            await self.process_message("", message)
        return [OK] * len(messages)


@pytest.mark.parametrize("transport", [MemoryTransport, lambda: LocalTransport(MemoryTransport(), ["raw"])])
@pytest.mark.parametrize("lane", [{}, {"batch_size": 2}, {"lanes": 3, "ordering_key": "data"}])
@pytest.mark.parametrize(
    ("handle", "outcome"),
    [(and_waits, "dead_lettered"), (and_answers, "processed"), (and_raises, "dead_lettered")],
)
def test_a_handler_that_cancels_the_task_it_runs_in_ends_no_lane(
    tmp_path: Path,
    handle: Callable[[BaseMessage], Awaitable[Any]],
    outcome: str,
    lane: dict[str, Any],
    transport: Callable[[], Transport],
) -> None:
    world = World(tmp_path, transport=transport())
    world.add(Numbers(5), SOURCE)
    world.add(AsBatch(handle), manifest("cancelling", hears=("raw",), delivery=lane))
    final = asyncio.run(world.run())["cancelling"]
    assert (final.received, getattr(final, outcome), final.in_hand) == (5, 5, 0)
    assert {letter.attempts[-1].number for letter in world.dead_letters.newest()} <= {3}


def test_a_plugin_that_cancels_a_lane_that_waits_ends_nothing(tmp_path: Path) -> None:
    async def cancel_the_other(message: BaseMessage) -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == "idle lane 0":
                task.cancel()
        await cancelling.context.publish("late", message.data)

    world, cancelling, idle = World(tmp_path), Handler(cancel_the_other), Handler()
    world.add(Numbers(3), SOURCE)
    world.add(cancelling, manifest("cancelling", hears=("raw",), says=("late",)))
    world.add(idle, manifest("idle", hears=("late",)))
    asyncio.run(world.run())
    assert idle.data == [0, 1, 2]


def test_a_stop_ends_a_handler_that_cleans_up_after_its_deadline(tmp_path: Path) -> None:
    """It was cancelled before, because it was out of time: that is no reason to try the message again."""
    calls: list[int] = []

    async def scenario() -> None:
        async def cleans_up(message: BaseMessage) -> None:
            calls.append(message.data)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                world.host.abort()
                await asyncio.Event().wait()

        world = World(tmp_path)
        world.add(Numbers(1), SOURCE)
        world.add(Handler(cleans_up), manifest("slow", hears=("raw",), timeouts={"message_ms": 50}))
        final = (await world.run(until_idle=False))["slow"]
        (letter,) = world.dead_letters.newest()
        assert (final.received, final.dead_lettered, final.failed_attempts) == (1, 1, 0)
        assert letter.reason == "the host stopped before the plugin could handle it"

    asyncio.run(scenario())
    assert calls == [0]


@pytest.mark.parametrize("lane", [{}, {"batch_size": 2}])
def test_a_dead_letter_that_is_being_written_at_a_stop_is_kept_once(
    tmp_path: Path, lane: dict[str, Any]
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def scenario() -> None:
        world = World(tmp_path)
        add = world.dead_letters.add

        def slowly(letters: Sequence[DeadLetter], *, once: bool = False) -> None:
            begun.set()
            go_on.wait(20)
            add(letters, once=once)

        world.dead_letters.add = slowly  # type: ignore[method-assign]
        world.add(Numbers(2), SOURCE)

        class Failing(AsBatch):
            async def process_batch(
                self, topics: Sequence[str], messages: Sequence[BaseMessage]
            ) -> Sequence[Answer]:
                return [ProcessingStatus.FAILED("no")] * len(messages)

        failing = Failing(lambda message: ProcessingStatus.FAILED("no"))
        world.add(failing, manifest("failing", hears=("raw",), delivery=lane))
        running = asyncio.create_task(world.run(until_idle=False))
        await asyncio.to_thread(begun.wait, 20)
        (lane_task,) = (task for task in asyncio.all_tasks() if task.get_name() == "failing lane 0")
        world.host.abort()
        while not lane_task.cancelling():
            await asyncio.sleep(0)
        go_on.set()
        final = (await running)["failing"]
        assert (final.received, final.dead_lettered, final.in_hand) == (2, 2, 0)
        assert sorted(letter.message().data for letter in world.dead_letters.newest()) == [0, 1]

    asyncio.run(scenario())


@pytest.mark.parametrize("lane", [{}, {"batch_size": 2}])
def test_a_stop_while_a_message_is_settled_leaves_it_counted_once(
    tmp_path: Path, lane: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = MemoryDelivery.settle

    async def scenario() -> None:
        async def and_wait(self: MemoryDelivery) -> None:
            await settle(self)
            world.host.abort()
            await asyncio.Event().wait()

        monkeypatch.setattr(MemoryDelivery, "settle", and_wait)
        world = World(tmp_path, transport=LocalTransport(MemoryTransport(), ["raw"]))
        monkeypatch.setattr(MemoryDelivery, "settle_batch", lambda some: and_wait(some[0]))
        world.add(Numbers(1), SOURCE)
        world.add(AsBatch(), manifest("settling", hears=("raw",), delivery=lane))
        final = (await world.run(until_idle=False))["settling"]
        assert (final.received, final.processed, final.dead_lettered, final.in_hand) == (1, 1, 0, 0)

    asyncio.run(scenario())


def test_a_lane_that_is_given_up_between_two_messages_leaves_both_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give = Turn.give

    async def scenario() -> None:
        async def never(self: Turn) -> None:
            if asyncio.current_task() not in lanes:
                await give(self)
                return
            world.host.abort()
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()

        let_go = asyncio.Event()
        lanes: set[asyncio.Task[None] | None] = set()
        world = World(tmp_path)
        monkeypatch.setattr(dispatch, "GRACE_S", 0.05)

        async def last_of_its_turn(message: BaseMessage) -> None:
            lanes.add(asyncio.current_task())
            monkeypatch.setattr(Turn, "give", never)
            Turn.of_running_loop().ends = 0.0

        world.add(Numbers(2), SOURCE)
        world.add(Handler(last_of_its_turn), manifest("waiting", hears=("raw",)))
        final = (await world.run(until_idle=False))["waiting"]
        assert (final.received, final.processed, final.dead_lettered, final.in_hand) == (2, 1, 1, 0)
        let_go.set()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "lane",
    [
        {"lanes": 4, "ordering_key": "data", "queue_limit": 8},
        {"when_full": "shed_oldest", "queue_limit": 50},
        {"lanes": 3},
        {"batch_size": 3},
    ],
)
def test_a_stop_loses_nothing_however_little_time_its_machine_gives_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lane: dict[str, Any]
) -> None:
    """Where thousands stand in line, a second may be over before a task that was cancelled has its turn."""
    monkeypatch.setattr(dispatch, "GRACE_S", 0.0)
    call = Waiter.call

    async def hang(message: BaseMessage) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        world = World(tmp_path, shutdown_timeout_s=0.1)
        world.add(Numbers(12), SOURCE)
        world.add(AsBatch(hang), manifest("hanging", hears=("raw",), delivery=lane))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(12)
        monkeypatch.setattr(Waiter, "call", lambda waiter: None)
        world.host.abort()
        final = (await running)["hanging"]
        monkeypatch.setattr(Waiter, "call", call)
        assert (final.received, final.dead_lettered, final.in_hand, final.queue) == (12, 12, 0, 0)
        assert sorted(letter.message().data for letter in world.dead_letters.newest()) == [*range(12)]
        assert not world.transport.unsettled()

    asyncio.run(scenario())


def test_a_stop_while_a_plugin_that_goes_is_accounted_for_counts_what_it_leaves(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    async def hang(message: BaseMessage) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        world = World(tmp_path, drain_timeout_s=0.01)
        add = world.dead_letters.add

        def slowly(letters: Sequence[DeadLetter], *, once: bool = False) -> None:
            begun.set()
            go_on.wait(20)
            add(letters, once=once)

        world.dead_letters.add = slowly  # type: ignore[method-assign]
        world.add(Numbers(5), SOURCE)
        world.add(Handler(hang), manifest("going", hears=("raw",)))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.published(5)
        going = asyncio.create_task(world.host.deactivate("going"))
        await asyncio.to_thread(begun.wait, 20)
        (change,) = (task for task in asyncio.all_tasks() if task.get_name() == "going change")
        world.host.request_stop()
        while not change.cancelling():
            await asyncio.sleep(0)
        go_on.set()
        final = (await running)["going"]
        await asyncio.wait([going])
        going.exception()
        assert (final.received, final.dead_lettered, final.in_hand) == (5, 5, 0)
        assert not world.transport.unsettled()

    asyncio.run(scenario())
