"""Files of SQLite: made by several processes in the same moment, and taken away while they are used."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from echo_core.errors import EchoCoreError
from echo_core.message import BaseMessage
from echo_core.runtime.checkpoints import CheckpointStore, checkpoint
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.dead_letters.database import Database
from echo_core.runtime.message_history.store import HistoryStore
from echo_core.transports.sqlite.schema import connect
from echo_core.write_ahead import OpenFiles, keep_write_ahead_log
from runtime.message_history.history import accept, asking, recording
from support.letters import letter


def open_messages(path: Path) -> None:
    connect(path, busy_s=10).close()


def open_dead_letters(path: Path) -> None:
    with closing(Database(path)) as letters, letters.writing():
        pass


def open_checkpoints(path: Path) -> None:
    with closing(CheckpointStore(path)) as checkpoints:
        checkpoints.save([])


def open_history(path: Path) -> None:
    with closing(HistoryStore(path)) as history:
        history.end(1, 1)


@pytest.mark.parametrize("open_it", [open_messages, open_dead_letters, open_checkpoints, open_history])
def test_all_who_make_a_file_in_the_same_moment_get_it(
    open_it: Callable[[Path], None], tmp_path: Path
) -> None:
    def host(path: Path) -> None:
        together.wait()
        open_it(path)

    together = threading.Barrier(4)
    with ThreadPoolExecutor(4) as hosts:
        for turn in range(25):
            for opened in [hosts.submit(host, tmp_path / str(turn)) for _ in range(4)]:
                opened.result()


@pytest.fixture
def used(tmp_path: Path) -> Iterator[tuple[Path, OpenFiles]]:
    """A file that a connection has open."""
    path = tmp_path / "used.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        keep_write_ahead_log(connection, busy_s=1)
        connection.execute("CREATE TABLE some (thing)")
        yield path, OpenFiles(path)


def replace(path: Path) -> None:
    shutil.copy(path, f"{path}-copy")
    os.replace(f"{path}-copy", path)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize("take_away", [Path.unlink, replace])
def test_a_file_that_is_taken_away_is_noticed(
    used: tuple[Path, OpenFiles], suffix: str, take_away: Callable[[Path], None]
) -> None:
    path, files = used
    assert files.moved() == ""
    take_away(path.with_name(path.name + suffix))
    assert files.moved() == path.name + suffix


def test_a_folder_that_is_renamed_takes_all_of_them_away(used: tuple[Path, OpenFiles]) -> None:
    path, files = used
    path.parent.rename(path.parent.with_name("elsewhere"))
    assert files.moved() == "used.sqlite, used.sqlite-wal, used.sqlite-shm"


def write_letters(path: Path, take_away: Callable[[], None]) -> bool:
    """Whether the second of two letters is there that were kept before and after it."""
    with closing(DeadLetterStore(path)) as kept:
        kept.add([letter("before")])
        take_away()
        kept.add([letter("after")])
    with closing(DeadLetterStore(path)) as found:
        return "after" in [each.message().data for each in found.newest()]


def write_checkpoints(path: Path, take_away: Callable[[], None]) -> bool:
    with closing(CheckpointStore(path)) as kept:
        kept.save([checkpoint("source", "1", "generation", b"before")])
        take_away()
        kept.save([checkpoint("source", "1", "generation", b"after")])
    with closing(CheckpointStore(path)) as found:
        return found.get("source").state == b"after"


def write_history(path: Path, take_away: Callable[[], None]) -> bool:
    with recording(path) as recorder:
        accept(recorder, BaseMessage(source="origin"))
        recorder.flush()
        take_away()
        after = accept(recorder, BaseMessage(source="origin"))
        recorder.flush()
        recorder.flush()
    return bool(asking(path, lambda history: history.trace(after.id)).messages)


@pytest.mark.parametrize("write", [write_letters, write_checkpoints, write_history])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_what_is_written_after_that_is_in_the_file_that_is_there(
    write: Callable[[Path, Callable[[], None]], bool], suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.sqlite"
    assert write(path, lambda: path.with_name(path.name + suffix).unlink())


def read_letters(path: Path) -> object:
    with closing(DeadLetterStore(path)) as found:
        return found.newest()


def read_checkpoints(path: Path) -> object:
    with closing(CheckpointStore(path)) as found:
        return found.all()


def read_history(path: Path) -> object:
    with closing(HistoryStore(path)) as found:
        return found.keys()


@pytest.mark.parametrize(
    ("write", "read"),
    [
        (write_letters, read_letters),
        (write_checkpoints, read_checkpoints),
        (write_history, read_history),
    ],
)
def test_a_schema_that_is_no_text_any_more_is_damage_like_any_other(
    write: Callable[[Path, Callable[[], None]], bool], read: Callable[[Path], object], tmp_path: Path
) -> None:
    """Python's module fails at what SQLite says of it."""
    path = tmp_path / "file.sqlite"
    write(path, lambda: None)
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE", b"CREATE \xffABLE"))
    with pytest.raises(EchoCoreError, match="schema is damaged"):
        read(path)
