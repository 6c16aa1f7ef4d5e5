"""CPU time a message of what `scaling` calls plugins, written by hand: an asyncio.Queue and a task for each.

The messages are those of `peers.handwritten_untraced`. There are no patterns, retries or counts; what is left
is what Python and the machine ask for waking up so many tasks.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.peers.handwritten_untraced import Message
from benchmarks.programs.scaling import DATA, queue_limit

_IN_A_ROW: Final = 64
"""After so many messages the others have a turn, as with Echo Core's memory transport."""


async def _sink(queue: asyncio.Queue[Message], handled: list[int]) -> None:
    while True:
        await queue.get()
        handled[0] += 1
        queue.task_done()


async def measure(size: int, seconds: float) -> dict[str, float]:
    """Messages to all of them in turn, for so many seconds, and until the last is handled."""
    handled = [0]
    queues = [asyncio.Queue[Message](queue_limit(size)) for _ in range(size)]
    by_topic = {f"work.part{number}.item": queue for number, queue in enumerate(queues)}
    sinks = [asyncio.create_task(_sink(queue, handled)) for queue in queues]
    for queue in queues:  # each has handled one before the clock starts
        await queue.put(Message(DATA))
        await queue.join()
    count, cpu_began, until = 0, time.process_time(), time.perf_counter() + seconds
    for topic in itertools.cycle(by_topic):
        await by_topic[topic].put(Message(DATA))
        count += 1
        if not count % _IN_A_ROW:
            await asyncio.sleep(0)
        if time.perf_counter() > until:
            break
    for queue in queues:
        await queue.join()
    cpu_seconds = time.process_time() - cpu_began
    for sink in sinks:
        sink.cancel()
    return {"messages": handled[0] - size, "cpu_us": cpu_seconds / count * 1e6}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    told = parser.parse_args(arguments)
    print(json.dumps(asyncio.run(measure(told.size, told.seconds))))


if __name__ == "__main__":
    main()
