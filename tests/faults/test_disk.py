"""A store on a disk that stops, tears what is written, forgets what was not synchronised, or is full.

A library between the host and its disk (`disk.c`) notes every write and every synchronisation. What the disk
has when everything stops after any of these is put together from the note: after a kill all that was written,
after a power cut what was synchronised, and of the rest anything, torn in any place. Here some moments, with
`make faults` as many as `ECHO_CORE_KILLS`. What is random is printed when it fails.
"""

import asyncio
import errno
import logging
import os
import random
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from echo_core.transports.sqlite.inspection import check
from faults.disk import Operation, compile_shim, files_at, read_log, torn
from faults.lives import lives_in
from faults.victim import numbers
from support.stores import drain, numbers_due

MOMENTS = max(8, int(os.environ.get("ECHO_CORE_KILLS", "0")))
STORE = "messages.sqlite"
LEDGERS = ("accepted", "reached")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = compile_shim(tmp_path_factory.mktemp("shim"))
    if library is None:
        if os.environ.get("CI"):
            pytest.fail("there is no C compiler (cc)")
        pytest.skip("there is no C compiler (cc)")
    return library


@pytest.fixture(scope="module")
def noted(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Operation]]:
    """What a life writes that nothing happens to, by its setting of `synchronous`."""
    found = {}
    for synchronous in ("full", "normal"):
        folder = tmp_path_factory.mktemp(synchronous)
        with lives_in(folder, shim) as lives:
            lives.begin(f"disk {synchronous} {folder / 'log'} 0 nothing 0")
            assert lives.ended() == 0
        found[synchronous] = read_log(folder / "log")
    return found


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def account(folder: Path, where: str, *, may_lose: bool = False) -> None:
    """All that was accepted has reached the reader, or is due, and comes; and the store is whole."""
    accepted, reached = (set(numbers(folder / name)) for name in LEDGERS)
    if not accepted or may_lose:  # it may be that nothing was made of it yet
        if (folder / STORE).exists():
            asyncio.run(drain(folder / STORE, "reader", ["a"]))
        return
    report = check(folder / STORE)
    assert report.is_sound, f"{where}: {report.findings}"
    left = numbers_due(folder / STORE)
    assert accepted - reached - left == set(), where
    came = set(asyncio.run(drain(folder / STORE, "reader", ["a"])))
    assert came == left, f"{where}: due, and not delivered"


def moments(operations: Sequence[Operation], chance: random.Random) -> list[int]:
    """After which operations to stop: half of them at a synchronisation, where it matters most."""
    edges = [at for at, operation in enumerate(operations, start=1) if operation.kind in "str"]
    near = [chance.choice(edges) + chance.choice((-1, 0, 1)) for _ in range(MOMENTS // 2)]
    return near + [chance.randrange(len(operations) + 1) for _ in range(MOMENTS - len(near))]


@pytest.mark.timeout(120 + MOMENTS)
@pytest.mark.slow
@pytest.mark.parametrize("power_fails", [False, True], ids=["killed", "power cut"])
@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_whenever_everything_stops_what_was_accepted_is_there(
    noted: dict[str, list[Operation]], tmp_path: Path, power_fails: bool, synchronous: str
) -> None:
    """With `normal`, what the machine's end may cost is lost, and the store is whole all the same."""
    seed = random.randrange(2**32)
    chance, operations = random.Random(seed), noted[synchronous]
    assert sum(operation.kind == "s" and operation.file == STORE for operation in operations) >= 1
    for number, at in enumerate(moments(operations, chance)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = torn(operations[:at], chance)
        ours = [each for each in done if each.file in LEDGERS]  # not on that disk
        store = [each for each in done if each.file not in LEDGERS]
        files = files_at(store, chance, power_fails=power_fails) | files_at(ours, chance, power_fails=False)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        where = f"seed {seed}, moment {number}: stopped after {at} of {len(operations)}"
        account(folder, where, may_lose=power_fails and synchronous == "normal")


@pytest.mark.timeout(120 + MOMENTS)
@pytest.mark.slow
def test_a_host_that_is_killed_before_within_or_after_a_write_has_what_it_accepted(
    shim: Path, noted: dict[str, list[Operation]], tmp_path: Path
) -> None:
    chance, count = random.Random(), sum(operation.kind in "ws" for operation in noted["full"])
    with lives_in(tmp_path, shim) as lives:
        for _ in range(MOMENTS // 5):
            for file in tmp_path.glob("*d"):
                file.unlink()
            for file in tmp_path.glob(f"{STORE}*"):
                file.unlink()
            at, how = chance.randrange(1, count), chance.choice(("before", "within", "after"))
            lives.begin(f"disk full {tmp_path / 'log'} {at} {how} 1")
            assert lives.ended() in (-signal.SIGKILL, 0)
            account(tmp_path, f"killed {how} operation {at}")


@pytest.mark.timeout(120 + 3 * MOMENTS)
@pytest.mark.slow
@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_disk_that_fails_for_a_while_costs_nothing(
    shim: Path, noted: dict[str, list[Operation]], tmp_path: Path, fault: int
) -> None:
    chance, count = random.Random(), sum(operation.kind in "ws" for operation in noted["full"])
    with lives_in(tmp_path, shim) as lives:
        for _ in range(1 + MOMENTS // 10):
            for file in (*tmp_path.glob("*d"), *tmp_path.glob(f"{STORE}*")):
                file.unlink()
            at, times = chance.randrange(1, count), chance.choice((1, 3, 20))
            lives.begin(f"disk full {tmp_path / 'log'} {at} {fault} {times}")
            assert lives.ended() == 0, f"{times} operations from {at} on"
            account(tmp_path, f"{times} operations from {at} on")
            assert len(numbers(tmp_path / "accepted")) == 61
