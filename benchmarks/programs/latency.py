"""What a hop adds: the time from a publication to the moment in which the next plugin's handler begins.

Three plugins in a row get messages at a given mean rate with random gaps (a Poisson process). Between them
the source spins, letting the loop turn, because the loop's own timers are no finer than a millisecond.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from benchmarks import machine
from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from echo_core import BaseMessage, Sink, Source, Transformer

_PROBE_S: Final = 0.5
"""For seeing how much the machine does other things."""


class PacedSource(Source):
    """Publishes `count` messages at `rate` a second."""

    def __init__(self, rate: float, count: int) -> None:
        self.rate = rate
        self.count = count

    async def produce(self) -> AsyncIterator[Any]:
        random_gap = random.Random(1).expovariate
        due = time.perf_counter()
        for _ in range(self.count):
            due += random_gap(self.rate)
            while time.perf_counter() < due:  # noqa: ASYNC110 - it waits for a time, not for an event
                await asyncio.sleep(0)
            yield {"sent": time.perf_counter_ns()}


class Step(Transformer):
    """Notes how long the message was under way, and sends the next."""

    def __init__(self, hops: list[int]) -> None:
        self.hops = hops

    async def transform(self, message: BaseMessage) -> Any:
        self.hops.append(time.perf_counter_ns() - message.data["sent"])
        return {"sent": time.perf_counter_ns()}


class Last(Sink):
    """Notes it too."""

    def __init__(self, hops: list[int]) -> None:
        self.hops = hops

    async def write(self, message: BaseMessage) -> None:
        self.hops.append(time.perf_counter_ns() - message.data["sent"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the percentiles in milliseconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--engine", default="")
    told = parser.parse_args(arguments)
    away, longest_s = machine.absences(_PROBE_S)
    telemetry = telemetry_for(told.engine)
    hops: list[int] = []
    plugins = [
        (PacedSource(told.rate, told.count), manifest("source", says=["step.0"])),
        (Step(hops), manifest("first", hears=["step.0"], says=["step.1"])),
        (Step(hops), manifest("second", hears=["step.1"], says=["step.2"])),
        (Last(hops), manifest("last", hears=["step.2"])),
    ]
    asyncio.run(run_until_idle(plugins, telemetry))
    telemetry.flush(FLUSH_S)
    telemetry.shutdown()
    hops.sort()
    print(
        json.dumps(
            {
                "hops": len(hops),
                "rate": told.rate,
                "p50_ms": hops[len(hops) // 2] / 1e6,
                "p99_ms": hops[int(len(hops) * 0.99)] / 1e6,
                "max_ms": hops[-1] / 1e6,
                "machine_away": away,
                "machine_away_longest_ms": longest_s * 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
