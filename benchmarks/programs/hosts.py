"""How hosts share the load of the same three plugins: so many hosts, a process each, on one server.

All messages wait at the server before the hosts begin, so that no source is measured. The clock runs from the
moment when all hosts may begin, connecting included, until the last message is in a sink.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks import job, work
from benchmarks.hosting import host_with, manifest, telemetry_for
from benchmarks.peers.echo_core import CaptionTransformer, SegmentValidator, TallySink
from echo_core import BaseMessage
from echo_core.transports.urls import transport_for

_AT_A_TIME = 128
_LONGEST_S = 120.0
_JOINS = {"segment_validator": work.RAW, "caption_transformer": work.VALID, "tally_sink": work.CAPTIONS}
"""The plugins, and what each hears."""


class CountingSink(TallySink):
    """Counts for all hosts."""

    def __init__(self, handled: "Synchronized[int]") -> None:
        super().__init__(work.Tally())
        self.handled = handled

    async def write(self, message: BaseMessage) -> None:
        await super().write(message)
        with self.handled.get_lock():
            self.handled.value += 1


def host(
    url: str, engine: str, begin: Barrier, handled: "Synchronized[int]", starting: "Synchronized[float]"
) -> None:
    """One host with all three plugins, until it is killed."""
    plugins = [
        (
            SegmentValidator(),
            manifest("segment_validator", hears=[_JOINS["segment_validator"]], says=[work.VALID]),
        ),
        (
            CaptionTransformer(),
            manifest("caption_transformer", hears=[_JOINS["caption_transformer"]], says=[work.CAPTIONS]),
        ),
        (CountingSink(handled), manifest("tally_sink", hears=[_JOINS["tally_sink"]])),
    ]
    telemetry = telemetry_for(engine)
    with host_with(plugins, telemetry, transport_for(url)) as running:
        with starting.get_lock():
            starting.value += time.process_time()
        begin.wait()
        asyncio.run(running.run())


async def fill(url: str, messages: int) -> None:
    """Make the plugins' queues, and hand in the messages."""
    async with transport_for(url) as queues:
        for name, topic in _JOINS.items():
            queues.subscribe(name, [topic])
        await queues.publish("benchmark.begins", BaseMessage(source="benchmark", data={}))
    segments = list(work.segments(messages))
    async with transport_for(url) as transport:
        for first in range(0, messages, _AT_A_TIME):
            some = [BaseMessage(source="benchmark", data=one) for one in segments[first : first + _AT_A_TIME]]
            await asyncio.gather(*(transport.publish(work.RAW, message) for message in some))


def measure(url: str, hosts: int, messages: int, engine: str) -> dict[str, Any]:
    """One run."""
    asyncio.run(fill(url, messages))
    context = multiprocessing.get_context("spawn")
    begin, handled, starting = context.Barrier(hosts + 1), context.Value("i", 0), context.Value("d", 0.0)
    told = (url, engine, begin, handled, starting)
    children = [context.Process(target=host, args=told) for _ in range(hosts)]
    for child in children:
        child.start()
    begin.wait()
    began = time.perf_counter()
    while handled.value < messages and time.perf_counter() - began < _LONGEST_S:
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    for child in children:
        child.terminate()
        child.join()
    if handled.value < messages:
        raise SystemExit(f"{handled.value} of {messages} messages after {seconds:.0f} s")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "hosts": hosts,
        "rate": messages / seconds,
        "cpu_us": (used.ru_utime + used.ru_stime - starting.value) / messages * 1e6,
        "again": handled.value - messages,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one number of hosts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hosts", type=int)
    parser.add_argument("--messages", type=int, default=4_000)
    parser.add_argument("--server", default="nats")
    parser.add_argument("--engine", default="")
    told = parser.parse_args(arguments)
    url = f"{job.server(told.server)}/?prefix=hosts{os.getpid()}"
    print(json.dumps(measure(url, told.hosts, told.messages, told.engine)))


if __name__ == "__main__":
    main()
