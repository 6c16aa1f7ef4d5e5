"""Plugins in processes of their own, harmed at random: a message ends as one thing, and nothing stays behind.

`make test` does a little of it, `make faults` as much as `ECHO_CORE_KILLS` says. A run's seed is printed.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from echo_core import BaseMessage
from echo_core.runtime.offer import Offer
from echo_core.runtime.states import PluginState
from runtime.hosting import Handler, manifest
from runtime.isolation.tiers import Tiers
from support.children import children

KILLS = int(os.environ.get("ECHO_CORE_KILLS", "50"))
RUNS = max(1, KILLS // 50)
CYCLES = max(5, KILLS // 5)
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


@pytest.mark.timeout(120)
@pytest.mark.parametrize("run", range(RUNS))
def test_whatever_happens_each_message_ends_as_exactly_one_thing(tmp_path: Path, run: int) -> None:
    seed = random.randrange(2**32) if RUNS > 1 else 20_261_125
    print(f"seed {seed}")
    chance = random.Random(seed)
    tiers, sink = Tiers(tmp_path, shutdown_timeout_s=60.0), Handler()
    lanes = chance.choice([1, 1, 4])
    key = chance.choice(["", "data.n"])
    delivery: dict[str, Any] = {
        "max_attempts": 8,
        "backoff_ms": 1,
        "backoff_max_ms": 5,
        "lanes": lanes,
        "ordering_key": key,
    }
    delivery["circuit_failures"] = 0  # some messages fail whatever is done, and nothing waits for them here
    tiers.add(MOODY, delivery=delivery)
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    messages: list[dict[str, Any]] = [
        {"n": number, "mood": chance.choice(MOODS), "parts": chance.randrange(3)} for number in range(1_500)
    ]
    messages[chance.randrange(1_500)]["mood"] = "die"

    async def meddle() -> None:
        for _ in range(3):
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            deed = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
            with contextlib.suppress(ProcessLookupError):
                if tiers.pid():
                    os.kill(tiers.pid(), deed)

    async def main() -> None:
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await tiers.world.host.started()
        meddling = asyncio.create_task(meddle())
        for message in messages:
            await tiers.world.transport.publish("in", BaseMessage(source="test", data=message))
        if chance.random() < 0.5:  # else it is stopped in the middle of it all
            await meddling
            await tiers.world.transport.wait_until_settled()
        tiers.world.host.request_stop()
        await meddling
        await task

    asyncio.run(main())
    letters = Counter(letter.message().data["n"] for letter in tiers.world.dead_letters.newest(limit=10_000))
    parts = Counter((data["n"], data["part"]) for data in sink.data)
    assert max(letters.values(), default=1) == 1
    assert max(parts.values(), default=1) == 1  # one accepted result for each
    for message in messages:
        number, wanted = message["n"], message["parts"]
        published = sum((number, part) in parts for part in range(wanted))
        assert published == (0 if number in letters else wanted), (message, seed)
        if message["mood"] in ("raise", "refuse", "forbidden", "die"):
            assert number in letters, (message, seed)
    final = tiers.world.host.snapshot().plugins[0]
    assert final.received == final.processed + final.filtered + final.dead_lettered == 1_500


@pytest.mark.timeout(600)
def test_starting_and_stopping_leaves_nothing_behind(tmp_path: Path) -> None:
    tiers = Tiers(tmp_path)
    library = tiers.library(MOODY)
    left: list[tuple[int, int]] = []
    before = children()

    async def main() -> None:
        host = tiers.world.host
        task = asyncio.create_task(tiers.world.run(until_idle=False))
        await host.started()
        for _ in range(CYCLES):
            await host.activate(Offer(manifest=library.manifest, load=lambda: tiers.plugin(library)))
            await host.deactivate("subject")
            left.append((len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())))
        host.request_stop()
        await task

    asyncio.run(main())
    assert set(left[1:]) == {left[1]}
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
    until = time.monotonic() + 5
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
