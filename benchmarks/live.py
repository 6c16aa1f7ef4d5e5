"""What plugins that come and go cost a running host: `python -m benchmarks.live`.

1. 50 graceful upgrades of the middle plugin of three, under a steady load: every message is accounted for,
   and the latency of those sent around a swap is set beside that of the others.
2. Cycles of activation and deactivation of a built library: memory, objects, threads and descriptors.
"""

import argparse
import asyncio
import gc
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import BaseMessage, Sink, Source
from echo_core.manifest import Manifest, parse
from echo_core.plugin import Plugin
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.library import Library, read_library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.offer import offer_of
from echo_core.runtime.settings import Settings
from echo_core.runtime.upgrade.plan import Plan
from echo_core.transports.memory import MemoryTransport
from echo_core.workshop.build import build
from echo_core.workshop.create import create
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

_PASSING: Final = '''"""Passes on what it gets."""

from echo_core import Transformer


class Passing(Transformer):
    """Passes on what it gets."""

    async def transform(self, message):
        return message.data


def create_plugin():
    return Passing()
'''
_AROUND_S: Final = 0.1
"""Messages sent so long before the end of a swap, or since its beginning, count as around it."""


class _Clocked(Source):
    """Sends the time, at a steady rate."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.sent = 0
        self.stopped = False

    async def produce(self) -> AsyncIterator[float]:
        began = time.perf_counter()
        while not self.stopped:
            due = began + self.sent / self.rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.sent += 1
            yield time.perf_counter()


class _Latencies(Sink):
    """Notes when each message was sent, and how long it took."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    async def write(self, message: BaseMessage) -> None:
        self.seen.append((message.data, time.perf_counter() - message.data))


def _manifest(name: str, hears: Sequence[str], says: Sequence[str]) -> Manifest:
    document = {
        "name": name,
        "version": "1",
        "description": "For a benchmark.",
        "entry_point": "create_plugin",
        "subscriptions": hears,
        "publications": says,
    }
    return parse(msgspec.json.encode(document))


def _library(workspace: Workspace, version: str) -> Library:
    folder = workspace.workshop / "passing"
    if not folder.exists():
        create(workspace, "passing", "transformer")
    document = msgspec.to_builtins(_manifest("passing", ["raw"], ["out"])) | {"version": version}
    (folder / "manifest.json").write_bytes(msgspec.json.encode(document))
    (folder / "src" / "passing" / "__init__.py").write_text(_PASSING + f"\n\nVERSION = {version!r}\n")
    return read_library(build(workspace, "passing").path)


def _host(workspace: Workspace) -> Host:
    return Host(
        settings=Settings(),
        transport=MemoryTransport(),
        telemetry=TelemetryContext.from_config(TelemetryConfig(), environ={}),
        dead_letters=DeadLetterStore(workspace.state / "dead_letters.sqlite"),
        environ={},
    )


def _given(plugin: Plugin) -> Any:
    return lambda: plugin


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1_000 if ordered else float("nan")


async def upgrades(workspace: Workspace, count: int, rate: int) -> None:
    """Upgrade under load, and print what it did to the messages."""
    libraries = [_library(workspace, version) for version in ("1.0", "2.0")]
    host, store = _host(workspace), Store(workspace.state)
    source, sink = _Clocked(rate), _Latencies()
    host.add(_manifest("clocked", [], ["raw"]), _given(source))
    host.add(_manifest("latencies", ["out"], []), _given(sink))
    host.offer(offer_of(libraries[0], store))
    run = asyncio.create_task(host.run(until_idle=True))
    await host.started()
    await asyncio.sleep(1.0)
    swaps: list[tuple[float, float]] = []
    for number in range(count):
        began = time.perf_counter()
        await host.upgrade(offer_of(libraries[(number + 1) % 2], store), Plan())
        swaps.append((began, time.perf_counter()))
        await asyncio.sleep(0.25)
    source.stopped = True
    final = await run
    around = [
        took
        for sent, took in sink.seen
        if any(began - _AROUND_S <= sent <= ended + _AROUND_S for began, ended in swaps)
    ]
    others = [
        took
        for sent, took in sink.seen
        if not any(began - _AROUND_S <= sent <= ended + _AROUND_S for began, ended in swaps)
    ]
    middle = sum(plugin.processed for plugin in final.plugins if plugin.name == "passing")
    print(f"{count} upgrades at {rate:,} messages/s")
    print(f"  sent {source.sent:,}, handled by the middle {middle:,}, arrived {len(sink.seen):,}")
    durations = [ended - began for began, ended in swaps]
    longest = max(durations) * 1_000
    print(f"  a swap takes {statistics.median(durations) * 1_000:.1f} ms, at most {longest:.1f} ms")
    for what, values in (("around a swap", around), ("otherwise", others)):
        shown = ", ".join(f"p{share * 100:g} {_percentile(values, share):.2f}" for share in (0.5, 0.99, 1.0))
        print(f"  latency {what} (ms): {shown}  ({len(values):,} messages)")


async def cycles(workspace: Workspace, count: int) -> None:
    """Activate and deactivate, and print what stays."""
    library, host, store = _library(workspace, "1.0"), _host(workspace), Store(workspace.state)
    run = asyncio.create_task(host.run())
    await host.started()
    print(f"{count} cycles of activation and deactivation")
    for number in range(count + 1):
        if number % (count // 5) == 0:
            gc.collect()
            print(
                f"  {number:5}  resident {_resident_kib():,} KiB, objects {len(gc.get_objects()):,},"
                f" modules {len(sys.modules):,}, threads {threading.active_count()},"
                f" descriptors {len(os.listdir('/proc/self/fd'))}"
            )
        await host.activate(offer_of(library, store))
        await host.deactivate("passing")
    host.request_stop()
    await run


def _resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1_024


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrades", type=int, default=50)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--cycles", type=int, default=1_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = init(Path(folder) / "ws")
        if chosen.upgrades:
            asyncio.run(upgrades(workspace, chosen.upgrades, chosen.rate))
        if chosen.cycles:
            asyncio.run(cycles(workspace, chosen.cycles))


if __name__ == "__main__":
    main()
