"""The pipeline by hand on asyncio.Queue: `handwritten_traced` with every line of telemetry taken out.

What is left is the same program: channels, stages that await a handler, and a new message with an id of its
own at each of them. Headers are left out too, because only telemetry reads them.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
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


class Channel:
    """A queue between two stages."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE_SIZE)

    async def publish(self, message: Message) -> None:
        """Put the message into the queue."""
        await self.queue.put(message)


class Stage:
    """A worker that takes from one channel and calls a handler."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def run(self, handle: Callable[[Message], Awaitable[None]]) -> None:
        """Handle what comes until cancelled."""
        queue = self._channel.queue
        while True:
            message = await queue.get()
            await handle(message)
            queue.task_done()


async def pipeline(task: job.Job) -> None:
    """Feed it, and wait until all is done."""
    raw, valid, captions = (Channel() for _ in range(3))

    async def validate(message: Message) -> None:
        work.validate(message.data)
        await valid.publish(Message(message.data, parent_id=message.id))

    async def transform(message: Message) -> None:
        await captions.publish(Message(work.transform(message.data), parent_id=message.id))

    async def sink(message: Message) -> None:
        task.tally.add(message.data)

    workers = [
        asyncio.create_task(Stage(raw).run(validate)),
        asyncio.create_task(Stage(valid).run(transform)),
        asyncio.create_task(Stage(captions).run(sink)),
    ]
    task.start()
    for segment in task.segments():
        await raw.publish(Message(segment))
    for channel in (raw, valid, captions):
        await channel.queue.join()
    for worker in workers:
        worker.cancel()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(pipeline(task))
    task.stop()


if __name__ == "__main__":
    job.main(run)
