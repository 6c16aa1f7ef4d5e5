"""Dead letters on disk: each message once, found and saved when the file is damaged."""

import asyncio
import os
import random
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from echo_core.errors import EchoCoreError, MessageError, NotFound
from echo_core.runtime.dead_letters import (
    FILE_NAME,
    Attempt,
    DeadLetter,
    DeadLetterError,
    DeadLetterStore,
    ReplayWish,
    Selection,
)
from echo_core.runtime.dead_letters.desk import LetterDesk
from echo_core.runtime.dead_letters.files import LetterFileError
from echo_core.runtime.dead_letters.repair import check, repair
from echo_core.runtime.dead_letters.selection import selection
from echo_core.runtime.replay import Replayer
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.sqlite.schema import repaired_path
from echo_core.write_ahead import Connection
from faults.test_damage import damaged, say_what_to_do
from support.letters import letter
from support.stores import write

DAMAGES = max(24, 2 * int(os.environ.get("ECHO_CORE_KILLS", "0")))
COUNT = 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def keep(path: Path, letters: Sequence[DeadLetter]) -> None:
    with closing(DeadLetterStore(path)) as store:
        store.add(letters)


def kept(path: Path) -> dict[int, DeadLetter]:
    with closing(DeadLetterStore(path)) as store:
        return {each.id: each for each in store.newest(limit=10 * COUNT)}


def some() -> list[DeadLetter]:
    error = Attempt(number=1, time_ns=5, error_type="ValueError", error="no", traceback="File x\n" * 9)
    return [
        letter(
            {"number": number, "text": "x" * (7 * number % 900)}, attempts=(error,), topic=f"a.{number % 5}"
        )
        for number in range(COUNT)
    ]


def test_a_message_that_comes_again_after_a_crash_is_one_dead_letter(path: Path) -> None:
    first = letter(1)
    with closing(DeadLetterStore(path)) as store:
        for again in (first, msgspec.structs.replace(first, reason="other", time_ns=2_000)):
            store.add([again], once=True)
        assert [each.reason for each in store.newest()] == [first.reason]
        for other in ({"plugin": "other"}, {"topic": "other"}, {"replays": 1}):
            store.add([msgspec.structs.replace(first, **other)], once=True)
        assert store.count() == 4


SPOILT = (
    "original = CAST(x'00' || substr(original, 2) AS BLOB)",
    "attempts = x'c1'",
    "reason = CAST(x'ff20' AS TEXT)",
    "time_ns = 9223372036854775807",
    "replays = 1",
    "edited = x'90'",
)


@pytest.mark.parametrize("change", SPOILT)
def test_a_letter_that_was_changed_is_told_from_the_others_and_never_sent(path: Path, change: str) -> None:
    keep(path, [letter("whole"), letter("changed")])
    write(path, f"UPDATE dead_letters SET {change} WHERE id = 2")  # noqa: S608
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        page = desk.page(Selection(), limit=10)
        assert [(each.id, each.damaged) for each in page.letters] == [(2, True), (1, False)]
        assert desk.letter(2).damaged
        with pytest.raises(MessageError, match="not as it was written"):
            desk.edit(2, "mended")
        with pytest.raises(LetterFileError, match="dead letter 2 was damaged"):
            desk.import_lines(desk.export(Selection()), where="a file")
        job = desk.replay(ReplayWish(force=True)).job
        assert job is not None
        asyncio.run(run(desk.store))
        assert (desk.job(job.id).done, desk.job(job.id).failed) == (1, 1)
        assert "not as it was written" in desk.job(job.id).reason
    assert check(path).findings == ("dead letter 2: it is not as it was written (CRC-32)",)


async def run(letters: DeadLetterStore) -> None:
    async with MemoryTransport() as transport:
        transport.subscribe("worker", ["#"])
        await Replayer(letters, transport).run_waiting()


def test_an_edited_letter_is_whole(path: Path) -> None:
    keep(path, [letter("before")])
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        desk.edit(1, "after")
        assert desk.store.get(1).replayable().data == "after"


def test_letters_of_an_earlier_version_have_no_checksum_and_are_whole(path: Path) -> None:
    keep(path, [letter("old")])
    write(path, "UPDATE dead_letters SET crc = NULL")
    assert not kept(path)[1].is_damaged
    assert check(path).is_sound


def test_a_replay_whose_wish_cannot_be_read_sends_nothing(path: Path) -> None:
    """An empty wish would mean every letter."""
    keep(path, [letter(1)])
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        desk.replay(ReplayWish(selection=Selection(plugin="other")))
        write(path, "UPDATE replay_jobs SET wish = x'c1'")
        asyncio.run(run(desk.store))
        (job,) = desk.jobs().jobs
        assert (job.state, desk.store.count()) == ("cancelled", 1)
        assert "damaged" in job.reason


def test_what_can_be_read_is_saved_under_its_number_and_the_rest_named(path: Path) -> None:
    keep(path, some())
    write(path, "UPDATE dead_letters SET topic = 'b' WHERE id IN (7, 9)")
    whole = kept(path)
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        desk.replay(ReplayWish(first=3))
    report = repair(path)
    assert (report.letters, report.lost, report.lost_count) == (COUNT - 2, (7, 9), 2)
    assert kept(path) == {number: each for number, each in whole.items() if number not in (7, 9)}
    assert check(path).is_sound
    assert Path(report.damaged).exists()
    keep(path, [letter("new")])
    assert max(kept(path)) == COUNT + 1
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        assert [job.total for job in desk.jobs().jobs] == [3]


def test_a_repair_that_was_interrupted_is_finished_and_nothing_is_begun_meanwhile(path: Path) -> None:
    keep(path, [letter(1)])
    os.replace(path, repaired_path(path))
    with closing(DeadLetterStore(path)) as store:
        with pytest.raises(DeadLetterError, match="echo-core dlq repair"):
            store.newest()
        with pytest.raises(DeadLetterError, match="interrupted"):
            store.add([letter(2)])
    assert repair(path).letters == 1
    assert len(kept(path)) == 1


def test_what_is_kept_during_a_repair_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_core.runtime.dead_letters.database._BUSY_S", 0.05)
    keep(path, [letter(1)])
    with closing(DeadLetterStore(path)) as host:
        host.add([letter(2)])

        def write_and_go_on(_: Path) -> None:
            with pytest.raises(DeadLetterError, match=r"in use.*dlq repair is at work"):
                host.add([letter(3)])
            with pytest.raises(DeadLetterError, match=r"in use.*dlq repair is at work"):
                keep(path, [letter(3)])
            with pytest.raises(DeadLetterError, match=r"in use.*writes or repairs"):
                repair(path)

        monkeypatch.setattr("echo_core.runtime.dead_letters.repair.sync", write_and_go_on)
        assert repair(path).letters == 2
        host.add([letter(3)])
    assert len(kept(path)) == 3


@pytest.mark.parametrize("statement", ["INSERT INTO dead_letters", "PRAGMA wal_checkpoint"])
def test_a_repair_that_has_no_room_is_no_verdict_and_changes_nothing(
    path: Path, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(path, some())
    content = path.read_bytes()

    class Full(Connection):
        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            if arguments[0].startswith(statement):
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorcode = sqlite3.SQLITE_FULL
                raise error
            return super().execute(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("echo_core.runtime.dead_letters.database.Connection", Full)
        with pytest.raises(DeadLetterError, match=r"cannot be repaired.*full.*make room"):
            repair(path)
    assert path.read_bytes() == content
    assert sorted(file.name for file in path.parent.iterdir()) == [FILE_NAME, f"{FILE_NAME}-lock"]
    assert repair(path).letters == COUNT


def test_there_must_be_dead_letters(path: Path) -> None:
    for ask in (check, repair):
        with pytest.raises(NotFound):
            ask(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Letters in a file that was closed."""
    path = tmp_path_factory.mktemp("sound") / FILE_NAME
    keep(path, some())
    return path


@pytest.mark.slow
@pytest.mark.timeout(120 + DAMAGES)
def test_whatever_is_damaged_is_found_and_saved_or_named_or_refused(sound: Path, tmp_path: Path) -> None:
    first, whole = random.randrange(2**32), kept(sound)
    saved = 0
    for seed in range(first, first + DAMAGES):
        path = tmp_path / str(seed) / FILE_NAME
        path.parent.mkdir()
        shutil.copy(sound, path)
        content = bytearray(path.read_bytes())
        where = f"seed {seed}: {damaged(content, random.Random(seed))}"
        path.write_bytes(content)
        use(path, where)
        path.write_bytes(content)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        try:
            if check(path).is_sound:
                assert kept(path) == whole, where
                continue
        except DeadLetterError as error:
            say_what_to_do(error, where)
        try:
            report = repair(path)
        except DeadLetterError as error:
            say_what_to_do(error, where)
            continue
        assert check(path).is_sound, where
        missing = len(whole.keys() - kept(path).keys())
        assert missing <= report.lost_count or report.is_doubtful, where
        saved += report.letters
    assert saved > DAMAGES * COUNT // 4


def use(path: Path, where: str) -> None:
    """Whatever is asked of it, nothing but our own errors comes, each with the next step."""
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        for ask in (
            lambda: desk.page(Selection(error="no 1", topic="a.#"), limit=1_000),
            lambda: [desk.letter(number) for number in (1, COUNT // 2, COUNT)],
            lambda: list(desk.export(Selection())),
            desk.jobs,
            desk.store.depths,
            lambda: desk.edit(7, {"number": 7}),
            lambda: desk.replay(ReplayWish(first=2)),
            lambda: desk.store.jobs.take("somebody"),
            lambda: desk.store.add([letter("new")], once=True),
            lambda: desk.discard(Selection(plugin="worker")),
        ):
            try:
                ask()
            except EchoCoreError as error:
                say_what_to_do(error, where)


def test_a_value_that_is_missing_is_no_reason_to_list_nothing(path: Path) -> None:
    """A strict table has none; a file that was changed may."""
    keep(path, [letter(1), letter(2)])
    gone = ("plugin", "topic", "reason", "time_ns", "attempts", "original", "replays")
    write(
        path,
        "PRAGMA writable_schema = 1",
        "UPDATE sqlite_schema SET sql = replace(replace(sql, ' NOT NULL', ''), ') STRICT', ')') "
        "WHERE name = 'dead_letters'",
        "PRAGMA writable_schema = RESET",
        f"UPDATE dead_letters SET {', '.join(f'{name} = NULL' for name in gone)} WHERE id = 2",  # noqa: S608
    )
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        page = desk.page(Selection(), limit=10)
        assert [(each.id, each.damaged) for each in page.letters] == [(2, True), (1, False)]
        assert desk.page(Selection(topic="work.#"), limit=10).total == 1
        assert {each.plugin for each in desk.store.depths()} == {"", "worker"}
    assert check(path).letters == 1


def test_numbers_and_times_beyond_all_bounds_mean_what_they_say(path: Path) -> None:
    keep(path, [letter(1)])
    with closing(LetterDesk(DeadLetterStore(path))) as desk:
        with pytest.raises(NotFound, match=str(10**30)):
            desk.letter(10**30)
        with pytest.raises(NotFound):
            desk.job(10**30)
        page = desk.page(selection(until="9999-12-31"), limit=10**30, before=10**30)
        assert [each.id for each in page.letters] == [1]
        assert desk.page(selection(since="9999-12-31"), limit=1).total == 0
        assert desk.discard(selection(since="9999-12-31")).discarded == 0
