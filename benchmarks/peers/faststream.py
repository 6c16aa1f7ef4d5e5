"""FastStream with its OpenTelemetry middleware: on its in-memory test broker, or on NATS at most once.

Variant "nats" is on the server at NATS_URL, where nothing is kept or acknowledged; `faststream_broker` is on
servers at least once. The log lines for every message are switched off.
"""

import asyncio
from typing import Any, Final

from benchmarks import job, work
from benchmarks.official_sdk import Telemetry

try:
    from faststream.nats import NatsBroker, TestNatsBroker
    from faststream.nats.opentelemetry import NatsTelemetryMiddleware
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None


def build(task: job.Job, telemetry: Telemetry, url: str) -> tuple[NatsBroker, asyncio.Event]:
    """The application, and an event that says that the last message has arrived."""
    traced = NatsTelemetryMiddleware(
        tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
    )
    broker = NatsBroker(url, middlewares=(traced,), logger=None)
    finished = asyncio.Event()

    @broker.subscriber(work.RAW)
    @broker.publisher(work.VALID)
    async def validate(segment: dict[str, Any]) -> dict[str, Any]:
        work.validate(segment)
        return segment

    @broker.subscriber(work.VALID)
    @broker.publisher(work.CAPTIONS)
    async def transform(segment: dict[str, Any]) -> dict[str, Any]:
        return work.transform(segment)

    @broker.subscriber(work.CAPTIONS)
    async def sink(caption: dict[str, Any]) -> None:
        task.tally.add(caption)
        if task.is_done:
            finished.set()

    return broker, finished


async def in_memory(task: job.Job, telemetry: Telemetry) -> None:
    """On the test broker, which calls the subscribers of what is published at once."""
    broker, _ = build(task, telemetry, "nats://127.0.0.1:1")  # never connected to
    async with TestNatsBroker(broker) as running:
        task.start()
        for segment in task.segments():
            await running.publish(segment, work.RAW)


async def over_nats(task: job.Job, telemetry: Telemetry) -> None:
    """On a real server, core NATS."""
    broker, finished = build(task, telemetry, job.server("nats"))
    async with broker:
        await broker.start()
        task.start()
        for segment in task.segments():
            await broker.publish(segment, work.RAW)
        await finished.wait()


_RUNS: Final = {"": in_memory, "nats": over_nats}


def run(task: job.Job) -> None:
    """The whole program."""
    telemetry = Telemetry("faststream")
    asyncio.run(_RUNS[task.variant](task, telemetry))
    telemetry.flush()
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("faststream", "nats-py", "opentelemetry-sdk"))
