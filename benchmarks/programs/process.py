"""A plugin in a process of its own: what a message costs there, what it adds to the latency, and a kill -9.

The plugin is a role that does nothing; messages of about 300 bytes are published to it directly, so that the
way there and back is all there is. CPU time is counted on both sides: a machine that does other things
as well makes rates mean little.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.hosting import telemetry_for
from echo_core import BaseMessage
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.isolation.keeper import spec_of
from echo_core.runtime.isolation.plugin import RemotePlugin
from echo_core.runtime.libraries.library import read_library
from echo_core.runtime.settings import Settings
from echo_core.transports.memory import MemoryTransport
from echo_core.workshop.build import build
from echo_core.workshop.create import create
from echo_core.workspace import Workspace

CODE = {
    "sink": """
from echo_core import Sink

class Measured(Sink):
    async def write(self, message):
        pass

def create_plugin():
    return Measured()
""",
    "transformer": """
from echo_core import Transformer

class Measured(Transformer):
    async def transform(self, message):
        return message.data

def create_plugin():
    return Measured()
""",
}
ROUNDS = 5
_DATA = {"text": "x" * 200, "speaker": "a", "n": 1}
_TRACE = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
_WAITING = 4_000
"""Messages that may wait; the plugin always has work, and the queue never slows the publisher."""
_UNTIL_SPARE_S = 3.0
"""After that there is a spare process, as there is in a host that has run for a while."""


class Measured:
    """A running host with the plugin in it."""

    def __init__(self, transport: MemoryTransport, remote: RemotePlugin) -> None:
        self.transport = transport
        self.remote = remote

    @property
    def pid(self) -> int:
        """The plugin's process; 0 while there is none."""
        return self.remote.keeper.pid

    async def handle(self, count: int) -> dict[str, float]:
        """Have so many messages handled as fast as it goes."""
        messages = [BaseMessage(source="bench", data=_DATA, trace_context=_TRACE) for _ in range(count)]
        began, host, process = time.perf_counter(), time.process_time(), cpu_seconds(self.pid)
        for number, message in enumerate(messages):
            if number % 1_000 == 0:
                while self.transport.unsettled() > _WAITING:  # noqa: ASYNC110 - of no event
                    await asyncio.sleep(0.002)
            await self.transport.publish("measured.in", message)
        await self.transport.wait_until_settled()
        return {
            "messages_s": count / (time.perf_counter() - began),
            "host_us": (time.process_time() - host) / count * 1e6,
            "process_us": (cpu_seconds(self.pid) - process) / count * 1e6,
        }

    async def latencies_ms(self, count: int) -> list[float]:
        """How long single messages take, one after another with pauses, from publication to settlement."""
        found = []
        for _ in range(count):
            began = time.perf_counter()
            await self.transport.publish("measured.in", BaseMessage(source="bench", data=_DATA))
            await self.transport.wait_until_settled()
            found.append((time.perf_counter() - began) * 1e3)
            await asyncio.sleep(0.001)
        return sorted(found)

    async def recovery_ms(self) -> float:
        """Kill the process; how long until the next one is ready."""
        began, killed = time.perf_counter(), self.pid
        os.kill(killed, signal.SIGKILL)
        while self.pid == killed or not self.remote.keeper.is_ready:  # noqa: ASYNC110 - of no event
            await asyncio.sleep(0.001)
        return (time.perf_counter() - began) * 1e3


def cpu_seconds(pid: int) -> float:
    """CPU time of the process so far, in ticks of the kernel's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(kind: str, engine: str, batch: int, folder: Path) -> AsyncIterator[Measured]:
    """The plugin, built and started."""
    workspace = Workspace(folder)
    workspace.settings_file.touch()
    create(workspace, "measured", kind)
    source = workspace.workshop / "measured"
    (source / "src/measured/__init__.py").write_text(CODE[kind])
    document = msgspec.json.decode((source / "manifest.json").read_bytes())
    document |= {
        "subscriptions": ["measured.in"],
        "delivery": {"queue_limit": 10 * _WAITING, "batch_size": batch},
    }
    document |= {"config": {}, "config_schema": {}}
    (source / "manifest.json").write_bytes(msgspec.json.encode(document))
    library = read_library(build(workspace, "measured", "development").path)
    settings = Settings(telemetry={"engine": engine} if engine else {})
    transport = MemoryTransport()
    telemetry = telemetry_for(engine)
    host = Host(
        settings=settings,
        transport=transport,
        telemetry=telemetry,
        dead_letters=DeadLetterStore(folder / "dead_letters.sqlite"),
    )
    remote = RemotePlugin(spec_of(library, workspace.state, settings, os.environ))
    host.add(library.manifest, lambda: remote)
    task = asyncio.create_task(host.run())
    await host.started()
    try:
        yield Measured(transport, remote)
    finally:
        host.request_stop()
        await task
        telemetry.shutdown()


async def measure(kind: str, engine: str, batch: int, count: int, kills: int) -> dict[str, Any]:
    """All that there is to say of one kind of plugin with one engine."""
    with tempfile.TemporaryDirectory() as folder:
        async with running(kind, engine, batch, Path(folder)) as measured:
            await measured.handle(max(1, count // 10))
            rounds = [await measured.handle(count) for _ in range(ROUNDS)]
            latencies = await measured.latencies_ms(min(1_000, count))
            recoveries = []
            for _ in range(kills):
                await asyncio.sleep(_UNTIL_SPARE_S)
                feeding = asyncio.create_task(measured.handle(count))
                await asyncio.sleep(0.05)
                recoveries.append(await measured.recovery_ms())
                with contextlib.suppress(OSError):  # the CPU time of the one that was killed is gone
                    await feeding
            return {
                "plugin": kind,
                "engine": engine or "fast",
                "batch_size": batch,
                "messages_s": max(one["messages_s"] for one in rounds),
                "host_us": min(one["host_us"] for one in rounds),
                "process_us": min(one["process_us"] for one in rounds),
                "p50_ms": latencies[len(latencies) // 2],
                "p99_ms": latencies[int(len(latencies) * 0.99)],
                "ready_again_ms": recoveries,
            }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line of JSON for each plugin and engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=3)
    told = parser.parse_args(arguments)
    for kind, engine, batch in itertools.product(CODE, ("off", ""), (1, 64)):
        print(json.dumps(asyncio.run(measure(kind, engine, batch, told.count, told.kills))), flush=True)


if __name__ == "__main__":
    main()
