"""Random graphs of plugins, with cycles, fan-out, failures and slow ones: all ends, and the counts add up.

Time is a manual clock's. A message has so many generations of descendants, so each graph has an end; the
queues are far too short for it, so each graph is full most of the time.
"""

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common_telemetry.testing import OtlpReceiver
from echo_core import BaseMessage, Ending, Plugin, ProcessingStatus, Source, TopicPattern
from echo_core.manifest import Manifest
from echo_core.plugin import Answer
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.testing.clock import ManualClock
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import World, manifest
from runtime.test_accounts import books, check_balance

TOPICS = ("t.a", "t.b", "t.c", "t.d")
BOUND = 120
STEP_S = 300.0
"""How far the clock goes at once; whoever sleeps for less wakes at its own moment all the same."""
STANDSTILL_S = 60.0
"""Nothing has changed for so long: it will not end. A busy disk may take a while for a dead letter."""
MOST_PUBLISHED = 600
"""Fan-out may multiply what handlers make; beyond this they make nothing more."""


@dataclass(frozen=True)
class Node:
    """What one plugin is like."""

    hears: tuple[str, ...]
    makes: tuple[str, ...]
    """The topics that it publishes to, for each message that has generations left."""
    at_once: bool
    """Its publications are made side by side."""
    filters: int
    """It filters every so many-th message; 0: none. The same for those below."""
    fails_once: int
    fails_always: int
    slow_s: float
    lanes: int
    keyed: bool
    batch_size: int
    queue_limit: int
    when_full: str


@dataclass(frozen=True)
class Origin:
    """What one source is like."""

    topic: str
    count: int
    generations: int
    asks: bool
    """It overrides `settled`."""


EVERY = st.sampled_from((0, 0, 0, 2, 5))
NODES = st.builds(
    Node,
    hears=st.lists(st.sampled_from((*TOPICS, "t.*", "#")), min_size=1, max_size=2, unique=True).map(tuple),
    makes=st.lists(st.sampled_from(TOPICS), max_size=3).map(tuple),
    at_once=st.booleans(),
    filters=EVERY,
    fails_once=EVERY,
    fails_always=EVERY,
    slow_s=st.sampled_from((0.0, 0.0, 0.01, 3.0)),
    lanes=st.sampled_from((1, 1, 3)),
    keyed=st.booleans(),
    batch_size=st.sampled_from((1, 1, 4)),
    queue_limit=st.integers(1, 8),
    when_full=st.sampled_from(("wait", "wait", "wait", "shed_newest", "shed_oldest")),
)
ORIGINS = st.builds(
    Origin,
    topic=st.sampled_from(TOPICS),
    count=st.integers(0, 25),
    generations=st.integers(0, 3),
    asks=st.booleans(),
)


class Counting(MemoryTransport):
    """Remembers what it accepted, and how much was under way at most."""

    def __init__(self) -> None:
        super().__init__()
        self.topics: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.deliveries = 0
        self.most = 0

    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, message)
        self.topics[topic] += 1
        self.look()

    @property
    def on_accept(self) -> Callable[[BaseMessage, int], None]:
        """Hears of everything, and lets a host that follows messages hear of it too."""
        return self._heard

    @on_accept.setter
    def on_accept(self, heard: Callable[[BaseMessage, int], None] | None) -> None:
        self._host = heard

    _host: Callable[[BaseMessage, int], None] | None = None

    def _heard(self, message: BaseMessage, count: int) -> None:
        self.deliveries += count
        self.sources[message.source] += 1
        if self._host is not None:
            self._host(message, count)

    def look(self) -> None:
        self.most = max(self.most, self.unsettled())


class Worker(Plugin):
    """Behaves as its node says."""

    def __init__(self, node: Node, clock: ManualClock, transport: Counting) -> None:
        self.node = node
        self.clock = clock
        self.transport = transport
        self.failed: set[str] = set()
        self.filtered: set[str] = set()

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        node, number = self.node, message.data["number"]
        self.transport.look()
        if node.slow_s:
            await self.clock.sleep(node.slow_s)
        if node.fails_always and number % node.fails_always == 1:
            raise ValueError("always")
        if node.fails_once and number % node.fails_once == 1 and message.id not in self.failed:
            self.failed.add(message.id)
            return ProcessingStatus.RETRY_LATER(1.0)
        if node.filters and number % node.filters == 0:
            self.filtered.add(message.root_id)
            return ProcessingStatus.FILTERED
        if message.data["generations"] and sum(self.transport.topics.values()) < MOST_PUBLISHED:
            data = {**message.data, "generations": message.data["generations"] - 1}
            if node.at_once:
                made = [self.context.publish(topic, data) for topic in node.makes]
                for result in await asyncio.gather(*made, return_exceptions=True):
                    if isinstance(result, BaseException):
                        raise result
            else:
                for topic in node.makes:
                    await self.context.publish(topic, data)
        return ProcessingStatus.ACKNOWLEDGED

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        answers: list[Answer] = []
        for topic, message in zip(topics, messages, strict=True):
            try:
                answers.append(await self.process_message(topic, message))
            except ValueError as error:
                answers.append(error)
        return answers


class Plain(Source):
    def __init__(self, origin: Origin, transport: Counting) -> None:
        self.origin = origin
        self.transport = transport
        self.told: list[tuple[BaseMessage, Ending]] = []

    async def produce(self) -> AsyncIterator[Any]:
        for number in range(self.origin.count):
            self.transport.look()
            yield self.origin.topic, {"number": number, "generations": self.origin.generations}


class Asking(Plain):
    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        self.told.append((message, ending))


def of(node: Node, name: str) -> Manifest:
    delivery = {
        "lanes": node.lanes,
        "ordering_key": "data.number" if node.keyed else "",
        "batch_size": node.batch_size,
        "queue_limit": node.queue_limit,
        "when_full": node.when_full,
        "max_attempts": 3,
        "backoff_ms": 1_000,
    }
    return manifest(name, hears=node.hears, says=("#",), delivery=delivery)


async def run_to_the_end(world: World, clock: ManualClock) -> dict[str, PluginSnapshot]:
    running = asyncio.create_task(world.run())
    before, changed = world.host.snapshot().plugins, time.monotonic()
    while not running.done():
        await clock.advance(STEP_S)
        await asyncio.sleep(0.001)  # a dead letter is written in a thread
        now = world.host.snapshot().plugins
        if now != before:
            before, changed = now, time.monotonic()
        assert time.monotonic() - changed < STANDSTILL_S, f"nothing happens any more: {now}"
    return await running


def check_counts(
    nodes: list[Node], final: dict[str, PluginSnapshot], transport: Counting, written: int
) -> None:
    assert sum(plugin.published for plugin in final.values()) == transport.topics.total()
    for number, node in enumerate(nodes):
        plugin = final[f"p{number}"]
        assert plugin.received + sum(plugin.shed.values()) == heard_by(node, transport)
        assert plugin.received == plugin.processed + plugin.filtered + plugin.dead_lettered
        assert (plugin.in_hand, plugin.queue) == (0, 0)
        assert not plugin.shed or node.when_full != "wait"
    assert sum(plugin.dead_lettered for plugin in final.values()) == written
    assert transport.unsettled() == 0


def heard_by(node: Node, transport: Counting) -> int:
    """How many messages were published for it."""
    patterns = [TopicPattern(pattern) for pattern in node.hears]
    return sum(
        count
        for topic, count in transport.topics.items()
        if any(pattern.matches(topic) for pattern in patterns)
    )


def check_told(source: Plain, world: World, workers: list[Worker]) -> None:
    """Each message once, with the worst of all its ends."""
    dead = {letter.root_id for letter in world.dead_letters.newest(limit=10_000)}
    filtered = set[str]().union(*(worker.filtered for worker in workers))
    shed = any(plugin.shed for plugin in world.host.snapshot().plugins)
    heard = any(
        TopicPattern(pattern).matches(source.origin.topic)
        for worker in workers
        for pattern in worker.node.hears
    )
    assert sorted(message.data["number"] for message, _ in source.told) == list(range(source.origin.count))
    for message, ending in source.told:
        if message.id in dead:
            assert ending is Ending.DEAD_LETTERED
        elif ending is Ending.SHED:
            assert shed
        elif message.id in filtered or not heard:
            assert ending is Ending.FILTERED
        else:
            assert ending is Ending.PROCESSED


@pytest.mark.timeout(300)
@settings(max_examples=15)
@given(
    nodes=st.lists(NODES, min_size=1, max_size=5),
    origins=st.lists(ORIGINS, min_size=1, max_size=3),
)
def test_everything_ends_the_counts_add_up_and_the_bound_holds(
    nodes: list[Node], origins: list[Origin]
) -> None:
    async def scenario(folder: Path) -> None:
        clock, transport = ManualClock(), Counting()
        world = World(
            folder, clock=clock, transport=transport, health_interval_s=1e9, max_in_flight_messages=BOUND
        )
        sources = [(Asking if origin.asks else Plain)(origin, transport) for origin in origins]
        for number, source in enumerate(sources):
            world.add(source, manifest(f"s{number}", says=TOPICS, plugin_type="source"))
        workers = [Worker(node, clock, transport) for node in nodes]
        for number, worker in enumerate(workers):
            world.add(worker, of(worker.node, f"p{number}"))
        final = await run_to_the_end(world, clock)

        check_counts(nodes, final, transport, world.dead_letters.count())
        assert transport.most <= BOUND
        for source in sources:
            if source.origin.asks:
                check_told(source, world, workers)
        world.dead_letters.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))


@pytest.mark.timeout(300)
@settings(max_examples=10)
@given(
    nodes=st.lists(NODES, min_size=1, max_size=5),
    origins=st.lists(ORIGINS, min_size=1, max_size=3),
)
def test_the_exported_metrics_balance(nodes: list[Node], origins: list[Origin]) -> None:
    """What a receiver of OTLP reads, against what the transport accepted; nothing else is asked."""

    async def scenario(folder: Path, receiver: OtlpReceiver) -> None:
        clock, transport = ManualClock(), Counting()
        otel = receiver.environ(OTEL_TRACES_EXPORTER="none", OTEL_LOGS_EXPORTER="none")
        world = World(folder, clock=clock, transport=transport, otel=otel, health_interval_s=1e9)
        for number, origin in enumerate(origins):
            world.add(Plain(origin, transport), manifest(f"s{number}", says=TOPICS, plugin_type="source"))
        for number, node in enumerate(nodes):
            world.add(Worker(node, clock, transport), of(node, f"p{number}"))
        await run_to_the_end(world, clock)
        world.dead_letters.close()

        told = books(receiver)
        assert sum(book["published"] for book in told.values()) == transport.topics.total()
        for number, node in enumerate(nodes):
            book = told.get(f"p{number}", Counter())
            check_balance(book, heard_by(node, transport))
            assert (book["in_hand"], book["waiting"]) == (0, 0)

    with tempfile.TemporaryDirectory() as folder, OtlpReceiver() as receiver:
        asyncio.run(scenario(Path(folder), receiver))


@pytest.mark.timeout(300)
@settings(max_examples=12)
@given(
    nodes=st.lists(NODES, min_size=1, max_size=5),
    origins=st.lists(ORIGINS, min_size=1, max_size=3),
    seconds=st.integers(0, 20),
)
def test_a_forced_stop_at_any_moment_keeps_what_it_cannot_finish(
    nodes: list[Node], origins: list[Origin], seconds: int
) -> None:
    """Time stands still from that moment on, so whoever is slow, or waits for a retry, does not finish."""

    async def scenario(folder: Path) -> None:
        clock, transport = ManualClock(), Counting()
        world = World(folder, clock=clock, transport=transport, health_interval_s=1e9, shutdown_timeout_s=0.1)
        sources = [(Asking if origin.asks else Plain)(origin, transport) for origin in origins]
        for number, source in enumerate(sources):
            world.add(source, manifest(f"s{number}", says=TOPICS, plugin_type="source"))
        for number, node in enumerate(nodes):
            world.add(Worker(node, clock, transport), of(node, f"p{number}"))
        running = asyncio.create_task(world.run(until_idle=False))
        await world.host.started()
        await clock.advance(seconds)
        world.host.request_stop()
        final = await running

        taken = sum(plugin.received + sum(plugin.shed.values()) for plugin in final.values())
        assert taken == transport.deliveries
        for plugin in final.values():
            assert plugin.received == plugin.processed + plugin.filtered + plugin.dead_lettered
            assert plugin.queue == 0
        # A letter that was being written when its lane was cancelled may be written twice.
        letters = {(letter.plugin, letter.message_id) for letter in world.dead_letters.newest(limit=10_000)}
        assert sum(plugin.dead_lettered for plugin in final.values()) == len(letters)
        assert transport.unsettled() == 0
        for number, source in enumerate(sources):
            if source.origin.asks:
                told = [message.id for message, _ in source.told]
                assert len(told) == len(set(told)) == transport.sources[f"s{number}"]
                assert all(ending is not Ending.UNFINISHED for _, ending in source.told)
        world.dead_letters.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))
