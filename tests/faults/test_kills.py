"""Hosts that are killed at any moment lose nothing: 50 kills here, as many as `ECHO_CORE_KILLS` says there.

`make faults` kills a thousand times. What is random is printed where it fails.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.testing import async_test
from echo_core.transports.sqlite.inspection import check
from faults.lives import Lives, lives_in
from faults.victim import HOPELESS, numbers
from support.stores import drain, message, numbers_due, store_at

KILLS = int(os.environ.get("ECHO_CORE_KILLS", "50"))
LONGEST_S = 0.25
"""A life lasts up to so long, which on a busy machine may be no more than its first steps …"""
MOST_BYTES = 500
"""… or until so much more is noted as accepted: up to a hundred messages."""


def dead_lettered(folder: Path) -> set[int]:
    store = DeadLetterStore(folder / "dead_letters.sqlite")
    with contextlib.closing(store):
        return {letter.message().data["number"] for letter in store.newest(limit=1_000_000)}


def wait_for_a_moment(chance: random.Random, folder: Path) -> None:
    """Any moment of a life: in its first steps, or at its work, however busy the machine is."""
    if chance.random() < 0.5:
        time.sleep(chance.uniform(0, LONGEST_S))
        return
    enough = size(folder / "accepted") + chance.randint(1, MOST_BYTES)
    while size(folder / "accepted") < enough:
        time.sleep(0.001)


def account(folder: Path) -> None:
    """Every number that was accepted has reached the sink, is a dead letter, or is still due."""
    accepted = set(numbers(folder / "accepted"))
    assert (
        accepted
        - set(numbers(folder / "reached"))
        - dead_lettered(folder)
        - numbers_due(folder / "messages.sqlite")
        == set()
    )
    report = check(folder / "messages.sqlite")
    assert report.is_sound, report.findings


def finish(lives: Lives, folder: Path) -> None:
    """Run to the end, and see that everything has come to its own."""
    lives.begin("finish")
    assert lives.ended() == 0
    account(folder)
    assert numbers_due(folder / "messages.sqlite") == set()
    assert all(number % HOPELESS == 0 for number in dead_lettered(folder))


@pytest.mark.timeout(120 + 3 * KILLS)
@pytest.mark.slow
def test_a_host_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with lives_in(tmp_path) as lives:
        for kill in range(KILLS):
            process = lives.begin()
            wait_for_a_moment(chance, tmp_path)
            os.kill(process, signal.SIGKILL)
            assert lives.ended() == -signal.SIGKILL
            if kill % 10 == 9:
                account(tmp_path)
        finish(lives, tmp_path)
    assert len(numbers(tmp_path / "accepted")) > KILLS


@pytest.mark.timeout(120 + 3 * KILLS)
@pytest.mark.slow
def test_of_hosts_that_share_a_store_the_others_go_on_with_what_a_killed_one_had(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    (tmp_path / "accepted").touch()
    with lives_in(tmp_path) as one, lives_in(tmp_path) as two:
        running = {one: one.begin(), two: two.begin()}
        for _ in range(max(5, KILLS // 10)):
            wait_for_a_moment(chance, tmp_path)
            lives = chance.choice((one, two))
            os.kill(running[lives], signal.SIGKILL)
            assert lives.ended() == -signal.SIGKILL
            running[lives] = lives.begin()
        for lives, process in running.items():
            os.kill(process, signal.SIGKILL)
            lives.ended()
        finish(one, tmp_path)


@pytest.mark.timeout(240)  # a hundred hosts one after the other, and the disk has each of them wait
@pytest.mark.slow
def test_a_kill_before_any_statement_leaves_a_store_with_all_that_was_accepted(tmp_path: Path) -> None:
    with lives_in(tmp_path) as lives:
        for statement in range(1, 1_000):
            lives.begin(f"statement {statement}")
            is_over = lives.ended() == 0
            folder = tmp_path / str(statement)
            if (folder / "messages.sqlite").exists():
                left = set(asyncio.run(drain(folder / "messages.sqlite", "reader", ["a"])))
                missing = set(numbers(folder / "accepted")) - set(numbers(folder / "reached")) - left
                assert not missing, f"killed before statement {statement}"
                assert check(folder / "messages.sqlite").is_sound
            if is_over:
                assert statement > 50
                return
    raise AssertionError("it never came to its end")


@async_test
async def test_a_log_that_is_cut_anywhere_after_it_still_has_what_was_accepted(tmp_path: Path) -> None:
    """What the disk may have of the log when the power fails: at least what was synchronised."""
    store, log = tmp_path / "messages.sqlite", tmp_path / "messages.sqlite-wal"
    sizes: list[int] = []
    async with store_at(store) as transport, transport.subscribe("reader", ["a"]):
        for number in range(20):
            await transport.publish("a", message({"number": number}))
            sizes.append(size(log))
        content = {store.name: contents(store), log.name: contents(log)}
    assert size(log) == 0  # a clean end leaves nothing in it
    for accepted, kept in enumerate(sizes, start=1):
        for cut in (kept, kept + 1, kept + 2_000):
            folder = tmp_path / f"{accepted} {cut - kept}"
            put(folder / store.name, content[store.name])
            put(folder / log.name, content[log.name][:cut])
            came = await drain(folder / store.name, "reader", ["a"])
            assert came[:accepted] == list(range(accepted))


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def contents(file: Path) -> bytes:
    return file.read_bytes()


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
