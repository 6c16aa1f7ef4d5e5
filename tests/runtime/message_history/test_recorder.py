"""What is recorded is bounded, is on disk, and never in the way."""

import logging
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from echo_core.errors import NotFound
from echo_core.message import BaseMessage, decode
from echo_core.runtime.message_history.masking import MASKED
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Item, Recorder
from echo_core.runtime.message_history.records import DEAD_LETTERED, FAILED, PROCESSED, Kept
from echo_core.runtime.message_history.store import HistoryError, HistoryStore
from echo_core.runtime.settings import HistorySettings
from runtime.message_history.history import Handed, accept, asking, recording, visit


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def message(**more: object) -> BaseMessage:
    return BaseMessage(source="origin", version="1", **more)  # type: ignore[arg-type]


def asking_kept(file: Path, message_id: str) -> Kept | None:
    found: Kept | None = asking(file, lambda history: history.kept(message_id))
    return found


def test_what_a_plugin_did_is_told_with_its_version_wait_and_work(file: Path) -> None:
    before = time.monotonic()
    made = message()
    began = time.monotonic()
    with recording(file) as recorder:
        accept(recorder, made)
        recorder.of("worker", "2.0").done(Handed("t.a", made, 1), 1, PROCESSED, began + 1.0, began + 1.25)
    (step,) = asking(file, lambda history: history.trace(made.id)).messages
    (attempt,) = visit(step, "worker").attempts
    assert (attempt.version, attempt.outcome, step.source) == ("2.0", "processed", "origin")
    assert attempt.wait_ms == pytest.approx(1_000, abs=100 + 1_000 * (began - before))
    assert attempt.work_ms == pytest.approx(250, abs=0.01)


def test_a_message_that_nobody_here_made_is_recorded_where_it_arrives(file: Path) -> None:
    first = message()
    made = first.derive(1, source="another host's plugin")
    with recording(file) as recorder:
        recorder.of("worker", "1").done(Handed("t.b", made, 1), 1, PROCESSED, 0.0, 0.0)
    path = asking(file, lambda history: history.trace(first.id))
    assert [(step.id, step.is_known, step.topic) for step in path.messages] == [
        (first.id, False, ""),
        (made.id, True, "t.b"),
    ]


def test_so_is_one_that_was_made_before_this_host_began(file: Path) -> None:
    made = message()
    with recording(file) as recorder:
        recorder.of("origin", "1")
        recorder.of("worker", "1").done(Handed("t.a", made, 1), 1, PROCESSED, 0.0, 0.0)
    assert asking(file, lambda history: history.trace(made.id)).messages[0].is_known


def test_when_the_disk_does_not_keep_up_records_are_dropped_and_counted(file: Path) -> None:
    recorder = Recorder(file, HistorySettings(), stays=("#",), queue_limit=10)
    made = [accept(recorder, message()) for _ in range(25)]
    assert (len(recorder.accepted), recorder.dropped) == (10, 15)
    recorder.start()
    recorder.close()
    assert asking(file, History.extent).dropped == 15
    path = asking(file, lambda history: history.trace(made[0].id))
    assert path.gaps == 15
    with pytest.raises(NotFound, match="15 records were dropped"):
        asking(file, lambda history: history.trace(made[20].id))


def test_what_is_dropped_is_told_by_plugin_and_once(file: Path) -> None:
    told: list[tuple[str, Item, int]] = []

    def tell(plugin: str, item: Item, count: int) -> None:
        told.append((plugin, item, count))

    settings = HistorySettings(payloads="all")
    recorder = Recorder(file, settings, stays=(), queue_limit=10, payloads_limit=1, tell_dropped=tell)
    made = [accept(recorder, message()) for _ in range(25)]
    worker = recorder.of("worker", "1")
    worker.done_batch([Handed("t.a", each, 1) for each in made[:12]], [PROCESSED] * 12, 0.0, 0.0, 1)
    worker.done(Handed("t.a", made[12], 1), 1, PROCESSED, 0.0, 0.0)
    worker.failed(Handed("t.a", made[13], 1), 1, FAILED, 0.0, 0.0, "ValueError", "no")
    recorder.start()
    recorder.flush()
    assert told == [("origin", "payload", 24), ("origin", "record", 15), ("worker", "record", 2)]
    recorder.close()
    assert len(told) == 3


def test_a_disk_that_takes_nothing_holds_nobody_up_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "state"
    blocked.touch()  # a file where a folder must be
    file = blocked / "history.sqlite"
    with recording(file) as recorder, caplog.at_level(logging.WARNING):
        made = accept(recorder, message())
        recorder.flush()
        recorder.flush()
        assert caplog.text.count("cannot be written") == 1
        blocked.unlink()
        recorder.flush()
        assert "is written again" in caplog.text
    assert asking(file, lambda history: history.trace(made.id)).messages


@pytest.mark.parametrize("damage", ["header", "pages"])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with recording(file) as recorder:
        old = [accept(recorder, message()) for _ in range(2_000)]
    raw = bytearray(file.read_bytes())
    if damage == "header":
        raw[:1_000] = b"x" * 1_000
    else:
        raw[4_096:] = os.urandom(len(raw) - 4_096)
    file.write_bytes(raw)
    with pytest.raises(HistoryError):
        asking(file, lambda history: history.trace(old[0].id))
    with recording(file) as recorder, caplog.at_level(logging.WARNING):
        new = accept(recorder, message())
        recorder.subscribed("key", "worker", ["t.#"])
        recorder.flush()
        recorder.flush()
    assert asking(file, lambda history: history.trace(new.id)).messages
    assert len(list(file.parent.glob("*.aside-*"))) >= 1
    assert "a new message history begins" in caplog.text


def test_the_oldest_go_when_there_is_no_room_and_that_is_said(file: Path) -> None:
    store = HistoryStore(file)
    with recording(file) as recorder:
        old = accept(recorder, message())
        recorder.flush()
        time.sleep(0.002)  # another millisecond in the next id
        new = accept(recorder, message())
    size = store.extent().bytes
    assert store.prune(before_ns=0, max_bytes=size - 1) == 1
    extent = store.extent()
    assert (extent.records, extent.pruned) == (1, 1)
    assert extent.pruned_ns >= old.timestamp
    assert asking(file, lambda history: history.trace(new.id)).messages
    with pytest.raises(NotFound, match="no more") as raised:
        asking(file, lambda history: history.trace(old.id))
    assert "1 records written up to" in raised.value.why
    assert store.prune(before_ns=time.time_ns() + 1, max_bytes=size) == 1
    store.close()


def test_it_prunes_by_itself(file: Path) -> None:
    with recording(file, max_size_mb=1, payloads="all") as recorder:
        for number in range(300):
            accept(recorder, message(data={"noise": os.urandom(30_000), "number": number}))
            if not number % 20:
                recorder.flush()
        recorder.flush()
    store = HistoryStore(file)
    extent = store.extent()
    store.close()
    assert extent.pruned > 0
    assert file.stat().st_size < 8 * 1024 * 1024


def test_two_hosts_write_into_one_file(file: Path) -> None:
    with recording(file) as one, recording(file) as other:
        made = accept(one, message())
        other.of("worker", "1").done(Handed("t.a", made, 1), 1, PROCESSED, 0.0, 0.0)
    (step,) = asking(file, lambda history: history.trace(made.id)).messages
    assert visit(step, "worker").state == "processed"


@pytest.mark.parametrize(
    ("payloads", "kept"), [("off", set()), ("failures", {1}), ("sample", {1}), ("all", {0, 1})]
)
def test_which_messages_are_kept_whole(file: Path, payloads: str, kept: set[int]) -> None:
    with recording(file, payloads=payloads, payload_sample=0.0) as recorder:
        made = [accept(recorder, message(data=number)) for number in range(2)]
        worker = recorder.of("worker", "1")
        worker.done(Handed("t.a", made[0], 1), 1, PROCESSED, 0.0, 0.0)
        worker.failed(Handed("t.a", made[1], 1), 1, FAILED, 0.0, 0.0, "ValueError", "no")
    for number in range(2):
        found = asking_kept(file, made[number].id)
        assert (found is not None) == (number in kept)
        if found is not None:
            assert decode(found.message) == made[number]


def test_a_sample_keeps_all_that_is_made_from_the_same_root(file: Path) -> None:
    with recording(file, payloads="sample", payload_sample=0.5) as recorder:
        roots = [accept(recorder, message(data=number)) for number in range(40)]
        made = [accept(recorder, each.derive(1, source="origin")) for each in roots]
    kept = {each.id for each in (*roots, *made) if asking_kept(file, each.id)}
    assert 0 < len(kept) < 80
    assert all((root.id in kept) == (child.id in kept) for root, child in zip(roots, made, strict=True))


def test_a_message_that_is_too_large_is_not_kept(file: Path) -> None:
    with recording(file, payloads="all", max_payload_bytes=1_000) as recorder:
        made = accept(recorder, message(data="x" * 1_001))
    assert asking_kept(file, made.id) is None


def test_nothing_of_a_masked_field_reaches_the_disk(file: Path) -> None:
    hidden = "correct horse battery staple"
    with recording(file, payloads="all", mask=("password",)) as recorder:
        first = accept(recorder, message(data={"password": hidden, "text": "a"}))
        second = accept(recorder, first.derive({"password": hidden[::-1], "text": "b"}, source="origin"))
        worker = recorder.of("worker", "1")
        worker.failed(
            Handed("t.a", first, 1), 1, DEAD_LETTERED, 0.0, 0.0, "ValueError", f"cannot read {hidden!r}"
        )
    path = asking(file, lambda history: history.trace(first.id))
    (one, other) = path.messages
    assert one.data == {"password": MASKED, "text": "a"}
    assert (one.masked, other.masked) == (("password",), ("password",))
    assert [each.path for each in other.differences] == ["text"]
    assert visit(one, "worker").attempts[0].error == f"cannot read '{MASKED}'"
    store = HistoryStore(file)
    for block in store.blocks(store.newest(100)):
        assert hidden not in repr(block)
        assert second.id in repr(block)
    store.close()


KILLED = """
import sys, time
from pathlib import Path
from echo_core.message import BaseMessage
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import HistorySettings
recorder = Recorder(Path(sys.argv[1]), HistorySettings(), stays=("#",), interval_s=0.001)
recorder.start()
recorder.subscribed("key", "worker", ["t.#"])
plugin = recorder.of("origin", "1")
while True:
    message = BaseMessage(source="origin")
    plugin.accepted("t.a", message, message.id, ())
    if not plugin._recorder.flush():
        break
    print(message.id, flush=True)
"""


def test_what_was_written_is_there_after_a_kill_and_what_was_under_way_is_not_known(file: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        written = [process.stdout.readline().strip() for _ in range(20)]
        path = asking(file, lambda history: history.trace(written[0]))
        assert [(each.plugin, each.state) for each in path.messages[0].visits] == [("worker", "waiting")]
        process.kill()
        written += [line.strip() for line in process.stdout]
    for step in asking(file, lambda history: [history.trace(each).messages[0] for each in written]):
        assert [(each.plugin, each.state) for each in step.visits] == [("worker", "unknown")]
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def written_over(file: Path, statement: str, *values: str) -> tuple[str, ...]:
    """Do it behind the history's back; the first row of the answer."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        return connection.execute(statement, values).fetchone() or ()


@pytest.mark.parametrize(
    ("table", "column"), [("blocks", "last_ns"), ("blocks", "size"), ("hosts", "dropped")]
)
def test_how_far_a_history_reaches_is_told_without_its_damaged_rows(
    file: Path, table: str, column: str
) -> None:
    with recording(file) as recorder:
        accept(recorder, message())
    (strict,) = written_over(file, "SELECT sql FROM sqlite_schema WHERE name = ?", table)
    loose = strict.removesuffix("STRICT")  # a table that is strict can only be damaged by bytes
    written_over(file, "UPDATE sqlite_schema SET sql = ? WHERE name = ?", loose, table)
    written_over(file, f"UPDATE {table} SET {column} = ?", "x")  # noqa: S608  (no input)
    written_over(file, "UPDATE sqlite_schema SET sql = ? WHERE name = ?", strict, table)
    extent = asking(file, lambda history: history.extent())
    assert all(type(number) is int for number in msgspec.structs.astuple(extent))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE keys SET keys = replace(keys, substr(?, -12), 'xxxxxxxxxxxx')",
        "UPDATE keys SET keys = CAST(x'ff' || CAST(keys AS BLOB) AS TEXT) WHERE ? != ''",
        "UPDATE keys SET keys = '' WHERE ? != ''",
        "DELETE FROM keys WHERE ? != ''",
    ],
)
def test_keys_that_are_damaged_hide_nothing(file: Path, damage: str) -> None:
    with recording(file) as recorder:
        first, other = (accept(recorder, message()) for _ in range(2))
    written_over(file, damage, first.id)
    with closing(History(file)) as history:
        for each in (first, other):
            steps = history.trace(each.id).messages
            assert [(step.id, step.is_known) for step in steps] == [(each.id, True)]


def test_a_file_of_a_newer_schema_is_left_alone(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = file.read_bytes()
    with recording(file) as recorder, caplog.at_level(logging.WARNING):
        accept(recorder, message())
        recorder.flush()
    assert file.read_bytes() == before
    assert "newer Echo Core" in caplog.text
