"""States of sources on disk: one that is not as it was written is not gone on from."""

import os
import random
import shutil
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from echo_core.errors import StateError
from echo_core.runtime.checkpoints import FILE_NAME, CheckpointStore, checkpoint
from faults.test_damage import damaged, say_what_to_do
from support.stores import write

DAMAGES = max(24, 2 * int(os.environ.get("ECHO_CORE_KILLS", "0")))
STATES = {"log": {"next": 100, "file": "x" * 3_000}, "clock": {"tick": 7}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    fill(path)
    return path


def fill(path: Path) -> None:
    with closing(CheckpointStore(path)) as store:
        store.save(
            [checkpoint(name, "1.0", "some", msgspec.msgpack.encode(state)) for name, state in STATES.items()]
        )


@pytest.mark.parametrize(
    "change",
    [
        "state = CAST(replace(state, x'64', x'6e') AS BLOB)",  # 100 becomes 110: ten lines left out
        "state = x'c1'",
        "generation = 'other'",
        "version = CAST(x'ff' AS TEXT)",
    ],
)
def test_a_state_that_was_changed_is_refused_and_the_others_hold(path: Path, change: str) -> None:
    write(path, f"UPDATE checkpoints SET {change} WHERE plugin = 'log'")  # noqa: S608
    with closing(CheckpointStore(path)) as store:
        with pytest.raises(StateError, match="echo-core state reset log"):
            store.load("log")
        assert [(each.plugin, each.is_damaged) for each in store.all()] == [("clock", False), ("log", True)]
        kept = store.load("clock")
        assert kept is not None
        assert kept.values() == {"tick": 7}
        assert store.reset("log").is_damaged
        assert store.load("log") is None


def test_a_state_whose_name_was_changed_is_not_taken_for_none(path: Path) -> None:
    write(path, "UPDATE checkpoints SET plugin = 'lag' WHERE plugin = 'log'")
    with closing(CheckpointStore(path)) as store:
        with pytest.raises(StateError, match=r"may be log's: lag.*echo-core state reset lag"):
            store.load("log")
        store.reset("lag")
        assert store.load("log") is None


def test_states_of_an_earlier_version_have_no_checksum_and_hold(path: Path) -> None:
    write(path, "ALTER TABLE checkpoints DROP COLUMN crc")
    with closing(CheckpointStore(path)) as store:
        kept = store.load("log")
        assert kept is not None
        assert kept.values() == STATES["log"]
        store.save([kept])
        assert not store.get("log").is_damaged


@pytest.mark.slow
@pytest.mark.timeout(120 + DAMAGES)
def test_whatever_is_damaged_no_source_goes_on_from_what_was_not_written(path: Path, tmp_path: Path) -> None:
    first = random.randrange(2**32)
    for seed in range(first, first + DAMAGES):
        copy = tmp_path / str(seed) / FILE_NAME
        copy.parent.mkdir()
        shutil.copy(path, copy)
        content = bytearray(copy.read_bytes())
        where = f"seed {seed}: {damaged(content, random.Random(seed))}"
        copy.write_bytes(content)
        with closing(CheckpointStore(copy)) as store:
            for name, state in STATES.items():
                try:
                    kept = store.load(name)
                    assert kept is None or (kept.values(), kept.generation) == (state, "some"), where
                    store.all()
                    store.save([checkpoint(name, "1.0", "new", b"\x80")])
                except StateError as error:
                    say_what_to_do(error, where)
