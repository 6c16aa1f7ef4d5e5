"""What a plugin can rely on is the same in both tiers: the same code, the same host, the same outcome."""

import asyncio
import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.runtime.offer import Offer
from echo_core.runtime.settings import Tier
from echo_core.runtime.states import PluginState
from runtime.hosting import FAST_RETRIES, Handler, Numbers, manifest
from runtime.isolation.tiers import TIERS, Tiers
from runtime.message_history.history import asking, recording, visit

EVERYTHING = """
    import asyncio

    from echo_core import Plugin, ProcessingStatus

    class Everything(Plugin):
        attempts = {}

        async def process_message(self, topic, message):
            data, publish = message.data, self.context.publish
            self.attempts[data] = self.attempts.get(data, 0) + 1
            if data == 0:
                await publish("out", {"n": 0, "topic": topic, "config": dict(self.context.config)})
            if data == 1:
                return ProcessingStatus.FILTERED
            if data == 2:
                return ProcessingStatus.FAILED("two is no good")
            if data == 3:
                await publish("out", "half")
                raise ValueError("three is worse")
            if data == 4 and self.attempts[4] < 3:
                return ProcessingStatus.RETRY_LATER(0.001)
            if data == 5:
                return ProcessingStatus.FORWARD("out", {"n": 5})
            if data == 6:
                await publish("elsewhere", 6)
            if data == 7:
                return "nonsense"
            if data == 8:
                await asyncio.sleep(60)
            if data == 9:
                await publish("out", {"pid": __import__("os").getpid()})
            return ProcessingStatus.ACKNOWLEDGED

    def create_plugin():
        return Everything()
"""


def run(tiers: Tiers, items: Any, sink: Handler | None = None) -> Any:
    tiers.world.add(Numbers(items), manifest("feed", says=("in",), plugin_type="source"))
    if sink is not None:
        tiers.world.add(sink, manifest("drain", hears=("out",)))
    return asyncio.run(tiers.world.run())


@pytest.mark.parametrize("tier", TIERS)
def test_every_answer_means_the_same(tmp_path: Path, tier: Tier) -> None:
    history = tmp_path / "history.sqlite"
    with recording(history) as recorder:
        tiers, sink = Tiers(tmp_path, tier, message_history=recorder), Handler()
        tiers.add(EVERYTHING, config={"color": "red"}, timeouts={"message_ms": 1_500})
        numbers = run(tiers, 10, sink)["subject"]
    letters = {letter.reason for letter in tiers.world.dead_letters.newest()}
    assert letters == {
        "FAILED: two is no good",
        "ValueError: three is worse",
        next(reason for reason in letters if reason.startswith("PublishRefused: subject may not publish")),
        "TypeError: process_message returned 'nonsense', no ProcessingStatus",
        "TimeoutError: no answer within 1.5 s (timeouts.message_ms)",
    }
    assert (numbers.received, numbers.processed, numbers.filtered, numbers.dead_lettered) == (10, 4, 1, 5)
    # two tries of 4 more, three of 3, 6 and 8 each, one of 2 and 7
    assert numbers.failed_attempts == 2 + 9 + 2
    zero = {"n": 0, "topic": "in", "config": {"color": "red"}}
    whole = [data for data in sink.data if data != "half" and "pid" not in data]
    assert whole == [zero, {"n": 5}]
    made = sink.seen[0]
    assert (made.source, made.version) == ("subject", "0.1.0")
    assert [receipt.source for receipt in made.receipts] == ["feed"]
    assert numbers.state is PluginState.STOPPED
    newest = asking(history, lambda asked: asked.newest(10)).origins
    paths = asking(history, lambda asked: [asked.trace(each.id) for each in reversed(newest)])
    told = [[each.outcome for each in visit(path.messages[0], "subject").attempts] for path in paths]
    three, dead = ["failed"] * 3, "dead-lettered"
    assert told == [
        ["processed"],
        ["filtered"],
        ["failed", dead],
        [*three, dead],
        ["failed", "failed", "processed"],
        ["processed"],
        [*three, dead],
        ["failed", dead],
        [*three, dead],
        ["processed"],
    ]
    assert [len(path.messages) - 1 for path in paths][:3] == [1, 0, 0]


def test_nothing_half_done_is_published_by_a_plugin_in_its_own_process(tmp_path: Path) -> None:
    tiers, sink = Tiers(tmp_path), Handler()
    tiers.add(EVERYTHING)
    numbers = run(tiers, [3], sink)["subject"]
    assert numbers.dead_lettered == 1
    assert numbers.published == 0
    assert sink.data == []


@pytest.mark.parametrize("tier", TIERS)
def test_of_a_batch_that_is_broken_off_those_count_as_failed_that_fail_alone_or_else_one(
    tmp_path: Path, tier: Tier
) -> None:
    code = """
        from echo_core import Plugin, ProcessingStatus

        class Batching(Plugin):
            async def process_message(self, topic, message):
                if message.data in (3, 5):
                    raise ValueError("alone")
                return ProcessingStatus.ACKNOWLEDGED

            async def process_batch(self, topics, messages):
                if {3, 13} & {message.data for message in messages}:
                    raise ValueError("as a whole")
                return [await self.process_message("", message) for message in messages]

        def create_plugin():
            return Batching()
    """
    tiers = Tiers(tmp_path, tier)
    tiers.add(code, delivery=FAST_RETRIES | {"batch_size": 10, "batch_wait_ms": 5_000})
    numbers = run(tiers, 20)["subject"]
    assert (numbers.received, numbers.processed, numbers.dead_lettered) == (20, 18, 2)
    assert numbers.failed_first == 3  # 3, 5 and whoever made the second batch fail


@pytest.mark.parametrize("tier", TIERS)
def test_order_is_kept_over_retries(tmp_path: Path, tier: Tier) -> None:
    code = """
        from echo_core import Transformer

        class Stubborn(Transformer):
            failed = set()

            async def transform(self, message):
                if message.data % 7 == 0 and message.data not in self.failed:
                    self.failed.add(message.data)
                    raise RuntimeError("again")
                return message.data

        def create_plugin():
            return Stubborn()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code)
    numbers = run(tiers, 500, sink)["subject"]
    assert sink.data == list(range(500))
    assert numbers.failed_attempts == 72
    assert numbers.processed == 500


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("key", ["", "data.key"])
def test_lanes_work_at_a_time_and_keep_the_order_of_a_key(tmp_path: Path, tier: Tier, key: str) -> None:
    code = """
        import asyncio
        from echo_core import Transformer

        class Slow(Transformer):
            at_a_time = most = 0

            async def transform(self, message):
                Slow.at_a_time += 1
                Slow.most = max(Slow.most, Slow.at_a_time)
                await asyncio.sleep(0.002)
                Slow.at_a_time -= 1
                return {**message.data, "most": Slow.most}

        def create_plugin():
            return Slow()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code, delivery={"lanes": 4, "ordering_key": key})
    run(tiers, [{"key": number % 5, "n": number} for number in range(100)], sink)
    assert max(data["most"] for data in sink.data) > 1
    for wanted in range(5) if key else ():
        assert [data["n"] for data in sink.data if data["key"] == wanted] == list(range(wanted, 100, 5))
    assert sorted(data["n"] for data in sink.data) == list(range(100))


@pytest.mark.parametrize("tier", TIERS)
def test_a_blocking_plugin_runs_in_threads(tmp_path: Path, tier: Tier) -> None:
    code = """
        import threading
        from echo_core import Transformer

        class Blocking(Transformer, blocking=True):
            def transform(self, message):
                return threading.current_thread() is not threading.main_thread()

        def create_plugin():
            return Blocking()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code)
    run(tiers, 3, sink)
    assert sink.data == [True, True, True]


SOURCE = """
    from echo_core import Source

    class Lines(Source):
        async def produce(self):
            for number in range(30):
                yield number
            yield ("other.topic", "last")

    def create_plugin():
        return Lines()
"""


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("plugin_type", ["source", ""])
def test_a_source_feeds_what_it_produces(tmp_path: Path, tier: Tier, plugin_type: str) -> None:
    tiers, sink = Tiers(tmp_path, tier), Handler()
    more = {"plugin_type": plugin_type} if plugin_type else {}
    tiers.add(SOURCE, subscriptions=[], publications=["out", "other.*"], **more)
    tiers.world.add(sink, manifest("drain", hears=("#",), delivery={"queue_limit": 2}))
    numbers = asyncio.run(tiers.world.run())
    assert sink.data == [*range(30), "last"]
    assert numbers["subject"].published == 31
    assert numbers["subject"].state is PluginState.STOPPED


@pytest.mark.parametrize("tier", TIERS)
def test_an_endless_source_is_stopped_and_closed(tmp_path: Path, tier: Tier) -> None:
    code = """
        import asyncio
        from echo_core import Source

        class Endless(Source):
            async def produce(self):
                try:
                    while True:
                        yield "tick"
                        await asyncio.sleep(0.001)
                finally:
                    self.closed = True

            async def shutdown(self):
                await self.context.publish("out", "closed" if self.closed else "open")

        def create_plugin():
            return Endless()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code, subscriptions=[], plugin_type="source")
    tiers.world.add(sink, manifest("drain", hears=("out",)))

    async def main() -> Any:
        running = asyncio.create_task(tiers.world.run(until_idle=False))
        while len(sink.data) < 5:
            await asyncio.sleep(0.01)
        tiers.world.host.request_stop()
        return await running

    numbers = asyncio.run(main())
    assert sink.data[-1] == "closed"
    assert numbers["subject"].state is PluginState.STOPPED


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nowhere\n\ndef create_plugin(): ...\n", "add the distribution of 'nowhere' to dependencies"),
        ("def create_plugin():\n    raise ValueError('no plugin today')\n", "ValueError: no plugin today"),
        ("def create_plugin():\n    return 5\n", "made no plugin"),
        (
            """
            from echo_core import Sink

            class Broken(Sink):
                async def init(self, context):
                    raise ConnectionError("no database")

                async def write(self, message): ...

            def create_plugin():
                return Broken()
            """,
            "init: ConnectionError: no database (subject/__init__.py:5 in init)",
        ),
        (
            """
            from echo_core import PluginError, Sink

            class Broken(Sink):
                async def init(self, context):
                    raise PluginError("no table", fix="make one")

                async def write(self, message): ...

            def create_plugin():
                return Broken()
            """,
            "subject/__init__.py:5 in init",
        ),
        (
            """
            import asyncio
            from echo_core import Sink

            class Hanging(Sink):
                async def init(self, context):
                    await asyncio.sleep(60)

                async def write(self, message): ...

            def create_plugin():
                return Hanging()
            """,
            "init: no answer within",
        ),
    ],
    ids=["import", "entry point", "no plugin", "init raises", "init refuses", "init hangs"],
)
def test_a_plugin_that_does_not_start_is_failed_with_its_reason(
    tmp_path: Path, tier: Tier, code: str, reason: str
) -> None:
    tiers = Tiers(tmp_path, tier)
    hangs = "Hanging" in code
    tiers.add(code, timeouts={"init_ms": 8_000 if hangs else 60_000})
    neighbour = Handler()
    tiers.world.add(neighbour, manifest("neighbour", hears=("in",)))
    numbers = run(tiers, 3)
    assert numbers["subject"].state is PluginState.FAILED
    assert reason in numbers["subject"].reason
    assert neighbour.data == [0, 1, 2]
    assert numbers["subject"].queue == 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_shutdown_that_hangs_ends_at_its_deadline(tmp_path: Path, tier: Tier) -> None:
    code = """
        import asyncio
        from echo_core import Sink

        class Hanging(Sink):
            async def write(self, message): ...

            async def shutdown(self):
                await asyncio.sleep(60)

        def create_plugin():
            return Hanging()
    """
    tiers = Tiers(tmp_path, tier)
    tiers.add(code, timeouts={"shutdown_ms": 200})
    numbers = run(tiers, 3)
    assert numbers["subject"].processed == 3
    assert numbers["subject"].state is PluginState.FAILED
    assert "shutdown: no answer within 0.2 s" in numbers["subject"].reason


@pytest.mark.parametrize("tier", TIERS)
def test_health_is_asked_and_told(tmp_path: Path, tier: Tier) -> None:
    code = """
        from echo_core import Sink

        class Unwell(Sink):
            async def write(self, message): ...

            async def health_check(self):
                return False

        def create_plugin():
            return Unwell()
    """
    tiers = Tiers(tmp_path, tier, health_interval_s=0.02)
    tiers.add(code)

    async def main() -> str:
        running = asyncio.create_task(tiers.world.run(until_idle=False))
        while not any(event.state is PluginState.DEGRADED for event in tiers.world.events):
            await asyncio.sleep(0.01)
        tiers.world.host.request_stop()
        await running
        return next(event.reason for event in tiers.world.events if event.state is PluginState.DEGRADED)

    assert asyncio.run(main()) == "health_check answered False"


@pytest.mark.parametrize("tier", TIERS)
def test_what_is_done_in_the_background_and_in_init_is_published(tmp_path: Path, tier: Tier) -> None:
    code = """
        import asyncio
        from echo_core import Plugin, ProcessingStatus

        class Background(Plugin):
            async def init(self, context):
                await super().init(context)
                await context.publish("out", "from init")

            async def process_message(self, topic, message):
                self.task = asyncio.create_task(self.later(message.data))
                return ProcessingStatus.ACKNOWLEDGED

            async def later(self, data):
                await asyncio.sleep(0.01)
                await self.context.publish("out", data)

            async def shutdown(self):
                await self.task
                await self.context.publish("out", "from shutdown")

        def create_plugin():
            return Background()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code)
    run(tiers, [1], sink)
    assert sink.data == ["from init", 1, "from shutdown"]


@pytest.mark.parametrize("tier", TIERS)
def test_a_source_is_told_how_its_messages_ended(tmp_path: Path, tier: Tier) -> None:
    code = """
        from echo_core import Source

        class Told(Source):
            told = []

            async def produce(self):
                for number in range(5):
                    yield number

            async def settled(self, message, ending):
                self.told.append((message.data, ending.name))
                if len(self.told) == 5:
                    print(sorted(self.told))

        def create_plugin():
            return Told()
    """
    tiers = Tiers(tmp_path, tier)
    tiers.add(code, subscriptions=[], plugin_type="source")
    picky = Handler(lambda message: ProcessingStatus.FAILED("zero") if message.data == 0 else None)
    tiers.world.add(picky, manifest("drain", hears=("out",)))
    printed: list[str] = []
    handler = _Records(printed)
    logging.getLogger("echo.plugin.subject").addHandler(handler)
    logging.getLogger("echo.plugin.subject").setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as here:
            numbers = asyncio.run(tiers.world.run())
    finally:
        logging.getLogger("echo.plugin.subject").removeHandler(handler)
    expected = [(0, "DEAD_LETTERED"), *((number, "PROCESSED") for number in range(1, 5))]
    assert str(expected) in [*printed, here.getvalue().strip()]
    assert numbers["subject"].state is PluginState.STOPPED


class _Records(logging.Handler):
    def __init__(self, kept: list[str]) -> None:
        super().__init__()
        self.kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


async def running(tiers: Tiers) -> "asyncio.Task[Any]":
    task = asyncio.create_task(tiers.world.run(until_idle=False))
    await tiers.world.host.started()
    return task


STAMPS = """
    import asyncio
    from echo_core import Transformer

    class Stamps(Transformer):
        async def transform(self, message):
            await asyncio.sleep(0)
            return [self.context.plugin_version, message.data]

    def create_plugin():
        return Stamps()
"""


@pytest.mark.parametrize("tier", TIERS)
def test_it_is_paused_resumed_and_replaced_without_losing_a_message(tmp_path: Path, tier: Tier) -> None:
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(STAMPS)
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    newer = tiers.library(STAMPS, version="0.2.0")

    async def main() -> None:
        host, transport = tiers.world.host, tiers.world.transport
        task = await running(tiers)

        async def feed(first: int, last: int) -> None:
            for number in range(first, last):
                await transport.publish("in", BaseMessage(source="test", data=number))

        async def arrived(count: int) -> None:
            while len(sink.data) < count:
                await asyncio.sleep(0.005)

        await feed(0, 300)
        await host.pause("subject")
        await feed(300, 400)
        assert len(sink.data) < 400
        await host.resume("subject")
        await arrived(400)
        feeding = asyncio.create_task(feed(400, 900))
        await host.activate(Offer(manifest=newer.manifest, load=lambda: tiers.plugin(newer)))
        await feeding
        await arrived(900)
        await feed(900, 901)
        await arrived(901)
        host.request_stop()
        await task

    asyncio.run(main())
    assert [number for _, number in sink.data] == list(range(901))
    assert sink.data[0][0] == "0.1.0"
    assert sink.data[-1][0] == "0.2.0"
    assert tiers.world.dead_letters.newest() == []


@pytest.mark.parametrize("tier", TIERS)
def test_it_is_switched_off_and_on(tmp_path: Path, tier: Tier) -> None:
    tiers, sink = Tiers(tmp_path, tier), Handler()
    library = tiers.add(STAMPS)
    tiers.world.add(sink, manifest("drain", hears=("out",)))

    async def main() -> None:
        host, transport = tiers.world.host, tiers.world.transport
        task = await running(tiers)
        for number in range(3):
            await transport.publish("in", BaseMessage(source="test", data=number))
            await transport.wait_until_settled()
            await host.deactivate("subject")
            assert host.plugin("subject") is None
            await host.activate(Offer(manifest=library.manifest, load=lambda: tiers.plugin(library)))
        host.request_stop()
        await task

    asyncio.run(main())
    assert [number for _, number in sink.data] == [0, 1, 2]


BATCHES = """
    from echo_core import ProcessingStatus, Transformer

    class Batches(Transformer):
        most = 0

        async def transform(self, message):
            if message.data % 10 == 3:
                raise ValueError("three")
            if message.data % 10 == 4:
                return None
            return {"n": message.data, "most": Batches.most}

        async def transform_batch(self, messages):
            Batches.most = max(Batches.most, len(messages))
            return await super().transform_batch(messages)

    def create_plugin():
        return Batches()
"""


@pytest.mark.parametrize("tier", TIERS)
def test_batches_are_handed_over_and_what_fails_is_tried_again_alone(tmp_path: Path, tier: Tier) -> None:
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(BATCHES, delivery={**FAST_RETRIES, "batch_size": 16})
    numbers = run(tiers, 200, sink)["subject"]
    assert (numbers.processed, numbers.filtered, numbers.dead_lettered) == (160, 20, 20)
    assert numbers.failed_attempts == 60
    assert [data["n"] for data in sink.data] == [n for n in range(200) if n % 10 not in (3, 4)]
    assert 1 < max(data["most"] for data in sink.data) <= 16
    for message in sink.seen:
        assert [receipt.source for receipt in message.receipts] == ["feed"]
    assert {letter.message().data % 10 for letter in tiers.world.dead_letters.newest()} == {3}


@pytest.mark.parametrize("tier", TIERS)
def test_a_source_may_yield_many_at_a_time(tmp_path: Path, tier: Tier) -> None:
    code = """
        from echo_core import Many, Source

        class Many_(Source):
            async def produce(self):
                for start in range(0, 1000, 100):
                    yield Many(range(start, start + 100))

        def create_plugin():
            return Many_()
    """
    tiers, sink = Tiers(tmp_path, tier), Handler()
    tiers.add(code, subscriptions=[], plugin_type="source")
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    asyncio.run(tiers.world.run())
    assert sink.data == list(range(1000))
