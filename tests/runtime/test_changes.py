"""Changes to a running host: whoever asks is told, whatever the host does meanwhile."""

import asyncio
import gc

import pytest

from echo_core.errors import HostStopping
from echo_core.runtime.changes import Changes


@pytest.mark.parametrize("rounds", [0, 1, 2])
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
    assert begun == [True] * (rounds > 1)
