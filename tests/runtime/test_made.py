"""What is made of a message that comes again has the id that it had: what plugins publish, in a real host."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from echo_core import BaseMessage, Many, Source, Transformer
from echo_core.message import REPLAYED, new_id
from echo_core.runtime.checkpoints import CheckpointStore, checkpoint
from echo_core.runtime.dead_letters import ReplayWish
from echo_core.runtime.made import Made
from echo_core.runtime.settings import Tier
from echo_core.runtime.source_state import EMPTY
from runtime.hosting import FAST_RETRIES, Handler, World, manifest
from runtime.isolation.tiers import TIERS, Tiers
from support.letters import letter

GENERATION = "019abd00-0000-7000-8000-000000000000"

SOURCE = manifest("log", says=("raw",), plugin_type="source")
MIDDLE = manifest("middle", hears=("raw",), says=("made",))
END = manifest("end", hears=("made",))


class Log(Source):
    """Publishes the same from the same state, again and again: it never says how far it is."""

    async def produce(self) -> AsyncIterator[Any]:
        assert not self.context.state
        for number in range(3):
            yield number


class Plain(Source):
    async def produce(self) -> AsyncIterator[Any]:
        for number in range(3):
            yield number


class Splits(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        return Many([message.data, "same", "same"])


def run(folder: Path, middle: Any, source: Source | None = None, **of: Any) -> list[BaseMessage]:
    world, end = World(folder), Handler()
    world.add(source or Log(), SOURCE)
    world.add(middle, manifest("middle", hears=("raw",), says=("made",), **of))
    world.add(end, END)
    asyncio.run(world.run())
    return end.seen


def ids(messages: list[BaseMessage]) -> list[str]:
    return sorted(message.id for message in messages)


def test_it_is_the_same_after_a_restart_and_equal_data_is_told_apart(tmp_path: Path) -> None:
    first, second = run(tmp_path, Splits()), run(tmp_path, Splits())
    assert ids(first) == ids(second)
    assert len(set(ids(first))) == 9
    assert all(message.id[14] == "7" and message.id[19] in "89ab" for message in first)


def test_it_is_the_same_in_batches(tmp_path: Path) -> None:
    class Each(Transformer):
        async def transform(self, message: BaseMessage) -> Any:
            return ["made of", message.data]

    alone = run(tmp_path, Each())
    together = run(tmp_path, Each(), delivery={"batch_size": 3})
    assert ids(alone) == ids(together)


@pytest.mark.parametrize("source", [Log, Plain])
def test_a_failed_attempt_leaves_nothing_twice(tmp_path: Path, source: type[Source]) -> None:
    failures = Counter[Any]()
    middle = Handler()

    async def publish(message: BaseMessage) -> None:
        for part in ("a", "b", "b"):
            await middle.context.publish("made", [message.data, part])
        failures[message.data] += 1
        if failures[message.data] < 3:
            raise ValueError("again")

    middle.handle = publish
    seen = run(tmp_path, middle, source())
    assert len(seen) == 27
    assert len(set(ids(seen))) == (9 if source is Log else 27)


def test_it_is_the_same_in_a_process_of_its_own(tmp_path: Path) -> None:
    code = """
        from echo_core import Many, Transformer

        class Splits(Transformer):
            failed = False

            async def transform(self, message):
                await self.context.publish("made", "first")
                if message.data == 1 and not self.failed:
                    self.failed = True
                    raise ValueError("again")
                return Many([message.data, "same", "same"])

        def create_plugin():
            return Splits()
    """
    found = []
    for tier in TIERS:
        tiers, end = Tiers(tmp_path / tier, tier), Handler()
        tiers.world.add(Log(), SOURCE)
        tiers.add(code, "middle", subscriptions=["raw"], publications=["made"])
        tiers.world.add(end, END)
        with closing(CheckpointStore(tmp_path / tier / "checkpoints.sqlite")) as store:
            store.save([checkpoint("log", "", GENERATION, EMPTY)])
        asyncio.run(tiers.world.run())
        found.append(sorted(set(ids(end.seen))))
    assert len(found[0]) == 12
    assert found[0] == found[1]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("batch_size", [1, 8])
def test_it_is_the_same_of_dead_letters_that_are_replayed_twice(
    tmp_path: Path, tier: Tier, batch_size: int
) -> None:
    code = """
        from echo_core import Many, Plugin, ProcessingStatus

        class Splits(Plugin):
            async def process_message(self, topic, message):
                await self.context.publish("made", "alone")
                await self.context.publish_batch("made", [message.data, "same", "same"])
                return ProcessingStatus.FORWARD("made", message)

            async def process_batch(self, topics, messages):
                raise AssertionError("what is replayed is handled alone")

        def create_plugin():
            return Splits()
    """
    tiers, end = Tiers(tmp_path, tier), Handler()
    delivery = FAST_RETRIES | {"batch_size": batch_size}
    tiers.add(code, "middle", subscriptions=["raw"], publications=["made"], delivery=delivery)
    last = Handler()

    async def publish(message: BaseMessage) -> None:
        await last.context.publish("last", message.data)

    last.handle = publish
    tiers.world.add(last, manifest("last", hears=("made",), says=("last",)))
    tiers.world.add(end, manifest("end", hears=("made", "last")))
    kept = [letter(number, plugin="middle", topic="raw") for number in range(3)]
    tiers.world.dead_letters.add([*kept, *kept])  # as where who replays was killed in between
    tiers.world.dead_letters.jobs.add(ReplayWish())
    asyncio.run(tiers.world.run())
    assert set(Counter(ids(end.seen)).values()) == {2}
    assert len(set(ids(end.seen))) == 3 * 5 * 2


def test_what_is_replayed_has_an_id_made_of_its_own_whatever_that_looks_like() -> None:
    def made(message_id: str, **more: Any) -> str:
        message = BaseMessage(
            id=message_id, timestamp=1_764_000_000_000 * 10**6, source="any", trace_context={REPLAYED: "1"}
        )
        return Made("one").id(message, "topic", more)

    own = new_id()
    assert made(own) == made(own) != made(new_id())
    assert made(own)[:13] == own[:13]
    assert made("order 17") == made("order 17") != made("order 18")
    assert made("order 17").startswith("019ab697-e800-70ec-")
    assert UUID(made("order 17")).version == 7


def test_what_is_made_of_it_otherwise_has_another_id() -> None:
    message = BaseMessage(id="01a21492-f465-70ec-a7b1-d8eab183807a", source="log", data=1)
    base = Made("one").id(message, "topic", {"a": 1})
    others = {
        Made("two").id(message, "topic", {"a": 1}),
        Made("one").id(message, "other", {"a": 1}),
        Made("one").id(message, "topic", {"a": 2}),
    }
    assert base == Made("one").id(message, "topic", {"a": 1})
    assert len(others | {base}) == 4


def test_what_has_no_encoding_has_a_new_id() -> None:
    message = BaseMessage(id="01a21492-f465-70ec-a7b1-d8eab183807a", source="log", data=1)
    made = Made("one")
    assert made.id(message, "topic", object()) != made.id(message, "topic", object())


def test_no_more_is_remembered_than_there_is_room_for() -> None:
    made = Made("one")
    for number in range(10_000):
        message = BaseMessage(id=f"01a21492-f465-70ec-a7b1-{number:012x}", source="log")
        made.id(message, "topic", number)
    assert len(made.counts) == 4_096
