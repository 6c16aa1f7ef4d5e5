"""`echo-core run` where the operator gives every plugin a process of its own."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from subprocess import Popen

import pytest

from cli.test_run import KEEPER, PATIENCE_S, TICKER, Run, add_plugin, read_until, run, started
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

__all__ = ["run"]  # a fixture
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are found in /proc")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = init(tmp_path_factory.mktemp("processes") / "ws")
    settings = workspace.settings_file
    settings.write_text(
        settings.read_text().replace("[isolation]\n", '[isolation]\ntier = "process"\nspare = false\n')
    )
    ticks = {"config": {"count": 5, "pause_s": 0.0}, "publications": ["tick"], "plugin_type": "source"}
    keeps = {"config": {"fails": [], "takes_s": 0.0, "warns_at": -1}, "subscriptions": ["tick"]}
    add_plugin(workspace, "ticker", TICKER, **ticks)
    add_plugin(workspace, "keeper", KEEPER, **keeps, plugin_type="sink")
    return workspace


def children(pid: int) -> dict[str, int]:
    """The plugins' processes of a host, by the name that stands in their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if parent == pid and b"bootstrap.py" in words[5]:
                found[words[6].decode()] = int(entry.name)
    return found


def read_until_all(host: Popen[str], lines: set[str]) -> None:
    """In whatever order they come."""
    assert host.stderr is not None
    missing = set(lines)
    while missing:
        said = host.stderr.readline()
        assert said, f"the host ended without saying {missing}"
        missing -= {line for line in missing if line in said}


def test_a_run_until_idle_accounts_for_every_message_and_shows_what_is_warned_of(run: Run) -> None:
    done = run(
        "run", "--until-idle", "--json", ECHO_PLUGIN_KEEPER__WARNS_AT="3", ECHO_PLUGIN_TICKER__COUNT="20"
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["totals"]["processed"] == 20
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING echo\.plugin\.keeper: number 3 looks odd", line)


def test_a_process_that_is_killed_is_replaced_and_the_run_goes_on(workspace: Workspace) -> None:
    variables = {"ECHO_PLUGIN_TICKER__COUNT": "1000000", "ECHO_PLUGIN_TICKER__PAUSE_S": "0.001"}
    with started(workspace, **variables) as host:
        read_until_all(host, {"ticker 1.0.0 running", "keeper 1.0.0 running"})
        before = children(host.pid)
        assert sorted(before) == ["keeper", "ticker"]
        os.kill(before["keeper"], signal.SIGKILL)
        read_until(host, "keeper 1.0.0 backoff")
        read_until(host, "keeper 1.0.0 running")
        after = children(host.pid)
        assert after["ticker"] == before["ticker"]
        assert after["keeper"] != before["keeper"]
        host.send_signal(signal.SIGINT)
        stdout, _ = host.communicate(timeout=PATIENCE_S)
    assert host.returncode == 0
    total = next(line.split() for line in stdout.splitlines() if line.startswith("total"))
    _, received, processed, *_ = (cell.replace(",", "") for cell in total)
    assert received == processed
    until = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in after.values()) and time.monotonic() < until:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in after.values())
