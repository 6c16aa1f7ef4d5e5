"""Sharing the event loop."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from echo_core.transports import turn as module
from echo_core.transports.turn import Turn, Waiter

Scenario = Callable[[Turn], Coroutine[Any, Any, None]]


class Clock:
    """A monotonic clock that work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


def run(scenario: Scenario) -> None:
    async def with_turn() -> None:
        async with asyncio.timeout(60):
            await scenario(Turn.of_running_loop())

    asyncio.run(with_turn())


async def works(turn: Turn, clock: Clock, name: str, ms: float, messages: int, seen: list[str]) -> None:
    """A lane that has so many messages, each of which takes `ms`."""
    await turn.give()
    for _ in range(messages):
        seen.append(name)
        clock.now += ms / 1_000
        if clock.now > turn.ends:
            await turn.give()


def test_one_alone_has_all_of_the_round_and_others_come_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[str]()

    async def somebody_else() -> None:
        while len(seen) < 8:
            await asyncio.sleep(0)
            seen.append("other")

    async def scenario(turn: Turn) -> None:
        await asyncio.gather(works(turn, clock, "a", 0.6, 6, seen), somebody_else())

    run(scenario)
    assert seen[:8] == ["a", "a", "a", "other", "a", "a", "a", "other"]


def test_a_round_is_shared_by_those_that_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[str]()

    async def scenario(turn: Turn) -> None:
        await asyncio.gather(*(works(turn, clock, name, 0.2, 12, seen) for name in "ab"))

    run(scenario)
    # Half of the 1.5 ms is over with the fourth message of 0.2; then the other has what is left.
    assert "".join(seen)[:8] == "aaaabbbb"
    assert (seen.count("a"), seen.count("b")) == (12, 12)


def test_however_many_have_work_the_loop_looks_after_others_each_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, seen, rounds = Clock(monkeypatch), list[str](), list[float]()

    async def looks() -> None:
        while len(seen) < 900:
            began = clock.now
            await asyncio.sleep(0)
            rounds.append(clock.now - began)

    async def scenario(turn: Turn) -> None:
        lanes = [works(turn, clock, str(number), 0.4, 3, seen) for number in range(300)]
        await asyncio.gather(looks(), *lanes)

    run(scenario)
    assert max(rounds) < 0.002_5  # a round, the least share of the last in it, and the message then in hand
    assert [seen.count(str(number)) for number in range(300)] == [3] * 300


def test_nobody_comes_twice_before_all_others_came_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[str]()

    async def scenario(turn: Turn) -> None:
        await asyncio.gather(*(works(turn, clock, name, 5.0, 3, seen) for name in "abc"))

    run(scenario)
    assert "".join(seen) == "abcabcabc"


def test_a_waiter_is_used_again_and_again_in_the_context_of_its_task() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
    seen: list[str] = []

    async def waits(name: str, waiter: Waiter) -> None:
        variable.set(name)
        for _ in range(3):
            await waiter
            seen.append(f"{name} {variable.get()}")

    async def scenario(turn: Turn) -> None:
        waiters = {name: Waiter(turn) for name in "ab"}
        tasks = [asyncio.create_task(waits(name, waiter)) for name, waiter in waiters.items()]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            for waiter in waiters.values():
                waiter.call()
                waiter.call()  # once is enough

    run(scenario)
    assert seen == ["a a", "b b"] * 3


def test_who_is_cancelled_while_it_waits_hears_of_it_once() -> None:
    async def scenario(turn: Turn) -> None:
        waiter, heard = Waiter(turn), list[str]()

        async def waits() -> None:
            try:
                await waiter
            except asyncio.CancelledError:
                heard.append("cancelled")
                assert not waiter.is_waiting
                raise

        task = asyncio.create_task(waits())
        await asyncio.sleep(0)
        assert waiter.is_waiting
        task.cancel()
        waiter.call()  # somebody calls it all the same
        await asyncio.wait([task])
        assert task.cancelled()
        assert heard == ["cancelled"]

    run(scenario)


def test_a_deadline_ends_a_wait() -> None:
    async def scenario(turn: Turn) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await Waiter(turn)
        await turn.give()  # and the line goes on

    run(scenario)


def test_what_one_raises_does_not_hold_up_the_line() -> None:
    async def scenario(turn: Turn) -> None:
        async def breaks() -> None:
            await turn.give()
            raise SystemExit(3)

        broken = asyncio.ensure_future(breaks())
        await asyncio.sleep(0)
        later = [asyncio.ensure_future(turn.give()) for _ in range(3)]
        await asyncio.wait([broken, *later])

    with pytest.raises(SystemExit):
        run(scenario)
    run(lambda turn: turn.give())
