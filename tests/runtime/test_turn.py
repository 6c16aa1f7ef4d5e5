"""Sharing the event loop."""

import asyncio

import pytest

from echo_core.runtime import turn as module
from echo_core.runtime.turn import Turn


class Clock:
    """A monotonic clock that work moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "monotonic", lambda: self.now)


async def works(turn: Turn, clock: Clock, name: str, ms: float, messages: int, seen: list[str]) -> None:
    """A lane that has so many messages, each of which takes `ms`."""
    ends = turn.begin()
    for _ in range(messages):
        seen.append(name)
        clock.now += ms / 1_000
        if clock.now > ends:
            ends = await turn.give()


def test_one_alone_has_all_of_the_turn_and_others_come_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[str]()

    async def somebody_else() -> None:
        for _ in range(2):
            seen.append("other")
            await asyncio.sleep(0)

    async def scenario() -> None:
        turn = Turn()
        await asyncio.gather(works(turn, clock, "a", 0.6, 6, seen), somebody_else())

    asyncio.run(scenario())
    assert seen == ["a", "a", "a", "other", "a", "a", "a", "other"]


def test_the_turn_is_divided_among_those_that_had_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = Clock(monkeypatch), list[str]()

    async def scenario() -> None:
        turn = Turn()
        await asyncio.gather(*(works(turn, clock, name, 0.3, 12, seen) for name in "ab"))

    asyncio.run(scenario())
    # In the first round a takes a whole turn, and b what is left of the longest; then half a turn each.
    assert "".join(seen)[:7] == "aaaaaab"
    assert "".join(seen)[7:19] == "aaabbbaaabbb"


def test_many_that_have_little_work_each_share_the_turn_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen, rounds = Clock(monkeypatch), list[str](), list[float]()

    async def looks() -> None:
        while len(seen) < 300:
            began = clock.now
            await asyncio.sleep(0)
            rounds.append(clock.now - began)

    async def scenario() -> None:
        turn = Turn()
        lanes = [works(turn, clock, str(number), 0.05, 3, seen) for number in range(100)]
        await asyncio.gather(looks(), *lanes)

    asyncio.run(scenario())
    # A message each at least, 5 ms for 100; and none has more than its share once it is known.
    assert max(rounds) < 0.009
    assert [seen.count(str(number)) for number in range(100)] == [3] * 100
