"""The history of messages, when its writers are killed and its file is changed with a hex editor.

Here a few kills and a dozen damages, with `make faults` more. What is random is printed when it fails.
"""

import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from echo_core.errors import EchoCoreError, NotFound
from echo_core.message import BaseMessage
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.records import PROCESSED
from echo_core.runtime.message_history.replay import what_to_send
from echo_core.runtime.message_history.store import HistoryError
from faults import test_damage
from runtime.message_history.history import Handed, accept, asking, recording, visit
from runtime.message_history.test_path import trace

ASKED_FOR = int(os.environ.get("ECHO_CORE_KILLS", "0"))
KILLS = max(4, ASKED_FOR // 20)
DAMAGES = max(12, ASKED_FOR // 5)
PAGE = 4_096

WRITER = """
import sys
from pathlib import Path
from echo_core.message import BaseMessage
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import HistorySettings
settings = HistorySettings(payloads="all", max_size_mb=1_000)
recorder = Recorder(Path(sys.argv[1]), settings, stays=("#",), interval_s=0.001)
recorder.start()
recorder.subscribed("key", "worker", ["t.#"])
plugin = recorder.of("origin", "1")
while True:
    messages = [BaseMessage(source="origin", data="x" * 500) for _ in range(200)]
    plugin.accepted_batch("t.a", messages)
    if not recorder.flush():
        sys.exit("not written")
    print(messages[0].id, messages[-1].id, flush=True)
"""


@pytest.mark.timeout(600)
def test_what_was_written_is_there_after_any_number_of_kills(tmp_path: Path) -> None:
    file, chance = tmp_path / "history.sqlite", random.Random(seed := random.randrange(10**6))
    print("seed", seed)
    written: list[str] = []
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 30)):
                written += process.stdout.readline().split()
            process.kill()
            written += [word for line in process.stdout for word in line.split() if line.endswith("\n")]
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    for message_id in chance.sample(written, min(50, len(written))):
        (step,) = trace(file, message_id).messages
        assert (step.is_kept, [each.state for each in step.visits]) == (True, ["unknown"])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[BaseMessage]]:
    """A history of some blocks, and the messages in it."""
    file = tmp_path_factory.mktemp("sound") / "history.sqlite"
    with recording(file, queue_limit=10_000, payloads="all") as recorder:
        recorder.subscribed("key", "worker", ["t.#"])
        recorder.flush()
        worker = recorder.of("worker", "1")
        made = [accept(recorder, BaseMessage(source="origin", data=n)) for n in range(3_000)]
        for message in made:
            worker.done(Handed("t.a", message, 1), 1, PROCESSED, 0.0, 0.0)
    return file, made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def damaged(content: bytearray, chance: random.Random) -> bytes:
    """The file with a part of it changed: bits, a page, or its end."""
    at, kind = chance.randrange(len(content)), chance.randrange(4)
    page = at - at % PAGE
    if kind == 0:
        content[at] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[page : page + PAGE] = chance.randbytes(PAGE)
    elif kind == 2:
        content[page : page + PAGE] = bytes(PAGE)
    else:
        del content[at:]
    return bytes(content)


def test_a_damaged_name_in_the_schema_is_found_by_the_next_host_which_begins_anew(
    sound: tuple[Path, list[BaseMessage]], tmp_path: Path
) -> None:
    copy = tmp_path / sound[0].name
    content = sound[0].read_bytes()
    assert b"keys  TEXT NOT NULL" in content
    copy.write_bytes(content.replace(b"keys  TEXT NOT NULL", b"kexs  TEXT NOT NULL"))
    with recording(copy) as recorder:
        new = [accept(recorder, BaseMessage(source="origin")) for _ in range(600)]
        for _ in range(3):
            recorder.flush()
    assert [step.id for step in trace(copy, new[-1].id).messages] == [new[-1].id]


@pytest.mark.timeout(600)
def test_damage_is_told_or_does_no_harm_and_the_next_host_records_on(
    sound: tuple[Path, list[BaseMessage]], tmp_path: Path
) -> None:
    file, made = sound
    told = 0
    for number in range(DAMAGES):
        chance = random.Random(seed := random.randrange(10**6))
        print("seed", seed)
        copy = tmp_path / f"{number}" / file.name
        copy.parent.mkdir()
        copy.write_bytes(damaged(bytearray(file.read_bytes()), chance))
        for message in chance.sample(made, 5):
            try:
                path = trace(copy, message.id)
            except (HistoryError, NotFound):
                told += 1
                continue
            assert [step.id for step in path.messages] == [message.id]
            if not path.messages[0].is_known:  # no more than its payload was readable, and that is said
                told += 1
                continue
            assert visit(path.messages[0], "worker").state in ("processed", "unknown")
        with recording(copy) as recorder:
            new = [accept(recorder, BaseMessage(source="origin")) for _ in range(600)]
            for _ in range(3):  # the first may find the damage, the second begins anew
                recorder.flush()
        for message in (new[0], new[-1]):
            found = trace(copy, message.id)
            assert [step.id for step in found.messages] == [message.id]
        shutil.rmtree(copy.parent)
    assert told or DAMAGES < 50


@pytest.mark.slow
@pytest.mark.timeout(120 + DAMAGES)
def test_whatever_is_damaged_the_history_answers_or_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with recording(path, payloads="all") as recorder:
        recorder.subscribed("key", "worker", ["t.#"])
        made = [accept(recorder, BaseMessage(source="origin", data="x" * size)) for size in range(300)]
        for message in made:
            recorder.of("worker", "1").done(Handed("t.a", message, 1), 1, PROCESSED, 1.0, 2.0)
    first = random.randrange(2**32)
    questions: list[Callable[[History], object]] = [
        lambda history: history.trace(made[7].id),
        lambda history: history.newest(50),
        lambda history: history.extent(),
        lambda history: what_to_send(history, made[7].id, "worker"),
    ]
    for seed in range(first, first + DAMAGES):
        copy = tmp_path / str(seed) / path.name
        copy.parent.mkdir()
        content = bytearray(path.read_bytes())
        where = f"seed {seed}: {test_damage.damaged(content, random.Random(seed))}"
        copy.write_bytes(content)
        for question in questions:
            try:
                asking(copy, question)
            except EchoCoreError as error:
                test_damage.say_what_to_do(error, where)
