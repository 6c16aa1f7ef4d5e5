"""Messages in a file: what survives, who gets it, and what happens when the disk or a host does not."""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from echo_core.errors import QueueFull, StoreError, TransportClosed
from echo_core.message import BaseMessage
from echo_core.testing import async_test
from echo_core.transports.base import Delivery, Subscription
from echo_core.transports.sqlite.blocks import Block, read_head
from echo_core.transports.sqlite.leases import living, lock_path
from echo_core.transports.sqlite.schema import failed
from echo_core.transports.sqlite.settings import settings_from_url
from echo_core.transports.sqlite.transport import SqliteTransport, open_from_url
from support.stores import spoil


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "state" / "messages.sqlite"


def transport(store: Path, options: str = "") -> SqliteTransport:
    return open_from_url(f"sqlite://{store}?{options}")


def message(data: Any) -> BaseMessage:
    return BaseMessage(source="test", data=data)


async def publish(to: SqliteTransport, *data: Any, topic: str = "a") -> None:
    for item in data:
        await to.publish(topic, message(item))


async def publish_until_refused(to: SqliteTransport, accepted: list[str], text: str) -> None:
    for number in range(1_000):
        await publish(to, f"{number} {text}")
        accepted.append(f"{number} {text}")


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(60):
        while len(taken) < count:
            taken += await subscription.receive(count - len(taken))
    return taken


def data(deliveries: Sequence[Delivery]) -> list[Any]:
    return [delivery.message.data for delivery in deliveries]


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        return connection.execute(query).fetchall()


def topics(store: Path) -> list[str]:
    """Of the messages that are in the file."""
    heads = [read_head(*row) for row in rows(store, "SELECT seq, count, crc, head FROM blocks ORDER BY seq")]
    return [Block.of(head).kind(head.first).topic for head in heads if head is not None]


def write(store: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def put(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def get(file: Path) -> bytes:
    return file.read_bytes()


async def until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def killed(store: Path, options: str = "") -> AsyncIterator[SqliteTransport]:
    """A transport in this process whose file is, at the end of the block, as a kill would leave it.

    What the block made is copied as it lies there; a clean close would write more.
    """
    opened = transport(store, options)
    await opened.open()
    try:
        yield opened
        kept = {
            name: name.read_bytes() for name in (store, store.with_name(f"{store.name}-wal")) if name.exists()
        }
    finally:
        await opened.close()
    for file, content in kept.items():
        put(file, content)


@async_test
async def test_what_was_accepted_is_there_after_a_restart_in_order(store: Path) -> None:
    async with transport(store) as first:
        first.subscribe("reader", ["a"])
        await publish(first, *range(300))
    async with transport(store) as second, second.subscribe("reader", ["a"]) as reader:
        taken = await take(reader, 300)
        assert data(taken) == list(range(300))
        assert {delivery.attempt for delivery in taken} == {1}


@async_test
async def test_what_is_published_in_one_turn_of_the_loop_is_written_together(store: Path) -> None:
    async with transport(store) as opened:
        opened.subscribe("reader", ["a"])
        for _ in range(3):
            await asyncio.gather(*(publish(opened, number) for number in range(200)))
    assert rows(store, "SELECT count FROM blocks") == [(200,)] * 3


@async_test
async def test_messages_wait_for_a_subscription_that_nobody_listens_to(store: Path) -> None:
    async with transport(store) as first:
        async with first.subscribe("reader", ["a"]):
            pass
        await publish(first, "while it was away")
        assert first.unsettled() == 0  # nothing that this process could settle
        async with first.subscribe("reader", ["a"]) as reader:
            await until(lambda: first.unsettled() == 1)
            (delivery,) = await take(reader, 1)
            await delivery.settle()
            await first.wait_until_settled()


@async_test
async def test_after_a_kill_what_was_in_hand_counts_an_attempt_and_the_rest_does_not(store: Path) -> None:
    async with killed(store) as first, first.subscribe("reader", ["a"]) as reader:
        await publish(first, "settled", "in hand", "not begun", "never seen")
        settled, _, _ = await take(reader, 3)
        await settled.settle()
        # The marks of what was handed out are written behind its back.
        await until(lambda: rows(store, "SELECT sum(count) FROM deliveries WHERE attempt = 1") == [(1,)])
        await until(lambda: rows(store, "SELECT sum(count) FROM deliveries WHERE attempt = 0") == [(2,)])
    async with transport(store) as second, second.subscribe("reader", ["a"]) as reader:
        taken = await take(reader, 3)
        assert [(d.message.data, d.attempt) for d in taken] == [
            ("in hand", 2),
            ("not begun", 1),
            ("never seen", 1),
        ]


@async_test
async def test_an_orderly_end_gives_back_what_was_not_settled(store: Path) -> None:
    async with transport(store) as first, first.subscribe("reader", ["a"]) as reader:
        await publish(first, 1, 2)
        await take(reader, 1)
    assert not list(store.parent.glob("*-host*"))
    assert rows(store, "SELECT * FROM hosts") == []
    async with transport(store) as second, second.subscribe("reader", ["a"]) as reader:
        assert [(d.message.data, d.attempt) for d in await take(reader, 2)] == [(1, 2), (2, 1)]


@async_test
async def test_attempts_go_on_being_counted_over_restarts(store: Path) -> None:
    attempts: list[int] = []
    for _ in range(3):
        async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
            if not attempts:
                await publish(opened, 1)
            (delivery,) = await take(reader, 1)
            attempts.append(delivery.attempt)
            await delivery.retry()
            (again,) = await take(reader, 1)
            attempts.append(again.attempt)
    assert attempts == [1, 2, 3, 4, 5, 6]


@async_test
async def test_a_delay_outlives_a_restart(store: Path) -> None:
    async with transport(store) as first, first.subscribe("reader", ["a"]) as reader:
        await publish(first, "later", "now")
        later, _ = await take(reader, 2)
        await later.retry(3_600)
    async with transport(store) as second, second.subscribe("reader", ["a"]) as reader:
        (delivery,) = await take(reader, 1)
        await delivery.settle()
        assert delivery.message.data == "now"
        await until(lambda: reader.statistics().waiting == 1)
        assert second.unsettled() == 1


@pytest.mark.parametrize("jump_s", [4_000, -4_000])
@pytest.mark.parametrize("is_restarted", [True, False])
@async_test
async def test_a_clock_that_jumps_delays_nothing_for_longer(
    store: Path, jump_s: int, is_restarted: bool
) -> None:
    now_ns = 10**18

    def clock() -> int:
        return now_ns

    first = SqliteTransport(settings_from_url(f"sqlite://{store}"), time_ns=clock)
    second = SqliteTransport(settings_from_url(f"sqlite://{store}"), time_ns=clock)
    async with first, first.subscribe("reader", ["a"]) as reader:
        await publish(first, "later")
        (later,) = await take(reader, 1)
        await later.retry(3_600)
        await until(lambda: rows(store, "SELECT count(due_ns) FROM deliveries WHERE first > 0") == [(1,)])
        if not is_restarted:
            now_ns += jump_s * 10**9
            assert [(d.message.data, d.attempt) for d in await take(reader, 1)] == [("later", 2)]
            return
    now_ns += jump_s * 10**9
    async with second, second.subscribe("reader", ["a"]) as reader:
        assert [(d.message.data, d.attempt) for d in await take(reader, 1)] == [("later", 2)]


@async_test
async def test_a_file_that_can_only_be_read_refuses_what_is_published(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1)
        writer = opened._writer
        assert writer is not None
        writer._connection.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreError, match="can be written"):
            await publish(opened, 2)
        (delivery,) = await take(reader, 1)
        await delivery.settle()
        writer._connection.execute("PRAGMA query_only = 0")
        await until(lambda: rows(store, "SELECT sum(count) FROM deliveries") == [(0,)])


@async_test
async def test_a_long_backlog_comes_in_order_without_being_held_in_memory(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"], queue_limit=10_000) as reader:
        await asyncio.gather(*(publish(opened, number) for number in range(3_000)))
        assert reader.statistics().waiting == 3_000
        assert rows(store, "SELECT sum(count) FROM deliveries WHERE host IS NOT NULL")[0][0] <= 1_024
        came = []
        for _ in range(3_000):
            (delivery,) = await take(reader, 1)
            came.append(delivery.message.data)
            await delivery.settle()
        assert came == list(range(3_000))
        await opened.wait_until_settled()
    assert rows(store, "SELECT sum(count) FROM deliveries") == [(0,)]


@async_test
async def test_changed_patterns_hold_from_then_on_and_what_was_accepted_before_still_comes(
    store: Path,
) -> None:
    async with transport(store) as opened:
        async with opened.subscribe("reader", ["old"]):
            await publish(opened, 1, topic="old")
        async with opened.subscribe("reader", ["new"]) as reader:
            await publish(opened, 2, topic="old")
            await publish(opened, 3, topic="new")
            assert data(await take(reader, 2)) == [1, 3]


@async_test
async def test_a_newer_subscription_of_the_same_name_takes_over_and_gives_way_again(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as old:
        await publish(opened, 1)
        async with opened.subscribe("reader", ["a"]) as new:
            await publish(opened, 2)
            assert data(await take(new, 1)) == [2]
        await publish(opened, 3)
        assert data(await take(old, 2)) == [1, 3]


@async_test
async def test_a_handler_does_not_wait_for_the_disk_and_nothing_it_made_is_lost(store: Path) -> None:
    """What is made from a message in hand is written before that message's settlement, or with it."""
    async with transport(store) as opened, opened.subscribe("relay", ["a"]) as relay:
        await publish(opened, "parent")
        (parent,) = await take(relay, 1)
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as thief:
            thief.execute("BEGIN EXCLUSIVE")  # nothing can be written
            child = parent.message.derive("child", source="relay")
            await asyncio.wait_for(opened.publish("b", child), 60)
            await parent.settle()
            assert opened.unsettled() == 1  # the child, though nobody in this process wants it
            elsewhere = parent.message.derive("child of another", source="other")
            waiting = asyncio.ensure_future(opened.publish("b", elsewhere))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            thief.execute("ROLLBACK")
        await waiting
        await opened.wait_until_settled()
    assert rows(store, "SELECT sum(count) FROM deliveries") == [(0,)]


@async_test
async def test_what_a_handler_made_is_kept_while_the_disk_refuses_and_its_message_is_not_settled(
    store: Path,
) -> None:
    async with transport(store) as opened:
        relay, sink = opened.subscribe("relay", ["a"]), opened.subscribe("sink", ["b"])
        await publish(opened, "parent")
        (parent,) = await take(relay, 1)
        writer = opened._writer
        assert writer is not None
        writer._connection.execute("PRAGMA query_only = 1")
        await opened.publish("b", parent.message.derive("child", source="relay"))
        await parent.settle()
        with pytest.raises(StoreError):
            await publish(opened, "not made from anything")
        assert rows(store, "SELECT subscription FROM deliveries WHERE first > 0") == [(1,)]
        with pytest.raises(StoreError):  # from now on a handler hears of it too
            await opened.publish("b", parent.message.derive("another child", source="relay"))
        writer._connection.execute("PRAGMA query_only = 0")
        assert data(await take(sink, 1)) == ["child"]
        assert rows(store, "SELECT subscription FROM deliveries WHERE first > 0") == [(2,)]


# Several hosts


@async_test
async def test_hosts_that_share_a_subscription_get_each_message_once_between_them(store: Path) -> None:
    async with transport(store) as one, transport(store) as two:
        readers = [one.subscribe("reader", ["a"]), two.subscribe("reader", ["a"])]
        came: list[list[int]] = [[], []]

        async def read(which: int) -> None:
            async for delivery in readers[which]:
                came[which].append(delivery.message.data)
                await delivery.settle()
                if len(came[which]) == 100:
                    await until(lambda: came[1 - which])

        tasks = [asyncio.create_task(read(which)) for which in (0, 1)]
        await asyncio.gather(*(publish(one, number) for number in range(1_000)))
        await until(lambda: len(came[0]) + len(came[1]) >= 1_000)
        for task in tasks:
            task.cancel()
    assert sorted(came[0] + came[1]) == list(range(1_000))


@async_test
async def test_a_host_hears_what_another_publishes(store: Path) -> None:
    async with transport(store) as one, transport(store) as two, two.subscribe("reader", ["a"]) as reader:
        await publish(one, "from elsewhere")
        assert data(await take(reader, 1)) == ["from elsewhere"]


HOST = """
import asyncio, contextlib, sqlite3, sys
from echo_core.message import BaseMessage
from echo_core.transports.sqlite.schema import failed
from echo_core.transports.sqlite.settings import settings_from_url
from echo_core.transports.sqlite.transport import open_from_url

async def main():
    async with open_from_url(sys.argv[1]) as transport, transport.subscribe("reader", ["a"]) as reader:
        for number in range(3):
            await transport.publish("a", BaseMessage(source="host", data=number))
        await reader.receive(1)
        with contextlib.closing(sqlite3.connect(sys.argv[2])) as store:
            while not store.execute("SELECT 1 FROM deliveries WHERE attempt = 1").fetchall():
                await asyncio.sleep(0.01)  # that it was handed out is written behind its back
        print("ready", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@contextlib.contextmanager
def another_host(store: Path, options: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that holds three messages of `reader`, the first of them handed out."""
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, f"sqlite://{store}?{options}", str(store)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        yield host
    finally:
        host.kill()
        host.communicate()


@async_test
async def test_a_host_that_comes_by_a_link_shares_the_store_with_one_that_does_not(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(store)
    async with transport(store) as one, one.subscribe("reader", ["a"], queue_limit=64) as reader:
        await publish(one, 1)
        (held,) = await take(reader, 1)
        async with transport(tmp_path / "link") as other, other.subscribe("reader", ["a"]):
            assert len(living(store)) == 2
            assert rows(store, "SELECT count(*) FROM deliveries WHERE host = 1") == [(1,)]
            await held.settle()


@async_test
async def test_what_a_killed_host_held_goes_to_the_others(store: Path) -> None:
    with another_host(store, "lease=2s") as host:
        async with transport(store, "lease=2s") as two, two.subscribe("reader", ["a"]) as reader:
            host.send_signal(signal.SIGKILL)
            taken = await take(reader, 3)
            assert [(d.message.data, d.attempt) for d in taken] == [(0, 2), (1, 1), (2, 1)]


@async_test
async def test_what_a_killed_host_held_is_free_at_the_next_start_at_once(store: Path) -> None:
    with another_host(store, "lease=1h") as host:
        host.kill()
        host.wait()
    async with transport(store, "lease=1h") as two, two.subscribe("reader", ["a"]) as reader:
        assert len(await take(reader, 3)) == 3
        assert len(list(store.parent.glob("*-host*"))) == 1  # our own


@async_test
async def test_a_stopped_host_loses_what_it_holds_when_its_lease_is_over(store: Path) -> None:
    with another_host(store, "lease=2s") as host:
        host.send_signal(signal.SIGSTOP)
        async with transport(store, "lease=2s") as two, two.subscribe("reader", ["a"]) as reader:
            assert data(await take(reader, 3)) == [0, 1, 2]
        host.send_signal(signal.SIGCONT)


@async_test
async def test_a_host_whose_lease_was_taken_goes_on_as_a_new_one(store: Path) -> None:
    async with transport(store, "lease=3s") as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1, 2)
        (held,) = await take(reader, 1)
        write(store, "DELETE FROM hosts", "UPDATE deliveries SET host = NULL")
        await until(lambda: reader.statistics().waiting == 2)
        again = await take(reader, 2)
        assert data(again) == [1, 2]
        await held.settle()
        for delivery in again:
            await delivery.settle()
        await opened.wait_until_settled()
    assert rows(store, "SELECT sum(count) FROM deliveries") == [(0,)]


@async_test
async def test_a_message_that_is_settled_twice_takes_no_other_with_it(store: Path) -> None:
    async with transport(store, "lease=3s") as opened, opened.subscribe("reader", ["a"]) as reader:
        await asyncio.gather(*(publish(opened, number) for number in range(3)))
        (held,) = await take(reader, 1)
        write(store, "DELETE FROM hosts", "UPDATE deliveries SET host = NULL")
        await until(lambda: reader.statistics().waiting == 3)
        first, _, third = await take(reader, 3)
        for delivery in (held, first, third):
            await delivery.settle()
        await until(lambda: rows(store, "SELECT sum(count) FROM deliveries") == [(1,)])
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        assert data(await take(reader, 1)) == [1]


# What stays in the file


@async_test
async def test_settled_messages_leave_the_file(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        for _ in range(3):
            await publish(opened, *range(50))
            for delivery in await take(reader, 50):
                await delivery.settle()
            await until(lambda: rows(store, "SELECT count(*) FROM blocks") == [(0,)])


@async_test
async def test_a_message_leaves_when_the_last_subscription_has_settled_it(store: Path) -> None:
    async with transport(store) as opened:
        quick, slow = opened.subscribe("quick", ["a"]), opened.subscribe("slow", ["#"])
        await publish(opened, 1, 2)
        for delivery in await take(quick, 2):
            await delivery.settle()
        await (await take(slow, 1))[0].settle()
        await until(lambda: rows(store, "SELECT seq FROM blocks") == [(2,)])


@async_test
async def test_settled_messages_stay_as_long_as_they_are_to_be_retained(store: Path) -> None:
    async with transport(store, "retain=1h") as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1)
        await publish(opened, 2, topic="nobody.wants.it")
        await (await take(reader, 1))[0].settle()
    assert topics(store) == ["a", "nobody.wants.it"]
    small = transport(store, "retain=1h&retain_size=1KB")
    async with small, small.subscribe("reader", ["a"]) as reader:
        await publish(small, 3)
        await (await take(reader, 1))[0].settle()
        await until(lambda: rows(store, "SELECT count(*) FROM blocks") == [(0,)])


@async_test
async def test_a_message_that_nobody_wants_is_not_even_written(store: Path) -> None:
    async with transport(store) as opened:
        await publish(opened, 1)
    assert rows(store, "SELECT count(*) FROM blocks") == [(0,)]


@async_test
async def test_a_store_that_is_as_large_as_it_may_be_refuses_and_takes_again_when_there_is_room(
    store: Path,
) -> None:
    async with transport(store, "max_size=200KB") as opened, opened.subscribe("reader", ["a"]) as reader:
        accepted: list[str] = []
        with pytest.raises(QueueFull, match="200,000 bytes"):
            await publish_until_refused(opened, accepted, "x" * 10_000)
        for delivery in await take(reader, len(accepted)):
            await delivery.settle()
        await until(lambda: rows(store, "SELECT count(*) FROM blocks") == [(0,)])
        await publish(opened, "there is room again")


# When something is wrong


@async_test
async def test_a_file_of_another_program_is_refused_and_left_alone(store: Path) -> None:
    store.parent.mkdir()
    write(store, "CREATE TABLE theirs (x)")
    with pytest.raises(StoreError, match="belongs to another program"):
        await transport(store).open()
    assert rows(store, "SELECT name FROM sqlite_schema") == [("theirs",)]


@async_test
async def test_a_file_that_is_no_database_is_refused_with_the_next_step(store: Path) -> None:
    put(store, b"no database, and longer than a header of one would be" * 100)
    with pytest.raises(StoreError, match="echo-core store repair"):
        await transport(store).open()


@async_test
async def test_a_newer_schema_is_refused(store: Path) -> None:
    async with transport(store):
        pass
    write(store, "PRAGMA user_version = 99")
    with pytest.raises(StoreError, match=r"schema 99.*run the version that wrote it until all is settled"):
        await transport(store).open()


@async_test
async def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "file", b"")
    with pytest.raises(StoreError, match="can be written"):
        await transport(tmp_path / "file" / "messages.sqlite").open()


@async_test
async def test_a_lock_that_another_program_holds_is_waited_for_and_then_named(store: Path) -> None:
    async with transport(store, "busy=0.1s") as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1)
        (delivery,) = await take(reader, 1)
        await asyncio.sleep(0.05)
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as thief:
            thief.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match="find the program that holds the file's lock"):
                await publish(opened, 2)
            await delivery.settle()
            thief.execute("ROLLBACK")
        await publish(opened, 3)
        assert data(await take(reader, 1)) == [3]
    assert (
        rows(store, "SELECT first FROM deliveries WHERE first > 0") == [(3,)]
        or len(rows(store, "SELECT first FROM deliveries WHERE first > 0")) == 1
    )


@async_test
async def test_a_full_disk_refuses_what_is_published_and_loses_nothing(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, "before")
        writer = opened._writer
        assert writer is not None
        pages = writer._connection.execute("PRAGMA max_page_count = 40").fetchone()
        assert pages == (40,)
        accepted = ["before"]
        with pytest.raises(StoreError, match="make room on the disk"):
            await publish_until_refused(opened, accepted, "x" * 10_000)
        assert "full" in opened.trouble()
        taken = await take(reader, len(accepted))
        assert data(taken) == accepted
        for delivery in taken:
            await delivery.settle()
        await until(lambda: rows(store, "SELECT count(*) FROM blocks") == [(0,)])
        await publish(opened, "after")
        assert opened.trouble() == ""
        assert data(await take(reader, 1)) == ["after"]


@async_test
async def test_of_a_batch_that_fills_the_disk_it_is_told_what_was_accepted(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"], queue_limit=10_000) as reader:
        writer = opened._writer
        assert writer is not None
        writer._connection.execute("PRAGMA max_page_count = 100")
        messages = [BaseMessage(source="test", data=f"{number} {'x' * 200}") for number in range(3_000)]
        with pytest.raises(StoreError, match="make room on the disk") as refused:
            await opened.publish_batch("a", messages)
        assert 0 < refused.value.accepted < len(messages)
        assert refused.value.may_pass
        await until(lambda: reader.statistics().waiting == refused.value.accepted)


@async_test
@pytest.mark.parametrize("gone", ["", "-wal", "-shm"])
async def test_a_store_that_is_taken_away_accepts_nothing_more_and_says_so(store: Path, gone: str) -> None:
    """SQLite would go on writing to a file that nobody finds again."""
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1)
        store.with_name(store.name + gone).unlink()
        await until(lambda: opened._broken is not None)
        with pytest.raises(StoreError, match="removed or replaced"):
            await publish(opened, 2)
        with pytest.raises(StoreError, match="put the files back"):
            await take(reader, 2)
        assert "removed or replaced" in opened.trouble()
    if gone:  # what was in the log has been moved into the store
        async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
            assert data(await take(reader, 1)) == [1]


@async_test
async def test_a_damaged_message_is_set_aside_and_the_others_come(store: Path) -> None:
    async with transport(store) as opened:
        opened.subscribe("reader", ["a"])
        await asyncio.gather(*(publish(opened, number) for number in (1, 2, 3)))  # in one block
    spoil(store, 2)
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        assert data(await take(reader, 2)) == [1, 3]
        await until(lambda: opened.unsettled() == 2)
    assert rows(store, "SELECT host FROM deliveries WHERE first = 2") == [(-1,)]


@async_test
async def test_damaged_pages_end_everything_with_the_next_step(store: Path) -> None:
    async with transport(store) as opened:
        opened.subscribe("reader", ["a"])
        await publish(opened, *["x" * 3_000] * 50)
    content = get(store)
    put(store, content[: 4_096 * 2] + b"\xff" * (len(content) - 4_096 * 2))
    with pytest.raises(StoreError, match="echo-core store repair"):
        async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
            await take(reader, 50)


@async_test
async def test_a_damaged_schema_ends_everything_with_the_next_step(store: Path) -> None:
    async with transport(store) as opened:
        opened.subscribe("reader", ["a"])
        await publish(opened, 1)
    put(store, get(store).replace(b"attempt      INTEGER", b"attempt_     INTEGER"))
    with pytest.raises(StoreError, match=r"no such column.*echo-core store repair"):
        async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
            await take(reader, 1)


@pytest.mark.parametrize(
    ("code", "may_pass"),
    [
        (sqlite3.SQLITE_FULL, True),
        (sqlite3.SQLITE_BUSY, True),
        (sqlite3.SQLITE_IOERR_WRITE, True),
        (sqlite3.SQLITE_READONLY, True),
        (sqlite3.SQLITE_CORRUPT, False),
        (sqlite3.SQLITE_NOTADB, False),
    ],
)
def test_a_failure_says_whether_it_may_pass(store: Path, code: int, may_pass: bool) -> None:
    error = sqlite3.OperationalError("no")
    error.sqlite_errorcode = code
    assert failed(store, "written", error).may_pass is may_pass


@async_test
async def test_a_closed_transport_ends_no_delivery(store: Path) -> None:
    async with transport(store) as opened, opened.subscribe("reader", ["a"]) as reader:
        await publish(opened, 1)
        (delivery,) = await take(reader, 1)
    with pytest.raises(TransportClosed):
        await delivery.settle()
    with pytest.raises(TransportClosed):
        opened.subscribe("reader", ["a"])
    assert not lock_path(store, 1).exists()
