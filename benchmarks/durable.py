"""What durability costs: `python -m benchmarks.durable`, beside the disk itself and NATS JetStream.

Every contestant writes the same bytes to the same disk; SQLite and we wait for it (synchronous=FULL). Ours
and JetStream publish from many coroutines at once, each of which waits until its message is accepted, and
consume and settle everything; SQLite alone only inserts, so many rows a transaction as there are publishers.
"""

import argparse
import asyncio
import contextlib
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT, machine, nats_server
from echo_core.message import BaseMessage, encode
from echo_core.runtime.dead_letters import DeadLetter, DeadLetterStore, Selection
from echo_core.transports.sqlite.transport import open_from_url

DATA: Final = {
    "text": "Mind the gap between the train and the platform.",
    "speaker": "Ann",
    "start": 1.5,
    "end": 4.0,
}
TOPIC: Final = "transcript.raw"
WAITING: Final = (1, 16, 64, 256, 1024)
"""Publishers that wait at the same time."""
OUT: Final = ROOT / "docs" / "benchmarks"


@dataclass(frozen=True)
class Measured:
    """One run."""

    messages: int
    seconds: float
    cpu_seconds: float
    """Of this process, all threads; a server's are not in it."""
    p50_ms: float = 0.0
    p99_ms: float = 0.0

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time a message, in microseconds."""
        return self.cpu_seconds / self.messages * 1e6


@contextlib.contextmanager
def folder_on_disk() -> Iterator[Path]:
    """A folder on the disk that the repository is on: /tmp may be memory."""
    place = ROOT / "out"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def new_message() -> BaseMessage:
    """A caption's worth of data."""
    return BaseMessage(source="benchmark", data=DATA)


def inserts(batch: int, seconds: float) -> Measured:
    """SQLite alone: `batch` rows a transaction, by executemany."""
    body = encode(new_message())
    with folder_on_disk() as folder, contextlib.closing(_database(folder)) as connection:
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            rows = [(TOPIC, body)] * batch
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO messages (topic, body) VALUES (?, ?)", rows)
            connection.execute("COMMIT")
            count += batch
        return Measured(count, time.perf_counter() - began, time.process_time() - cpu)


def _database(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE messages (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, body BLOB NOT NULL)"
    )
    return connection


async def _publish_and_consume(
    publishers: int,
    seconds: float,
    publish: Callable[[], Awaitable[None]],
    consume: Callable[[], AsyncIterator[int]],
    each: int = 1,
) -> Measured:
    """`publishers` coroutines publish `each` at a time, until the time is over; then all is consumed."""
    published = consumed = 0
    waits: list[float] = []
    is_over = asyncio.Event()

    async def publisher(until: float) -> None:
        nonlocal published
        while (began := time.perf_counter()) < until:
            await publish()
            waits.append(time.perf_counter() - began)
            published += each

    async def consumer() -> None:
        nonlocal consumed
        async for count in consume():
            consumed += count
            if is_over.is_set() and consumed >= published:
                return

    began, cpu = time.perf_counter(), time.process_time()
    consuming = asyncio.create_task(consumer())
    await asyncio.gather(*(publisher(began + seconds) for _ in range(publishers)))
    is_over.set()
    if consumed < published:
        await consuming
    ended, cpu = time.perf_counter() - began, time.process_time() - cpu
    consuming.cancel()
    ordered = sorted(waits)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1e3 for share in (0.5, 0.99))
    return Measured(published, ended, cpu, p50, p99)


async def ours(publishers: int, seconds: float, each: int = 1) -> Measured:
    """`sqlite://`: `publish`, or `publish_batch` where `each` is more than 1, then receive and settle."""
    with folder_on_disk() as folder:
        transport = open_from_url(f"sqlite://{folder}/messages.sqlite")
        async with transport, transport.subscribe("sink", ["transcript.#"], queue_limit=1_000_000) as reader:

            async def publish() -> None:
                if each == 1:
                    await transport.publish(TOPIC, new_message())
                else:
                    await transport.publish_batch(TOPIC, [new_message() for _ in range(each)])

            async def consume() -> AsyncIterator[int]:
                while True:
                    deliveries = await reader.receive(64)
                    await type(deliveries[0]).settle_batch(deliveries)
                    yield len(deliveries)

            return await _publish_and_consume(publishers, seconds, publish, consume, each)


async def jetstream(publishers: int, seconds: float) -> Measured | None:
    """NATS JetStream, file storage, through nats-py: publish and await the answer; fetch and ack."""
    with nats_server.running() as url:
        if url is None:
            return None
        import nats
        from nats.js.api import StorageType

        client = await nats.connect(url)
        try:
            stream = client.jetstream(publish_async_max_pending=4_096)
            await stream.add_stream(name="bench", subjects=["transcript.>"], storage=StorageType.FILE)
            reader = await stream.pull_subscribe("transcript.>", durable="sink")

            async def publish() -> None:
                await stream.publish(TOPIC, encode(new_message()))

            async def consume() -> AsyncIterator[int]:
                while True:
                    with contextlib.suppress(TimeoutError):
                        fetched = await reader.fetch(64, timeout=1)
                        for message in fetched:
                            await message.ack()
                        yield len(fetched)

            return await _publish_and_consume(publishers, seconds, publish, consume)
        finally:
            await client.close()


async def recovery(count: int) -> dict[str, float]:
    """Seconds from opening a store with so many unsettled messages to its first delivery."""
    with folder_on_disk() as folder:
        url = f"sqlite://{folder}/messages.sqlite"
        async with open_from_url(url) as transport:
            transport.subscribe("sink", ["#"], queue_limit=10 * count)
            for _ in range(count // 1_000):
                await transport.publish_batch(TOPIC, [new_message() for _ in range(1_000)])
        began = time.perf_counter()
        reopened = open_from_url(url)
        async with reopened, reopened.subscribe("sink", ["#"], queue_limit=10 * count) as reader:
            await reader.receive(1)
            first = time.perf_counter() - began
            waiting = reader.statistics().waiting + 1
            return {"messages": waiting, "first_delivery_s": first}


def letters(count: int) -> dict[str, float]:
    """Seconds to list and filter so many dead letters."""
    with folder_on_disk() as folder, contextlib.closing(DeadLetterStore(folder / "letters.sqlite")) as store:
        store.add(
            [
                DeadLetter(
                    time_ns=number,
                    plugin=f"plugin_{number % 10}",
                    version="1.0.0",
                    topic=TOPIC,
                    message_id=f"message {number}",
                    root_id="root",
                    trace_id="trace",
                    reason=f"ValueError: {number % 3}",
                    attempts=(),
                    original=encode(new_message()),
                )
                for number in range(count)
            ]
        )
        began = time.perf_counter()
        listed = len(store.select(Selection(), limit=count))
        chosen = Selection(plugin="plugin_3", error="valueerror: 1", topic="transcript.*")
        filtered = len(store.select(chosen, limit=count))
        return {"letters": listed, "filtered": filtered, "seconds": time.perf_counter() - began}


def middle(runs: list[Measured]) -> Measured:
    """The run whose rate is the median."""
    return sorted(runs, key=lambda run: run.rate)[len(runs) // 2]


def measure(rounds: int, seconds: float, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, in turns."""
    found: dict[str, list[Measured]] = {}
    for turn in range(rounds):
        for waiting in WAITING:
            say(f"round {turn + 1} of {rounds}: {waiting} publishers")
            runs = {
                f"inserts {waiting}": inserts(waiting, seconds),
                f"ours {waiting}": asyncio.run(ours(waiting, seconds)),
                f"jetstream {waiting}": asyncio.run(jetstream(waiting, seconds)),
            }
            for name, run in runs.items():
                if run is not None:
                    found.setdefault(name, []).append(run)
        say(f"round {turn + 1} of {rounds}: batches")
        found.setdefault("inserts 512", []).append(inserts(512, seconds))
        found.setdefault("batches 512", []).append(asyncio.run(ours(1, seconds, each=512)))
    say(f"recovery of {count:,} messages; 10,000 dead letters")
    return {
        "machine": machine.describe(),
        "nats_server": nats_server.installed_version(),
        "runs": {name: [asdict(run) for run in runs] for name, runs in found.items()},
        "recovery": asyncio.run(recovery(count)),
        "letters": letters(10_000),
    }


_HEAD: Final = """# What durability costs

Written by `make bench-durable`; the numbers as measured are in `durable.json`.

`inserts` is SQLite alone, `synchronous=FULL`, so many rows a transaction. `sqlite://` and JetStream (file
storage, nats-py) publish from so many coroutines, each of which waits until its message is accepted, and
consume and settle everything meanwhile. SQLite and `sqlite://` wait for the disk; JetStream, as it is set by
default, answers before, and has it written within two minutes. The same bytes, the same disk.

The middle of {rounds} runs that took turns; CPU time is of the Python process, all threads. Where the load is
high the CPU time says more than the rate.

| at once | inserts, rows/s (CPU us) | sqlite://, messages/s (CPU us) | of the inserts | publish p50, p99 ms \
| JetStream, messages/s | sqlite:// to JetStream |
| --- | --- | --- | --- | --- | --- | --- |"""


def page(document: dict[str, Any]) -> str:
    """The results for people."""
    runs = {name: middle([Measured(**run) for run in each]) for name, each in document["runs"].items()}
    rounds = len(next(iter(document["runs"].values())))
    lines = [_HEAD.format(rounds=rounds)]
    for waiting in WAITING:
        raw, own, stream = (runs.get(f"{name} {waiting}") for name in ("inserts", "ours", "jetstream"))
        assert raw is not None
        assert own is not None
        beside = f"{stream.rate:,.0f} | {own.rate / stream.rate:.1f}x" if stream else "not here | "
        lines.append(
            f"| {waiting:,} | {raw.rate:,.0f} ({raw.cpu_us:.1f}) | {own.rate:,.0f} ({own.cpu_us:.1f}) "
            f"| {own.rate / raw.rate:.2f}x | {own.p50_ms:.2f}, {own.p99_ms:.2f} | {beside} |"
        )
    raw, own = runs["inserts 512"], runs["batches 512"]
    lines.append(
        f"| batches of 512 | {raw.rate:,.0f} ({raw.cpu_us:.1f}) | {own.rate:,.0f} ({own.cpu_us:.1f}) "
        f"| {own.rate / raw.rate:.2f}x | {own.p50_ms:.2f}, {own.p99_ms:.2f} a batch |  |  |"
    )
    back, dead = document["recovery"], document["letters"]
    lines += [
        "",
        f"A store with {back['messages']:,.0f} unsettled messages: {back['first_delivery_s']:.2f} s from "
        "opening it to the first delivery.",
        "",
        f"{dead['letters']:,.0f} dead letters listed, and filtered by plugin, error and topic: "
        f"{dead['seconds']:.2f} s.",
        "",
        _about(document),
        "",
    ]
    return "\n".join(lines)


def _about(document: dict[str, Any]) -> str:
    about = document["machine"]
    return (
        f"{about['processor']}, {about['cores']} cores, {about['system']}, {about['python']}, "
        f"SQLite {sqlite3.sqlite_version}, nats-server {document['nats_server'] or 'none'}; "
        f"load average at the end {about['load_average']}."
    )


def main() -> None:
    """Measure, and write docs/benchmarks/durable.md and durable.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in the store that is recovered")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    document = measure(
        chosen.rounds, chosen.seconds, chosen.messages, lambda text: print(text, file=sys.stderr, flush=True)
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "durable.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = page(document)
    (chosen.out / "durable.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
