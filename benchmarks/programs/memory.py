"""Resident memory of a host as messages go through three plugins: after each tenth of them.

Spans wait in a queue for the exporter, whose limit is the default one. How many do is a matter of the moment,
so they are flushed before each look at what stays; the most memory and the most spans in between are noted.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from benchmarks import work
from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from benchmarks.machine import resident_bytes
from benchmarks.peers.echo_core import CaptionTransformer, SegmentValidator, TallySink
from common_telemetry import TelemetryContext
from echo_core import Source


class WatchedSource(Source):
    """Hands in `count` messages and looks at the memory ten times, and at what is the most in between."""

    def __init__(self, count: int, telemetry: TelemetryContext) -> None:
        self.count = count
        self.telemetry = telemetry
        self.resident: list[int] = []
        self.most_resident = 0
        self.most_waiting = 0

    async def produce(self) -> AsyncIterator[Any]:
        tenth = self.count // 10
        often = max(1, tenth // 100)
        for number, segment in enumerate(work.segments(self.count), start=1):
            yield segment
            if number % often == 0:
                self.most_resident = max(self.most_resident, resident_bytes() or 0)
                self.most_waiting = max(self.most_waiting, self.telemetry.health().traces.queued)
            if number % tenth == 0:
                await asyncio.to_thread(self.telemetry.flush, FLUSH_S)
                self.resident.append(resident_bytes() or 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the ten sizes in bytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--engine", default="")
    told = parser.parse_args(arguments)
    telemetry = telemetry_for(told.engine)
    source = WatchedSource(told.messages, telemetry)
    tally = work.Tally()
    plugins = [
        (source, manifest("segment_source", says=[work.RAW])),
        (SegmentValidator(), manifest("segment_validator", hears=[work.RAW], says=[work.VALID])),
        (CaptionTransformer(), manifest("caption_transformer", hears=[work.VALID], says=[work.CAPTIONS])),
        (TallySink(tally), manifest("tally_sink", hears=[work.CAPTIONS])),
    ]
    asyncio.run(run_until_idle(plugins, telemetry))
    telemetry.flush(FLUSH_S)
    dropped = telemetry.health().traces.dropped
    telemetry.shutdown()
    print(
        json.dumps(
            {
                "messages": tally.count,
                "resident_bytes": source.resident,
                "most_resident_bytes": source.most_resident,
                "most_spans_waiting": source.most_waiting,
                "spans_dropped": dropped,
            }
        )
    )


if __name__ == "__main__":
    main()
