"""`echo-core store`: what the commands print."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from echo_core.workspace import SETTINGS_FILE, Workspace
from support.stores import fill, spoil

Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / SETTINGS_FILE).write_text('[host]\ntransport = "sqlite://data/m.sqlite?retain=1h"\n')
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def store(workspace: Workspace) -> Path:
    path = workspace.root / "data" / "m.sqlite"
    asyncio.run(fill(path, 10, settled=2))
    return path


def test_stats_show_who_has_what_to_settle(call: Call, store: Path) -> None:
    done = call("store", "stats")
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 ever accepted" in done.stdout
    assert "  all (a.#)\n    8 waiting, 0 held by a host, 0 delayed\n" in done.stdout
    document = json.loads(call("store", "stats", "--json").stdout)
    assert document["schema"] == "echo-core.store.stats/1"
    assert [one["waiting"] for one in document["subscriptions"]] == [8, 5]
    assert document["path"] == str(store)


def test_check_says_that_all_is_well_or_what_is_not(call: Call, store: Path) -> None:
    done = call("store", "check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "everything is as it was written")
    spoil(store, 7)
    done = call("store", "check")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "the store is damaged")
    assert "message: 7: it is not as it was written" in done.stdout
    assert "echo-core store repair" in done.stderr
    assert json.loads(call("store", "check", "--json").stdout)["ok"] is False


def test_repair_says_what_was_saved_and_what_is_lost(call: Call, store: Path) -> None:
    spoil(store, 7)
    done = call("store", "repair")
    assert done.returncode == 1
    assert "lost: message 7 for all" in done.stdout
    assert "the damaged file is kept: " in done.stdout
    assert call("store", "check").returncode == 0
    assert call("store", "repair").returncode == 0


def test_compact_says_how_large_it_is_now(call: Call, store: Path) -> None:
    done = call("store", "compact")
    assert done.returncode == 0
    assert done.stdout.endswith(f"now {store.stat().st_size:,}\n")


def test_forget_says_what_waited(call: Call, store: Path) -> None:
    done = call("store", "forget", "all")
    assert done.stdout == "all subscribes to nothing any more; 8 messages waited for it\n"
    assert "even (a.even)" in call("store", "stats").stdout
    assert call("store", "forget", "all").returncode == 3
    assert store.exists()


def test_another_file_can_be_named(call: Call, store: Path, tmp_path: Path) -> None:
    other = store.rename(tmp_path / "elsewhere.sqlite")
    assert call("store", "check", "--file", other).returncode == 0
    done = call("store", "check")
    assert (done.returncode, "there is no store" in done.stderr) == (1, True)


@pytest.mark.usefixtures("workspace")
def test_a_workspace_without_a_store_is_told_how_to_have_one(call: Call) -> None:
    Path(SETTINGS_FILE).write_text("")
    done = call("store", "stats")
    assert (done.returncode, "its transport is memory://" in done.stderr) == (3, True)
    assert 'transport = "sqlite://"' in done.stderr
