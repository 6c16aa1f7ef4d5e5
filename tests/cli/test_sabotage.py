"""A day of sabotage as an operator sees it: by the command line alone, on a host that goes on all day."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from echo_core.control.door import find_door
from echo_core.workshop.initialise import init
from support.libraries import make_library

PROGRAM = Path(sys.executable).parent / "echo-core"
Call = Callable[..., CompletedProcess[str]]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the faults are Linux's")

TICKER = """
    import asyncio
    from echo_core import Source

    class Ticker(Source):
        async def produce(self):
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.01)

    def create_plugin():
        return Ticker()
"""
SABOTEUR = """
    import asyncio, os, threading, time
    from echo_core import Sink

    class Saboteur(Sink):
        did = False

        async def init(self, context):
            await super().init(context)
            INIT

        async def write(self, message):
            DEED

        async def shutdown(self):
            SHUTDOWN

    def create_plugin():
        return Saboteur()
"""


def saboteur(*, init: str = "pass", deed: str = "pass", shutdown: str = "pass") -> str:
    return SABOTEUR.replace("INIT", init).replace("DEED", deed).replace("SHUTDOWN", shutdown)


@pytest.fixture
def host(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A host with a source and a neighbour; saboteurs are built, and not activated."""
    workspace = init(tmp_path / "ws")
    monkeypatch.setenv("ECHO_CORE_PROJECT", str(workspace.root))
    hears: dict[str, Any] = {"subscriptions": ["tick"], "publications": [], "plugin_type": "sink"}
    own = hears | {"isolation": "process", "delivery": {"max_attempts": 3, "backoff_ms": 1}}
    make_library(
        workspace, "ticker", code=TICKER, subscriptions=[], publications=["tick"], plugin_type="source"
    )
    make_library(workspace, "neighbour", code=saboteur(), **hears)
    poison = saboteur(deed="message.data % 100 == 99 and os._exit(0)")
    make_library(workspace, "exiter", code=poison, **own)
    hangs = saboteur(shutdown="time.sleep(600)")
    make_library(workspace, "hanger", code=hangs, **own, timeouts={"shutdown_ms": 500})
    leaks = "threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); self.out = open(__file__)"
    make_library(workspace, "leaker", code=saboteur(init=leaks), **hears)
    process = subprocess.Popen(
        [PROGRAM, "run", "--plain"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        while find_door(workspace) is None:
            assert process.poll() is None
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def told(call: Call, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("status", name, "--json").stdout)
    return found


def reasons(call: Call, name: str) -> list[str]:
    return [move["reason"] for move in told(call, name)["moves"] if move["reason"]]


@pytest.mark.timeout(300)
def test_saboteurs_come_and_go_and_the_neighbours_do_not_notice(
    host: subprocess.Popen[str], call: Call
) -> None:
    for name in ("ticker", "neighbour", "exiter"):
        done = call("activate", name)
        assert (done.returncode, done.stdout) == (0, f"{name} 0.1.0 (development) is activated, and runs\n")

    # It ends its process over one message in a hundred: that one is found, and the plugin is back.
    while told(call, "exiter")["plugins"][0]["dead_lettered"] == 0:
        time.sleep(0.05)
    assert any("ended by itself with exit code 0" in reason for reason in reasons(call, "exiter"))
    assert "PluginCrashed" in call("dlq", "list").stdout
    assert "exit code 0" in call("logs", "exiter").stdout
    assert call("deactivate", "exiter").returncode == 0

    # It does not shut down: it is gone all the same, and its history says why.
    assert call("activate", "hanger").returncode == 0
    assert call("deactivate", "hanger").stdout == "hanger is deactivated\n"
    assert "shutdown: no answer within 0.5 s" in reasons(call, "hanger")

    # It leaves a file and a thread behind: that is said, by name.
    assert call("activate", "leaker").returncode == 0
    assert call("deactivate", "leaker").returncode == 0
    (left,) = reasons(call, "leaker")
    assert left.startswith("it left behind: file ")

    ticker, neighbour = told(call, "ticker"), told(call, "neighbour")
    assert [move["state"] for move in neighbour["moves"]] == ["starting", "running"]
    assert [move["state"] for move in ticker["moves"]] == ["starting", "running"]
    host.send_signal(signal.SIGTERM)
    said, _ = host.communicate(timeout=100)
    assert "done, with problems in" in said
    assert host.returncode == 1  # messages were dead-lettered
