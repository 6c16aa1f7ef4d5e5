"""`echo-core state`: what the commands print."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from echo_core.runtime.checkpoints import FILE_NAME, CheckpointStore, checkpoint
from echo_core.workspace import SETTINGS_FILE, Workspace
from support.stores import write

Call = Callable[..., CompletedProcess[str]]
GENERATION = "019abd00-0000-7000-8000-000000000000"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    (tmp_path / SETTINGS_FILE).touch()
    monkeypatch.chdir(tmp_path)
    return CheckpointStore(Workspace(tmp_path).state / FILE_NAME)


@pytest.fixture
def filled(store: CheckpointStore) -> CheckpointStore:
    states = {"log": {"file": "a\x1b[31m", "next": 7}, "clock": {}}
    store.save(
        [checkpoint(name, "1.0", GENERATION, msgspec.msgpack.encode(state)) for name, state in states.items()]
    )
    store.close()
    return store


def test_all_are_listed_by_name(call: Call, filled: CheckpointStore) -> None:
    done = call("state", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["SOURCE", "clock", "log"]
    assert '"next":7' in done.stdout
    document = json.loads(call("state", "list", "--json").stdout)
    assert document["schema"] == "echo-core.state.list/1"
    assert [each["plugin"] for each in document["states"]] == ["clock", "log"]
    assert document["states"][1]["state"] == {"file": "a\x1b[31m", "next": 7}


def test_without_any_there_is_nothing_to_show_and_nothing_is_made(call: Call, store: CheckpointStore) -> None:
    assert call("state", "list").stdout == "no source keeps a state\n"
    assert not store.path.parent.exists()
    done = call("state", "show", "log")
    assert done.returncode != 0
    assert "nothing is kept of 'log'" in done.stderr


def test_one_is_shown_whole(call: Call, filled: CheckpointStore) -> None:
    done = call("state", "show", "log")
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("log 1.0, ")
    assert '"next": 7' in done.stdout


def test_a_damaged_state_is_listed_refused_and_can_be_reset(call: Call, filled: CheckpointStore) -> None:
    write(filled.path, "UPDATE checkpoints SET generation = 'other' WHERE plugin = 'log'")
    assert "damaged: echo-core state reset log" in call("state", "list").stdout
    assert json.loads(call("state", "list", "--json").stdout)["states"][1]["damaged"] is True
    done = call("state", "show", "log")
    assert (done.returncode, "E-CHECKPOINT" in done.stderr) == (1, True)
    assert call("state", "reset", "log").returncode == 0
    assert call("state", "show", "log").returncode == 3


def test_a_reset_forgets_one_and_no_other(call: Call, filled: CheckpointStore) -> None:
    done = call("state", "reset", "log")
    assert done.returncode == 0
    assert done.stdout.startswith("log starts over; it had come to ")
    assert [each.plugin for each in filled.all()] == ["clock"]


def test_a_reset_is_refused_while_the_source_runs(call: Call, filled: CheckpointStore) -> None:
    claim = filled.claim("log")
    done = call("state", "reset", "log")
    assert done.returncode == 1
    assert "a host runs log" in done.stderr
    assert "echo-core deactivate log" in done.stderr
    claim.close()
    assert call("state", "reset", "log").returncode == 0
