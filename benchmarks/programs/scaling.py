"""CPU time a message as one thing grows: subscriptions, fan-out, length of the chain, payload.

The source hands in messages for a given time, waits until all are handled and their telemetry is delivered,
and only then ends; so starting and stopping the host costs nothing here.
"""

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from common_telemetry import TelemetryContext
from echo_core import BaseMessage, Plugin, Sink, Source, Transformer
from echo_core.manifest import Manifest

Pipeline = list[tuple[Plugin, Manifest]]
Output = tuple[str, Any]


class Meter:
    """Counts what is handled, and the CPU time from the first message to the last."""

    def __init__(self, seconds: float, telemetry: TelemetryContext) -> None:
        self.seconds = seconds
        self.telemetry = telemetry
        self.messages = 0
        self.handled = 0
        self.cpu_seconds = 0.0
        self.wall_seconds = 0.0


class TimedSource(Source):
    """Publishes what `outputs` gives for so many seconds; each is handled `deliveries` times at the end.

    Before the clock starts, `warm_up` messages make every plugin known to everything that learns. What one
    export of all metrics costs is measured too, and left out: it comes once a minute, whatever the load.
    """

    def __init__(self, meter: Meter, outputs: Iterator[Output], deliveries: int, warm_up: int) -> None:
        self.meter = meter
        self.outputs = outputs
        self.deliveries = deliveries
        self.warm_up = warm_up

    async def produce(self) -> AsyncIterator[Output]:
        meter = self.meter
        for output in itertools.islice(self.outputs, self.warm_up):
            yield output
        await self._all_handled(self.warm_up)
        export_began = time.process_time()
        await self._flush()
        export_seconds = time.process_time() - export_began
        began, cpu_began = time.perf_counter(), time.process_time()
        until = began + meter.seconds
        for output in self.outputs:
            yield output
            meter.messages += 1
            if time.perf_counter() > until:
                break
        await self._all_handled(self.warm_up + meter.messages)
        meter.cpu_seconds = time.process_time() - cpu_began - export_seconds
        meter.wall_seconds = time.perf_counter() - began

    async def _all_handled(self, messages: int) -> None:
        """Return when all of them have reached the end, and what they left to send is sent."""
        while self.meter.handled < messages * self.deliveries:  # noqa: ASYNC110 - an event would cost the sink
            await asyncio.sleep(0.001)
        await self._flush()

    async def _flush(self) -> None:
        await asyncio.to_thread(self.meter.telemetry.flush, FLUSH_S)


class Forward(Transformer):
    """Makes of every message one like it."""

    async def transform(self, message: BaseMessage) -> Any:
        return {**message.data}


class Count(Sink):
    """The end of a path."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    async def write(self, message: BaseMessage) -> None:
        self.meter.handled += 1


DATA: Final = {"text": "and nothing was lost", "start_ms": 1_200, "end_ms": 3_400}
_WARM_UP: Final = 10
_BUSY: Final = 10
_WAITING: Final = 1_000
"""Messages that may wait, over all queues: what is left when the time is over should not take long."""


def queue_limit(plugins_in_all: int) -> int:
    """Of each of so many queues."""
    return max(16, _WAITING // plugins_in_all)


def _manifest(name: str, plugins_in_all: int, *, hears: Sequence[str], says: Sequence[str] = ()) -> Manifest:
    limit = queue_limit(plugins_in_all)
    return manifest(name, hears=hears, says=says, delivery={"queue_limit": limit})


def plugins(meter: Meter, size: int) -> Pipeline:
    """So many plugins, each with a subscription of its own; messages go to all of them in turn."""
    patterns = ("work.{}.#", "work.{}.*", "work.{}.item", "*.{}.item", "#.{}.item")
    parts = [f"part{number}" for number in range(size)]
    topics = itertools.cycle([f"work.{part}.item" for part in parts])
    source = TimedSource(meter, ((topic, DATA) for topic in topics), 1, warm_up=size)
    sinks: Pipeline = [
        (Count(meter), _manifest(f"sink_{part}", size, hears=[pattern.format(part)]))
        for part, pattern in zip(parts, itertools.cycle(patterns), strict=False)
    ]
    return [(source, manifest("source", says=["work.#"])), *sinks]


def bystanders(meter: Meter, size: int) -> Pipeline:
    """As `plugins`, but messages go to the first ten of them: the others subscribe to what nobody says."""
    source, *sinks = plugins(meter, size)
    busy = min(_BUSY, size)
    topics = itertools.cycle([f"work.part{number}.item" for number in range(busy)])
    busy_source = TimedSource(meter, ((topic, DATA) for topic in topics), 1, warm_up=busy)
    alike: Pipeline = [(sink, _manifest(of.name, busy, hears=of.subscriptions)) for sink, of in sinks]
    return [(busy_source, source[1]), *alike]


def fan_out(meter: Meter, size: int) -> Pipeline:
    """One topic, so many subscribers."""
    source = TimedSource(meter, itertools.repeat(("work.item", DATA)), size, _WARM_UP)
    sinks: Pipeline = [
        (Count(meter), _manifest(f"sink{number}", size, hears=["work.item"])) for number in range(size)
    ]
    return [(source, manifest("source", says=["work.item"])), *sinks]


def chain(meter: Meter, size: int, data: Any = DATA) -> Pipeline:
    """So many plugins one after another; the last is a sink."""
    source = TimedSource(meter, itertools.repeat(("step.0", data)), 1, _WARM_UP)
    steps: Pipeline = [
        (Forward(), _manifest(f"step{number}", size, hears=[f"step.{number}"], says=[f"step.{number + 1}"]))
        for number in range(size - 1)
    ]
    last = (Count(meter), _manifest("sink", size, hears=[f"step.{size - 1}"]))
    return [(source, manifest("source", says=["step.0"])), *steps, last]


def payload(meter: Meter, size: int) -> Pipeline:
    """Three plugins in a row and messages with so many bytes of text."""
    return chain(meter, 3, {"text": "x" * size})


SHAPES: Final[dict[str, Callable[[Meter, int], Pipeline]]] = {
    "plugins": plugins,
    "bystanders": bystanders,
    "fan_out": fan_out,
    "chain": chain,
    "payload": payload,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one point of one curve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("size", type=int)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--engine", default="")
    told = parser.parse_args(arguments)
    telemetry = telemetry_for(told.engine)
    meter = Meter(told.seconds, telemetry)
    asyncio.run(run_until_idle(SHAPES[told.shape](meter, told.size), telemetry))
    telemetry.shutdown()
    print(
        json.dumps(
            {
                "messages": meter.messages,
                "cpu_us": meter.cpu_seconds / meter.messages * 1e6,
                "rate": meter.messages / meter.wall_seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
