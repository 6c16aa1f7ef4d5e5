"""What is told of messages in a running host: retries, batches, merges, forwards, and what has not ended."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.errors import NotFound
from echo_core.runtime.message_history.documents import MessagePath, Step
from echo_core.runtime.message_history.search import AmbiguousId
from echo_core.testing import async_test
from runtime.hosting import Handler, Numbers, World, manifest, running
from runtime.message_history.history import accept, asking, recording, visit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def trace(file: Path, asked: str) -> MessagePath:
    path: MessagePath = asking(file, lambda history: history.trace(asked))
    return path


def on(path: MessagePath, topic: str) -> Step:
    return next(step for step in path.messages if step.topic == topic)


class Publisher(Handler):
    """Publishes to a topic for each message."""

    def __init__(self, *topics: str) -> None:
        super().__init__()
        self.topics = topics

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        self.seen.append(message)
        for each in self.topics:
            await self.context.publish(each, message.data)
        return ProcessingStatus.ACKNOWLEDGED


class Merger(Handler):
    async def process_batch(
        self, topics: Sequence[str], messages: Sequence[BaseMessage]
    ) -> list[ProcessingStatus]:
        self.seen += messages
        await self.context.publish("merged", len(messages))
        return [ProcessingStatus.ACKNOWLEDGED] * len(messages)


@async_test
async def test_every_attempt_is_told_with_its_error_and_its_number(tmp_path: Path, file: Path) -> None:
    answers: list[Any] = [
        ValueError("first"),
        ProcessingStatus.RETRY_LATER(0.0),
        ProcessingStatus.ACKNOWLEDGED,
    ]

    def handle(message: BaseMessage) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker = Handler(handle)
    with recording(file) as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(1), manifest("counter", says=("a",)))
        world.add(worker, manifest("worker", hears=("a",)))
        await world.run()
    (step,) = trace(file, worker.seen[0].id).messages
    told = visit(step, "worker")
    assert [(each.number, each.outcome, each.error_type, each.error) for each in told.attempts] == [
        (1, "failed", "ValueError", "first"),
        (2, "failed", "RETRY_LATER", "the plugin asked to try again later"),
        (3, "processed", "", ""),
    ]
    assert told.state == "processed"


@async_test
async def test_a_merged_message_is_told_with_all_it_was_made_from(tmp_path: Path, file: Path) -> None:
    merger, sink = Merger(), Handler()
    delivery = {"batch_size": 3, "batch_wait_ms": 10_000}
    with recording(file) as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(3), manifest("counter", says=("a",)))
        world.add(merger, manifest("merger", hears=("a",), says=("merged",), delivery=delivery))
        world.add(sink, manifest("sink", hears=("merged",)))
        await world.run()
    (merged,) = sink.seen
    for asked in (merged.id, merger.seen[1].id, merger.seen[2].id):
        path = trace(file, asked)
        step = on(path, "merged")
        assert set(step.parents) == {each.id for each in merger.seen}
        assert path.messages[-1] == step
        assert visit(step, "sink").state == "processed"
    assert {step.id for step in trace(file, merged.id).messages} == {merged.id, *merged.parent_ids}
    # Of what else went into it, it is enough to know that it did.
    assert {step.id for step in trace(file, merger.seen[1].id).messages} == {merged.id, merger.seen[1].id}
    (attempt,) = visit(path.messages[0], "merger").attempts
    assert attempt.batch == 3


@async_test
async def test_a_forwarded_message_is_told_below_the_one_it_came_from(tmp_path: Path, file: Path) -> None:
    router = Handler(lambda message: ProcessingStatus.FORWARD("b", message))
    sink = Handler()
    with recording(file) as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(1), manifest("counter", says=("a",)))
        world.add(router, manifest("router", hears=("a",), says=("b",)))
        world.add(sink, manifest("sink", hears=("b",)))
        await world.run()
    path = trace(file, sink.seen[0].id)
    assert [(step.topic, step.source) for step in path.messages] == [("a", "counter"), ("b", "router")]
    assert path.messages[1].parents == (router.seen[0].id,)


@async_test
async def test_what_waits_is_told_as_waiting_and_what_a_stop_leaves_as_dead(
    tmp_path: Path, file: Path
) -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    async def handle(message: BaseMessage) -> None:
        begun.set()
        await done.wait()

    worker, quick = Handler(handle), Handler()
    with recording(file) as recorder:
        world = World(tmp_path, message_history=recorder, shutdown_timeout_s=0.1)
        world.add(Numbers(1), manifest("counter", says=("a",)))
        world.add(worker, manifest("worker", hears=("a",)))
        world.add(quick, manifest("quick", hears=("#",)))
        world.add(Handler(), manifest("other", hears=("b",)))
        async with running(world):
            await begun.wait()
            while not quick.seen:
                await asyncio.sleep(0)
            await asyncio.to_thread(recorder.flush)
            (step,) = trace(file, worker.seen[0].id).messages
            assert {each.plugin: each.state for each in step.visits} == {
                "quick": "processed",
                "worker": "waiting",
            }
    (step,) = trace(file, worker.seen[0].id).messages
    told = visit(step, "worker")
    assert [each.outcome for each in told.attempts] == ["returned", "dead-lettered"]
    assert told.state == "dead-lettered"


@async_test
async def test_what_is_shed_is_told_as_shed(tmp_path: Path, file: Path) -> None:
    published = Publisher("b")
    slow, go = Handler(), asyncio.Event()
    delivery = {"queue_limit": 1, "when_full": "shed_newest"}

    async def handle(message: BaseMessage) -> None:
        await go.wait()

    slow.handle = handle
    with recording(file) as recorder:
        world = World(tmp_path, message_history=recorder)
        world.add(Numbers(20), manifest("counter", says=("a",)))
        world.add(published, manifest("publisher", hears=("a",), says=("b",)))
        world.add(slow, manifest("slow", hears=("b",), delivery=delivery))
        async with running(world):
            while not world.host.snapshot().plugins[2].shed:
                await asyncio.sleep(0.001)
            go.set()
            await world.transport.wait_until_settled()
    shed = world.host.snapshot().plugins[2].shed
    states = [visit(on(trace(file, each.id), "b"), "slow").state for each in published.seen]
    assert set(states) == {"processed", "shed"}
    assert states.count("shed") == sum(shed.values())


def test_a_message_is_found_by_the_beginning_of_its_id_and_by_its_trace(file: Path) -> None:
    with recording(file) as recorder:
        made = accept(
            recorder,
            BaseMessage(source="origin", trace_context={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}),
        )
    for asked in (made.id[:30], made.id.upper(), made.id.replace("-", ""), "ab" * 16):
        assert [step.id for step in trace(file, asked).messages] == [made.id]
    assert trace(file, "ab" * 16).kind == "trace"


def test_the_beginning_of_several_ids_names_them(file: Path) -> None:
    with recording(file) as recorder:
        made = [accept(recorder, BaseMessage(source="origin")) for _ in range(30)]
    with pytest.raises(AmbiguousId, match="messages have an id that begins with") as raised:
        trace(file, made[0].id[:8])
    assert made[0].id in raised.value.why
    assert "and 20 more" in raised.value.why


def test_ids_of_any_form_are_found(file: Path) -> None:
    with recording(file) as recorder:
        accept(recorder, BaseMessage(id="order 7\n", source="origin"))
        accept(recorder, BaseMessage(id="x", source="origin"))
    assert trace(file, "order 7\n").messages[0].id == "order 7\n"
    assert trace(file, "x").messages[0].id == "x"
    with pytest.raises(NotFound):
        trace(file, "y")


def test_a_path_of_very_many_messages_is_cut_and_says_so(file: Path) -> None:
    with recording(file, queue_limit=10_000) as recorder:
        root = accept(recorder, BaseMessage(source="origin"))
        for _ in range(3_000):
            accept(recorder, root.derive(None, source="origin"))
    path = trace(file, root.id)
    assert (len(path.messages), path.more) == (1_000, 2_001)
    assert path.messages[0].id == root.id


def test_clocks_that_differ_do_not_put_a_message_before_its_parents(file: Path) -> None:
    with recording(file) as recorder:
        root = accept(recorder, BaseMessage(source="origin"))
        early = BaseMessage(
            source="origin", timestamp=root.timestamp - 10**9, receipts=root.receipts_for_derived()
        )
        accept(recorder, early)
    assert [step.id for step in trace(file, early.id).messages] == [root.id, early.id]


def test_without_a_history_that_is_said(file: Path) -> None:
    with pytest.raises(NotFound, match="there is no message history"):
        trace(file, "x")


def test_what_waits_outside_of_hosts_waits_though_they_have_ended(file: Path) -> None:
    with recording(file, stays=("local.#",)) as recorder:
        recorder.subscribed("key", "worker", ["#"])
        recorder.flush()
        kept = accept(recorder, BaseMessage(source="origin"), "t.a")
        gone = accept(recorder, BaseMessage(source="origin"), "local.a")
    for message, state in ((kept, "waiting"), (gone, "unknown")):
        (step,) = trace(file, message.id).messages
        assert [(each.plugin, each.state) for each in step.visits] == [("worker", state)]


def test_who_a_message_was_for_is_told_by_the_subscriptions_of_its_time(file: Path) -> None:
    with recording(file, stays=()) as recorder:
        recorder.subscribed("old", "worker", ["a"])
        recorder.flush()
        before = [accept(recorder, BaseMessage(source="origin"), topic) for topic in ("a", "b")]
        recorder.subscribed("new", "worker", ["b"])
        recorder.unsubscribed("old")
        recorder.flush()
        after = [accept(recorder, BaseMessage(source="origin"), topic) for topic in ("a", "b")]
    told = [[each.plugin for each in trace(file, m.id).messages[0].visits] for m in (*before, *after)]
    assert told == [["worker"], [], [], ["worker"]]
