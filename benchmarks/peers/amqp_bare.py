"""aio-pika and nothing else: three stages on RabbitMQ, at least once, as a careful user writes them.

Durable quorum queues, persistent messages, publisher confirms; a message is acknowledged when RabbitMQ has
confirmed what was made of it, and many are under way at a time. No telemetry. It runs on the server at
AMQP_URL.
"""

import asyncio
import itertools
import json

from benchmarks import job
from benchmarks.peers.stages import Stage, stages

try:
    from aio_pika import DeliveryMode, Message, connect
    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH = 256


async def publish(channel: "AbstractChannel", queue: str, data: object) -> None:
    """Return when RabbitMQ has it."""
    message = Message(json.dumps(data).encode(), delivery_mode=DeliveryMode.PERSISTENT)
    await channel.default_exchange.publish(message, queue)


async def work_at(channel: "AbstractChannel", stage: Stage) -> None:
    """Begin to consume."""

    async def handle(message: "AbstractIncomingMessage") -> None:
        data = stage.handle(json.loads(message.body))
        if stage.says:
            await publish(channel, stage.says, data)
        await message.ack()

    await channel.set_qos(prefetch_count=BATCH)
    queue = await channel.get_queue(stage.hears)
    await queue.consume(handle)


async def run_all(task: job.Job, url: str) -> None:
    """Publish the job's messages while the stages work."""
    all_stages, finished = stages(task)
    connection = await connect(url)
    entry = await connection.channel(publisher_confirms=True)
    for stage in all_stages:
        await entry.declare_queue(stage.hears, durable=True, arguments={"x-queue-type": "quorum"})
    for stage in all_stages:
        await work_at(await connection.channel(publisher_confirms=True), stage)
    task.start()
    segments = task.segments()
    while some := list(itertools.islice(segments, BATCH)):
        await asyncio.gather(*(publish(entry, all_stages[0].hears, segment) for segment in some))
    await finished.wait()
    task.stop()
    await connection.close()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(run_all(task, job.server("amqp")))


if __name__ == "__main__":
    job.main(run, packages=("aio-pika",))
