"""FastStream with its OpenTelemetry middleware: on its in-memory test broker, or on a real server.

Variant "nats" is on the server at NATS_URL, at most once: nothing is acknowledged. "jetstream" keeps messages
in a stream there and acknowledges each after it was processed, and what was made of it was stored: at least
once. The log lines for every message are switched off.
"""

import asyncio
import itertools
import os
from typing import Any, Final

from benchmarks import job, work
from benchmarks.official_sdk import Telemetry

try:
    from faststream import AckPolicy
    from faststream.nats import JStream, NatsBroker, PullSub, TestNatsBroker
    from faststream.nats.opentelemetry import NatsTelemetryMiddleware
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

AT_A_TIME: Final = 128
"""What is published to JetStream before its answers are waited for; and what a subscriber fetches at once."""
_SUBJECT: Final = "faststream."
"""What the stream's subjects begin with; core NATS would be slower if a stream kept its messages too."""


def build(task: job.Job, telemetry: Telemetry, url: str) -> tuple[NatsBroker, asyncio.Event]:
    """The application, and an event that says that the last message has arrived."""
    raw, valid, captions = work.RAW, work.VALID, work.CAPTIONS
    hearing: dict[str, dict[str, Any]] = {raw: {}, valid: {}, captions: {}}
    saying: dict[str, Any] = {}
    if task.variant == "jetstream":
        raw, valid, captions = (_SUBJECT + topic for topic in (raw, valid, captions))
        stream = JStream("FASTSTREAM", subjects=[f"{_SUBJECT}>"])
        saying = {"stream": stream}
        hearing = {
            subject: {
                "stream": stream,
                "durable": subject.replace(".", "_"),
                "pull_sub": PullSub(batch_size=AT_A_TIME),
                "ack_policy": AckPolicy.NACK_ON_ERROR,
            }
            for subject in (raw, valid, captions)
        }
    traced = NatsTelemetryMiddleware(
        tracer_provider=telemetry.tracer_provider, meter_provider=telemetry.meter_provider
    )
    broker = NatsBroker(url, middlewares=(traced,), logger=None)
    finished = asyncio.Event()

    @broker.subscriber(raw, **hearing[raw])
    @broker.publisher(valid, **saying)
    async def validate(segment: dict[str, Any]) -> dict[str, Any]:
        work.validate(segment)
        return segment

    @broker.subscriber(valid, **hearing[valid])
    @broker.publisher(captions, **saying)
    async def transform(segment: dict[str, Any]) -> dict[str, Any]:
        return work.transform(segment)

    @broker.subscriber(captions, **hearing[captions])
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
    broker, finished = build(task, telemetry, os.environ["NATS_URL"])
    async with broker:
        await broker.start()
        task.start()
        for segment in task.segments():
            await broker.publish(segment, work.RAW)
        await finished.wait()


async def over_jetstream(task: job.Job, telemetry: Telemetry) -> None:
    """On a real server, JetStream; many publications at a time, for each waits for the server's answer."""
    broker, finished = build(task, telemetry, os.environ["NATS_URL"])
    async with broker:
        await broker.start()
        task.start()
        segments = task.segments()
        while some := list(itertools.islice(segments, AT_A_TIME)):
            publications = [
                broker.publish(segment, _SUBJECT + work.RAW, stream="FASTSTREAM") for segment in some
            ]
            await asyncio.gather(*publications)
        await finished.wait()


_RUNS: Final = {"": in_memory, "nats": over_nats, "jetstream": over_jetstream}


def run(task: job.Job) -> None:
    """The whole program."""
    if task.variant and "NATS_URL" not in os.environ:
        raise job.NotAvailableError("no nats-server to run on")
    telemetry = Telemetry("faststream")
    asyncio.run(_RUNS[task.variant](task, telemetry))
    telemetry.flush()
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("faststream", "nats-py", "opentelemetry-sdk"))
