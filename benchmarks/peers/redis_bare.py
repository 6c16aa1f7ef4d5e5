"""redis-py and nothing else: three stages on Redis Streams, at least once, as a careful user writes them.

Consumers of a group fetch batches; what a batch is turned into is added, and the batch acknowledged, in one
transaction. No telemetry. It runs on the server at REDIS_URL.
"""

import asyncio
import itertools
import json
from typing import Any

from benchmarks import job
from benchmarks.peers.stages import Stage, stages

try:
    from redis.asyncio import Redis
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH = 256
GROUP = "bare"


async def work_at(client: "Redis", stage: Stage, finished: asyncio.Event) -> None:
    """Take batches until all is finished; redis-py does not always pass a cancellation on."""
    while not finished.is_set():
        streams: Any = await client.xreadgroup(GROUP, "one", {stage.hears: ">"}, count=BATCH, block=1_000)
        if not streams:
            continue
        ((_, batch),) = streams
        async with client.pipeline(transaction=True) as pipeline:
            for _, fields in batch:
                data = stage.handle(json.loads(fields[b"data"]))
                if stage.says:
                    pipeline.xadd(stage.says, {"data": json.dumps(data).encode()})
            pipeline.xack(stage.hears, GROUP, *(number for number, _ in batch))
            await pipeline.execute()


async def run_all(task: job.Job, url: str) -> None:
    """Add the job's messages while the stages work."""
    all_stages, finished = stages(task)
    client = Redis.from_url(url)
    for stage in all_stages:
        await client.xgroup_create(stage.hears, GROUP, id="$", mkstream=True)
    async with asyncio.TaskGroup() as group:
        for stage in all_stages:
            group.create_task(work_at(client, stage, finished))
        task.start()
        segments = task.segments()
        while some := list(itertools.islice(segments, BATCH)):
            async with client.pipeline(transaction=False) as pipeline:
                for segment in some:
                    pipeline.xadd(all_stages[0].hears, {"data": json.dumps(segment).encode()})
                await pipeline.execute()
        await finished.wait()
        task.stop()
    await client.aclose()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(run_all(task, job.server("redis")))


if __name__ == "__main__":
    job.main(run, packages=("redis", "hiredis"))
