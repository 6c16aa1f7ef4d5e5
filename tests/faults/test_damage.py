"""A store that somebody changed with a hex editor: every damage is found, or does no harm.

Here two dozen, with `make faults` twice `ECHO_CORE_KILLS`. What is random is printed when it fails.
"""

import asyncio
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo_core.errors import EchoCoreError, StoreError, TransportError
from echo_core.transports.sqlite.inspection import check
from echo_core.transports.sqlite.repair import repair
from support.stores import drain, fill, message, store_at

DAMAGES = max(24, 2 * int(os.environ.get("ECHO_CORE_KILLS", "0")))
PAGE = 4_096
COUNT = 300
DUE = {"all": set(range(60, COUNT)), "even": set(range(0, COUNT, 2))}
PATTERNS = {"all": ["a.#"], "even": ["a.even"]}
STORE = "messages.sqlite"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that was closed, and beside it one whose host was killed: with a log."""
    folder = tmp_path_factory.mktemp("sound")
    asyncio.run(fill(folder / "closed" / STORE, COUNT, settled=60))
    shutil.copytree(folder / "closed", folder / "open")

    async def add_to_the_log() -> None:
        async with store_at(folder / "open" / STORE) as transport:
            for number in range(COUNT, COUNT + 20):
                await transport.publish(
                    ("a.even", "a.odd")[number % 2], message({"number": number, "text": "x" * 200})
                )
            (folder / "killed").mkdir()
            for suffix in ("", "-wal"):
                shutil.copy(folder / "open" / (STORE + suffix), folder / "killed" / (STORE + suffix))

    asyncio.run(add_to_the_log())
    return folder


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def damaged(content: bytearray, chance: random.Random) -> str:
    """Change the bytes in place; how."""
    pages, at = len(content) // PAGE, chance.randrange(len(content))
    one, other = (chance.randrange(pages) * PAGE for _ in range(2))
    kind = chance.choice(("bit", "byte", "bytes", "noise", "nothing", "swapped", "doubled", "cut", "header"))
    if kind == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        content[at] = chance.randrange(256)
    elif kind == "bytes":
        for _ in range(chance.randrange(2, 50)):
            content[chance.randrange(len(content))] = chance.randrange(256)
    elif kind == "noise":
        content[one : one + PAGE] = chance.randbytes(PAGE)
    elif kind == "nothing":
        content[one : one + PAGE] = bytes(PAGE)
    elif kind == "swapped":
        first, second = content[one : one + PAGE], content[other : other + PAGE]
        content[one : one + PAGE], content[other : other + PAGE] = second, first
    elif kind == "doubled":
        content[one : one + PAGE] = content[other : other + PAGE]
    elif kind == "cut":
        del content[at:]
    else:
        content[chance.randrange(100)] = chance.randrange(256)
    return kind


def due(path: Path) -> dict[str, set[int]]:
    """What a host gets of the store."""
    return {name: set(asyncio.run(drain(path, name, patterns))) for name, patterns in PATTERNS.items()}


def say_what_to_do(error: EchoCoreError, where: str) -> None:
    """Whatever is refused is refused with the next step."""
    assert error.fix, where


def one_damage(sound: Path, folder: Path, seed: int) -> str:
    """Do it, look at it, mend it; what came of it."""
    chance = random.Random(seed)
    state = chance.choice(("closed", "closed", "killed"))
    shutil.copytree(sound / state, folder)
    store = folder / STORE
    file = store if state == "closed" or chance.random() < 0.5 else folder / f"{STORE}-wal"
    content = bytearray(file.read_bytes())
    kind = damaged(content, chance)
    file.write_bytes(content)
    where = f"seed {seed}: {kind} in {state}/{file.name}"
    expected = {name: set(numbers) for name, numbers in DUE.items()}
    if state == "killed":
        # What is in a log that was changed is gone from there on, as with a power cut before it was written.
        reached = COUNT if file != store else COUNT + 20
        expected["all"] |= set(range(COUNT, reached))
        expected["even"] |= set(range(COUNT, reached, 2))
    try:
        report = check(store)
    except StoreError as error:
        say_what_to_do(error, where)
        report = None
    if report is not None and report.is_sound:
        left = {name: expected[name] - numbers for name, numbers in due(store).items()}
        assert not any(left.values()), f"{where}: found sound, and {left} never came"
        return "harmless"
    try:
        repaired = repair(store)
    except StoreError as error:
        say_what_to_do(error, where)
        assert file.read_bytes() == bytes(content), f"{where}: refused, and changed"
        return "refused"
    assert check(store).is_sound, where
    left = {name: expected[name] - numbers for name, numbers in due(store).items()}
    missing = sum(map(len, left.values()))
    assert missing <= repaired.lost_count + 2 * repaired.unknown_count, f"{where}: {left} went without a word"
    return "repaired"


@pytest.mark.timeout(120 + DAMAGES)
@pytest.mark.slow
def test_every_damage_is_found_and_mended_or_refused_or_does_no_harm(sound: Path, tmp_path: Path) -> None:
    first = random.randrange(2**32)
    came = [one_damage(sound, tmp_path / str(seed), seed) for seed in range(first, first + DAMAGES)]
    print({what: came.count(what) for what in sorted(set(came))})
    assert set(came) >= {"repaired"}


@pytest.mark.timeout(120 + DAMAGES)
@pytest.mark.slow
def test_a_host_on_a_damaged_store_delivers_nothing_that_was_not_written(sound: Path, tmp_path: Path) -> None:
    """It says E-STORE, or gives what is whole; a message comes as it was, or not at all."""
    first = random.randrange(2**32)
    for seed in range(first, first + DAMAGES // 2):
        chance, folder = random.Random(seed), tmp_path / f"host {seed}"
        shutil.copytree(sound / "closed", folder)
        content = bytearray((folder / STORE).read_bytes())
        kind = damaged(content, chance)
        (folder / STORE).write_bytes(content)
        try:
            came = asyncio.run(asyncio.wait_for(drain(folder / STORE, "all", PATTERNS["all"]), 60))
        except TransportError as error:
            say_what_to_do(error, f"seed {seed}: {kind}")
        else:
            assert set(came) <= set(range(COUNT)), f"seed {seed}: {kind}"
