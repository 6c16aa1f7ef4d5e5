"""`echo-core trace`: the path of a message, as a person reads it and as a script does."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from echo_core.message import BaseMessage
from echo_core.runtime.message_history.records import DEAD_LETTERED, FAILED, FILTERED, PROCESSED
from echo_core.runtime.message_history.store import FILE_NAME, HistoryStore
from echo_core.workspace import SETTINGS_FILE, Workspace
from runtime.message_history.history import Handed, accept, recording

Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / SETTINGS_FILE).touch()
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def root(workspace: Workspace) -> BaseMessage:
    """A message that was tried twice, and one made from it that became a dead letter."""
    root = BaseMessage(source="mic", version="1.0", data={"text": "um hello", "token": "tk-123456"})
    made = root.derive({"text": "\x1b[2Jhello", "token": "tk-123456"}, source="cleaner", version="2.1")
    began = time.monotonic()
    with recording(workspace.state / FILE_NAME, payloads="all", mask=("token",)) as recorder:
        recorder.subscribed("key", "sink", ["t.#"])
        accept(recorder, msgspec.structs.replace(root, timestamp=time.time_ns()), "t.raw")
        cleaner, checker = recorder.of("cleaner", "2.1"), recorder.of("checker", "3.0")
        delivery = Handed("t.raw", root, 1)
        cleaner.failed(delivery, 1, FAILED, began, began + 0.001, "ValueError", "no tk-123456\nat all")
        cleaner.done(delivery, 2, PROCESSED, began + 0.002, began + 0.004)
        accept(recorder, made, "t.clean")
        checker.failed(Handed("t.clean", made, 1), 1, FAILED, began, began, "FAILED", "bad")
        checker.failed(Handed("t.clean", made, 1), 1, DEAD_LETTERED, began, began, "FAILED", "bad")
        recorder.of("other", "1").done(Handed("t.clean", made, 1), 1, FILTERED, began, began, 4)
    return root


def test_the_tree_shows_every_attempt_below_the_message_and_what_was_made(
    call: Call, root: BaseMessage
) -> None:
    done = call("trace", root.id)
    assert done.returncode == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0].startswith("2 messages, ")
    assert lines[0].endswith("1 processed, 1 unknown, 1 dead-lettered, 1 filtered; cleaner needed 2 attempts")
    assert lines[1] == "WAIT WORK OUTCOME"
    assert lines[2].startswith(f"t.raw {root.id} <- asked for from mic 1.0, ")
    tree = "\n".join(lines)
    assert "├─ cleaner 2.1" in tree
    assert "1.0 ms failed: ValueError: no [masked] (attempt 1)" in tree
    assert "1.0 ms 2.0 ms processed (attempt 2)" in tree
    assert "failed: FAILED: bad (attempt 1)" in tree
    assert "dead-lettered: FAILED: bad" in tree
    assert "filtered (in a batch of 4)" in tree
    assert r'~ text: "um hello" -> "\u001b[2Jhello"' in tree
    assert "data:" not in tree
    assert "\x1b" not in done.stdout


def test_payloads_are_shown_when_asked_for_without_what_is_masked(call: Call, root: BaseMessage) -> None:
    done = call("trace", root.id, "--payloads")
    assert '{"text":"um hello","token":"[masked]"} (masked: token)' in " ".join(done.stdout.split())
    assert "tk-123456" not in done.stdout


def test_under_json_all_is_told_and_nothing_is_unmasked(call: Call, root: BaseMessage) -> None:
    done = call("trace", root.id[:30], "--json")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["schema"] == "echo-core.trace/1"
    assert (document["asked"], document["kind"]) == (root.id, "message")
    first, second = document["messages"]
    assert (first["topic"], second["topic"], second["parents"]) == ("t.raw", "t.clean", [root.id])
    assert [each["outcome"] for each in first["visits"][0]["attempts"]] == ["failed", "processed"]
    assert second["differences"] == [
        {"path": "text", "kind": "changed", "before": "um hello", "after": "\x1b[2Jhello"}
    ]
    assert "tk-123456" not in done.stdout


def test_an_unknown_id_says_how_far_the_history_reaches(call: Call, root: BaseMessage) -> None:
    done = call("trace", str(BaseMessage(source="s").id))
    assert (done.returncode, done.stdout) == (3, "")
    assert "is in the message history" in done.stderr
    assert "it reaches from" in done.stderr


def test_a_pruned_id_says_until_when_and_which_settings(
    call: Call, root: BaseMessage, workspace: Workspace
) -> None:
    store = HistoryStore(workspace.state / FILE_NAME)
    store.prune(before_ns=time.time_ns() + 1, max_bytes=10**9)
    store.close()
    done = call("trace", root.id)
    assert done.returncode == 3
    assert f"message {root.id} is in the message history no more" in done.stderr
    assert "records written up to" in done.stderr
    assert "retain_s" in done.stderr


def test_the_beginning_of_several_ids_names_them(call: Call, root: BaseMessage) -> None:
    done = call("trace", root.id[:7])
    assert done.returncode == 3
    assert "2 messages have an id that begins with" in done.stderr
    assert f"{root.id}  t.raw" in done.stderr


def test_without_a_history_the_setting_is_named(call: Call, workspace: Workspace) -> None:
    done = call("trace", "x")
    assert done.returncode == 3
    assert "there is no message history" in done.stderr
    assert not workspace.state.exists()


def test_a_damaged_history_says_what_to_do(call: Call, root: BaseMessage, workspace: Workspace) -> None:
    (workspace.state / FILE_NAME).write_bytes(b"no database, but long enough to be one" * 1_000)
    done = call("trace", root.id)
    assert done.returncode == 1
    assert "error[E-HISTORY]" in done.stderr
    assert "move it away" in done.stderr


def test_the_file_may_be_elsewhere(call: Call, root: BaseMessage, workspace: Workspace) -> None:
    (workspace.state / FILE_NAME).rename(workspace.root / "other.sqlite")
    workspace.settings_file.write_text('[history]\npath = "other.sqlite"\n')
    assert call("trace", root.id).returncode == 0
