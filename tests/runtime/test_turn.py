"""Sharing the event loop."""

import asyncio

from echo_core.runtime.turn import Turn


def test_a_turn_is_divided_among_the_lanes_that_were_busy_and_others_come_in_between() -> None:
    seen: list[str] = []

    async def lane(turn: Turn, name: str, rounds: int) -> None:
        for _ in range(rounds):
            seen.append(f"{name} {turn.share_s * 1_000:.0f}")
            await turn.give()

    async def somebody_else() -> None:
        for _ in range(3):
            seen.append("other")
            await asyncio.sleep(0)

    async def scenario() -> None:
        turn = Turn()
        await asyncio.gather(lane(turn, "a", 3), lane(turn, "b", 3), somebody_else())
        await lane(turn, "c", 2)

    asyncio.run(scenario())
    # All of the turn at first, then half of it each; alone again, all of it.
    assert seen == ["a 2", "b 2", "other", "a 1", "b 1", "other", "a 1", "b 1", "other", "c 1", "c 2"]
