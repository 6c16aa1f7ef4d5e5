"""aiokafka and nothing else: three stages on Kafka, at least once, as a careful user writes them.

Consumers fetch batches; what a batch is turned into is sent without waiting for each answer, and only when
Kafka has all of it is the batch committed. No telemetry. It runs on the server at KAFKA_URL.
"""

import asyncio
import json

from benchmarks import job
from benchmarks.peers.stages import Stage, stages

try:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH = 256


async def work_at(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer, stage: Stage) -> None:
    """Take batches until cancelled."""
    while True:
        batches = await consumer.getmany(timeout_ms=1_000, max_records=BATCH)
        answers = []
        for record in (record for records in batches.values() for record in records):
            data = stage.handle(json.loads(record.value))
            if stage.says:
                answers.append(await producer.send(stage.says, json.dumps(data).encode()))
        await asyncio.gather(*answers)
        if batches:
            await consumer.commit()


async def run_all(task: job.Job, server: str) -> None:
    """Send the job's messages while the stages work."""
    all_stages, finished = stages(task)
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    await admin.start()
    await admin.create_topics([NewTopic(stage.hears, 1, 1) for stage in all_stages])
    producer = AIOKafkaProducer(bootstrap_servers=server, acks="all")
    await producer.start()
    consumers, running = [], []
    for stage in all_stages:
        consumer = AIOKafkaConsumer(
            stage.hears,
            bootstrap_servers=server,
            group_id=stage.hears,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        await consumer.start()
        consumers.append(consumer)
        running.append(asyncio.create_task(work_at(consumer, producer, stage)))
    task.start()
    for segment in task.segments():
        await producer.send(all_stages[0].hears, json.dumps(segment).encode())
    await finished.wait()
    task.stop()
    for one in running:
        one.cancel()
    await asyncio.wait(running)
    for client in (*consumers, producer):
        await client.stop()
    await admin.close()


def run(task: job.Job) -> None:
    """The whole program."""
    asyncio.run(run_all(task, job.server("kafka").removeprefix("kafka://")))


if __name__ == "__main__":
    job.main(run, packages=("aiokafka",))
