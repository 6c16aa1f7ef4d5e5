"""Changes to a running host: whoever asks is told, whatever the host does meanwhile."""

import asyncio
import gc

import pytest

from echo_core.errors import HostStopping
from echo_core.runtime.changes import Changes
from echo_core.transports import turn


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_a_change_that_a_stop_meets_before_or_as_it_begins_is_refused(rounds: int) -> None:
    begun: list[bool] = []

    async def change() -> None:
        begun.append(True)
        await asyncio.Event().wait()

    async def scenario() -> None:
        changes = Changes()
        changes.open()
        asking = asyncio.create_task(changes.make("shout", change()))
        for _ in range(rounds):
            await asyncio.sleep(0)
        await changes.close()
        with pytest.raises(HostStopping):
            await asking

    asyncio.run(scenario())
    gc.collect()  # a coroutine that was never begun, nor closed, would say so now
    assert begun == [True] * (rounds > 2)


def test_many_that_are_asked_for_at_once_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on with each change, for as long as one takes to begin."""
    now = [100.0]
    monkeypatch.setattr(turn, "monotonic", lambda: now[0])

    async def change() -> None:
        now[0] += 0.000_5

    async def scenario() -> None:
        changes = Changes()
        changes.open()
        rounds: list[float] = []
        asking = asyncio.gather(*(changes.make(str(number), change()) for number in range(1_000)))
        while not asking.done():
            began = now[0]
            await asyncio.sleep(0)
            rounds.append(now[0] - began)
        assert sum(rounds) >= 0.499
        assert max(rounds) < 0.003

    asyncio.run(scenario())
