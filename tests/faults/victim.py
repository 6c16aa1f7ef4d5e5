"""A host to be killed: `python victim.py FOLDER`. It is forked anew for each life, which then costs little.

A line on stdin begins a life; the answers are its process id, then how it ended. Three plugins in a row over
a store in FOLDER: a source that counts, a relay that fails now and then, and a sink. What the source saw
accepted, and what reached the sink, is written to files by single writes, which survive a kill.
"""

import asyncio
import functools
import importlib
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import BaseMessage, Plugin, Sink, Source, Transformer
from echo_core.errors import PluginError, StoreError
from echo_core.manifest import Manifest, parse, read
from echo_core.runtime.checkpoints import CheckpointStore
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.settings import HostSettings, Settings
from echo_core.transports.urls import transport_for

WORKSHOP = Path(__file__).parents[2] / "plugins" / "workshop"
CAPTIONS = (
    "transcript_source",
    "transcript_validator",
    "filler_filter",
    "caption_transformer",
    "language_router",
    "webvtt_sink",
)
HOPELESS = 23
"""The relay fails every number that this divides, and after the last attempt it is dead-lettered."""
FICKLE = 7
"""The relay fails these once in each life."""


class Ledger:
    """Numbers, a line each, in a file that is only ever appended to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, number: int) -> None:
        os.write(self._file, b"%d\n" % number)


def numbers(path: Path) -> list[int]:
    """What was added to a ledger."""
    return [int(line) for line in path.read_text().split()] if path.exists() else []


class Counter(Source):
    def __init__(self, folder: Path, *, goes_on: bool) -> None:
        self._ledger = Ledger(folder / "accepted")
        self._next = len(numbers(folder / "accepted"))
        self._goes_on = goes_on

    async def produce(self) -> AsyncIterator[Any]:
        while self._goes_on:
            yield {"number": self._next}
            self._ledger.add(self._next)  # asked for the next, so the last one was accepted
            self._next += 1


class Relay(Transformer):
    def __init__(self) -> None:
        self._failed: set[int] = set()

    async def transform(self, message: BaseMessage) -> Any:
        number = message.data["number"]
        if number % HOPELESS == 0 or (number % FICKLE == 0 and number not in self._failed):
            self._failed.add(number)
            raise PluginError(f"not {number}")
        return message.data


class Reached(Sink):
    def __init__(self, folder: Path) -> None:
        self._ledger = Ledger(folder / "reached")

    async def write(self, message: BaseMessage) -> None:
        self._ledger.add(message.data["number"])


class Witness(Sink):
    """Notes each message's id, and which segment it is, at once: what any sink could go by."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / "witness", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def write(self, message: BaseMessage) -> None:
        data = message.data
        os.write(self._file, f"{message.id} {data['edition']} {data.get('segment', 'end')}\n".encode())


def manifest(name: str, subscriptions: list[str], publications: list[str]) -> Manifest:
    document = {
        "name": name,
        "version": "1.0.0",
        "description": "to be killed",
        "entry_point": "create_plugin",
        "subscriptions": subscriptions,
        "publications": publications,
        "delivery": {"backoff_ms": 1, "backoff_max_ms": 1, "max_attempts": 10},
    }
    return parse(msgspec.json.encode(document))


async def live(folder: Path, *, goes_on: bool) -> None:
    """Run the host: until it is killed, or until everything has ended."""
    host = Host(
        settings=Settings(host=HostSettings()),
        transport=transport_for("sqlite://messages.sqlite?lease=1s", folder),
        telemetry=TelemetryContext.from_config(TelemetryConfig(engine="off"), environ={}),
        dead_letters=DeadLetterStore(folder / "dead_letters.sqlite"),
        environ={},
    )
    plugins: list[tuple[Plugin, Manifest]] = [
        (Counter(folder, goes_on=goes_on), manifest("counter", [], ["count.raw"])),
        (Relay(), manifest("relay", ["count.raw"], ["count.good"])),
        (Reached(folder), manifest("reached", ["count.good"], [])),
    ]
    for plugin, of in plugins:
        host.add(of, lambda plugin=plugin: plugin)  # type: ignore[misc]
    await host.run(until_idle=not goes_on)


async def live_briefly(folder: Path) -> None:
    """A little of everything that writes to a store."""
    accepted, reached = Ledger(folder / "accepted"), Ledger(folder / "reached")
    transport = transport_for("sqlite://messages.sqlite", folder)
    async with transport, transport.subscribe("reader", ["a"]) as reader:

        async def settle_next() -> None:
            (delivery,) = await reader.receive(1)
            reached.add(delivery.message.data["number"])
            await delivery.settle()

        for number in range(6):
            await transport.publish("a", BaseMessage(source="victim", data={"number": number}))
            accepted.add(number)
        later, again = (await reader.receive(1))[0], (await reader.receive(1))[0]
        await later.retry(0.001)
        await again.retry()
        for _ in range(3):
            await settle_next()
        await transport.publish("a", BaseMessage(source="victim", data={"number": 6}))
        accepted.add(6)
        await settle_next()


async def live_on_disk(folder: Path, synchronous: str) -> None:
    """Enough to fill the log of a store, have it moved into the store, and begin it anew."""
    accepted, reached = Ledger(folder / "accepted"), Ledger(folder / "reached")
    numbers = iter(range(1_000))
    transport = transport_for(f"sqlite://messages.sqlite?synchronous={synchronous}", folder)

    async def publish(size: int) -> None:
        number = next(numbers)
        while True:
            try:
                await transport.publish(
                    "a", BaseMessage(source="victim", data={"number": number, "x": "x" * size})
                )
                break
            except StoreError:  # nothing was accepted
                await asyncio.sleep(0.001)
        accepted.add(number)

    while True:
        try:
            await transport.open()
            break
        except StoreError:
            await asyncio.sleep(0.001)
    async with transport, transport.subscribe("reader", ["a"], queue_limit=10_000) as reader:

        async def settle(count: int) -> None:
            for _ in range(count):
                (delivery,) = await reader.receive(1)
                reached.add(delivery.message.data["number"])
                await delivery.settle()

        for size, count in ((10, 8), (100_000, 45), (10, 8)):
            await asyncio.gather(*(publish(size) for _ in range(count // 2)))
            await settle(count // 4)
            for _ in range(count - count // 2):
                await publish(size)
            (delivery,) = await reader.receive(1)
            await delivery.retry()


def die_before(statement: int) -> None:
    """Have this process killed just before so many statements of SQL were run."""
    connect, left = sqlite3.connect, statement

    def step(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def connect_and_count(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(step)
        return connection

    sqlite3.connect = connect_and_count  # type: ignore[assignment]


async def caption(folder: Path, url: str) -> None:
    """Turn the transcript in the folder into captions, with the plugins of the workshop, to the end."""
    overrides = {
        "transcript_source": {"path": str(folder / "talk.jsonl")},
        "webvtt_sink": {"directory": str(folder / "captions")},
    }
    host = Host(
        settings=Settings(host=HostSettings(), plugins=overrides),
        transport=transport_for(url, folder),
        telemetry=TelemetryContext.from_config(TelemetryConfig(engine="off"), environ={}),
        dead_letters=DeadLetterStore(folder / "dead_letters.sqlite"),
        checkpoints=CheckpointStore(folder / "checkpoints.sqlite"),
        environ={},
    )
    for plugin in CAPTIONS:
        source = str(WORKSHOP / plugin / "src")
        if source not in sys.path:
            sys.path.append(source)
        load = functools.partial(lambda name: importlib.import_module(name).create_plugin(), plugin)
        host.add(read(WORKSHOP / plugin / "manifest.json"), load)
    host.add(manifest("witness", ["transcript.clean"], []), lambda: Witness(folder))
    await host.run(until_idle=True)


def begin(folder: Path, how: str) -> None:
    """`go on`, `finish`, `statement N`: a little life, killed before the Nth statement; or `captions URL`."""
    if how.startswith("captions"):
        asyncio.run(caption(folder, how.split()[1]))
    elif how.startswith("disk"):
        _, synchronous, log, at, what, times = how.split()
        os.environ.update(DISK_LOG=log, DISK_AT=at, DISK_HOW=what, DISK_FOR=times)
        asyncio.run(live_on_disk(folder, synchronous))
    elif how.startswith("statement"):
        number = how.split()[1]
        (folder / number).mkdir()
        die_before(int(number))
        asyncio.run(live_briefly(folder / number))
    else:
        asyncio.run(live(folder, goes_on=how == "go on"))


def main() -> None:
    """Fork a life for each line."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os.close(0)
            code = 1
            try:
                begin(folder, line.strip())
                code = 0
            finally:
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
