"""Processes that replay dead letters are killed: no letter is lost, and none goes before it was accepted.

What is sent twice for that has the id that it had, and so has what a plugin makes of it.
"""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from echo_core import BaseMessage, Transformer
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetterStore
from echo_core.runtime.replay import _BATCH
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace
from runtime.hosting import Handler, World, manifest
from support.letters import letter
from support.stores import messages_due, rows, store_at

PROGRAM = Path(sys.executable).parent / "echo-core"
KILLS = 2 if "ECHO_CORE_KILLS" not in os.environ else 30
LETTERS = 1_000 if "ECHO_CORE_KILLS" not in os.environ else 10_000


def workspace_with_letters(folder: Path) -> Workspace:
    workspace = init(folder / "ws")
    workspace.settings_file.write_text('[host]\ntransport = "sqlite://"\n')

    async def subscribe() -> None:
        async with (
            store_at(workspace.state / "messages.sqlite") as transport,
            transport.subscribe("worker", ["work.#"]),
        ):
            pass

    asyncio.run(subscribe())
    with contextlib.closing(DeadLetterStore(workspace.state / FILE_NAME)) as store:
        store.add([letter(number) for number in range(LETTERS)])
    return workspace


def kill_in_the_middle(process: subprocess.Popen[bytes], letters: DeadLetterStore) -> bool:
    """Whether it was still at it."""
    before = letters.count()
    while process.poll() is None and letters.count() == before:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    return process.wait() != 0


def test_every_letter_is_replayed_though_who_replays_is_killed_again_and_again(tmp_path: Path) -> None:
    workspace = workspace_with_letters(tmp_path)
    expected = {row[0] for row in rows(workspace.state / FILE_NAME, "SELECT message_id FROM dead_letters")}
    command = [str(PROGRAM), "dlq", "replay", "--all", "--rate", "2000", "--project", str(workspace.root)]
    kills = 0
    with contextlib.closing(DeadLetterStore(workspace.state / FILE_NAME)) as letters:
        while letters.count():
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if kills < KILLS:
                kills += kill_in_the_middle(process, letters)
            else:
                assert process.wait() == 0
            with contextlib.closing(sqlite3.connect(letters.path)) as connection, connection:
                connection.execute("UPDATE replay_jobs SET alive_ns = 0")  # rather than wait for it
    times = Counter(message.id for message in messages_due(workspace.state / "messages.sqlite"))
    assert set(times) == expected
    twice = sum(count - 1 for count in times.values())
    print(f"{LETTERS:,} letters, {kills} kills: each replayed, {twice} twice")
    assert twice <= kills * _BATCH
    came = handled(tmp_path, workspace)
    assert len(came) == LETTERS + twice
    assert len({message.id for message in came}) == LETTERS
    assert {message.data for message in came} == set(range(LETTERS))


class Relay(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        return message.data


def handled(folder: Path, workspace: Workspace) -> list[BaseMessage]:
    """What reaches a sink behind the plugin that the letters were replayed to."""
    world = World(folder, transport=store_at(workspace.state / "messages.sqlite"))
    sink = Handler()
    world.add(Relay(), manifest("worker", hears=("work.#",), says=("made",)))
    world.add(sink, manifest("sink", hears=("made",)))
    asyncio.run(world.run())
    return sink.seen
