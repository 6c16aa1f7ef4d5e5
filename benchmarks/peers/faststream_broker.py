"""FastStream with its OpenTelemetry middleware on a real server, at least once, one program for all of them.

Each message is acknowledged after it was processed, and the server has what was made of it. The variant is
the scheme of the server's URL: "nats" (JetStream, pull subscribers), "kafka" (consumer groups), "redis"
(streams, consumer groups) or "amqp" (durable quorum queues, persistent messages, publisher confirms). Names
are of this process, so that no run gets what an earlier one left. The log lines for every message are
switched off.
"""

import asyncio
import itertools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks import job, work
from benchmarks.official_sdk import Telemetry

try:
    from faststream import AckPolicy
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

AT_A_TIME: Final = 64
"""What is published before its answers are waited for (redis-py has 100 connections at most unless told), and
what a subscriber fetches at once."""
_ACKNOWLEDGED: Final = AckPolicy.NACK_ON_ERROR
"""What a handler has done is acknowledged; where it raised, the message comes again."""


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """What differs between FastStream's brokers."""

    broker: Any
    subscriber: Callable[[str], Any]
    """The decorator of what hears a topic."""
    publisher: Callable[[str], Any]
    """The decorator that publishes to a topic what the handler returns."""
    publish: Callable[[Any, str], Awaitable[Any]]


async def nats(url: str, providers: dict[str, Any], name: str, topics: list[str]) -> Wiring:
    """JetStream."""
    from faststream.nats import JStream, NatsBroker, PullSub
    from faststream.nats.opentelemetry import NatsTelemetryMiddleware

    broker = NatsBroker(url, middlewares=(NatsTelemetryMiddleware(**providers),), logger=None)
    stream = JStream(name, subjects=[f"{name}.>"])
    hearing = {"stream": stream, "pull_sub": PullSub(batch_size=AT_A_TIME), "ack_policy": _ACKNOWLEDGED}
    return Wiring(
        broker=broker,
        subscriber=lambda topic: broker.subscriber(topic, durable=topic.replace(".", "_"), **hearing),
        publisher=partial(broker.publisher, stream=stream),
        publish=partial(broker.publish, stream=name),
    )


async def kafka(url: str, providers: dict[str, Any], name: str, topics: list[str]) -> Wiring:
    """Topics of one partition."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic
    from faststream.kafka import KafkaBroker
    from faststream.kafka.opentelemetry import KafkaTelemetryMiddleware

    server = url.removeprefix("kafka://")
    admin = AIOKafkaAdminClient(bootstrap_servers=server)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
    await admin.close()
    broker = KafkaBroker(
        server, acks="all", middlewares=(KafkaTelemetryMiddleware(**providers),), logger=None
    )
    return Wiring(
        broker=broker,
        subscriber=lambda topic: broker.subscriber(
            topic, group_id=topic, auto_offset_reset="earliest", ack_policy=_ACKNOWLEDGED
        ),
        publisher=broker.publisher,
        publish=broker.publish,
    )


async def redis(url: str, providers: dict[str, Any], name: str, topics: list[str]) -> Wiring:
    """Streams, each with a consumer group."""
    from faststream.redis import RedisBroker, StreamSub
    from faststream.redis.opentelemetry import RedisTelemetryMiddleware

    broker = RedisBroker(url, middlewares=(RedisTelemetryMiddleware(**providers),), logger=None)
    return Wiring(
        broker=broker,
        subscriber=lambda topic: broker.subscriber(
            stream=StreamSub(topic, group=topic, consumer=name, max_records=AT_A_TIME),
            ack_policy=_ACKNOWLEDGED,
        ),
        publisher=lambda topic: broker.publisher(stream=topic),
        publish=lambda data, topic: broker.publish(data, stream=topic),
    )


async def amqp(url: str, providers: dict[str, Any], name: str, topics: list[str]) -> Wiring:
    """Quorum queues."""
    from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue
    from faststream.rabbit.opentelemetry import RabbitTelemetryMiddleware

    broker = RabbitBroker(
        url,
        default_channel=Channel(prefetch_count=AT_A_TIME, publisher_confirms=True),
        middlewares=(RabbitTelemetryMiddleware(**providers),),
        logger=None,
    )

    def queue(topic: str) -> RabbitQueue:
        return RabbitQueue(topic, durable=True, queue_type=QueueType.QUORUM)

    return Wiring(
        broker=broker,
        subscriber=lambda topic: broker.subscriber(queue(topic), ack_policy=_ACKNOWLEDGED),
        publisher=lambda topic: broker.publisher(queue(topic), persist=True),
        publish=lambda data, topic: broker.publish(data, topic, persist=True),
    )


_WIRINGS: Final = {"nats": nats, "kafka": kafka, "redis": redis, "amqp": amqp}


async def run_all(task: job.Job, telemetry: Telemetry, url: str) -> None:
    """The application, and its messages."""
    name = f"faststream{os.getpid()}"
    topics = raw, valid, captions = [f"{name}.{topic}" for topic in (work.RAW, work.VALID, work.CAPTIONS)]
    providers = {"tracer_provider": telemetry.tracer_provider, "meter_provider": telemetry.meter_provider}
    try:
        wiring = await _WIRINGS[task.variant](url, providers, name, topics)
    except ImportError as error:
        raise job.NotAvailableError(str(error)) from error
    finished = asyncio.Event()

    @wiring.subscriber(raw)
    @wiring.publisher(valid)
    async def validate(segment: dict[str, Any]) -> dict[str, Any]:
        work.validate(segment)
        return segment

    @wiring.subscriber(valid)
    @wiring.publisher(captions)
    async def transform(segment: dict[str, Any]) -> dict[str, Any]:
        return work.transform(segment)

    @wiring.subscriber(captions)
    async def sink(caption: dict[str, Any]) -> None:
        task.tally.add(caption)
        if task.is_done:
            finished.set()

    async with wiring.broker as broker:
        await broker.start()
        task.start()
        segments = task.segments()
        while some := list(itertools.islice(segments, AT_A_TIME)):
            await asyncio.gather(*(wiring.publish(segment, raw) for segment in some))
        await finished.wait()


def run(task: job.Job) -> None:
    """The whole program."""
    url = job.server(task.variant)
    telemetry = Telemetry("faststream")
    asyncio.run(run_all(task, telemetry, url))
    telemetry.flush()
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("faststream", "opentelemetry-sdk"))
