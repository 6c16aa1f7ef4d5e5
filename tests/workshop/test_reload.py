"""The development loop, over a real folder and a real host."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from echo_core.errors import EchoCoreError
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.states import PluginState
from echo_core.workshop import reload
from echo_core.workshop.build import BuildReport, build
from echo_core.workshop.reload import Reloader
from echo_core.workspace import Workspace
from runtime.hosting import Handler, World, manifest, running
from support.libraries import make_workspace, write_plugin

SAYING = """
    import asyncio
    from echo_core import Source

    class Greeter(Source):
        async def produce(self):
            while True:
                yield "{words}"
                await asyncio.sleep(0.001)

    def create_plugin():
        return Greeter()
"""
SPEAKER = {"subscriptions": [], "publications": ["greetings.made"], "plugin_type": "source"}


class Loop:
    """A host in the development loop, and what is heard of it."""

    def __init__(self, workspace: Workspace, host: Host, sink: Handler) -> None:
        self.workspace = workspace
        self.host = host
        self.sink = sink
        self.said: list[tuple[str, str, EchoCoreError | None]] = []

    def save(self, code: str) -> None:
        write(self.workspace, code)

    async def hears(self, words: str) -> None:
        seen = len(self.sink.seen)
        await until(lambda: words in self.sink.data[seen:])

    @property
    def state(self) -> PluginState | None:
        plugin = self.host.plugin("greeter")
        return plugin.state if plugin else None


async def until(condition: Callable[[], object]) -> None:
    """Files are watched by a thread, so this waits for real; the test's timeout ends it."""
    while not condition():
        await asyncio.sleep(0.002)


def write(workspace: Workspace, code: str, name: str = "greeter") -> None:
    write_plugin(workspace, name, code=code, **SPEAKER)  # type: ignore[arg-type]


@asynccontextmanager
async def loop(workspace: Workspace) -> AsyncIterator[Loop]:
    world, sink = World(workspace.root), Handler()
    world.add(sink, manifest("sink", hears=("greetings.made",)))
    made = Loop(workspace, world.host, sink)
    reloader = Reloader(workspace, Store(workspace.state), lambda *what: made.said.append(what))
    reloader.begin(world.host)
    async with running(world) as host:
        watch = asyncio.create_task(reloader.watch(host))
        await asyncio.sleep(0.2)  # until it watches: what was saved before that is seen a second later
        try:
            yield made
        finally:
            watch.cancel()
            await asyncio.wait([watch])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def run(workspace: Workspace, scenario: Callable[[Loop], Awaitable[None]]) -> None:
    async def main() -> None:
        async with loop(workspace) as made:
            await scenario(made)

    asyncio.run(main())


def test_what_is_saved_takes_the_place_of_what_runs(workspace: Workspace) -> None:
    async def scenario(made: Loop) -> None:
        await made.hears("hello")
        made.save(SAYING.format(words="good day"))
        await made.hears("good day")
        await until(lambda: made.said)
        ((name, done, error),) = made.said
        assert (name, error) == ("greeter", None)
        assert done.startswith("is swapped in ")

    write(workspace, SAYING.format(words="hello"))
    run(workspace, scenario)


def test_a_syntax_error_keeps_what_runs_and_names_file_and_line(workspace: Workspace) -> None:
    async def scenario(made: Loop) -> None:
        made.save(SAYING.format(words="good day") + "\n    def broken(:\n")
        await until(lambda: made.said)
        assert "src/greeter/__init__.py:13: SyntaxError" in str(made.said[0][2])
        await made.hears("hello")
        assert made.state is PluginState.RUNNING
        made.save(SAYING.format(words="good day"))
        await made.hears("good day")

    write(workspace, SAYING.format(words="hello"))
    run(workspace, scenario)


def test_what_is_mended_by_undoing_it_is_said_and_the_same_fault_again_too(workspace: Workspace) -> None:
    hello = SAYING.format(words="hello")

    async def scenario(made: Loop) -> None:
        for count in (1, 3):
            made.save(hello + "\n    def broken(:\n")
            await until(lambda count=count: len(made.said) == count)  # type: ignore[misc]
            assert "SyntaxError" in str(made.said[-1][2])
            made.save(hello)
            await until(lambda count=count: len(made.said) == count + 1)  # type: ignore[misc]
            assert made.said[-1] == ("greeter", "is in order again, as what runs", None)

    write(workspace, hello)
    run(workspace, scenario)


@pytest.mark.parametrize(
    "broken", ["def broken(:\n", "raise ValueError('no import')\n"], ids=["syntax", "import"]
)
def test_a_plugin_that_was_broken_from_the_beginning_comes_up_once_it_is_mended(
    workspace: Workspace, broken: str
) -> None:
    async def scenario(made: Loop) -> None:
        assert made.state is PluginState.FAILED
        before = list(made.host.history.moves("greeter"))
        made.save(SAYING.format(words="mended"))
        await made.hears("mended")
        moves = [move.state for move in list(made.host.history.moves("greeter"))[len(before) :]]
        assert moves.count(PluginState.FAILED) == 0  # what has failed is not tried again unchanged

    write(workspace, broken)
    run(workspace, scenario)


def test_plugins_that_are_created_and_deleted_come_and_go_and_what_tools_write_is_nobodys(
    workspace: Workspace,
) -> None:
    async def scenario(made: Loop) -> None:
        write(workspace, SAYING.format(words="new"), name="other")
        await made.hears("new")
        cache = workspace.workshop / "other" / "tests" / "__pycache__"
        cache.mkdir()
        (cache / "x.pyc").write_bytes(b"x")
        shutil.rmtree(workspace.workshop / "other")
        await until(lambda: made.host.plugin("other") is None)
        assert all(error is None for _, _, error in made.said)
        assert made.state is PluginState.RUNNING

    write(workspace, SAYING.format(words="hello"))
    run(workspace, scenario)


def test_a_plugin_that_is_made_just_before_the_watching_begins_comes_up(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def quiet(*_: object, **options: object) -> AsyncIterator[set[object]]:
        write(workspace, SAYING.format(words="new"), name="other")
        while True:
            yield set()
            await asyncio.sleep(0.01)

    monkeypatch.setattr("watchfiles.awatch", quiet)
    write(workspace, SAYING.format(words="hello"))
    run(workspace, lambda made: made.hears("new"))


def test_a_plugin_that_is_deleted_while_it_is_built_goes_without_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = workspace.workshop / "other"

    def lose_and_build(workspace: Workspace, name: str) -> BuildReport:
        if name != "other":
            return build(workspace, name)
        shutil.rmtree(there / "src")
        try:
            return build(workspace, name)
        finally:
            shutil.rmtree(there)

    async def scenario(made: Loop) -> None:
        monkeypatch.setattr(reload, "build", lose_and_build)
        write(workspace, SAYING.format(words="changed"), name="other")
        await until(lambda: made.host.plugin("other") is None)
        assert ("other", "is taken down", None) in made.said
        assert all(error is None for _, _, error in made.said)

    write(workspace, SAYING.format(words="new"), name="other")
    run(workspace, scenario)


def test_a_folder_that_is_moved_there_comes_up_and_its_going_is_said(workspace: Workspace) -> None:
    async def scenario(made: Loop) -> None:
        there = workspace.workshop / "other"
        elsewhere = workspace.root / "other"
        write(workspace, SAYING.format(words="new"), name="other")
        there.rename(elsewhere)
        await until(lambda: made.host.plugin("other") is None)
        made.said.clear()
        elsewhere.rename(there)
        await made.hears("new")
        there.rename(elsewhere)
        await until(lambda: ("other", "is taken down", None) in made.said)

    write(workspace, SAYING.format(words="hello"))
    run(workspace, scenario)


def test_an_init_that_raises_is_said_with_its_file_and_line(workspace: Workspace) -> None:
    raising = SAYING.format(words="x").replace(
        "async def produce",
        "async def init(self, context):\n            raise ValueError('no')\n\n        async def produce",
    )

    async def scenario(made: Loop) -> None:
        made.save(raising)
        await until(lambda: made.said)
        assert "init: ValueError: no (greeter/__init__.py:6 in init)" in str(made.said[0][2])
        assert made.state is PluginState.RUNNING

    write(workspace, SAYING.format(words="hello"))
    run(workspace, scenario)
