"""nats-py and nothing else: three stages on JetStream, at least once, as a careful user writes them.

Pull consumers fetch batches; what a batch is turned into is published without waiting for each answer, and
only when all of it is stored is the batch acknowledged. No telemetry. It runs on the server at NATS_URL.
"""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any

from benchmarks import job, work

try:
    import nats
    from nats.errors import TimeoutError as NothingCame
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerConfig, DeliverPolicy, RetentionPolicy
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH = 256
IN_FLIGHT = 1_024


async def stage(
    jetstream: JetStreamContext, name: str, hears: str, says: str, handle: Callable[[Any], Any]
) -> None:
    """Take batches until cancelled."""
    subscription = await jetstream.pull_subscribe_bind(name, "BARE")
    while True:
        try:
            batch = await subscription.fetch(BATCH, timeout=1)
        except NothingCame:
            continue
        answers = []
        for message in batch:
            data = handle(json.loads(message.data))
            if says:
                answers.append(await jetstream.publish_async(says, json.dumps(data).encode()))
        await asyncio.gather(*answers)
        for message in batch:
            await message.ack()


async def run_all(task: job.Job, url: str) -> None:
    """Publish the job's messages while the stages work."""
    finished = asyncio.Event()

    def validate(segment: Any) -> Any:
        work.validate(segment)
        return segment

    def sink(caption: Any) -> None:
        task.tally.add(caption)
        if task.is_done:
            finished.set()

    client = await nats.connect(url)
    jetstream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    await jetstream.add_stream(name="BARE", subjects=["bare.>"], retention=RetentionPolicy.INTEREST)
    stages = []
    for name, hears, says, handle in (
        ("validate", work.RAW, work.VALID, validate),
        ("transform", work.VALID, work.CAPTIONS, work.transform),
        ("sink", work.CAPTIONS, "", sink),
    ):
        await jetstream.add_consumer(
            "BARE",
            ConsumerConfig(
                durable_name=name,
                filter_subject=f"bare.{hears}",
                deliver_policy=DeliverPolicy.NEW,
                max_ack_pending=10_000,
            ),
        )
        stages.append(
            asyncio.create_task(stage(jetstream, name, f"bare.{hears}", says and f"bare.{says}", handle))
        )
    task.start()
    for segment in task.segments():
        await jetstream.publish_async(f"bare.{work.RAW}", json.dumps(segment).encode())
    await finished.wait()
    task.stop()
    for running in stages:
        running.cancel()
    await asyncio.wait(stages)
    await client.close()


def run(task: job.Job) -> None:
    """The whole program."""
    if "NATS_URL" not in os.environ:
        raise job.NotAvailableError("no nats-server to run on")
    asyncio.run(run_all(task, os.environ["NATS_URL"]))


if __name__ == "__main__":
    job.main(run, packages=("nats-py",))
