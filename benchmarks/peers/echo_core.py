"""Echo Core: a source and three role plugins on the memory transport, or on the one that a URL names.

Variants: "" (the default telemetry engine), "official", "off"; "nats" runs the default over NATS_URL, where
the source hands in some messages at a time, because it waits for the server to store what it handed in;
"batch" hands messages over in batches with telemetry off, "batch_traced" with the default engine.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from benchmarks import job, work
from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from echo_core import BaseMessage, Invalid, Many, Sink, Source, Transformer, Validator
from echo_core.errors import SettingsError
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for

BATCH_SIZE: Final = 1_000
AT_A_TIME: Final = 128
"""What the source hands in over NATS before it waits; FastStream's does not wait at all."""
_ENGINES: Final = {"nats": "", "batch": "off", "batch_traced": ""}
"""The telemetry engine of a variant that is not named after it."""


class SegmentSource(Source):
    """Hands in the job's messages."""

    def __init__(self, task: job.Job) -> None:
        self.task = task

    async def produce(self) -> AsyncIterator[work.Segment | Many]:
        self.task.start()
        segments = self.task.segments()
        if self.task.variant not in ("batch", "batch_traced", "nats"):
            for segment in segments:
                yield segment
        size = AT_A_TIME if self.task.variant == "nats" else BATCH_SIZE
        while some := Many(itertools.islice(segments, size)):
            yield some


class SegmentValidator(Validator):
    """Stops what no transcript may hold."""

    async def validate(self, message: BaseMessage) -> None:
        try:
            work.validate(message.data)
        except work.InvalidSegment as error:
            raise Invalid(str(error)) from error


class CaptionTransformer(Transformer):
    """Makes captions."""

    async def transform(self, message: BaseMessage) -> Any:
        return work.transform(message.data)


class TallySink(Sink):
    """Adds captions up."""

    def __init__(self, tally: work.Tally) -> None:
        self.tally = tally

    async def write(self, message: BaseMessage) -> None:
        self.tally.add(message.data)


def _transport(variant: str) -> Transport:
    url = os.environ.get("NATS_URL", "nats://") if variant == "nats" else "memory://"
    try:
        return transport_for(url)
    except SettingsError as error:
        raise job.NotAvailableError(str(error).splitlines()[0]) from error


def run(task: job.Job) -> None:
    """One host, four plugins."""
    telemetry = telemetry_for(_ENGINES.get(task.variant, task.variant))
    more: dict[str, Any] = (
        {"delivery": {"batch_size": BATCH_SIZE, "queue_limit": 4 * BATCH_SIZE}}
        if task.variant.startswith("batch")
        else {}
    )
    plugins = [
        (SegmentSource(task), manifest("segment_source", says=[work.RAW])),
        (SegmentValidator(), manifest("segment_validator", hears=[work.RAW], says=[work.VALID], **more)),
        (
            CaptionTransformer(),
            manifest("caption_transformer", hears=[work.VALID], says=[work.CAPTIONS], **more),
        ),
        (TallySink(task.tally), manifest("tally_sink", hears=[work.CAPTIONS], **more)),
    ]
    asyncio.run(run_until_idle(plugins, telemetry, _transport(task.variant)))
    telemetry.flush(FLUSH_S)
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("echo-core", "opentelemetry-sdk"))
