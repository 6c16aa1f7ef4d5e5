"""Dead letters replayed, edited, discarded, and in files, from the command line."""

import asyncio
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from cli.test_dlq import letter
from echo_core.message import BaseMessage, encode
from echo_core.runtime.dead_letters import FILE_NAME, MOST_REPLAYS, DeadLetter, DeadLetterStore
from echo_core.runtime.dead_letters.files import write_letters
from echo_core.workspace import SETTINGS_FILE, Workspace
from support.stores import rows, store_at, write

Call = Callable[..., CompletedProcess[str]]


def of(data: object, **changes: object) -> DeadLetter:
    original = encode(BaseMessage(source="src", data=data))
    return msgspec.structs.replace(letter(), original=original, **changes)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / SETTINGS_FILE).write_text('[host]\ntransport = "sqlite://"\n')
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def keep(workspace: Workspace, *letters: DeadLetter) -> None:
    store = DeadLetterStore(workspace.state / FILE_NAME)
    store.add(letters)
    store.close()


def left(workspace: Workspace) -> list[DeadLetter]:
    store = DeadLetterStore(workspace.state / FILE_NAME)
    letters = store.newest()
    store.close()
    return letters


async def subscribe(workspace: Workspace) -> None:
    async with (
        store_at(workspace.state / "messages.sqlite") as transport,
        transport.subscribe("checker", ["transcript.raw"]),
    ):
        pass


def test_a_replay_ends_with_how_many_were_sent(call: Call, workspace: Workspace) -> None:
    asyncio.run(subscribe(workspace))
    keep(workspace, of(1), of(2), of(3, plugin="sink"))
    done = call("dlq", "replay", "--plugin", "checker")
    assert (done.returncode, done.stdout) == (0, "replay 1: 2 of 2 replayed\n")
    assert rows(workspace.state / "messages.sqlite", "SELECT sum(count) FROM deliveries") == [(2,)]
    assert [one.plugin for one in left(workspace)] == ["sink"]
    done = call("dlq", "replay", "--all", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)["job"]
    assert (document["done"], document["failed"]) == (0, 1)
    assert "nobody ever subscribed as 'sink'" in document["reason"]
    jobs = call("dlq", "jobs").stdout.splitlines()
    assert [line.split()[0] for line in jobs] == ["ID", "2", "1"]


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(call: Call, workspace: Workspace) -> None:
    keep(workspace, of(1), of(2), of(3, replays=MOST_REPLAYS))
    done = call("dlq", "replay", "--all", "--first", 1, "--dry-run")
    assert done.stdout.splitlines() == ["1: message m-1 to checker, transcript.raw", "1 would be replayed"]
    assert json.loads(call("dlq", "replay", "--all", "--dry-run", "--json").stdout)["total"] == 2
    assert json.loads(call("dlq", "replay", "--all", "--dry-run", "--force", "--json").stdout)["total"] == 3
    assert len(left(workspace)) == 3
    assert call("dlq", "jobs").stdout == "no replays\n"


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("verb", ["replay", "discard", "export"])
def test_it_must_be_said_which_are_meant(call: Call, verb: str) -> None:
    done = call("dlq", verb)
    assert (done.returncode, "it is not said which" in done.stderr, "--all" in done.stderr) == (2, True, True)


@pytest.mark.parametrize("verb", ["replay", "discard", "export"])
def test_a_number_that_there_is_not_is_said_and_nothing_is_done(
    call: Call, workspace: Workspace, verb: str
) -> None:
    keep(workspace, of(1))
    done = call("dlq", verb, 1, 77)
    assert done.returncode == 3
    assert "there is no dead letter 77" in done.stderr
    assert len(left(workspace)) == 1


def test_without_a_host_a_replay_in_memory_waits_for_one(
    call: Call, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.cli.dlq_replay._PATIENCE_S", 0.0)
    workspace.settings_file.write_text("")
    keep(workspace, of(1))
    done = call("dlq", "replay", 1)
    assert (done.returncode, done.stdout) == (0, "replay 1: 0 of 1 replayed; waiting\n")
    assert "no host runs" in done.stderr


def test_a_replay_that_waits_can_be_cancelled(
    call: Call, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.cli.dlq_replay._PATIENCE_S", 0.0)
    workspace.settings_file.write_text("")
    keep(workspace, of(1))
    call("dlq", "replay", 1)
    assert "cancelled" in call("dlq", "jobs", "--cancel", 1).stdout
    assert call("dlq", "jobs", "--cancel", 1).returncode == 4
    assert call("dlq", "jobs", "--cancel", 2).returncode == 3


def test_quarantined_and_edited_letters_are_marked(call: Call, workspace: Workspace) -> None:
    keep(workspace, of(1, replays=MOST_REPLAYS))
    assert "[quarantined] missing field lang" in call("dlq", "list").stdout
    assert "replays  3, and is quarantined: replay it with --force" in call("dlq", "show", 1).stdout


def test_the_list_is_filtered_by_error_topic_id_and_time(call: Call, workspace: Workspace) -> None:
    keep(workspace, of(1), of(2, reason="late"), of(3, topic="a.b"), of(4, message_id="m-4"))
    for options, expected in (
        (["--error", "LATE"], [2]),
        (["--topic", "a.*"], [3]),
        (["--id", "m-4"], [4]),
        (["--until", "2020-01-01"], []),
        (["--since", "2020-01-01T00:00", "--error", "missing"], [4, 3, 1]),
        (["--since", "5m"], []),
    ):
        document = json.loads(call("dlq", "list", *options, "--json").stdout)
        assert [one["id"] for one in document["letters"]] == expected, options
    done = call("dlq", "list", "--since", "yesterday")
    assert (done.returncode, "2h for two hours ago" in done.stderr) == (2, True)


def test_an_edit_is_shown_kept_and_replayed(
    call: Call, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(workspace, of({"lang": None, "text": "hello"}))
    mended = tmp_path / "mended.json"
    mended.write_text('{"text": "hello", "lang": "en"}')
    done = call("dlq", "edit", 1, "--data", mended, "--dry-run")
    assert '-  "lang": null,' in done.stdout
    assert left(workspace)[0].edited is None
    assert call("dlq", "edit", 1, "--data", mended).returncode == 0
    assert left(workspace)[0].replayable().data == {"lang": "en", "text": "hello"}
    assert left(workspace)[0].message().data == {"lang": None, "text": "hello"}
    assert "message as it is to be replayed" in call("dlq", "show", 1).stdout
    monkeypatch.setattr("sys.stdin", io.StringIO(mended.read_text()))
    assert call("dlq", "edit", 1, "--data=-").stdout == "nothing was changed\n"


def test_an_editor_that_fails_changes_nothing(
    call: Call, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(workspace, of({"text": "hello"}))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for editor in ("false", "no-such-editor"):
        monkeypatch.setenv("VISUAL", editor)
        done = call("dlq", "edit", 1)
        assert (done.returncode, "nothing was changed" in done.stderr) == (2, True)
    assert left(workspace)[0].edited is None


def test_what_was_typed_into_an_editor_and_is_no_json_is_kept(
    call: Call, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keep(workspace, of({"text": "hello"}))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i \'s/hello"/mended/\' "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("VISUAL", str(editor))
    done = call("dlq", "edit", 1)
    (file,) = tmp_path.glob("echo-core-*/dead-letter-1.json")
    assert (done.returncode, f"--data {file}" in done.stderr, "mended" in file.read_text()) == (2, True, True)
    file.write_text('{"text": "mended"}')
    editor.write_text(f'#!/bin/sh\ncp {file} "$1"\n')
    assert '+  "text": "mended"' in call("dlq", "edit", 1).stdout
    assert len(list(tmp_path.glob("echo-core-*"))) == 1


def test_an_edit_that_cannot_be_is_refused(call: Call, workspace: Workspace, tmp_path: Path) -> None:
    keep(workspace, of({"text": "hello"}), of({"raw": b"\x00"}))
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{text: hello}")
    done = call("dlq", "edit", 1, "--data", wrong)
    assert (done.returncode, "this is no JSON" in done.stderr) == (2, True)
    done = call("dlq", "edit", 2, "--data", wrong)
    assert (done.returncode, "values that JSON has not" in done.stderr) == (2, True)
    assert call("dlq", "edit", 1, "--data", tmp_path / "none").returncode == 2
    done = call("dlq", "edit", 1)
    assert (done.returncode, "--data FILE" in done.stderr) == (2, True)
    assert call("dlq", "edit", 9, "--data", wrong).returncode == 3


def test_letters_are_discarded_for_good(call: Call, workspace: Workspace) -> None:
    keep(workspace, of(1), of(2), of(3))
    assert call("dlq", "discard", "--all", "--dry-run").stdout == "3 would be discarded\n"
    assert call("dlq", "discard", 1, 3).stdout == "2 discarded\n"
    assert [one.id for one in left(workspace)] == [2]
    assert json.loads(call("dlq", "discard", "--all", "--json").stdout)["discarded"] == 1


def test_letters_travel_in_a_file_with_all_that_is_known_of_them(
    call: Call, workspace: Workspace, tmp_path: Path
) -> None:
    keep(workspace, of({"raw": b"\x00"}, config_digest="d" * 64, replays=2, edited=b"x"), of(2))
    before = left(workspace)
    file = tmp_path / "letters.jsonl"
    assert call("dlq", "export", "--all", "--file", file).stdout == f"2 written to {file}\n"
    assert call("dlq", "export", 1).stdout == file.read_text().splitlines()[0] + "\n"
    call("dlq", "discard", "--all")
    assert call("dlq", "import", file).stdout == "2 imported\n"
    after = left(workspace)
    assert [msgspec.structs.replace(one, id=0) for one in after] == [
        msgspec.structs.replace(one, id=0) for one in before
    ]
    assert call("dlq", "import", file).stdout == "0 imported, 2 were there already\n"
    assert left(workspace) == after
    file.write_text(file.read_text() + '{"schema": "other"}\n')
    done = call("dlq", "import", file)
    assert (done.returncode, "line 3" in done.stderr) == (2, True)
    assert len(left(workspace)) == 2


def test_a_file_of_letters_is_whole_or_not_there(
    call: Call, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(workspace, of(1), of(2))
    file = tmp_path / "out" / "letters.jsonl"
    assert "cannot be written" in call("dlq", "export", "--all", "--file", file).stderr
    file.parent.mkdir()
    seen: list[bool] = []

    def written(letters: Iterable[DeadLetter]) -> Iterator[str]:
        for line in write_letters(letters):
            seen.append(file.exists())
            yield line
        if len(seen) == 2:
            raise OSError("the disk is full")

    monkeypatch.setattr("echo_core.runtime.dead_letters.desk.write_letters", written)
    done = call("dlq", "export", "--all", "--file", file)
    assert (done.returncode, "the disk is full" in done.stderr) == (2, True)
    assert (seen, list(file.parent.iterdir())) == ([False, False], [])
    assert call("dlq", "export", "--all", "--file", file).returncode == 0
    assert len(file.read_text().splitlines()) == 2


def test_letters_are_written_to_what_is_no_file_as_it_is_and_who_may_read_it_stays(
    call: Call, workspace: Workspace, tmp_path: Path
) -> None:
    keep(workspace, of(1))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDWR), "rb") as reader:
        assert call("dlq", "export", "--all", "--file", pipe).returncode == 0
        assert (pipe.is_fifo(), b"dead-letter/1" in reader.readline()) == (True, True)
    file, link = tmp_path / "letters.jsonl", tmp_path / "link"
    file.touch(mode=0o600)
    link.symlink_to(file)
    assert call("dlq", "export", "--all", "--file", link).returncode == 0
    assert (link.is_symlink(), file.stat().st_mode & 0o777) == (True, 0o600)
    assert len(file.read_text().splitlines()) == 1


def test_damaged_letters_are_marked_found_and_saved(call: Call, workspace: Workspace) -> None:
    keep(workspace, of(1), of(2))
    assert call("dlq", "check").returncode == 0
    write(workspace.state / FILE_NAME, "UPDATE dead_letters SET topic = 'other' WHERE id = 2")
    assert "[damaged]" in call("dlq", "list").stdout
    assert "not replayed" in call("dlq", "show", 2).stderr
    done = call("dlq", "check")
    assert (done.returncode, "dead letter 2" in done.stdout, "dlq repair" in done.stderr) == (1, True, True)
    assert "dlq check" in call("doctor").stdout
    done = call("dlq", "repair")
    assert (done.returncode, "lost: dead letter 2" in done.stdout) == (1, True)
    assert json.loads(call("dlq", "check", "--json").stdout)["ok"] is True
    assert [one.id for one in left(workspace)] == [1]
