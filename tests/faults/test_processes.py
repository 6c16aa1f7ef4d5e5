"""Plugins in processes of their own, harmed at random: a message ends as one thing, and nothing stays behind.

`make test` does a little of it, `make faults` as much as `ECHO_CORE_KILLS` says. A run's seed is printed.
"""

import asyncio
import contextlib
import functools
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage, ProcessingStatus
from echo_core.errors import EchoCoreError, PluginInitError
from echo_core.runtime.host import Host
from echo_core.runtime.offer import Offer
from echo_core.runtime.settings import Tier
from echo_core.runtime.states import PluginState
from echo_core.runtime.upgrade.plan import Plan
from runtime.hosting import Handler, Numbers, manifest
from runtime.isolation.tiers import TIERS, Tiers
from support.children import children
from support.stores import store_at

KILLS = int(os.environ.get("ECHO_CORE_KILLS", "50"))
RUNS = max(1, KILLS // 50)
CYCLES = max(5, KILLS // 5)
MESSAGES = 1_500 if RUNS > 1 else 400
HARM: dict[Tier, list[Any]] = {
    "process": [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, "pause"],
    "in_process": ["pause", "replace"],
}
pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the faults are Linux's")

MOODY = """
    import asyncio, os, random, signal
    from echo_core import Plugin, ProcessingStatus

    class Moody(Plugin):
        async def process_message(self, topic, message):
            mood = message.data["mood"]
            for part in range(message.data["parts"]):
                await self.context.publish("out", {"n": message.data["n"], "part": part})
            if mood == "raise":
                raise ValueError("not today")
            if mood == "refuse":
                return ProcessingStatus.FAILED("never")
            if mood == "filter":
                return ProcessingStatus.FILTERED
            if mood == "sometimes" and random.random() < 0.5:
                raise OSError("try again")
            if mood == "forbidden":
                await self.context.publish("elsewhere", None)
            if mood == "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            if mood == "slow":
                await asyncio.sleep(0.002)
            return ProcessingStatus.ACKNOWLEDGED

    def create_plugin():
        return Moody()
"""
MOODS = ["fine"] * 60 + ["slow"] * 20 + ["sometimes"] * 5 + ["raise", "refuse", "filter", "forbidden"] * 3


class Chaos:
    """Messages of many moods for a plugin that is harmed meanwhile, and what became of them."""

    def __init__(self, folder: Path, tier: Tier, scheme: str, seed: int) -> None:
        self.folder = folder
        self.tier: Tier = tier
        self.is_kept = scheme == "sqlite"
        self.seed = seed
        self.chance = random.Random(seed)
        self.delivery: dict[str, Any] = {
            "max_attempts": 8,
            "backoff_ms": 1,
            "backoff_max_ms": 5,
            "lanes": self.chance.choice([1, 1, 4]),
            "ordering_key": self.chance.choice(["", "data.n"]),
            "circuit_failures": 0,  # some messages fail whatever is done, and nothing waits for them here
        }
        self.messages: list[dict[str, Any]] = [
            {"n": number, "mood": self.chance.choice(MOODS), "parts": self.chance.randrange(3)}
            for number in range(MESSAGES)
        ]
        self.messages[self.chance.randrange(MESSAGES)]["mood"] = "die" if tier == "process" else "raise"
        self.parts: Counter[tuple[int, int]] = Counter()
        self.received = 0

    def host(self) -> tuple[Tiers, Handler]:
        """A host with the plugin, and what reads from it."""
        transport = store_at(self.folder / "messages.sqlite") if self.is_kept else None
        tiers = Tiers(self.folder, self.tier, shutdown_timeout_s=60.0, transport=transport)
        sink = Handler()
        self.library = tiers.add(MOODY, delivery=self.delivery, spare=self.chance.random() < 0.5)
        tiers.world.add(sink, manifest("drain", hears=("out",)))
        return tiers, sink

    async def meddle(self, tiers: Tiers) -> None:
        host = tiers.world.host
        for _ in range(3):
            await asyncio.sleep(self.chance.uniform(0.0, 0.4))
            deed = self.chance.choice(HARM[self.tier])
            with contextlib.suppress(ProcessLookupError, EchoCoreError):
                if isinstance(deed, signal.Signals):
                    if tiers.pid():
                        os.kill(tiers.pid(), deed)
                elif deed == "pause":
                    await host.pause("subject")
                    await host.resume("subject")
                else:
                    load = functools.partial(tiers.plugin, self.library)
                    await host.activate(Offer(manifest=self.library.manifest, load=load))

    async def feed(self, tiers: Tiers) -> None:
        """Publish everything, do harm, and stop: when all is done, or in the middle of it all."""
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await tiers.world.host.started()
        meddling = asyncio.create_task(self.meddle(tiers))
        for message in self.messages:
            await tiers.world.transport.publish("in", BaseMessage(source="test", data=message))
        if self.chance.random() < 0.5:
            await meddling
            await tiers.world.transport.wait_until_settled()
        tiers.world.host.request_stop()
        await meddling
        await task

    def run(self) -> None:
        tiers, sink = self.host()
        asyncio.run(self.feed(tiers))
        self.count(tiers, sink)
        if self.is_kept:  # what is still queued is the next host's
            tiers, sink = self.host()
            asyncio.run(tiers.world.run(until_idle=True))
            self.count(tiers, sink)
        letters = tiers.world.dead_letters.newest(limit=10_000)
        self.letters = Counter(letter.message().data["n"] for letter in letters)

    def count(self, tiers: Tiers, sink: Handler) -> None:
        self.parts.update((data["n"], data["part"]) for data in sink.data)
        for plugin in tiers.world.host.snapshot().plugins:
            if plugin.name == "subject":
                ended = plugin.processed + plugin.filtered + plugin.dead_lettered
                assert plugin.received == ended, self.seed
                self.received += ended


@pytest.mark.timeout(300)
@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
@pytest.mark.parametrize("tier", TIERS)
def test_whatever_happens_each_message_ends_as_exactly_one_thing(
    tmp_path: Path, tier: Tier, scheme: str, run: int
) -> None:
    """Its results published, or dead-lettered, or still queued. Another seed: `ECHO_CORE_SEED`."""
    seed = int(os.environ.get("ECHO_CORE_SEED", random.randrange(2**32) if RUNS > 1 else 20_261_125))
    print(f"seed {seed}")
    chaos = Chaos(tmp_path, tier, scheme, seed)
    chaos.run()
    assert max(chaos.letters.values(), default=1) == 1
    if tier == "process":  # in the host's, what an attempt publishes before it fails is published
        assert max(chaos.parts.values(), default=1) == 1  # one accepted result for each
    for message in chaos.messages:
        number, wanted = message["n"], message["parts"]
        published = sum((number, part) in chaos.parts for part in range(wanted))
        if number not in chaos.letters:
            assert published == wanted, (message, seed)
        elif tier == "process":
            assert published == 0, (message, seed)
        if message["mood"] in ("raise", "refuse", "forbidden", "die"):
            assert number in chaos.letters, (message, seed)
    assert chaos.received == MESSAGES


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.timeout(600)
def test_starting_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    tiers = Tiers(tmp_path)
    library = tiers.library(MOODY)
    before = children()

    async def cycle(host: Host) -> None:
        await host.activate(Offer(manifest=library.manifest, load=lambda: tiers.plugin(library)))
        await host.deactivate("subject")

    async def main() -> None:
        host = tiers.world.host
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await host.started()
        for _ in range(2):
            await cycle(host)
        files, tasks = open_files(), len(asyncio.all_tasks())
        for _ in range(CYCLES):
            await cycle(host)
            async with asyncio.timeout(60):  # a task may end a moment later; what leaks stays
                while open_files() > files or len(asyncio.all_tasks()) > tasks:
                    await asyncio.sleep(0.01)
        host.request_stop()
        await task

    asyncio.run(main())
    assert children() <= before


def test_a_crowd_of_processes_and_threads_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    code = """
        import os, threading, time
        from echo_core import Sink

        class Crowd(Sink):
            async def write(self, message):
                for number in range(50):
                    if os.fork() == 0:
                        if number % 2:
                            os.setsid()
                        time.sleep(600)
                for number in range(200):
                    threading.Thread(target=time.sleep, args=(600,)).start()

        def create_plugin():
            return Crowd()
    """
    tiers = Tiers(tmp_path)
    tiers.add(code, environ={"CROWD": str(tmp_path)}, environment=("CROWD",))

    async def main() -> None:
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await tiers.world.host.started()
        await tiers.world.transport.publish("in", BaseMessage(source="test", data=1))
        await tiers.world.transport.wait_until_settled()
        assert len(crowd(tmp_path)) == 51
        tiers.world.host.request_stop()
        await task

    asyncio.run(main())
    until = time.monotonic() + 60
    while crowd(tmp_path) and time.monotonic() < until:
        time.sleep(0.01)
    assert crowd(tmp_path) == []
    assert tiers.world.host.snapshot().plugins[0].state is PluginState.STOPPED


def crowd(folder: Path) -> list[int]:
    """The processes with this folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"CROWD={folder}".encode() in (entry / "environ").read_bytes().split(
                b"\0"
            ):
                found.append(int(entry.name))
    return found


SLOW = """
    import asyncio, os, signal, time
    from echo_core import Sink, Transformer

    class Slow(Sink):
        async def write(self, message):
            while message.data >= 100 and not os.path.exists("GO ON"):
                await asyncio.sleep(0.01)

    class Hanging(Sink):
        async def write(self, message):
            pass

        async def shutdown(self):
            time.sleep(600)

    class Second(Transformer):
        async def transform(self, message):
            if message.data % 5 == 0:
                os.kill(os.getpid(), signal.SIGSEGV)
            return message.data

        async def health_check(self):
            return HEALTHY

    HEALTHY = True

    def create_plugin():
        return CLASS()
"""


class Passing(Handler):
    """Passes on what it gets, in its time."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        await asyncio.sleep(0.002)
        await self.context.publish("out", message.data)
        return await super().process_message(topic, message)


def test_a_slow_consumer_has_a_bounded_queue_and_holds_up_nobody_else(tmp_path: Path) -> None:
    tiers, neighbour = Tiers(tmp_path), Handler()
    go_on = tmp_path / "go on"
    code = SLOW.replace("CLASS", "Slow").replace("GO ON", str(go_on))
    tiers.add(code, delivery={"queue_limit": 40, "lanes": 2})
    tiers.world.add(Numbers(200), manifest("feed", says=("in",), plugin_type="source"))
    tiers.world.add(Numbers(2_000), manifest("other", says=("elsewhere",), plugin_type="source"))
    tiers.world.add(neighbour, manifest("neighbour", hears=("elsewhere",)))
    most: Counter[str] = Counter()
    done_at: dict[str, int] = {}

    async def watch() -> None:
        while True:
            session = tiers.remote["subject"].keeper.session if tiers.remote else None
            subject = tiers.world.host.plugin("subject")
            assert subject is not None
            most["in flight"] = max(most["in flight"], len(session.in_flight) if session else 0)
            most["queue"] = max(most["queue"], subject.queue)
            if len(neighbour.seen) == 2_000:
                done_at.setdefault("neighbour", subject.processed)
                go_on.touch()  # what is slow goes on when the neighbour has everything, and not before
            await asyncio.sleep(0.002)

    async def main() -> None:
        watching = asyncio.create_task(watch())
        await tiers.world.run()
        watching.cancel()

    asyncio.run(main())
    final = tiers.world.host.snapshot().plugins[0]
    assert final.processed == 200
    assert 0 < most["queue"] <= 40
    assert 0 < most["in flight"] <= 40  # what a lane has taken counts against the queue's limit
    assert done_at["neighbour"] <= 100


@pytest.mark.parametrize("fault", ["crashes in its canary", "is not well"])
def test_a_new_version_that_is_bad_goes_and_the_old_one_never_stopped(tmp_path: Path, fault: str) -> None:
    tiers, sink = Tiers(tmp_path), Handler()
    old = Passing()
    tiers.world.add(old, manifest("subject", hears=("in",), says=("out",), version="1"))
    tiers.world.add(Numbers(1_500), manifest("feed", says=("in",), plugin_type="source"))
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    code = SLOW.replace("CLASS", "Second")
    if fault == "is not well":
        code = code.replace("HEALTHY = True", "HEALTHY = False")
    library = tiers.library(code, version="2")
    offer = Offer(manifest=library.manifest, load=lambda: tiers.plugin(library))

    async def main() -> None:
        host = tiers.world.host
        task = asyncio.create_task(tiers.world.run(until_idle=True))
        await host.started()
        plan = Plan(strategy="canary", percent=30)
        if fault == "is not well":
            with pytest.raises(PluginInitError, match="did not come up"):
                await host.upgrade(offer, plan)
        else:
            await host.upgrade(offer, plan)
            while host.trials.status("subject") is not None:
                await asyncio.sleep(0.005)
            assert "2 was sent back: it is backoff: its process" in host.trials.outcome("subject")
        serving = host.plugin("subject")
        assert serving is not None
        assert serving.version == "1"
        await task

    asyncio.run(main())
    letters = [letter.message().data for letter in tiers.world.dead_letters.newest(limit=2_000)]
    assert sorted([*sink.data, *letters]) == list(range(1_500))
    assert old.calls == ["init", "shutdown"]
    ready = [e.time_ns for e in tiers.world.events if e.version == "2" and e.state is PluginState.RUNNING]
    stopped = [e.time_ns for e in tiers.world.events if e.version == "1" and e.state is PluginState.STOPPING]
    assert len(stopped) == 1
    assert stopped[0] > max(ready)


def test_at_a_stop_under_load_one_that_hangs_is_killed_and_the_rest_is_for_the_next_host(
    tmp_path: Path,
) -> None:
    def world() -> tuple[Tiers, Handler]:
        store = store_at(tmp_path / "messages.sqlite")
        tiers, other = Tiers(tmp_path, transport=store, shutdown_timeout_s=100.0), Handler()
        tiers.add(SLOW.replace("CLASS", "Hanging"), timeouts={"init_ms": 30_000, "shutdown_ms": 1_000})
        tiers.world.add(other, manifest("other", hears=("in",)))
        return tiers, other

    async def stopped_under_load(tiers: Tiers, other: Handler) -> tuple[int, float]:
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await tiers.world.host.started()
        accepted = 0
        while len(other.seen) < 200:
            await tiers.world.transport.publish("in", BaseMessage(source="test", data=accepted))
            accepted += 1
        began = time.monotonic()
        tiers.world.host.request_stop()
        await task
        return accepted, time.monotonic() - began

    before = children()
    tiers, other = world()
    accepted, seconds = asyncio.run(stopped_under_load(tiers, other))
    first = {plugin.name: plugin for plugin in tiers.world.host.snapshot().plugins}
    assert seconds < 50
    assert children() <= before
    assert first["other"].state is PluginState.STOPPED
    assert (first["subject"].state, first["subject"].reason) == (
        PluginState.FAILED,
        "shutdown: no answer within 1 s",
    )
    again, rest = world()
    asyncio.run(again.world.run(until_idle=True))
    second = {plugin.name: plugin for plugin in again.world.host.snapshot().plugins}
    assert sorted([*other.data, *rest.data]) == list(range(accepted))
    assert first["subject"].processed + second["subject"].processed == accepted
