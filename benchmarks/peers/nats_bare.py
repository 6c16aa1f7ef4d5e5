"""nats-py and nothing else: three stages on JetStream, at least once, as a careful user writes them.

Pull consumers fetch batches; what a batch is turned into is published without waiting for each answer, and
only when all of it is stored is the batch acknowledged. No telemetry. It runs on the server at NATS_URL.
"""

import asyncio
import json
import os

from benchmarks import job
from benchmarks.peers.stages import Stage, stages

try:
    import nats
    from nats.errors import TimeoutError as NothingCame
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerConfig, DeliverPolicy, RetentionPolicy
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH = 256
IN_FLIGHT = 1_024


async def work_at(jetstream: "JetStreamContext", stream: str, stage: Stage) -> None:
    """Take batches until cancelled."""
    subscription = await jetstream.pull_subscribe_bind(_durable(stage), stream)
    while True:
        try:
            batch = await subscription.fetch(BATCH, timeout=1)
        except NothingCame:
            continue
        answers = []
        for message in batch:
            data = stage.handle(json.loads(message.data))
            if stage.says:
                answers.append(await jetstream.publish_async(stage.says, json.dumps(data).encode()))
        await asyncio.gather(*answers)
        for message in batch:
            await message.ack()


def _durable(stage: Stage) -> str:
    return stage.hears.replace(".", "_")


async def run_all(task: job.Job, url: str) -> None:
    """Publish the job's messages while the stages work."""
    all_stages, finished = stages(task)
    stream = f"BARE{os.getpid()}"
    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    subjects = [stage.hears for stage in all_stages]
    await jetstream.add_stream(name=stream, subjects=subjects, retention=RetentionPolicy.INTEREST)
    running = []
    for stage in all_stages:
        await jetstream.add_consumer(
            stream,
            ConsumerConfig(
                durable_name=_durable(stage),
                filter_subject=stage.hears,
                deliver_policy=DeliverPolicy.NEW,
                max_ack_pending=10_000,
            ),
        )
        running.append(asyncio.create_task(work_at(jetstream, stream, stage)))
    task.start()
    for segment in task.segments():
        await jetstream.publish_async(all_stages[0].hears, json.dumps(segment).encode())
    await finished.wait()
    task.stop()
    for one in running:
        one.cancel()
    await asyncio.wait(running)
    await client.close()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(run_all(task, job.server("nats")))


if __name__ == "__main__":
    job.main(run, packages=("nats-py",))
