"""The pipeline by hand on asyncio.Queue, traced and measured with the official SDK by a careful user.

A producer span a publication and a consumer span a handling, joined across the queues by W3C headers in the
message; a histogram and a counter a handling. Instruments, tracer and constant attributes are made once.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import SpanKind, Tracer

from benchmarks import job, work
from benchmarks.official_sdk import Telemetry

QUEUE_SIZE = 1_000


@dataclass(slots=True)
class Message:
    """One message; `headers` carry the trace from hop to hop."""

    data: dict[str, Any]
    parent_id: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    headers: dict[str, str] = field(default_factory=dict)


class Channel:
    """A queue with a name, and what telemetry says of it."""

    def __init__(self, topic: str, tracer: Tracer) -> None:
        self.queue: asyncio.Queue[Message] = asyncio.Queue(QUEUE_SIZE)
        self._tracer = tracer
        self._span_name = f"publish {topic}"
        self.attributes = {"messaging.system": "asyncio", "messaging.destination.name": topic}
        self._publish = self.attributes | {
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
        }

    async def publish(self, message: Message) -> None:
        """Put the message into the queue, inside a producer span that it carries on."""
        attributes = self._publish | {"messaging.message.id": message.id}
        with self._tracer.start_as_current_span(
            self._span_name, kind=SpanKind.PRODUCER, attributes=attributes
        ):
            propagate.inject(message.headers)
            await self.queue.put(message)


class Stage:
    """A worker that takes from one channel and calls a handler inside a consumer span."""

    def __init__(self, name: str, channel: Channel, telemetry: Telemetry) -> None:
        self._channel = channel
        self._tracer = telemetry.tracer_provider.get_tracer("pipeline")
        meter = telemetry.meter_provider.get_meter("pipeline")
        self._duration = meter.create_histogram("messaging.process.duration", unit="s")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", unit="{message}")
        topic = channel.attributes["messaging.destination.name"]
        self._span_name = f"process {topic}"
        self._attributes = channel.attributes | {
            "messaging.operation.name": "process",
            "messaging.consumer.group.name": name,
        }

    async def run(self, handle: Callable[[Message], Awaitable[None]]) -> None:
        """Handle what comes until cancelled."""
        queue = self._channel.queue
        while True:
            message = await queue.get()
            attributes = self._attributes | {
                "messaging.operation.type": "process",
                "messaging.message.id": message.id,
            }
            began = time.perf_counter()
            with self._tracer.start_as_current_span(
                self._span_name,
                context=propagate.extract(message.headers),
                kind=SpanKind.CONSUMER,
                attributes=attributes,
            ):
                await handle(message)
            self._duration.record(time.perf_counter() - began, self._attributes)
            self._consumed.add(1, self._attributes)
            queue.task_done()


async def pipeline(task: job.Job, telemetry: Telemetry) -> None:
    """Feed it, and wait until all is done."""
    tracer = telemetry.tracer_provider.get_tracer("pipeline")
    raw, valid, captions = (Channel(topic, tracer) for topic in (work.RAW, work.VALID, work.CAPTIONS))

    async def validate(message: Message) -> None:
        work.validate(message.data)
        await valid.publish(Message(message.data, parent_id=message.id))

    async def transform(message: Message) -> None:
        await captions.publish(Message(work.transform(message.data), parent_id=message.id))

    async def sink(message: Message) -> None:
        task.tally.add(message.data)

    workers = [
        asyncio.create_task(Stage("validator", raw, telemetry).run(validate)),
        asyncio.create_task(Stage("transformer", valid, telemetry).run(transform)),
        asyncio.create_task(Stage("sink", captions, telemetry).run(sink)),
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
    telemetry = Telemetry("handwritten")
    asyncio.run(pipeline(task, telemetry))
    telemetry.flush()
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("opentelemetry-sdk",))
