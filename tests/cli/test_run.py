"""`echo-core run`, as a person or a service manager runs it: a process, signals, a terminal."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from common_telemetry import TelemetryConfig
from common_telemetry.testing import InMemoryTelemetry
from echo_core.cli.progress import ABORTING, STOPPING
from echo_core.cli.run import recorder_for
from echo_core.runtime.dead_letters import FILE_NAME
from echo_core.runtime.settings import Settings
from echo_core.transports.memory import MemoryTransport
from echo_core.workshop.activate import activate
from echo_core.workshop.build import build
from echo_core.workshop.create import create
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

PROGRAM = Path(sys.executable).parent / "echo-core"
PATIENCE_S = 100.0

TICKER = """
import asyncio
from echo_core import Source

class Ticker(Source):
    async def produce(self):
        number = 0
        while number < self.context.config["count"]:
            yield {"number": number}
            number += 1
            await asyncio.sleep(self.context.config["pause_s"])

def create_plugin():
    return Ticker()
"""
KEEPER = """
import asyncio
from echo_core import Sink

class Keeper(Sink):
    async def write(self, message):
        if message.data["number"] == self.context.config["warns_at"]:
            self.context.logger().warning("number %d looks odd", message.data["number"])
        if message.data["number"] in self.context.config["fails"]:
            raise ValueError(f"cannot keep {message.data['number']}")
        await asyncio.sleep(self.context.config["takes_s"])

def create_plugin():
    return Keeper()
"""
BROKEN = "raise RuntimeError('no import today')\n\ndef create_plugin(): ...\n"

Run = Callable[..., CompletedProcess[str]]


def add_plugin(workspace: Workspace, name: str, code: str, **manifest: Any) -> None:
    """A built and activated plugin with this code."""
    folder = create(workspace, name, manifest.get("plugin_type", "sink")).path
    document = {
        "name": name,
        "version": "1.0.0",
        "description": "For a test.",
        "entry_point": "create_plugin",
        "subscriptions": [],
        "publications": [],
        "delivery": {"max_attempts": 2, "backoff_ms": 1},
    }
    (folder / "manifest.json").write_text(json.dumps(document | manifest), encoding="utf-8")
    (folder / "src" / name / "__init__.py").write_text(code, encoding="utf-8")
    build(workspace, name)
    activate(workspace, name, "development")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A source that ticks and a sink that keeps; both do as the environment says."""
    workspace = init(tmp_path_factory.mktemp("run") / "ws")
    ticks = {"config": {"count": 5, "pause_s": 0.0}, "publications": ["tick"], "plugin_type": "source"}
    keeps = {
        "config": {"fails": [], "takes_s": 0.0, "warns_at": -1},
        "subscriptions": ["tick"],
        "plugin_type": "sink",
    }
    add_plugin(workspace, "ticker", TICKER, **ticks)
    add_plugin(workspace, "keeper", KEEPER, **keeps)
    return workspace


def environment(**variables: str) -> Mapping[str, str]:
    unwanted = ("OTEL_", "ECHO_", "NO_COLOR")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    return kept | {"COLUMNS": "120", "TERM": "xterm"} | variables


@pytest.fixture
def run(workspace: Workspace) -> Run:
    """Runs the host to its end, piped."""

    def call(*arguments: str, **variables: str) -> CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments],
            env=environment(ECHO_CORE_PROJECT=str(workspace.root), **variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return call


@contextmanager
def started(workspace: Workspace, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A host that runs until it is told to stop; ended at the latest with the block."""
    process = subprocess.Popen(
        [PROGRAM, "run", "--project", workspace.root, *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stderr is not None
    for said in process.stderr:
        if line in said:
            return
    raise AssertionError(f"the host ended without saying {line!r}")


def test_a_run_until_idle_ends_by_itself_and_every_message_is_accounted_for(run: Run) -> None:
    done = run("run", "--until-idle", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "echo-core.run/1"
    assert (document["ok"], document["problems"]) == (True, [])
    totals = document["totals"]
    assert (totals["published"], totals["received"], totals["processed"]) == (5, 5, 5)
    assert [plugin["name"] for plugin in document["plugins"]] == ["keeper", "ticker"]


def test_a_piped_run_says_what_happens_in_plain_lines_and_ends_with_the_account(run: Run) -> None:
    done = run("run", "--until-idle")
    assert done.returncode == 0
    assert "ticker 1.0.0 running\n" in done.stderr
    assert "ticker 1.0.0 finished\n" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["keeper", "1.0.0", "stopped", "5", "5", "0", "0", "0", "0", "0"] in rows
    assert done.stdout.splitlines()[-1].startswith("done in ")


def test_what_cannot_be_handled_fails_the_run_and_is_found_where_the_run_says(
    run: Run, workspace: Workspace
) -> None:
    (workspace.state / FILE_NAME).unlink(missing_ok=True)  # other tests leave dead letters too
    done = run("run", "--until-idle", ECHO_PLUGIN_KEEPER__FAILS="[1, 3]")
    assert done.returncode == 1
    assert "2 messages were dead-lettered" in done.stdout
    assert done.stdout.splitlines()[-1] == "next: echo-core dlq list"
    assert ["total", "5", "3", "0", "2", "0", "5", "4"] in [line.split() for line in done.stdout.splitlines()]
    letters = json.loads(run("dlq", "list", "--json").stdout)
    assert (letters["total"], letters["letters"][0]["plugin"]) == (2, "keeper")
    letter = json.loads(run("dlq", "show", str(letters["letters"][1]["id"]), "--json").stdout)
    assert letter["message"]["data"] == {"number": 1}
    assert [attempt["error"] for attempt in letter["errors"]] == ["cannot keep 1"] * 2


def test_only_and_except_choose_among_the_activated_plugins(run: Run) -> None:
    for choice in (("--only", "ticker"), ("--except", "keeper")):
        document = json.loads(run("run", "--until-idle", "--json", *choice).stdout)
        assert [plugin["name"] for plugin in document["plugins"]] == ["ticker"]


def test_a_misspelt_plugin_is_not_found_before_anything_starts(run: Run) -> None:
    done = run("run", "--only", "tikcer")
    assert (done.returncode, done.stdout) == (3, "")
    assert "fix: did you mean 'ticker'?" in done.stderr


def test_with_no_plugin_activated_there_is_nothing_to_run(tmp_path: Path, run: Run) -> None:
    empty = init(tmp_path / "empty")
    done = run("run", "--until-idle", "--project", str(empty.root))
    assert done.returncode == 3
    assert "echo-core activate NAME" in done.stderr


def test_wrong_settings_end_the_run_before_it_starts(tmp_path: Path, workspace: Workspace, run: Run) -> None:
    broken = init(tmp_path / "broken")
    (broken.enabled / "ticker").symlink_to(workspace.enabled / "ticker")
    broken.settings_file.write_text('[telemetry]\nengine = "quick"\n', encoding="utf-8")
    done = run("run", "--project", str(broken.root))
    assert done.returncode == 2
    assert "error[E-SETTINGS]: telemetry cannot be set up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plugin_that_cannot_be_loaded_is_shown_with_its_reason_and_the_others_run(
    tmp_path: Path, run: Run
) -> None:
    other = init(tmp_path / "other")
    add_plugin(other, "broken", BROKEN, subscriptions=["tick"])
    ticks = {"config": {"count": 3, "pause_s": 0}, "publications": ["tick"], "plugin_type": "source"}
    add_plugin(other, "ticker", TICKER, **ticks)
    done = run("run", "--until-idle", "--json", "--project", str(other.root))
    assert done.returncode == 1
    broken, ticker = json.loads(done.stdout)["plugins"]
    assert broken["state"] == "failed"
    assert "no import today" in broken["reason"]
    assert (ticker["state"], ticker["counts"]["published"]) == ("stopped", 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_under_way(number: signal.Signals, workspace: Workspace) -> None:
    with started(workspace, ECHO_PLUGIN_TICKER__COUNT="1000000", ECHO_PLUGIN_TICKER__PAUSE_S="0.001") as host:
        read_until(host, "ticker 1.0.0 running")
        host.send_signal(number)
        stdout, stderr = host.communicate(timeout=PATIENCE_S)
    assert host.returncode == 0
    assert STOPPING in stderr
    total = next(line.split() for line in stdout.splitlines() if line.startswith("total"))
    _, received, processed, *rest = (cell.replace(",", "") for cell in total)
    assert received == processed
    assert rest == ["0", "0", "0", received, "0"]


def test_the_second_signal_stops_at_once(workspace: Workspace) -> None:
    with started(workspace, ECHO_PLUGIN_KEEPER__TAKES_S="600") as host:
        read_until(host, "ticker 1.0.0 finished")
        host.send_signal(signal.SIGTERM)
        read_until(host, STOPPING)
        host.send_signal(signal.SIGINT)
        _, stderr = host.communicate(timeout=PATIENCE_S)
    assert host.returncode == 130
    assert ABORTING in stderr


def test_a_reader_of_the_lines_that_goes_away_does_not_stop_the_host(workspace: Workspace) -> None:
    with started(workspace, "--until-idle", ECHO_PLUGIN_TICKER__PAUSE_S="0.05") as host:
        assert host.stderr is not None
        host.stderr.close()
        host.stderr = None
        stdout, _ = host.communicate(timeout=PATIENCE_S)
    assert host.returncode == 0
    assert ["total", "5", "5", "0", "0", "0", "5", "0"] in [line.split() for line in stdout.splitlines()]


def test_what_a_plugin_warns_of_is_a_line_on_stderr_once_and_nothing_else_is(run: Run) -> None:
    done = run("run", "--until-idle", "--json", ECHO_PLUGIN_KEEPER__WARNS_AT="3")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING echo\.plugin\.keeper: number 3 looks odd", line)


def test_a_plugin_that_fails_is_said_once(tmp_path: Path, run: Run) -> None:
    other = init(tmp_path / "other")
    add_plugin(other, "broken", BROKEN, subscriptions=["tick"])
    done = run("run", "--until-idle", "--project", str(other.root))
    assert done.stderr.count("broken 1.0.0 failed: ") == 1
    assert "at broken/__init__.py:1; because RuntimeError: no import today" in done.stderr


def test_a_trace_is_shown_when_asked_for(run: Run) -> None:
    done = run("run", "--until-idle", "--trace")
    assert done.returncode == 0
    tree = done.stdout[done.stdout.index("trace ") :]
    assert "publish tick" in tree
    assert "process tick" in tree
    assert "keeper" in tree


def on_a_terminal(workspace: Workspace, **variables: str) -> str:
    """What a person sees of a run that takes about a second."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "run", "--project", workspace.root, "--until-idle"],
        env=environment(ECHO_PLUGIN_TICKER__COUNT="10", ECHO_PLUGIN_TICKER__PAUSE_S="0.1", **variables),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(ours, 65_536):
            seen += block
    except OSError:  # Linux: the other side was closed
        pass
    finally:
        os.close(ours)
        process.wait(PATIENCE_S)
    assert process.returncode == 0
    return seen.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]+m")
CURSOR_UP = "\x1b[1A"


def test_a_terminal_shows_a_table_that_moves_in_colour_and_then_the_account(workspace: Workspace) -> None:
    seen = on_a_terminal(workspace)
    assert CURSOR_UP in seen
    assert COLOUR.search(seen)
    assert "Ctrl-C stops" in seen
    for heading in ("PLUGIN", "STATE", "IN/S", "OUT/S", "P95 ms", "FAILED", "DEAD", "QUEUE"):
        assert heading in seen
    assert seen.rstrip().splitlines()[-1].startswith("done in ")


def test_a_terminal_without_colour_shows_the_same_table(workspace: Workspace) -> None:
    seen = on_a_terminal(workspace, NO_COLOR="1")
    assert CURSOR_UP in seen
    assert "* running" in seen
    assert not COLOUR.search(seen)


def test_what_the_history_has_no_room_for_is_measured(tmp_path: Path) -> None:
    with InMemoryTelemetry(TelemetryConfig()) as memory:
        recorder = recorder_for(Settings(), Workspace(tmp_path), MemoryTransport(), memory.context)
        assert recorder is not None
        recorder.drop("worker", "record", 3)
        recorder.close()
        (point,) = memory.metrics("plugin.history.dropped")
    assert (point.attributes, point.value) == ({"plugin.name": "worker", "history.item": "record"}, 3)
