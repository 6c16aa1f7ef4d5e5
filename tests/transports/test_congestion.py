"""Which sources wait, held to a model that is nothing but a set of pairs."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from echo_core.transports.congestion import Congestion

STEPS = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["", "a", "b", "c"])), max_size=40)


@given(steps=STEPS)
def test_a_source_waits_while_it_fills_a_queue_and_goes_on_when_it_fills_none(
    steps: list[tuple[str, str]],
) -> None:
    async def scenario() -> None:
        congestion, pairs = Congestion(), set[tuple[str, str]]()
        waiting: dict[str, asyncio.Future[None]] = {}
        for queue, source in steps:
            if source:
                congestion.begin(queue, source)
                pairs.add((queue, source))
            else:
                congestion.end(queue)
                pairs = {pair for pair in pairs if pair[0] != queue}
            filling = {pair[1] for pair in pairs}
            for name, room in list(waiting.items()):
                assert room.done() == (name not in filling)
                if room.done():
                    del waiting[name]
            for name in "abc":
                told = congestion.wait(name)
                assert (told is not None) == (name in filling)
                if told is not None and name not in waiting:
                    waiting[name] = asyncio.ensure_future(told)
        for queue in "xyz":
            congestion.end(queue)
        assert all(room.done() for room in waiting.values())

    asyncio.run(scenario())
