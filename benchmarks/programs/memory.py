"""Resident memory of a host as messages go through three plugins: after each tenth of them."""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from benchmarks import work
from benchmarks.hosting import FLUSH_S, manifest, run_until_idle, telemetry_for
from benchmarks.machine import resident_bytes
from benchmarks.peers.echo_core import CaptionTransformer, SegmentValidator, TallySink
from echo_core import Source


class WatchedSource(Source):
    """Hands in `count` messages and looks at the memory ten times."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.resident: list[int] = []

    async def produce(self) -> AsyncIterator[Any]:
        tenth = self.count // 10
        for number, segment in enumerate(work.segments(self.count), start=1):
            yield segment
            if number % tenth == 0:
                self.resident.append(resident_bytes() or 0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the ten sizes in bytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument("--engine", default="")
    told = parser.parse_args(arguments)
    telemetry = telemetry_for(told.engine)
    source = WatchedSource(told.messages)
    tally = work.Tally()
    plugins = [
        (source, manifest("segment_source", says=[work.RAW])),
        (SegmentValidator(), manifest("segment_validator", hears=[work.RAW], says=[work.VALID])),
        (CaptionTransformer(), manifest("caption_transformer", hears=[work.VALID], says=[work.CAPTIONS])),
        (TallySink(tally), manifest("tally_sink", hears=[work.CAPTIONS])),
    ]
    asyncio.run(run_until_idle(plugins, telemetry))
    telemetry.flush(FLUSH_S)
    telemetry.shutdown()
    print(json.dumps({"messages": tally.count, "resident_bytes": source.resident}))


if __name__ == "__main__":
    main()
