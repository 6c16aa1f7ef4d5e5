"""Random graphs of plugins: the path that is told of each message is the one that it went."""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_core import BaseMessage, Plugin, ProcessingStatus, Source, TopicPattern
from echo_core.cli.path_tree import render_path
from echo_core.plugin import Answer
from echo_core.runtime.message_history.documents import MessagePath
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import HistorySettings
from echo_core.transports.memory import MemoryTransport
from runtime.hosting import World, manifest

TOPICS = ("t.a", "t.b", "t.c")
MOST_PUBLISHED = 150


@dataclass(frozen=True)
class Node:
    """What one plugin does with a message, by the number in it: every so many-th of each; 0: none."""

    hears: tuple[str, ...]
    makes: tuple[str, ...]
    filters: int
    fails_once: int
    fails_always: int
    refuses: int
    forwards: int
    batch: int


EVERY = st.sampled_from((0, 0, 0, 2, 3))
NODES = st.builds(
    Node,
    hears=st.lists(st.sampled_from((*TOPICS, "#")), min_size=1, max_size=2, unique=True).map(tuple),
    makes=st.lists(st.sampled_from(TOPICS), max_size=2).map(tuple),
    filters=EVERY,
    fails_once=EVERY,
    fails_always=EVERY,
    refuses=EVERY,
    forwards=EVERY,
    batch=st.sampled_from((1, 1, 3)),
)


class Truth(MemoryTransport):
    """Remembers what happened, as it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, tuple[str, BaseMessage]] = {}
        self.outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)
        """By message and plugin: how each attempt went."""

    async def publish(self, topic: str, message: BaseMessage) -> None:
        self.made[message.id] = topic, message
        await super().publish(topic, message)

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        self.made.update({message.id: (topic, message) for message in messages})
        await super().publish_batch(topic, messages)


class Worker(Plugin):
    """Behaves as its node says, and tells the truth."""

    def __init__(self, name: str, node: Node, truth: Truth) -> None:
        self.name, self.node, self.truth = name, node, truth
        self.failed: set[str] = set()

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        answer, outcome = self.judge(message)
        self.truth.outcomes[message.id, self.name].append(outcome)
        assert isinstance(answer, ProcessingStatus | Exception)
        if isinstance(answer, Exception):
            raise answer
        if outcome == "processed" and answer is ProcessingStatus.ACKNOWLEDGED:
            await self.make(message)
        return answer

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        answers = []
        for message in messages:
            answer, outcome = self.judge(message)
            self.truth.outcomes[message.id, self.name].append(outcome)
            answers.append(answer)
        await self.make(messages[0])  # from all of them: one merged message
        return answers

    async def make(self, message: BaseMessage) -> None:
        if message.data["generations"] and len(self.truth.made) < MOST_PUBLISHED:
            for topic in self.node.makes:
                await self.context.publish(topic, self.next_of(message))

    @staticmethod
    def next_of(message: BaseMessage) -> dict[str, int]:
        return {**message.data, "generations": message.data["generations"] - 1}

    def judge(self, message: BaseMessage) -> tuple[Any, str]:
        node, number = self.node, message.data["number"]
        if node.fails_always and number % node.fails_always == 1:
            return ValueError("always"), "failed"
        if node.fails_once and number % node.fails_once == 1 and message.id not in self.failed:
            self.failed.add(message.id)
            return ProcessingStatus.RETRY_LATER(0.0), "failed"
        if node.refuses and number % node.refuses == 1:
            return ProcessingStatus.FAILED("no"), "failed"
        if node.filters and number % node.filters == 0:
            return ProcessingStatus.FILTERED, "filtered"
        if node.forwards and number % node.forwards == 0 and message.data["generations"]:
            return ProcessingStatus.FORWARD(TOPICS[number % 3], self.next_of(message)), "processed"
        return ProcessingStatus.ACKNOWLEDGED, "processed"


class Origin(Source):
    def __init__(self, count: int) -> None:
        self.count = count

    async def produce(self) -> AsyncIterator[Any]:
        for number in range(self.count):
            yield TOPICS[number % 3], {"number": number, "generations": number % 4}


def relatives(truth: Truth, message_id: str) -> set[str]:
    """What the message was made from, and all that was made from that."""
    found: set[str] = set()
    new = {message_id}
    while new:
        found |= new
        new = {parent for each in new for parent in truth.made[each][1].parent_ids} - found
    new = set(found)
    while new:
        found |= new
        made = truth.made.items()
        new = {each for each, (_, message) in made if new & set(message.parent_ids)} - found
    return found


def check_path(path: MessagePath, truth: Truth, nodes: Sequence[Node], asked: str) -> None:
    assert {step.id for step in path.messages} == relatives(truth, asked)
    seen: set[str] = set()
    for step in path.messages:
        topic, message = truth.made[step.id]
        assert (step.topic, step.source, step.parents) == (topic, message.source, message.parent_ids)
        assert not set(step.parents) & ({each.id for each in path.messages} - seen), "parents come first"
        seen.add(step.id)
        expected = {
            f"p{number}"
            for number, node in enumerate(nodes)
            if any(TopicPattern(pattern).matches(topic) for pattern in node.hears)
        }
        assert {visit.plugin for visit in step.visits} == expected
        for visit in step.visits:
            outcomes = [attempt.outcome for attempt in visit.attempts]
            real = list(truth.outcomes[step.id, visit.plugin])
            if real[-1] == "failed":
                real.append("dead-lettered")
            assert outcomes == real
            assert visit.state == real[-1]
            assert all(attempt.wait_ms >= 0 and attempt.work_ms >= 0 for attempt in visit.attempts)


def check_lines(path: MessagePath) -> None:
    """Each message once, each attempt on a line of its own."""
    text = "\n".join(render_path(path))
    for step in path.messages:
        assert step.id in text
    outcomes = [
        attempt.outcome for step in path.messages for visit in step.visits for attempt in visit.attempts
    ]
    for outcome in ("processed", "filtered", "failed"):
        assert text.count(f" ms  {outcome}") == outcomes.count(outcome)
    assert text.count("  dead-lettered") == outcomes.count("dead-lettered")


@pytest.mark.timeout(300)
@settings(max_examples=20)
@given(nodes=st.lists(NODES, min_size=1, max_size=4), count=st.integers(1, 12))
def test_the_path_told_is_the_path_gone(nodes: list[Node], count: int) -> None:
    async def scenario(folder: Path) -> None:
        truth = Truth()
        recorder = Recorder(folder / "history.sqlite", HistorySettings(), stays=("#",), interval_s=0.001)
        recorder.start()
        world = World(folder, transport=truth, message_history=recorder, health_interval_s=1e9)
        world.add(Origin(count), manifest("origin", says=TOPICS, plugin_type="source"))
        for number, node in enumerate(nodes):
            name = f"p{number}"
            delivery = {"batch_size": node.batch, "backoff_ms": 1, "backoff_max_ms": 1}
            world.add(
                Worker(name, node, truth), manifest(name, hears=node.hears, says=("#",), delivery=delivery)
            )
        await world.run()
        recorder.close()
        world.dead_letters.close()

        history = History(folder / "history.sqlite")
        for asked in list(truth.made)[:: max(1, len(truth.made) // 10)]:
            path = history.trace(asked)
            check_path(path, truth, nodes, asked)
            check_lines(path)
        trace_id = truth.made[asked][1].trace_context["traceparent"][3:35]
        assert asked in {step.id for step in history.trace(trace_id).messages}
        history.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder)))
