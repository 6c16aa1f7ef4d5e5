"""What durability costs: `python -m benchmarks.durable`, beside the disk itself and NATS JetStream.

Every contestant writes the same bytes to the same disk; SQLite and we wait for it (synchronous=FULL). The
messages are made beforehand, which is nobody's part, and the garbage collector is set as in a host. Ours and
JetStream publish from many coroutines at once, each of which waits until its message is accepted, and consume
and settle everything. SQLite alone only inserts, so many rows a transaction as there are publishers; by hand
each transaction also reads and deletes what the one before has inserted: no publish and consume is less.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice, repeat
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT, durable_huey, machine, servers
from benchmarks.demands import Row
from benchmarks.sections import Found
from echo_core.message import BaseMessage, encode
from echo_core.runtime.collector import patient_collector
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
BATCHES: Final = ((1, 512), (16, 64))
"""Publishers, and how many messages each hands over at a time; a host's plugins make up to 64."""
_MADE: Final = 4_096
"""Different messages: more than are in flight at the same time."""
_TIMED: Final = 16
"""Publishers that look at the clock: were it all of them, that would be a good part of what is measured."""
_THREADS: Final = 16
"""More publishers than this would be threads that wait for one lock."""
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


def made() -> Iterator[BaseMessage]:
    """Messages that are made already, for ever: to make them is not what is measured, for anybody."""
    return cycle([new_message() for _ in range(_MADE)])


def inserts(batch: int, seconds: float, *, consumes: bool = False) -> Measured:
    """SQLite alone: `batch` rows a transaction, by executemany; they are encoded already.

    With `consumes` each transaction also reads and deletes what the one before has inserted.
    """
    ready = cycle([(TOPIC, encode(message)) for message in islice(made(), _MADE)])
    with folder_on_disk() as folder, contextlib.closing(_database(folder)) as connection:
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            connection.execute("BEGIN IMMEDIATE")
            if consumes:
                connection.execute("SELECT seq, topic, body FROM messages ORDER BY seq").fetchall()
                connection.execute("DELETE FROM messages WHERE seq <= ?", (count,))
            connection.executemany("INSERT INTO messages (topic, body) VALUES (?, ?)", islice(ready, batch))
            connection.execute("COMMIT")
            count += batch
        return Measured(count, time.perf_counter() - began, time.process_time() - cpu)


def _database(folder: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "raw.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = FAST")  # as ours
    connection.execute(
        "CREATE TABLE messages (seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, body BLOB NOT NULL)"
    )
    return connection


async def _publish_and_consume(
    publishers: int,
    seconds: float,
    publish: Callable[[], Awaitable[Any]],
    consume: Callable[[], AsyncIterator[int]],
    each: int = 1,
) -> Measured:
    """`publishers` coroutines publish `each` at a time, until the time is over; then all is consumed.

    Each counts for itself, and few look at the clock: what is not the contestant's is kept out of the loop.
    """
    waits: list[float] = []
    is_over = False
    consumed = 0
    published: int | None = None
    """In all; None as long as there may be more."""

    async def publisher() -> int:
        calls = 0
        while not is_over:
            await publish()
            calls += 1
        return calls

    async def timed_publisher() -> int:
        calls = 0
        while not is_over:
            began = time.perf_counter()
            await publish()
            waits.append(time.perf_counter() - began)
            calls += 1
        return calls

    def end() -> None:
        nonlocal is_over
        is_over = True

    async def consumer() -> None:
        nonlocal consumed
        async for count in consume():
            consumed += count
            if published is not None and consumed >= published:
                return

    step = max(1, publishers // _TIMED)
    timed = len(range(0, publishers, step))
    calls = [timed_publisher() for _ in range(timed)]
    calls += [publisher() for _ in range(publishers - timed)]
    began, cpu = time.perf_counter(), time.process_time()
    consuming = asyncio.create_task(consumer())
    asyncio.get_running_loop().call_later(seconds, end)
    published = sum(await asyncio.gather(*calls)) * each
    if consumed < published:
        await consuming
    ended, cpu = time.perf_counter() - began, time.process_time() - cpu
    consuming.cancel()
    p50, p99 = _percentiles(waits)
    return Measured(published, ended, cpu, p50, p99)


async def ours(publishers: int, seconds: float, each: int = 1) -> Measured:
    """`sqlite://`: `publish`, or `publish_batch` where `each` is more than 1, then receive and settle."""
    with folder_on_disk() as folder:
        transport = open_from_url(f"sqlite://{folder}/messages.sqlite")
        async with transport, transport.subscribe("sink", ["transcript.#"], queue_limit=1_000_000) as reader:
            messages = made()
            publish: Callable[[], Awaitable[None]] = map(transport.publish, repeat(TOPIC), messages).__next__

            def publish_batch() -> Awaitable[None]:
                return transport.publish_batch(TOPIC, list(islice(messages, each)))

            async def consume() -> AsyncIterator[int]:
                while True:
                    deliveries = await reader.receive(64)
                    await type(deliveries[0]).settle_batch(deliveries)
                    yield len(deliveries)

            return await _publish_and_consume(
                publishers, seconds, publish if each == 1 else publish_batch, consume, each
            )


async def jetstream(publishers: int, seconds: float) -> Measured | None:
    """NATS JetStream, file storage, through nats-py: publish and await the answer; fetch and ack."""
    with servers.running(["nats"]):
        url = os.environ.get(servers.variable("nats"))
        if url is None:
            return None
        import nats
        from nats.js.api import StorageType

        client = await nats.connect(url)
        try:
            stream = client.jetstream(publish_async_max_pending=4_096)
            await stream.add_stream(name="bench", subjects=["transcript.>"], storage=StorageType.FILE)
            reader = await stream.pull_subscribe("transcript.>", durable="sink")

            messages = made()

            def publish() -> Awaitable[Any]:
                return stream.publish(TOPIC, encode(next(messages)))

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


def huey(publishers: int, seconds: float) -> Measured | None:
    """Huey's SQLite store: from each thread one task at a time, and one worker."""
    with folder_on_disk() as folder:
        found = durable_huey.enqueue_and_run(folder, publishers, seconds, DATA)
    if found is None:
        return None
    count, took, cpu, waits = found
    p50, p99 = _percentiles(waits)
    return Measured(count, took, cpu, p50, p99)


def _percentiles(waits: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    ordered = sorted(waits)
    p50, p99 = (ordered[int(share * (len(ordered) - 1))] * 1e3 for share in (0.5, 0.99))
    return p50, p99


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


def measure(
    rounds: int,
    seconds: float,
    count: int,
    say: Callable[[str], None],
    *,
    waiting_counts: Sequence[int] = WAITING,
) -> dict[str, Any]:
    """Everything, in turns."""
    found: dict[str, list[Measured]] = {}
    with patient_collector():
        for turn in range(rounds):
            for waiting in waiting_counts:
                say(f"round {turn + 1} of {rounds}: {waiting} publishers")
                runs = {
                    f"inserts {waiting}": inserts(waiting, seconds),
                    f"by hand {waiting}": inserts(waiting, seconds, consumes=True),
                    f"ours {waiting}": asyncio.run(ours(waiting, seconds)),
                    f"jetstream {waiting}": asyncio.run(jetstream(waiting, seconds)),
                    f"huey {waiting}": huey(waiting, seconds) if waiting <= _THREADS else None,
                }
                for name, run in runs.items():
                    if run is not None:
                        found.setdefault(name, []).append(run)
            say(f"round {turn + 1} of {rounds}: batches")
            for publishers, each in BATCHES:
                name = f"{publishers} of {each}"
                at_once = publishers * each
                found.setdefault(f"inserts {name}", []).append(inserts(at_once, seconds))
                found.setdefault(f"by hand {name}", []).append(inserts(at_once, seconds, consumes=True))
                found.setdefault(f"ours {name}", []).append(asyncio.run(ours(publishers, seconds, each)))
    say(f"recovery of {count:,} messages; 10,000 dead letters")
    return {
        "machine": machine.describe(),
        "nats_server": servers.nats_version(),
        "runs": {name: [asdict(run) for run in runs] for name, runs in found.items()},
        "recovery": asyncio.run(recovery(count)),
        "letters": letters(10_000),
    }


_HEAD: Final = """# What durability costs

Written by `make bench-durable`; the numbers as measured are in `durable.json`.

`inserts` is SQLite alone, `synchronous=FULL`, so many rows a transaction by `executemany`, each encoded
beforehand; `by hand` each transaction also reads and deletes what the one before has inserted, which is the
least that publish and consume can be. `sqlite://` and JetStream (file storage, nats-py) publish from so many
coroutines, each of which waits until its message is accepted, encode every message, and consume and settle
everything meanwhile, 64 at a time as a host does. SQLite and `sqlite://` wait for the disk; JetStream, as it
is set by default, answers before, and has it written within two minutes. huey keeps its tasks in SQLite
(`SqliteHuey`, `fsync=True`, no results): each thread enqueues one at a time, and one worker runs them. It
has no call for many at once, and takes a task off its store before it runs. The same bytes, the same disk,
the garbage collector set as in a host; the messages are made beforehand for all but huey, which is given
the same data.

The middle of {rounds} rounds in which they took turns; `of the inserts` and `of by hand` are the middle, the
lowest and the highest of the rounds' ratios, as the disk changes from round to round. CPU time is of the
Python process, all threads. Where the load is high it says more than the rate.

| at once | inserts, rows/s (CPU us) | sqlite://, messages/s (CPU us) | of the inserts | of by hand \
| publish p50, p99 ms | JetStream, messages/s | sqlite:// to JetStream | huey, tasks/s | sqlite:// to huey |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def page(document: dict[str, Any]) -> str:
    """The results for people."""
    runs = {name: [Measured(**run) for run in each] for name, each in document["runs"].items()}
    lines = [_HEAD.format(rounds=len(next(iter(runs.values()))))]
    for waiting in WAITING:
        peers = _beside_peer(runs, waiting, "jetstream")
        peers += _beside_peer(runs, waiting, "huey") if waiting <= _THREADS else "|  | "
        lines.append(f"| {waiting:,} {_beside_inserts(runs, str(waiting))} {peers}|")
    for publishers, each in BATCHES:
        name = f"{publishers} of {each}"
        what = f"{publishers} with batches of {each}"
        lines.append(f"| {what} {_beside_inserts(runs, name)} a batch |  |  |  |  |")
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


def _beside_inserts(runs: dict[str, list[Measured]], name: str) -> str:
    """Ratios are of runs of the same round: from one round to the next the machine and its disk change."""
    raw, own = runs[f"inserts {name}"], runs[f"ours {name}"]
    us, it = middle(own), middle(raw)
    of_inserts, of_by_hand = (
        f"{found[len(found) // 2]:.2f}x ({found[0]:.2f} .. {found[-1]:.2f})"
        for found in (_ratios(own, raw), _ratios(own, runs[f"by hand {name}"]))
    )
    return (
        f"| {it.rate:,.0f} ({it.cpu_us:.1f}) | {us.rate:,.0f} ({us.cpu_us:.1f}) "
        f"| {of_inserts} | {of_by_hand} | {us.p50_ms:.2f}, {us.p99_ms:.2f}"
    )


def _ratios(own: list[Measured], peers: list[Measured]) -> list[float]:
    """Of the rates of each round, the lowest first."""
    return sorted(mine.rate / theirs.rate for mine, theirs in zip(own, peers, strict=True))


def _beside_peer(runs: dict[str, list[Measured]], waiting: int, name: str) -> str:
    theirs = runs.get(f"{name} {waiting}")
    if theirs is None:
        return "| not here | "
    peer = middle(theirs)
    return f"| {peer.rate:,.0f} | {middle(runs[f'ours {waiting}']).rate / peer.rate:.1f}x "


def _about(document: dict[str, Any]) -> str:
    about = document["machine"]
    return (
        f"{about['processor']}, {about['cores']} cores, {about['system']}, {about['python']}, "
        f"SQLite {sqlite3.sqlite_version}, nats-server {document['nats_server'] or 'none'}; "
        f"load average at the end {about['load_average']}."
    )


_SECTION_WAITING: Final = 64
"""Publishers in `make bench`; `make bench-durable` has the whole table."""
_SECTION_BATCHES: Final = BATCHES[-1]


def _row(runs: dict[str, list[Measured]], peer: str, own: str, what: str, at_least: float = 0) -> Row:
    """Our runs against those of a peer; `at_least` 0 demands nothing."""
    if peer not in runs:
        return Row(what=what, demanded="-", found="-", met=None, note=f"{peer.split()[0]} is not installed")
    ratios = _ratios(runs[own], runs[peer])
    found = ratios[len(ratios) // 2]
    return Row(
        what=what,
        demanded=f">= {at_least:g}x its rate" if at_least else "-",
        found=f"{found:.3f}x",
        spread=f"{ratios[0]:.3f}x .. {ratios[-1]:.3f}x",
        by_cpu=f"{middle(runs[peer]).cpu_us / middle(runs[own]).cpu_us:.3f}x",
        met=found >= at_least if at_least else None,
    )


def section(quick: bool, say: Callable[[str], None]) -> Found:
    """What `make bench` shows of it."""
    rounds, seconds, count = (2, 0.5, 100_000) if quick else (5, 1.0, 1_000_000)
    document = measure(rounds, seconds, count, say, waiting_counts=(1, _SECTION_WAITING))
    runs = {name: [Measured(**run) for run in each] for name, each in document["runs"].items()}
    waiting = str(_SECTION_WAITING)
    publishers, each = _SECTION_BATCHES
    batches = f"{publishers} of {each}"
    own = runs[f"ours {waiting}"]
    rates = [run.rate for run in own]
    back, dead = document["recovery"], document["letters"]
    rows = [
        Row(
            what=f"durable: publish and consume over sqlite://, {waiting} publishers that await each message",
            demanded=">= 20,000/s",
            found=f"{middle(own).rate:,.0f}/s",
            spread=f"{min(rates):,.0f} .. {max(rates):,.0f}",
            met=middle(own).rate >= 20_000,
            note=f"publish p99 {middle(own).p99_ms:.2f} ms, {middle(own).cpu_us:.1f} us CPU",
        ),
        _row(
            runs,
            f"inserts {waiting}",
            f"ours {waiting}",
            f"durable: the same, against inserts into SQLite alone, {waiting} a transaction",
            0.5,
        ),
        _row(
            runs,
            f"by hand {waiting}",
            f"ours {waiting}",
            "durable: the same, against SQLite by hand that inserts as many, reads them and deletes them",
        ),
        _row(
            runs,
            f"inserts {batches}",
            f"ours {batches}",
            f"durable: {publishers} publishers that await batches of {each},"
            f" against inserts into SQLite alone, {publishers * each:,} a transaction",
            0.5,
        ),
        _row(
            runs,
            "huey 1",
            "ours 1",
            "durable: one publisher that awaits each message, against tasks in huey's SQLite store (fsync)",
        ),
        Row(
            what=f"durable: recovery of a store with {back['messages']:,.0f} messages",
            demanded="< 5 s" if count == 1_000_000 else "-",
            found=f"{back['first_delivery_s']:.2f} s",
            met=back["first_delivery_s"] < 5 if count == 1_000_000 else None,
        ),
        Row(
            what=f"dead letters: {dead['letters']:,.0f} listed and filtered",
            demanded="< 1 s",
            found=f"{dead['seconds']:.2f} s",
            met=dead["seconds"] < 1,
        ),
    ]
    return Found(
        rows=rows,
        page="## Durability\n\nMore of it, beside JetStream: [durable.md](durable.md).",
        data=document,
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
