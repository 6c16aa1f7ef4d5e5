"""A store that was damaged: what is found, what is saved, and that nothing goes missing without a word."""

import asyncio
import logging
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from echo_core.errors import NotFound, StoreError
from echo_core.testing import async_test
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite import repair as repair_module
from echo_core.transports.sqlite.inspection import check, numbers
from echo_core.transports.sqlite.repair import repair
from echo_core.transports.sqlite.schema import repaired_path
from echo_core.transports.sqlite.upkeep import compact, forget
from support.stores import drain, fill, rows, spoil, store_at, write

PAGE = 4_096
ALL = set(range(100, 400))
EVEN = set(range(0, 400, 2))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 messages, of which the first 100 were settled by one of two subscriptions."""
    path = tmp_path_factory.mktemp("sound") / "messages.sqlite"
    asyncio.run(fill(path, 400, settled=100))
    return path


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "messages.sqlite"
    shutil.copy(sound, path)
    logging.disable(logging.ERROR)
    yield path
    logging.disable(logging.NOTSET)


def test_a_sound_store_is_found_sound(store: Path) -> None:
    report = check(store)
    assert report.is_sound
    assert (report.messages, report.deliveries) == (400, 500)


def test_the_numbers_of_a_store(store: Path) -> None:
    found = numbers(store)
    assert (found.messages, found.accepted, found.hosts) == (400, 400, ())
    assert found.file_bytes == store.stat().st_size
    waiting = {one.name: (one.patterns, one.waiting, one.held) for one in found.subscriptions}
    assert waiting == {"all": (("a.#",), 300, 0), "even": (("a.even",), 200, 0)}
    assert found.oldest_ns == found.subscriptions[1].oldest_ns


def damage(content: bytearray, kind: str, chance: random.Random) -> bytearray:
    pages = len(content) // PAGE
    for _ in range(chance.choice((1, 1, 2, 5))):
        page = chance.randrange(pages) * PAGE
        if kind == "pages of noise":
            content[page : page + PAGE] = chance.randbytes(PAGE)
        elif kind == "pages of nothing":
            content[page : page + PAGE] = bytes(PAGE)
        elif kind == "a few bytes":
            at = chance.randrange(len(content) - 16)
            content[at : at + 16] = chance.randbytes(16)
        else:
            return content[: chance.randrange(len(content) // 2, len(content))]
    return content


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["pages of noise", "pages of nothing", "a few bytes", "a cut tail"])
def test_whatever_is_damaged_all_that_was_due_comes_or_is_named_as_lost(
    store: Path, kind: str, seed: int
) -> None:
    chance = random.Random(f"{kind} {seed}")
    before = bytes(damage(bytearray(store.read_bytes()), kind, chance))
    store.write_bytes(before)
    try:
        report = repair(store)
    except StoreError:  # so little is left that nothing can be said of it; the file is as it was
        assert store.read_bytes() == before
        return
    assert check(store).is_sound
    assert Path(report.damaged).read_bytes() == before
    missing = {
        "all": ALL - set(asyncio.run(drain(store, "all", ["a.#"]))),
        "even": EVEN - set(asyncio.run(drain(store, "even", ["a.even"]))),
    }
    count = sum(len(numbers) for numbers in missing.values())
    assert count <= report.lost_count + 2 * report.unknown_count
    if not report.unknown_count and report.lost_count == len(report.lost):
        named = set(report.lost)
        assert all(f"{number + 1} for {name}" in named for name in missing for number in missing[name])


def test_a_repaired_store_goes_on_where_the_old_one_was(store: Path) -> None:
    write(store, "UPDATE deliveries SET attempt = 3 WHERE last = 400")
    before = rows(store, ATTEMPTED)
    repair(store)
    asyncio.run(fill(store, 1))
    assert rows(store, "SELECT max(seq) FROM blocks") == [(401,)]
    assert rows(store, ATTEMPTED) == before != []


ATTEMPTED = "SELECT subscription, first, last, count FROM deliveries WHERE attempt = 3"


def test_a_message_that_was_changed_is_found_and_named(store: Path) -> None:
    spoil(store, 201)
    assert [(finding.where, finding.detail) for finding in check(store).findings] == [
        ("message", "201: it is not as it was written (CRC-32)")
    ]
    report = repair(store)
    assert report.lost == ("201 for all", "201 for even")
    assert (report.messages, report.deliveries, report.due_again) == (399, 498, 0)
    assert check(store).is_sound
    assert set(asyncio.run(drain(store, "all", ["a.#"]))) == ALL - {200}
    assert set(asyncio.run(drain(store, "even", ["a.even"]))) == EVEN - {200}


def test_a_block_that_is_gone_is_found_and_what_was_due_of_it_is_counted(store: Path) -> None:
    ((last,),) = rows(store, "SELECT min(seq) FROM blocks")
    write(store, "DELETE FROM blocks WHERE seq = (SELECT min(seq) FROM blocks)")
    assert [finding.detail for finding in check(store).findings] == [
        f"101 to {last} of subscription 1: its message or subscription is gone",
        f"1 to {last - 1} of subscription 2: its message or subscription is gone",
    ]
    report = repair(store)
    gone = set(range(last))  # numbers are from 0, seqs from 1
    assert report.lost_count == len(ALL & gone) + len(EVEN & gone)
    assert report.deliveries == 500 - report.lost_count
    assert check(store).is_sound


@pytest.mark.parametrize("change", ["first = first + 2", "last = last - 2", "count = count - 1"])
def test_a_delivery_that_stands_for_less_than_it_did_is_found_and_all_of_its_messages_come(
    store: Path, change: str
) -> None:
    statement = f"UPDATE deliveries SET {change} WHERE subscription = 2 AND last = 399"  # noqa: S608
    write(store, statement)
    assert [finding.where for finding in check(store).findings] == ["delivery"]
    report = repair(store)
    assert report.lost_count == 0
    assert check(store).is_sound
    assert set(asyncio.run(drain(store, "even", ["a.even"]))) == EVEN


def test_a_page_in_the_place_of_that_with_the_deliveries_is_found_and_everything_comes_again(
    store: Path,
) -> None:
    """Its rows cannot be missed: SQLite finds nothing wrong with a table that has none."""
    write(store, "DELETE FROM deliveries")
    assert {(finding.where, finding.detail[-31:]) for finding in check(store).findings} == {
        ("subscription", "its deliveries are not all there"[1:])
    }
    with pytest.raises(StoreError, match="echo-core store repair"):
        asyncio.run(fill(store, 1))
    assert repair(store).due_again == 600
    assert check(store).is_sound
    assert set(asyncio.run(drain(store, "even", ["a.even"]))) == EVEN


def test_a_head_that_is_damaged_loses_its_block_and_no_other(store: Path) -> None:
    write(store, "UPDATE blocks SET crc = crc + 1 WHERE seq = 400")
    assert {finding.where for finding in check(store).findings} == {"message", "delivery"}
    left = set(range(rows(store, "SELECT max(seq) FROM blocks WHERE seq < 400")[0][0]))
    report = repair(store)
    assert report.lost_count == len(ALL - left) + len(EVEN - left)
    assert set(asyncio.run(drain(store, "all", ["a.#"]))) == ALL & left
    assert set(asyncio.run(drain(store, "even", ["a.even"]))) == EVEN & left


def test_a_store_of_which_nothing_is_left_is_refused_and_left_alone(store: Path) -> None:
    content = store.read_bytes()[: 2 * PAGE]
    store.write_bytes(content)
    with pytest.raises(StoreError, match="restore a copy; or move messages"):
        repair(store)
    assert store.read_bytes() == content
    assert sorted(file.name for file in store.parent.iterdir()) == ["messages.sqlite", "messages.sqlite-lock"]


def test_a_repair_that_has_no_room_is_no_verdict_and_changes_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = store.read_bytes()

    connect = schema.connect

    def small(path: Path, **options: Any) -> sqlite3.Connection:
        connection = connect(path, **options)
        if path != store:
            connection.execute("PRAGMA max_page_count = 16")
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(schema, "connect", small)
        with pytest.raises(StoreError, match=r"cannot be repaired.*make room on the disk"):
            repair(store)
    assert store.read_bytes() == content
    assert sorted(file.name for file in store.parent.iterdir()) == ["messages.sqlite", "messages.sqlite-lock"]
    assert repair(store).messages == 400


def test_what_is_accepted_while_a_store_is_repaired_is_not_lost(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def host_begins(building: Path) -> None:
        with pytest.raises(StoreError, match=r"being changed.*store repair"):
            asyncio.run(fill(store, 1, options="busy=50ms"))
        for change in (repair, compact, lambda path: forget(path, "all")):
            with pytest.raises(StoreError, match=r"in use.*another command"):
                change(store)

    monkeypatch.setattr(repair_module, "sync", host_begins)
    assert repair(store).messages == 400
    asyncio.run(fill(store, 1))
    assert check(store).messages == 401


@async_test
async def test_a_host_waits_for_a_repair_to_end(store: Path) -> None:
    with leases.alone(store):
        beginning = asyncio.create_task(fill(store, 1))
        await asyncio.sleep(0.05)
        assert not beginning.done()
    await beginning
    assert check(store).messages == 401


def test_each_repair_keeps_the_file_it_replaced_with_its_log(store: Path) -> None:
    kept = {Path(repair(store).damaged) for _ in range(3)}
    assert len(kept) == 3
    assert all(file.exists() for file in kept)
    for file in kept:
        file.unlink()
    log = store.with_name("messages.sqlite.damaged-20261126T000000-wal")
    log.touch()  # a repair was interrupted just after it had put the log aside
    assert f"{repair(store).damaged}-wal" == str(log)


def test_a_host_of_another_user_may_live(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.open", Mock(side_effect=PermissionError))
    assert leases.is_alive(store, 7)


def test_a_repair_that_was_interrupted_is_finished_and_no_empty_store_begun_meanwhile(store: Path) -> None:
    store.rename(repaired_path(store))
    with pytest.raises(StoreError, match="echo-core store repair finishes it"):
        asyncio.run(fill(store, 1))
    report = repair(store)
    assert (report.messages, report.deliveries) == (400, 500)
    assert check(store).is_sound


@async_test
async def test_a_store_in_use_is_neither_repaired_nor_compacted(store: Path) -> None:
    async with store_at(store):
        for change in (repair, compact):
            with pytest.raises(StoreError, match="in use"):
                change(store)
        assert check(store).is_sound
        assert [host.is_alive for host in numbers(store).hosts] == [True]


def test_compacting_gives_space_back_and_changes_nothing_else(store: Path) -> None:
    asyncio.run(drain(store, "all", ["a.#"]))
    asyncio.run(drain(store, "even", ["a.even"]))
    asyncio.run(fill(store, 4))
    report = compact(store)
    assert report.after_bytes == store.stat().st_size
    assert report.after_bytes < report.before_bytes / 2
    assert set(asyncio.run(drain(store, "all", ["a.#"]))) == set(range(4))


def test_a_forgotten_subscription_is_gone_with_what_waited_for_it(store: Path) -> None:
    assert forget(store, "all").dropped == 300
    assert [one.name for one in numbers(store).subscriptions] == ["even"]
    assert set(asyncio.run(drain(store, "even", ["a.even"]))) == EVEN
    assert rows(store, "SELECT count(*) FROM blocks") == [(0,)]
    with pytest.raises(NotFound, match="all"):
        forget(store, "all")


def test_there_must_be_a_store(tmp_path: Path) -> None:
    for look in (check, numbers, compact, repair, lambda path: forget(path, "all")):
        with pytest.raises(StoreError, match="there is no store"):
            look(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []
