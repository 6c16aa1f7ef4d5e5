"""`echo-core status --cluster`: all hosts of a transport, whether one of them runs here or not."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from echo_core.runtime import presence
from echo_core.runtime.presence import Presence
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot
from echo_core.transports.urls import transport_for
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

Call = Callable[..., CompletedProcess[str]]


class Elsewhere:
    """A host of another workspace, as others hear it."""

    def __init__(self, url: str) -> None:
        self.state = PluginState.RUNNING
        self._url = url
        self._uptime_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._run()])

    def _snapshot(self) -> HostSnapshot:
        self._uptime_s += 1
        plugin = PluginSnapshot(
            name="cleaner",
            version="1.2",
            build_type="",
            plugin_type="",
            state=self.state,
            reason="" if self.state is PluginState.RUNNING else "it is slow",
            processed=12_345,
        )
        return HostSnapshot(uptime_s=self._uptime_s, plugins=[plugin])

    async def _run(self) -> None:
        self._stop = asyncio.Event()
        async with transport_for(self._url) as transport:
            watching = asyncio.create_task(Presence(transport, self._snapshot).watch())
            await self._stop.wait()
            watching.cancel()
            await asyncio.wait([watching])

    def __enter__(self) -> "Elsewhere":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(presence, "INTERVAL_S", 0.2)
    workspace = init(tmp_path / "ws")
    workspace.settings_file.write_text('[host]\ntransport = "sqlite://shared.sqlite"\n', encoding="utf-8")
    monkeypatch.setenv("ECHO_CORE_PROJECT", str(workspace.root))
    return workspace


@pytest.fixture
def elsewhere(workspace: Workspace) -> Iterator[Elsewhere]:
    with Elsewhere(f"sqlite://{workspace.root}/shared.sqlite") as elsewhere:
        yield elsewhere


def test_hosts_elsewhere_are_shown_with_what_they_run(call: Call, elsewhere: Elsewhere) -> None:
    done = call("status", "--cluster")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 host\n")
    assert "cleaner 1.2  * running     12,345" in done.stdout
    assert done.stdout.endswith("all well\n")
    (seen,) = json.loads(call("status", "--cluster", "--json").stdout)["hosts"]
    assert (seen["silent"], seen["host"]["plugins"][0]["name"]) == (False, "cleaner")


def test_a_plugin_that_is_not_well_elsewhere_is_said(call: Call, elsewhere: Elsewhere) -> None:
    elsewhere.state = PluginState.DEGRADED
    done = call("status", "--cluster")
    assert done.returncode == 1
    assert "is degraded: it is slow" in done.stdout


@pytest.mark.usefixtures("workspace")
def test_where_no_host_is_heard_it_says_so(call: Call) -> None:
    done = call("status", "--cluster")
    assert (done.returncode, "no host is heard" in done.stderr) == (5, True)
