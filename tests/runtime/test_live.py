"""Plugins that come and go while the host runs: nothing is lost, and the others do not notice."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, Plugin, PluginError, ProcessingStatus, Source
from echo_core.errors import ChangeRefused, HostStopping, NotFound, PluginInitError
from echo_core.manifest import Manifest
from echo_core.runtime import dispatch, lane
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.host import Host
from echo_core.runtime.states import PluginState
from echo_core.runtime.supervisor import Supervisor
from echo_core.runtime.upgrade.plan import Plan
from echo_core.settlement import Ending
from echo_core.transports import turn
from runtime.hosting import Endless, Handler, Numbers, World, manifest, offer, running

SOURCE = manifest("counting", says=("raw",), plugin_type="source")


def run(coroutine: Any) -> Any:
    return asyncio.run(coroutine)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop go on until it holds; the test's own timeout ends what never does."""
    while not condition():
        await asyncio.sleep(0)


def state(host: Host, name: str) -> PluginState | None:
    plugin = host.plugin(name)
    return plugin.state if plugin else None


def another(version: str, *, hears: tuple[str, ...] = ("raw",), **more: Any) -> Manifest:
    """The handler under change, in a version."""
    return manifest("handler", hears=hears, says=("out",), version=version, **more)


class Steady(Source):
    """Yields numbers, one each time it is asked for more."""

    def __init__(self, last: int = 1_000_000) -> None:
        self.last = last

    async def produce(self) -> AsyncIterator[int]:
        for number in range(self.last):
            yield number
            await asyncio.sleep(0)


class Passing(Handler):
    """Publishes what it gets, with its version."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        await asyncio.sleep(0)
        await self.context.publish("out", (self.context.plugin_version, message.data))
        return await super().process_message(topic, message)


class Unwell(Handler):
    async def health_check(self) -> bool:
        return False


class Hanging(Handler):
    async def init(self, context: Any) -> None:
        await asyncio.Event().wait()


class Raising(Handler):
    async def init(self, context: Any) -> None:
        raise ValueError("no database")


class Plain(Plugin):
    def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:  # type: ignore[override]
        return ProcessingStatus.ACKNOWLEDGED


def missing() -> Plugin:
    raise PluginError("no module named nothing", fix="install it")


BROKEN = pytest.mark.parametrize(
    ("load", "said"),
    [
        (missing, "no module named nothing"),
        (Raising, "no database"),
        (Hanging, "no answer within"),
        (Unwell, "health_check answered False"),
        (Plain, "is a plain def"),
    ],
)


def test_a_plugin_that_is_activated_gets_what_is_published_from_then_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, neighbour, late = World(tmp_path), Handler(), Handler()
        world.add(Steady(), SOURCE)
        world.add(neighbour, manifest("neighbour", hears=("raw",)))
        async with running(world) as host:
            await until(lambda: len(neighbour.seen) > 10)
            await host.activate(offer(late, another("1.0")))
            await until(lambda: len(late.seen) > 10)
            assert state(host, "handler") is PluginState.RUNNING
        assert late.data == list(range(late.data[0], late.data[-1] + 1))
        assert late.data[-1] == neighbour.data[-1]
        assert neighbour.calls == ["init", "shutdown"]

    run(scenario())


def test_a_source_that_is_activated_begins_to_speak(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, sink = World(tmp_path), Handler()
        world.add(sink, manifest("sink", hears=("raw",)))
        async with running(world) as host:
            await host.activate(offer(Numbers(3), SOURCE))
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
        assert sink.data == [0, 1, 2]

    run(scenario())


def test_a_plugin_that_is_deactivated_ends_what_it_has_and_its_account_stays(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, slow, neighbour = World(tmp_path), Handler(lambda m: asyncio.sleep(0.001)), Handler()
        world.add(Numbers(50), SOURCE)
        world.add(slow, another("1.0"))
        world.add(neighbour, manifest("neighbour", hears=("raw",)))
        async with running(world) as host:
            await until(lambda: len(neighbour.seen) == 50)
            assert len(slow.seen) < 50
            await host.deactivate("handler")
            assert len(slow.seen) == 50
            assert slow.calls == ["init", "shutdown"]
            assert host.plugin("handler") is None
            (account,) = [plugin for plugin in host.snapshot().plugins if plugin.name == "handler"]
            assert (account.state, account.processed) == (PluginState.STOPPED, 50)
            assert neighbour.calls == ["init"]
        assert world.dead_letters.count() == 0

    run(scenario())


def test_what_cannot_be_drained_in_time_is_kept_as_dead_letters(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, stuck = World(tmp_path, drain_timeout_s=0.05), Handler(lambda m: asyncio.Event().wait())
        world.add(Numbers(5), SOURCE)
        world.add(stuck, another("1.0"))
        async with running(world) as host:
            await until(lambda: state(host, "counting") is PluginState.FINISHED and stuck.seen)
            await host.deactivate("handler")
            (account,) = [plugin for plugin in host.snapshot().plugins if plugin.name == "handler"]
            assert (account.received, account.dead_lettered) == (5, 5)
        assert {letter.reason for letter in world.dead_letters.newest()} == {
            "it was deactivated before the plugin could handle it"
        }

    run(scenario())


def test_what_a_plugin_leaves_by_the_thousand_is_kept_in_parts(tmp_path: Path) -> None:
    """To make dead letters of ten thousand messages in one step would hold the event loop for 20 ms."""
    parts: list[int] = []

    async def scenario() -> None:
        world, stuck = World(tmp_path, drain_timeout_s=0.05), Handler(lambda m: asyncio.Event().wait())
        add = world.dead_letters.add

        def counting(letters: Any, **more: Any) -> None:
            parts.append(len(letters))
            add(letters, **more)

        world.dead_letters.add = counting  # type: ignore[method-assign]
        world.add(stuck, another("1.0", delivery={"queue_limit": 5_000}))
        async with running(world) as host:
            for number in range(3_000):
                await world.transport.publish("raw", BaseMessage(source="test", data=number))
            await until(lambda: stuck.seen)
            await host.deactivate("handler")
            (account,) = [plugin for plugin in host.snapshot().plugins if plugin.name == "handler"]
            assert (account.received, account.dead_lettered, account.in_hand) == (3_000, 3_000, 0)
        assert world.dead_letters.count() == 3_000

    run(scenario())
    assert sum(parts) == 3_000
    assert max(parts) <= dispatch.KEPT_AT_ONCE


@pytest.mark.parametrize(("kind", "step"), [(Dispatcher, "withdraw"), (Supervisor, "_sweep")])
def test_many_that_go_at_once_keep_no_timer_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, step: str
) -> None:
    """By a clock that goes on with one step of a deactivation, and with nothing else."""
    now, rounds, count = [100.0], list[float](), 300
    for module in (lane, turn):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    monkeypatch.setattr(kind, step, _taking(getattr(kind, step), now))

    async def scenario() -> None:
        world = World(tmp_path)
        for number in range(count):
            world.add(Handler(), manifest(f"handler_{number}", hears=(f"t.{number}",)))
        async with running(world) as host:
            going = asyncio.gather(*(host.deactivate(f"handler_{number}") for number in range(count)))
            while not going.done():
                began = now[0]
                await asyncio.sleep(0)
                rounds.append(now[0] - began)

    run(scenario())
    assert sum(rounds) > 0.000_19 * count
    assert max(rounds) < 0.005


def _taking(step: Any, now: list[float]) -> Any:
    async def longer(*given: Any) -> Any:
        now[0] += 0.000_2
        return await step(*given)

    return longer


def test_a_plugin_that_comes_again_goes_on_counting(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        async with running(world) as host:
            for _ in range(3):
                handler = Handler()
                await host.activate(offer(handler, another("1.0")))
                await host.activate(offer(Numbers(4), SOURCE))
                await until(lambda handler=handler: len(handler.seen) == 4)  # type: ignore[misc]
                await host.deactivate("counting")
                await host.deactivate("handler")
            numbers = {plugin.name: plugin for plugin in host.snapshot().plugins}
            assert (numbers["counting"].published, numbers["handler"].processed) == (12, 12)

    run(scenario())


@BROKEN
def test_a_plugin_that_does_not_come_up_is_failed_with_its_reason_and_nothing_of_it_stays(
    tmp_path: Path, load: Callable[[], Plugin], said: str
) -> None:
    async def scenario() -> None:
        world, neighbour, unloaded = World(tmp_path), Handler(), list[bool]()
        world.add(Steady(), SOURCE)
        world.add(neighbour, manifest("neighbour", hears=("raw",)))
        async with running(world) as host:
            with pytest.raises(PluginInitError) as caught:
                await host.activate(
                    offer(
                        load, another("1.0", timeouts={"init_ms": 50}), unload=lambda: unloaded.append(True)
                    )
                )
            assert said in caught.value.why
            assert str(caught.value).count("fix: ") == 1
            broken = host.plugin("handler")
            assert broken is not None
            assert (broken.state, broken.queue) == (PluginState.FAILED, 0)
            assert unloaded == [True]
            before = len(neighbour.seen)
            await until(lambda: len(neighbour.seen) > before + 10)
            await host.activate(offer(Handler(), another("1.1")))
            assert state(host, "handler") is PluginState.RUNNING
        assert world.dead_letters.count() == 0

    run(scenario())


@BROKEN
def test_what_ran_before_runs_on_when_its_successor_does_not_come_up(
    tmp_path: Path, load: Callable[[], Plugin], said: str
) -> None:
    async def scenario() -> None:
        world, old, unloaded = World(tmp_path), Handler(), list[bool]()
        world.add(Steady(), SOURCE)
        world.add(old, another("1.0"))
        async with running(world) as host:
            await until(lambda: old.seen)
            successor = another("2.0", timeouts={"init_ms": 50})
            with pytest.raises(PluginInitError) as caught:
                await host.activate(offer(load, successor, unload=lambda: unloaded.append(True)))
            assert said in caught.value.why
            assert unloaded == [True]
            serving = host.plugin("handler")
            assert serving is not None
            assert (serving.version, serving.state) == ("1.0", PluginState.RUNNING)
            before = len(old.seen)
            await until(lambda: len(old.seen) > before + 10)
            failed = [move for move in host.history.moves("handler") if move.state is PluginState.FAILED]
            assert [(move.version, said in move.reason) for move in failed] == [("2.0", True)]
        assert old.data == list(range(len(old.seen)))
        assert old.calls == ["init", "shutdown"]

    run(scenario())


@pytest.mark.parametrize("delivery", [{}, {"lanes": 3}, {"lanes": 3, "ordering_key": "data"}])
@pytest.mark.parametrize("hears", [("raw",), ("raw", "cooked")], ids=["same topics", "other topics"])
def test_a_successor_takes_over_without_losing_doubling_or_reordering_a_message(
    tmp_path: Path, delivery: dict[str, Any], hears: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        world, sink = World(tmp_path), Handler()
        world.add(Numbers(3_000), SOURCE)
        world.add(Passing(), another("0", delivery=delivery))
        world.add(sink, manifest("sink", hears=("out",)))
        async with running(world) as host:
            for version in range(1, 6):
                seen = len(sink.seen)
                await until(lambda seen=seen: len(sink.seen) > seen + 100)  # type: ignore[misc]
                await host.activate(offer(Passing(), another(str(version), hears=hears, delivery=delivery)))
            await until(lambda: len(sink.seen) == 3_000)
            numbers = host.snapshot().plugins
            assert sum(plugin.processed for plugin in numbers if plugin.name == "handler") == 3_000
        versions, data = zip(*sink.data, strict=True)
        assert sorted(data) == list(range(3_000))
        assert set(versions) == {"0", "1", "2", "3", "4", "5"}
        if not delivery:
            assert list(data) == list(range(3_000))
            assert list(versions) == sorted(versions)
        assert sink.calls == ["init", "shutdown"]

    run(scenario())


def test_a_successor_gets_the_message_that_its_predecessor_could_not_end_in_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, new = World(tmp_path, drain_timeout_s=0.05), Handler()
        old = Handler(lambda message: asyncio.Event().wait())
        world.add(Numbers(3), SOURCE)
        world.add(old, another("1"))
        async with running(world) as host:
            await until(lambda: old.seen)
            await host.activate(offer(new, another("2")))
            await until(lambda: len(new.seen) == 3)
        assert new.data == [0, 1, 2]
        assert world.dead_letters.count() == 0

    run(scenario())


def test_a_source_is_replaced_by_its_successor(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, sink = World(tmp_path), Handler()
        world.add(Endless(), SOURCE)
        world.add(sink, manifest("sink", hears=("raw",)))
        async with running(world) as host:
            await until(lambda: sink.seen)
            await host.activate(offer(Numbers(["new"]), manifest("counting", says=("raw",), version="2")))
            await until(lambda: "new" in sink.data)
            assert state(host, "counting") is PluginState.FINISHED
        assert sink.data[-1] == "new"

    run(scenario())


class Told(Numbers):
    """Remembers which of its messages have ended."""

    def __init__(self, items: Any) -> None:
        super().__init__(items)
        self.told: list[Any] = []

    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        self.told.append(message.data)


def test_a_source_that_is_told_of_ends_is_told_of_all_before_it_goes(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, old, new = World(tmp_path), Told(20), Told(["new"])
        world.add(Handler(lambda message: asyncio.sleep(0.001)), another("1"))
        async with running(world) as host:
            await host.activate(offer(old, SOURCE))
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
            assert len(old.told) < 20
            await host.activate(offer(new, manifest("counting", says=("raw",), version="2")))
            assert old.told == list(range(20))
            await host.deactivate("counting")
            assert new.told == ["new"]

    run(scenario())


def test_a_paused_plugin_lets_its_messages_wait_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, handler = World(tmp_path), Handler()
        world.add(Steady(200), SOURCE)
        world.add(handler, another("1"))
        async with running(world) as host:
            await until(lambda: len(handler.seen) > 5)
            await host.pause("handler")
            await host.pause("handler")
            seen = len(handler.seen)
            assert state(host, "handler") is PluginState.PAUSED
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
            assert len(handler.seen) == seen
            paused = host.plugin("handler")
            assert paused is not None
            assert paused.queue == 200 - seen
            await host.resume("handler")
            await until(lambda: len(handler.seen) == 200)
        assert handler.data == list(range(200))

    run(scenario())


def test_what_fails_after_its_lane_was_given_up_is_not_tried_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "GRACE_S", 0.01)

    async def scenario() -> None:
        let_go = asyncio.Event()

        async def deaf_once(message: BaseMessage) -> None:
            if len(handler.seen) > 1:
                return
            while not let_go.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await let_go.wait()
            raise ValueError("too late")

        def lanes() -> int:
            return sum(task.get_name() == "handler lane 0" for task in asyncio.all_tasks())

        world, handler = World(tmp_path, drain_timeout_s=0.01), Handler(deaf_once)
        world.add(Numbers(1), SOURCE)
        world.add(handler, another("1", delivery={"backoff_ms": 1}))
        async with running(world) as host:
            await until(lambda: len(handler.seen) == 1)
            await host.pause("handler")
            await host.resume("handler")
            await until(lambda: len(handler.seen) == 2)
            assert lanes() == 2
            let_go.set()
            await until(lambda: lanes() == 1)
            await asyncio.sleep(0.01)  # an error of ours would have been told by now
            assert state(host, "handler") is PluginState.RUNNING
        assert handler.data == [0, 0]

    run(scenario())


def test_a_paused_source_goes_on_with_what_it_was_about_to_say(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, sink = World(tmp_path), Handler()
        world.add(Steady(100), SOURCE)
        world.add(sink, manifest("sink", hears=("raw",)))
        async with running(world) as host:
            await until(lambda: len(sink.seen) > 5)
            await host.pause("counting")
            seen = len(sink.seen)
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(sink.seen) <= seen + 1
            await host.resume("counting")
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
        assert sink.data == list(range(100))

    run(scenario())


def test_a_successor_of_a_paused_plugin_is_paused(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, new = World(tmp_path), Handler()
        world.add(Numbers(10), SOURCE)
        world.add(Handler(lambda m: asyncio.sleep(0)), another("1"))
        async with running(world) as host:
            await host.pause("handler")
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
            await host.activate(offer(new, another("2")))
            assert state(host, "handler") is PluginState.PAUSED
            assert not new.seen
            await host.resume("handler")
            await until(lambda: sum(plugin.processed for plugin in host.snapshot().plugins) == 10)

    run(scenario())


def test_what_waits_for_a_paused_plugin_is_kept_when_it_goes_or_the_host_stops(tmp_path: Path) -> None:
    async def scenario(folder: Path, *, deactivate: bool) -> None:
        world = World(folder)
        world.add(Numbers(10), SOURCE)
        world.add(Handler(lambda m: asyncio.sleep(0)), another("1"))
        async with running(world) as host:
            await host.pause("handler")
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
            if deactivate:
                await host.deactivate("handler")
        final = {plugin.name: plugin for plugin in world.host.snapshot().plugins}["handler"]
        assert final.processed + final.dead_lettered == 10
        assert world.dead_letters.count() == final.dead_lettered

    for number, deactivate in enumerate((True, False)):
        folder = tmp_path / str(number)
        folder.mkdir()
        run(scenario(folder, deactivate=deactivate))


def test_what_does_not_fit_the_state_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        world.add(Numbers(1), SOURCE)
        with pytest.raises(HostStopping):
            await world.host.pause("counting")
        async with running(world) as host:
            await until(lambda: state(host, "counting") is PluginState.FINISHED)
            for change in (host.pause, host.resume):
                with pytest.raises(ChangeRefused, match="finished"):
                    await change("counting")
            for unknown in (host.pause, host.resume, host.deactivate):
                with pytest.raises(NotFound):
                    await unknown("nobody")
        with pytest.raises(HostStopping):
            await world.host.deactivate("counting")

    run(scenario())


def test_a_change_goes_on_though_its_asker_has_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, ready = World(tmp_path), asyncio.Event()

        class Slow(Handler):
            async def init(self, context: Any) -> None:
                await ready.wait()
                await super().init(context)

        async with running(world) as host:
            asker = asyncio.create_task(host.activate(offer(Slow(), another("1"))))
            await until(lambda: state(host, "handler") is PluginState.STARTING)
            asker.cancel()
            await asyncio.wait([asker])
            ready.set()
            await until(lambda: state(host, "handler") is PluginState.RUNNING)

    run(scenario())


def test_changes_of_one_plugin_wait_for_each_other(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        async with running(world) as host:
            await asyncio.gather(
                host.activate(offer(Handler(), another("1"))),
                host.activate(offer(Handler(), another("2"))),
                host.deactivate("handler"),
                host.activate(offer(Handler(), another("3"))),
            )
            serving = host.plugin("handler")
            assert serving is not None
            assert serving.version == "3"
        moves = [(move.version, move.state.value) for move in host.history.moves("handler")]
        assert [move for move in moves if move[1] in ("running", "stopped")] == [
            ("1", "running"),
            ("2", "running"),
            ("1", "stopped"),
            ("2", "stopped"),
            ("3", "running"),
            ("3", "stopped"),
        ]
        causes = [move.cause for move in host.history.moves("handler") if move.state is PluginState.STOPPING]
        assert causes == ["2 takes its place", "it is deactivated", "the host stops"]

    run(scenario())


def test_a_stop_ends_a_change_that_hangs_and_shuts_down_both_versions(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, old = World(tmp_path), Handler()
        world.add(Numbers(3), SOURCE)
        world.add(old, another("1"))
        async with running(world) as host:
            change = asyncio.create_task(host.activate(offer(Hanging(), another("2"))))
            await until(lambda: len(host.history.moves("handler")) == 3)
        with pytest.raises(HostStopping):
            await change
        assert old.calls == ["init", "shutdown"]
        assert old.data == [0, 1, 2]
        assert {plugin.state for plugin in host.snapshot().plugins} == {PluginState.STOPPED}

    run(scenario())


def test_every_move_is_in_the_history_with_its_cause(tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        async with running(world) as host:
            await host.activate(offer(Handler(), another("1")))
            await host.pause("handler")
            await host.resume("handler")
            await host.deactivate("handler")
            moves = host.history.moves("handler")
            assert [(move.previous.value, move.state.value, move.cause) for move in moves] == [
                ("loading", "starting", "it is loaded"),
                ("starting", "running", "init has ended"),
                ("running", "paused", "by an operator"),
                ("paused", "running", "by an operator"),
                ("running", "stopping", "it is deactivated"),
                ("stopping", "stopped", "shutdown has ended"),
            ]
            assert list(moves) == sorted(moves, key=lambda move: move.time_ns)
            for _ in range(60):
                await host.activate(offer(Handler(), another("1")))
                await host.deactivate("handler")
            assert len(host.history.moves()) == 100

    run(scenario())


def test_two_hundred_activations_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, seen = World(tmp_path), weakref.WeakSet[Plugin]()

        def make() -> Plugin:
            plugin = Handler()
            seen.add(plugin)
            return plugin

        async def cycle(times: int) -> int:
            for _ in range(times):
                await host.activate(offer(make, another("1")))
                await host.deactivate("handler")
            world.events.clear()
            gc.collect()
            return sum(str(type(each).__module__).startswith("echo_core") for each in gc.get_objects())

        async with running(world) as host:
            await cycle(40)  # what is bounded is full then
            before = await cycle(10)
            after = await cycle(200)
            assert after < before + 100  # timers that were cancelled hold a few, until the loop drops them
            assert len(seen) <= 1
            assert len(asyncio.all_tasks()) < 12

    run(scenario())


HOURS = {"backoff_ms": 3_600_000, "backoff_max_ms": 3_600_000, "max_attempts": 3}
"""Whoever waited for a next attempt would wait for ever."""


class Failing(Handler):
    """Fails for 0, at each of its attempts; batches as a whole."""

    def __init__(self, *, is_bad: bool = True) -> None:
        super().__init__()
        self.is_bad = is_bad
        self.failed = 0

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        if self.is_bad and message.data == 0:
            self.failed += 1
            raise ValueError(f"number {self.failed}")
        return await super().process_message(topic, message)

    async def process_batch(self, topics: Any, messages: Any) -> Any:
        return [await self.process_message(*each) for each in zip(topics, messages, strict=True)]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_message_between_two_attempts_holds_no_pause_up_and_is_tried_again_as_often_as_is_left(
    tmp_path: Path, batch_size: int
) -> None:
    async def scenario() -> None:
        world, handler = World(tmp_path, drain_timeout_s=3_600), Failing()
        world.add(Numbers(6), SOURCE)
        world.add(handler, another("1", delivery=HOURS | {"batch_size": batch_size}))
        async with running(world) as host:
            for number in (1, 2):
                await until(lambda number=number: handler.failed == number)  # type: ignore[misc]
                await host.pause("handler")
                assert host.plugin("handler").in_hand == 0  # type: ignore[union-attr]
                await host.resume("handler")
            await until(lambda: len(handler.seen) == 5)
            letter = world.dead_letters.newest()[0]
            assert [attempt.number for attempt in letter.attempts] == [1, 2, 3]
            assert [attempt.error for attempt in letter.attempts] == ["number 1", "number 2", "number 3"]
            numbers = host.plugin("handler")
            assert numbers is not None
            assert (numbers.received, numbers.processed, numbers.dead_lettered) == (6, 5, 1)
        assert handler.data == [1, 2, 3, 4, 5]

    run(scenario())


def test_a_message_between_two_attempts_goes_to_the_next_version_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        world, old, new = World(tmp_path, drain_timeout_s=3_600), Failing(), Failing(is_bad=False)
        world.add(Numbers(6), SOURCE)
        world.add(old, another("1", delivery=HOURS))
        async with running(world) as host:
            await until(lambda: old.failed == 1)
            await host.upgrade(offer(new, another("2", delivery=HOURS)), Plan())
            await until(lambda: len(new.seen) == 6)
        assert new.data == [0, 1, 2, 3, 4, 5]
        assert world.dead_letters.count() == 0

    run(scenario())


def test_what_is_taken_from_a_plugin_between_two_attempts_is_kept_with_those_that_failed(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        world, handler = World(tmp_path), Failing()
        world.add(Numbers(1), SOURCE)
        world.add(handler, another("1", delivery=HOURS))
        async with running(world) as host:
            await until(lambda: handler.failed == 1)
            await host.pause("handler")
            await host.deactivate("handler")
        assert [attempt.error for attempt in world.dead_letters.newest()[0].attempts] == ["number 1"]

    run(scenario())
