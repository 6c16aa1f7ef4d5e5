"""Echo Core: a source and three role plugins on the memory transport, or on the one that a URL names.

Variants: "" (the default telemetry engine), "official", "off"; "nats", "kafka", "redis" and "amqp" run the
default over the server of that scheme, where the source hands in some messages at a time, because it waits
for the server to store what it handed in; "nats_local" is "nats" with all topics but the source's in the
process; "batch" hands messages over in batches with telemetry off, "batch_traced" with the default engine;
"dead" is the default engine where nobody listens at the endpoint, with the queue of spans as long as it is by
default.
"""

import asyncio
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from benchmarks import job, work
from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from common_telemetry import TelemetryContext, compiled
from common_telemetry.health import SignalHealth
from echo_core import BaseMessage, Invalid, Many, Sink, Source, Transformer, Validator
from echo_core.errors import SettingsError
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for

BATCH_SIZE: Final = 1_000
AT_A_TIME: Final = 128
"""What the source hands in over a server before it waits; FastStream's does not wait at all on NATS."""
_SERVERS: Final = {
    "nats": "nats",
    "nats_local": "nats",
    "kafka": "kafka",
    "redis": "redis",
    "amqp": "amqp",
}
"""The scheme of the server that a variant runs on."""
_LOCAL: Final = {"nats_local": (work.VALID, work.CAPTIONS)}
"""Topics that stay in the process."""
_ENGINES: Final = {**dict.fromkeys(_SERVERS, ""), "batch": "off", "batch_traced": "", "dead": ""}
"""The telemetry engine of a variant that is not named after it."""
_SPANS: Final = 6
"""Of a message: one where it is published and one where it is handled, three times."""
_DEADLINE_S: Final = 2.0
_COUNTED_S: Final = 10.0
"""What was being sent when its time was over is counted by the thread that sent it."""


class SegmentSource(Source):
    """Hands in the job's messages."""

    def __init__(self, task: job.Job) -> None:
        self.task = task

    async def produce(self) -> AsyncIterator[work.Segment | Many]:
        self.task.start()
        segments = self.task.segments()
        if self.task.variant not in ("batch", "batch_traced", *_SERVERS):
            for segment in segments:
                yield segment
        size = AT_A_TIME if self.task.variant in _SERVERS else BATCH_SIZE
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


class BatchTransformer(CaptionTransformer):
    """Makes the captions of a batch."""

    async def transform_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Any]:
        return [work.transform(message.data) for message in messages]


class BatchSink(TallySink):
    """Adds a batch up, as Bytewax's sink does."""

    async def write_batch(self, messages: Sequence[BaseMessage]) -> None:
        for message in messages:
            self.tally.add(message.data)


def _transport(variant: str) -> Transport:
    url = "memory://"
    if variant in _SERVERS:  # no run is to get what an earlier one left
        url = f"{job.server(_SERVERS[variant])}/?prefix=bench{os.getpid()}"
    try:
        return transport_for(url, local=_LOCAL.get(variant, ()))
    except SettingsError as error:
        raise job.NotAvailableError(str(error).splitlines()[0]) from error


def _point_at_nobody() -> None:
    """Let telemetry go to a port of this machine that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free.getsockname()[1]}"
    os.environ.pop("OTEL_BSP_MAX_QUEUE_SIZE", None)


def _check_losses(telemetry: TelemetryContext, messages: int) -> None:
    """Raise ValueError unless each span of a run at a dead endpoint is counted as lost."""
    until = time.monotonic() + _COUNTED_S
    while _lost(traces := telemetry.health().traces) < _SPANS * messages or traces.exported:
        if time.monotonic() > until:
            raise ValueError(f"{_lost(traces)} spans of {_SPANS * messages} are counted as lost: {traces}")
        time.sleep(0.01)


def _lost(traces: SignalHealth) -> int:
    return traces.dropped + traces.failed + traces.queued


def run(task: job.Job) -> None:
    """One host, four plugins."""
    if task.variant == "dead":
        _point_at_nobody()
    task.versions["compiled modules"] = str(len(compiled.modules()))
    telemetry = telemetry_for(_ENGINES.get(task.variant, task.variant))
    more: dict[str, Any] = {}
    transformer, sink = CaptionTransformer(), TallySink(task.tally)
    if task.variant.startswith("batch"):
        more = {"delivery": {"batch_size": BATCH_SIZE, "queue_limit": 4 * BATCH_SIZE}}
        transformer, sink = BatchTransformer(), BatchSink(task.tally)
    plugins = [
        (SegmentSource(task), manifest("segment_source", says=[work.RAW])),
        (SegmentValidator(), manifest("segment_validator", hears=[work.RAW], says=[work.VALID], **more)),
        (
            transformer,
            manifest("caption_transformer", hears=[work.VALID], says=[work.CAPTIONS], **more),
        ),
        (sink, manifest("tally_sink", hears=[work.CAPTIONS], **more)),
    ]
    asyncio.run(run_until_idle(plugins, telemetry, _transport(task.variant)))
    if task.variant == "dead":  # there is nothing to wait for: what it costs to stop is the deadline's
        task.stop()
        telemetry.shutdown(_DEADLINE_S)
        _check_losses(telemetry, task.count)
        return
    telemetry.flush(FLUSH_S)
    task.stop()
    telemetry.shutdown()


if __name__ == "__main__":
    job.main(run, packages=("echo-core", "opentelemetry-sdk"))
