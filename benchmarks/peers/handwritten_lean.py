"""The least code that joins the three functions by hand on asyncio.Queue, with no telemetry.

Three tasks with their loops written out and bounded queues between them; messages are dataclasses with uuid4
ids. The validator passes on the message that it got: one id less than `handwritten_untraced` makes, and no
handlers, channels or stages that further plugins could use as well.
"""

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Any

from benchmarks import job, work

QUEUE_SIZE = 1_000


@dataclass(slots=True)
class Message:
    """One message."""

    data: dict[str, Any]
    parent_id: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


async def validator(raw: asyncio.Queue[Message], valid: asyncio.Queue[Message]) -> None:
    """Passes good segments on."""
    while True:
        message = await raw.get()
        work.validate(message.data)
        await valid.put(message)
        raw.task_done()


async def transformer(valid: asyncio.Queue[Message], captions: asyncio.Queue[Message]) -> None:
    """Makes captions."""
    while True:
        message = await valid.get()
        await captions.put(Message(work.transform(message.data), parent_id=message.id))
        valid.task_done()


async def sink(captions: asyncio.Queue[Message], tally: work.Tally) -> None:
    """Adds captions up."""
    while True:
        message = await captions.get()
        tally.add(message.data)
        captions.task_done()


async def pipeline(task: job.Job) -> None:
    """Feed it, and wait until all is done."""
    queues: list[asyncio.Queue[Message]] = [asyncio.Queue(QUEUE_SIZE) for _ in range(3)]
    raw, valid, captions = queues
    workers = [
        asyncio.create_task(validator(raw, valid)),
        asyncio.create_task(transformer(valid, captions)),
        asyncio.create_task(sink(captions, task.tally)),
    ]
    task.start()
    for segment in task.segments():
        await raw.put(Message(segment))
    for queue in queues:
        await queue.join()
    task.stop()
    for worker in workers:
        worker.cancel()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(pipeline(task))


if __name__ == "__main__":
    job.main(run)
