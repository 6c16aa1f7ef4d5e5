"""The verbs that ask a running host, as an operator uses them: a host in a process of its own."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from echo_core.control.door import find_door
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace
from support.libraries import make_library

PROGRAM = Path(sys.executable).parent / "echo-core"
Call = Callable[..., CompletedProcess[str]]

TICKER = """
    import asyncio
    from echo_core import Source

    class Ticker(Source):
        async def produce(self):
            self.context.logger().info("the first tick")
            while True:
                yield "tick"
                await asyncio.sleep(0.005)

    def create_plugin():
        return Ticker()
"""
BROKEN = """
    def create_plugin():
        raise ValueError("no greeter today")
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = init(tmp_path_factory.mktemp("operate") / "ws")
    make_library(
        workspace,
        "ticker",
        code=TICKER,
        subscriptions=[],
        publications=["greetings.wanted"],
        plugin_type="source",
    )
    make_library(workspace, "greeter", version="1.0")
    make_library(workspace, "greeter", version="2.0", code=BROKEN)
    return workspace


@pytest.fixture(scope="module")
def host(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """A host that began with nothing; the tests share it, and leave it as they found it."""
    process = subprocess.Popen(
        [PROGRAM, "run", "--plain", "--project", workspace.root],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        while find_door(workspace) is None:
            assert process.poll() is None
            time.sleep(0.02)
        yield process
        process.send_signal(signal.SIGTERM)
        assert "done in" in process.communicate(timeout=100)[0]
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def running(call: Call, workspace: Workspace, host: object, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("ECHO_CORE_PROJECT", str(workspace.root))
    for name, version in (("ticker", "0.1.0"), ("greeter", "1.0")):
        assert call("activate", name, "--version", version).returncode == 0
    return call


def state(call: Call, name: str) -> str:
    return str(json.loads(call("status", name, "--json").stdout)["plugins"][0]["state"])


def test_a_plugin_that_is_activated_runs_when_the_command_returns_and_one_that_is_deactivated_does_not(
    running: Call, workspace: Workspace
) -> None:
    done = running("activate_plugin", "activate", "ticker")
    assert done.stdout == "ticker 0.1.0 (development) was activated already, and runs\n"
    assert state(running, "ticker") == "running"
    assert running("deactivate", "ticker").stdout == "ticker is deactivated\n"
    assert not (workspace.enabled / "ticker").is_symlink()
    assert state(running, "ticker") == "stopped"
    assert running("deactivate", "ticker").stdout == "ticker was not activated\n"
    assert running("deactivate", "tikcer").returncode == 3
    assert json.loads(running("activate", "ticker", "--json").stdout)["runs"] is True


def test_a_version_that_does_not_come_up_is_refused_with_its_reason_and_the_old_one_serves(
    running: Call, workspace: Workspace
) -> None:
    done = running("activate", "greeter")
    assert done.returncode == 1
    assert "error[E-INIT]: greeter 2.0 did not come up" in done.stderr
    assert "no greeter today" in done.stderr
    assert "1.0" in str((workspace.enabled / "greeter").readlink())
    shown = running("status", "greeter").stdout
    assert "greeter 1.0 (development) is running" in shown
    assert re.search(r"2\.0  loading -> failed: .*no greeter today", shown)


def test_status_shows_every_plugin_and_fails_when_one_is_not_well(running: Call) -> None:
    done = running("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "ready"
    assert re.search(r"^greeter 1\.0 +\* running +development", done.stdout, re.MULTILINE)
    assert running("pause", "greeter").stdout.startswith("greeter is paused, ")
    try:
        done = running("status")
        assert done.returncode == 1
        assert "not ready\n  greeter 1.0 is paused: by an operator" in done.stdout
        assert running("status", "greeter").returncode == 1
        assert running("status", "ticker").returncode == 0
        assert running("pause", "greeter").stdout.startswith("greeter was paused already")
    finally:
        assert running("resume", "greeter").stdout == "greeter goes on\n"
    assert running("resume", "greeter").stdout == "greeter was not paused\n"
    for verb in ("status", "pause", "resume", "logs"):
        done = running(verb, "greetr")
        assert (done.returncode, "did you mean 'greeter'?" in done.stderr) == (3, True), verb


def test_logs_shows_what_a_plugin_said(running: Call) -> None:
    done = running("logs", "ticker")
    assert re.search(r"^\d\d:\d\d:\d\d INFO ticker 0\.1\.0: the first tick$", done.stdout, re.MULTILINE)
    lines = json.loads(running("logs", "--json", "--lines", "2").stdout)["lines"]
    assert len(lines) == 2
    assert lines[0]["number"] + 1 == lines[1]["number"]


def test_a_version_is_tried_promoted_and_rolled_back(running: Call, workspace: Workspace) -> None:
    make_library(workspace, "greeter", version="1.5", files={"src/greeter/more.py": "MORE = 1\n"})
    begun = running("upgrade", "greeter", "1.5", "--strategy", "canary", "--percent", "50")
    assert begun.returncode == 0
    assert "1.5 gets 50 %" in begun.stdout
    assert "--show, --percent NUMBER, --finish or --abort" in begun.stdout
    assert "1.5 gets 75 %" in running("upgrade", "greeter", "--percent", "75").stdout
    told = "upgrade: greeter 1.0 to 1.5, canary, 75 % to the new one; see echo-core upgrade greeter --show"
    assert told in running("status").stdout
    assert told in running("status", "greeter").stdout
    assert told in running("top", "--interval", "0.01", "--count", "1").stdout
    assert running("upgrade", "greeter", "--abort", "--finish").returncode == 2
    assert running("upgrade", "greeter", "--abort").stdout.startswith("1.5 was sent back: by an operator\n")
    done = running("upgrade", "greeter", "1.5")
    assert done.stdout.endswith("greeter 1.5 (development) runs\n")
    assert running("upgrade", "greeter", "1.5").returncode == 4
    assert "1.5" in str((workspace.enabled / "greeter").readlink())
    assert running("rollback", "greeter").stdout.endswith("greeter 1.0 (development) runs\n")
    shadow = running("upgrade", "greeter", "1.5", "--strategy", "shadow")
    assert "output: " in shadow.stdout
    assert (
        json.loads(running("upgrade", "greeter", "--show", "--json").stdout)["trial"]["strategy"] == "shadow"
    )
    assert running("upgrade", "greeter", "--abort").returncode == 0
    assert "upgrade: " not in running("status").stdout
    assert running("upgrade", "nobody").returncode == 3


def test_top_prints_a_line_for_each_look(running: Call) -> None:
    done = running("top", "--interval", "0.05", "--count", "2")
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert "2 of" in first
    assert "received" in second
    objects = running("top", "--interval", "0.01", "--count", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["ready"] for line in objects] == [True, True]


WITHOUT_HOST = "status; top; pause x; resume x; logs; upgrade x; rollback x"


@pytest.mark.parametrize("verb", WITHOUT_HOST.split("; "))
def test_without_a_host_the_line_that_starts_one_is_given(
    verb: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = init(tmp_path / "idle")
    monkeypatch.setenv("ECHO_CORE_PROJECT", str(idle.root))
    done = call(*verb.split())
    assert (done.returncode, done.stdout) == (5, "")
    assert f"fix: echo-core run --project {idle.root}" in done.stderr


def test_dev_runs_the_workshop_and_swaps_what_is_saved(tmp_path: Path) -> None:
    workspace = init(tmp_path / "dev")
    code = workspace.workshop / "ticker" / "src" / "ticker" / "__init__.py"
    make_library(
        workspace, "ticker", code=TICKER, subscriptions=[], publications=["tick"], plugin_type="source"
    )
    process = subprocess.Popen(
        [PROGRAM, "dev", "--project", workspace.root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None

    def hear(words: str) -> None:
        assert any(words in line for line in process.stderr or ())

    try:
        hear("ticker 0.1.0 running")
        while find_door(workspace) is None:  # by then it watches, or is about to
            time.sleep(0.02)
        time.sleep(0.3)
        code.write_text(code.read_text() + "\n\ndef broken(:\n")
        hear("__init__.py:15: SyntaxError")
        hear("still watching; what runs is as before")
        code.write_text(code.read_text().replace("def broken(:", "# mended"))
        hear("ticker is swapped in")
        process.send_signal(signal.SIGTERM)
        assert "done in" in process.communicate(timeout=100)[0]
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()
