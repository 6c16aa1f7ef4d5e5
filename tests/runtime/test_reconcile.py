"""The enabled folder of a running host: real libraries, real links."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from echo_core.errors import ChangeRefused, PluginInitError
from echo_core.runtime import reconcile
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.offer import offer_of
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.registry import disable, enable, enabled, read_enabled
from echo_core.runtime.states import PluginState
from echo_core.runtime.upgrade.plan import Plan
from echo_core.workspace import Workspace
from runtime.hosting import World, running
from support.libraries import make_library, make_workspace

SAYING = """
    from echo_core import Transformer

    class Greeter(Transformer):
        async def init(self, context):
            await super().init(context)
            {init}

        async def transform(self, message):
            return "{words}"

    def create_plugin():
        return Greeter()
"""


def code(words: str = "hello", init: str = "pass") -> str:
    return SAYING.format(words=words, init=init)


@asynccontextmanager
async def watched(
    workspace: Workspace, folder: Path, includes: Callable[[str], bool] = lambda name: True
) -> AsyncIterator[tuple[Host, Reconciler]]:
    """A host that obeys the workspace."""
    world, store, known = World(folder), Store(workspace.state), enabled(workspace)
    for entry in known:
        if entry.library is not None:
            world.host.offer(offer_of(entry.library, store))
    reconciler = Reconciler(world.host, workspace, store, known=known, includes=includes)
    async with running(world) as host:
        watch = asyncio.create_task(reconciler.watch())
        try:
            yield host, reconciler
        finally:
            watch.cancel()
            await asyncio.wait([watch])


def version(host: Host) -> tuple[str, PluginState] | None:
    plugin = host.plugin("greeter")
    return (plugin.version, plugin.state) if plugin else None


async def until(condition: Callable[[], object]) -> None:
    """The folder is watched by a thread, so this waits for real; the test's timeout ends it."""
    while not condition():
        await asyncio.sleep(0.002)


def run(
    scenario: Callable[[Workspace, Host, Reconciler], Awaitable[None]],
    workspace: Workspace,
    folder: Path,
    **watch: Any,
) -> None:
    async def main() -> None:
        async with watched(workspace, folder, **watch) as (host, reconciler):
            await scenario(workspace, host, reconciler)

    asyncio.run(main())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr(reconcile, "_LOOK_AGAIN_MS", 100)  # for what changes before it watches
    return make_workspace(tmp_path / "ws")


def test_a_link_that_appears_changes_and_goes_brings_the_plugin_up_over_and_down(
    workspace: Workspace, tmp_path: Path
) -> None:
    first = make_library(workspace, code=code(), version="1.0")
    second = make_library(workspace, code=code("good day"), version="2.0")

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        enable(workspace, first)
        await until(lambda: version(host) == ("1.0", PluginState.RUNNING))
        enable(workspace, second)
        await until(lambda: version(host) == ("2.0", PluginState.RUNNING))
        disable(workspace, "greeter")
        await until(lambda: version(host) is None)

    run(scenario, workspace, tmp_path)


def test_what_was_enabled_before_the_host_started_runs_and_is_let_be(
    workspace: Workspace, tmp_path: Path
) -> None:
    enable(workspace, make_library(workspace, code=code(), version="1.0"))

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        before = len(host.history.moves())
        await reconciler.reconcile()
        assert len(host.history.moves()) == before
        assert version(host) == ("1.0", PluginState.RUNNING)

    run(scenario, workspace, tmp_path)


def test_a_wish_that_cannot_be_granted_changes_nothing_and_is_known_with_its_reason(
    workspace: Workspace, tmp_path: Path
) -> None:
    enable(workspace, make_library(workspace, code=code(), version="1.0"))
    broken = make_library(workspace, code=code(init="raise ValueError('no database')"), version="2.0")
    good = make_library(workspace, code=code(), version="3.0")
    tampered = make_library(workspace, code=code(), version="4.0")
    (tampered.path / "manifest.json").write_text("{}")

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        for library, reason in ((broken, "no database"), (tampered, "manifest.json")):
            enable(workspace, library)
            await until(lambda reason=reason: reason in str(reconciler.refusals().get("greeter")))  # type: ignore[misc]
            assert version(host) == ("1.0", PluginState.RUNNING)
        enable(workspace, good)
        await until(lambda: version(host) == ("3.0", PluginState.RUNNING))
        await until(lambda: not reconciler.refusals())  # which is told after the plugin runs

    run(scenario, workspace, tmp_path)


def test_what_is_activated_directly_is_enabled_once_it_runs(workspace: Workspace, tmp_path: Path) -> None:
    library = make_library(workspace, code=code(), version="1.0")
    broken = make_library(workspace, code=code(init="raise ValueError('no database')"), version="2.0")

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        with pytest.raises(PluginInitError, match="no database"):
            await reconciler.activate(broken)
        assert version(host) is None
        assert not enabled(workspace)

        await reconciler.activate(library)
        assert version(host) == ("1.0", PluginState.RUNNING)
        assert [entry.version for entry in enabled(workspace)] == ["1.0"]

        with pytest.raises(PluginInitError, match="no database"):
            await reconciler.activate(broken)
        assert [entry.version for entry in enabled(workspace)] == ["1.0"]
        assert version(host) == ("1.0", PluginState.RUNNING)

        await reconciler.deactivate("greeter")
        await reconciler.deactivate("greeter")
        assert version(host) is None
        assert not enabled(workspace)

    run(scenario, workspace, tmp_path)


def test_a_trial_that_ended_with_its_host_is_told_by_the_next_one(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enable(workspace, make_library(workspace, code=code(), version="1.0"))
    new = make_library(workspace, code=code("hallo"), version="2.0")

    async def begin(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        await reconciler.upgrade(new, Plan(strategy="blue-green"))
        await host.send_back("greeter")
        reconciler.recall_trials()
        assert host.trials.outcome("greeter") == "2.0 was sent back: by an operator"
        await reconciler.upgrade(new, Plan(strategy="canary"))
        reconciler.recall_trials()  # it is this host's own
        assert host.trials.status("greeter") is not None

    async def go_on(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        reconciler.recall_trials()
        assert "the host ended before the trial of 2.0 did" in host.trials.outcome("greeter")
        assert version(host) == ("1.0", PluginState.RUNNING)

    async def later(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        reconciler.recall_trials()
        assert host.trials.outcome("greeter") == ""

    for number, scenario in enumerate((begin, go_on, later)):
        run(scenario, workspace, tmp_path / str(number))
    assert len([line for line in caplog.messages if "before the trial of 2.0" in line]) == 1


def test_a_link_that_was_read_before_a_change_does_not_undo_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (
        make_library(workspace, code=code(), version=version) for version in ("1.0", "2.0", "3.0")
    )
    enable(workspace, first)
    has_read, may_go_on = threading.Event(), threading.Event()

    def read_and_wait(*which: Any) -> Any:
        entry = read_enabled(*which)
        has_read.set()
        may_go_on.wait(60)
        return entry

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        monkeypatch.setattr(reconcile, "read_enabled", read_and_wait)
        enable(workspace, second)
        await asyncio.to_thread(has_read.wait)
        changing = asyncio.create_task(reconciler.upgrade(third, Plan()))
        await asyncio.wait([changing], timeout=0.2)
        may_go_on.set()
        await changing
        await reconciler.reconcile()
        assert version(host) == ("3.0", PluginState.RUNNING)
        assert [entry.version for entry in enabled(workspace)] == ["3.0"]
        await reconciler.roll_back("greeter")
        assert version(host) == ("2.0", PluginState.RUNNING)

    run(scenario, workspace, tmp_path)


def test_another_build_of_the_same_version_takes_its_place_and_the_same_build_is_let_be(
    workspace: Workspace, tmp_path: Path
) -> None:
    enable(workspace, make_library(workspace, code=code(), version="1.0"))
    rebuilt = make_library(workspace, code=code("good day"), version="1.0")

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        await reconciler.activate(rebuilt)
        running = host.plugin("greeter")
        assert running is not None
        assert running.digest == rebuilt.digest
        before = len(host.history.moves())
        await reconciler.activate(rebuilt)
        assert len(host.history.moves()) == before

    run(scenario, workspace, tmp_path)


def test_a_host_of_chosen_plugins_lets_the_others_be(workspace: Workspace, tmp_path: Path) -> None:
    library = make_library(workspace, code=code(), version="1.0")

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        enable(workspace, library)
        await reconciler.reconcile()
        assert version(host) is None
        with pytest.raises(ChangeRefused):
            await reconciler.activate(library)
        with pytest.raises(ChangeRefused):
            await reconciler.deactivate("greeter")

    run(scenario, workspace, tmp_path, includes=lambda name: name != "greeter")


def test_a_folder_that_is_gone_for_a_moment_takes_nothing_down(workspace: Workspace, tmp_path: Path) -> None:
    enable(workspace, make_library(workspace, code=code(), version="1.0"))

    async def scenario(workspace: Workspace, host: Host, reconciler: Reconciler) -> None:
        aside = workspace.enabled.with_name("aside")
        workspace.enabled.rename(aside)
        await reconciler.reconcile()
        assert version(host) == ("1.0", PluginState.RUNNING)
        shutil.move(aside, workspace.enabled)

    run(scenario, workspace, tmp_path)
