"""What a plugin leaves behind is found, ended where that is safe, and told in log, telemetry and history."""

import asyncio
import builtins
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from common_telemetry.testing import OtlpReceiver
from echo_core.errors import PluginInitError
from echo_core.runtime.leftovers import sweep
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.offer import Offer, offer_of
from echo_core.runtime.slot import PluginEvent
from echo_core.runtime.states import PluginState
from runtime.hosting import World, running
from support.libraries import make_library, make_wheel, make_workspace

CODE = """
    import asyncio, atexit, logging, multiprocessing, os, pathlib, signal, socket, sqlite3
    import subprocess, sys, threading, time, warnings
    import helping
    from concurrent.futures import ThreadPoolExecutor as Pool
    from echo_core import Plugin, ProcessingStatus

    SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]

    class MyWarning(UserWarning): pass
    class MyHandler(logging.Handler): pass
    class MyPolicy(asyncio.DefaultEventLoopPolicy): pass
    class MyFinder:
        def find_spec(self, name, path=None, target=None): return None

    async def poll():
        while True:
            await asyncio.sleep(0.01)

    async def stubborn():
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass

    def spin(stop):
        while not stop.wait(0.01):
            pass

    def note(path="", text="called"):
        pathlib.Path(path).write_text(text)

    def on_signal(number, frame): pass
    def on_error(*arguments): pass

    class Leaky(Plugin):
        async def init(self, context):
            await super().init(context)
            await getattr(self, context.config["leak"])(pathlib.Path(context.config["folder"]))

        async def process_message(self, topic, message):
            return ProcessingStatus.ACKNOWLEDGED

        async def nothing(self, folder):
            task = asyncio.create_task(asyncio.sleep(0))
            await task
            with open(folder / "tidy", "w"), socket.socket(), Pool(1) as pool:
                pool.submit(time.time).result()
            subprocess.run([sys.executable, "-c", ""])
            self.kept = [folder, context := self.context, logging.getLogger("x"), asyncio.get_running_loop()]

        async def task(self, folder): asyncio.create_task(poll())
        async def held_task(self, folder): self.waiting = asyncio.create_task(asyncio.sleep(1000))
        async def task_behind_a_wait(self, folder): asyncio.create_task(asyncio.wait_for(poll(), 1000))
        async def stubborn_task(self, folder): asyncio.create_task(stubborn())
        async def thread(self, folder):
            stop = threading.Event()
            sys.modules["builtins"].__dict__["leaky_stop"] = stop
            threading.Thread(target=spin, args=(stop,), daemon=True, name="spinning").start()
        async def ending_thread(self, folder):
            threading.Thread(target=lambda: time.sleep(0.1), daemon=True).start()
        async def worker_of_the_loop(self, folder):
            stop = threading.Event()
            sys.modules["builtins"].__dict__["leaky_stop"] = stop
            asyncio.get_running_loop().run_in_executor(None, spin, stop)
        async def timer_thread(self, folder):
            self.timer = threading.Timer(1000, poll)
            self.timer.start()
        async def timer(self, folder): asyncio.get_running_loop().call_later(1000, self.tick)
        def tick(self): pass
        async def executor(self, folder):
            self.pool = Pool(2)
            self.pool.submit(time.time).result()
        async def file(self, folder): self.report = open(folder / "report", "w")
        async def file_in_a_module(self, folder): helping.KEPT.append(open(folder / "report", "wb"))
        async def file_of_a_task(self, folder):
            async def write():
                with open(folder / "report", "w") as mine:
                    await asyncio.sleep(1000)
            asyncio.create_task(write())
        async def socket(self, folder):
            self.connection = socket.create_server(("127.0.0.1", 0))
        async def server(self, folder):
            self.listening = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        async def connection(self, folder):
            self.server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
            _, self.writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        async def database(self, folder): self.rows = sqlite3.connect(folder / "rows.db")
        async def child(self, folder):
            self.child = subprocess.Popen(SLEEP)
        async def child_of_asyncio(self, folder):
            self.child = await asyncio.create_subprocess_exec(*SLEEP)
        async def child_of_multiprocessing(self, folder):
            self.child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
            self.child.start()
        async def signal_handler(self, folder): signal.signal(signal.SIGUSR2, on_signal)
        async def atexit_callback(self, folder): atexit.register(note, folder / "at_exit")
        async def slow_atexit_callback(self, folder):
            atexit.register(note, folder / "never")
            atexit.register(time.sleep, 3)
        async def failing_atexit_callback(self, folder): atexit.register(note, "/nowhere/at/all")
        async def own_log_handler(self, folder): logging.getLogger("of.all").addHandler(MyHandler())
        async def log_handler(self, folder): logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
        async def warnings_filter(self, folder): warnings.filterwarnings("error", category=MyWarning)
        async def path(self, folder): sys.path.insert(0, str(folder))
        async def own_path(self, folder): sys.path.append(str(pathlib.Path(__file__).parent))
        async def module(self, folder): sys.modules["leaky_by_another_name"] = sys.modules[__name__]
        async def failing_init(self, folder):
            self.report = open(folder / "report", "w")
            raise ValueError("no")
        async def slow(self, folder):
            (folder / "begun").touch()
            while "LEAKY_TOKEN" not in os.environ: await asyncio.sleep(0.001)
        async def slow_environment(self, folder):
            while not (folder / "begun").exists(): await asyncio.sleep(0.001)
            await self.environment(folder)
        async def environment(self, folder): os.environ["LEAKY_TOKEN"] = "secret"
        async def policy(self, folder): asyncio.set_event_loop_policy(MyPolicy())
        async def hook(self, folder): sys.excepthook = on_error
        async def import_hook(self, folder): sys.meta_path.append(MyFinder())
        async def folder(self, folder): os.chdir(folder)
        async def timeout(self, folder): socket.setdefaulttimeout(77.0)

    def create_plugin():
        return Leaky()
"""


def no_child(text: str) -> bool:
    """Whether the process that is named there is gone, or on its way."""
    pid = int(text.partition("child process ")[2].split()[0])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if b" Z " in Path(f"/proc/{pid}/stat").read_bytes():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def restored() -> bool:
    return signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL


TIDY: dict[str, Callable[[], object]] = {
    "environment": lambda: os.environ.pop("LEAKY_TOKEN"),
    "timeout": lambda: socket.setdefaulttimeout(None),
    "thread": lambda: vars(builtins).pop("leaky_stop").set(),
    "worker_of_the_loop": lambda: vars(builtins).pop("leaky_stop").set(),
}
"""What is left to the test to put right."""
KINDS: dict[str, tuple[str, Callable[[str, Path], object]]] = {
    "task": ("task poll at leaky/__init__.py:", lambda text, _: "(cancelled)" in text),
    "held_task": ("task sleep (cancelled)", lambda *_: True),
    # Up to Python 3.11 `wait_for` begins a task for what it waits for.
    "task_behind_a_wait": ("leaky/__init__.py:", lambda text, _: "task " in text and "in poll" in text),
    "stubborn_task": ("task stubborn at", lambda text, _: "still runs after it was cancelled" in text),
    "thread": ("thread 'spinning' at leaky/__init__.py:", lambda text, _: "(still runs)" in text),
    "worker_of_the_loop": ("thread 'asyncio_", lambda text, _: "in spin (still runs)" in text),
    "timer_thread": ("timer leaky.poll (cancelled)", lambda *_: True),
    "timer": ("timer leaky.Leaky.tick (cancelled)", lambda *_: True),
    "executor": ("executor ThreadPoolExecutor with 1 workers (shut down)", lambda *_: True),
    "file": ("file ", lambda text, _: "report (closed)" in text),
    "file_in_a_module": ("file ", lambda text, _: "report (closed)" in text),
    "file_of_a_task": ("task Leaky.file_of_a_task.<locals>.write", lambda *_: True),
    "socket": ("socket ('127.0.0.1', ", lambda text, _: "(closed)" in text),
    "server": ("server ('127.0.0.1', ", lambda text, _: "(closed)" in text),
    "connection": ("connection ('127.0.0.1', ", lambda text, _: "(closed)" in text),
    "database": ("database ", lambda text, _: "rows.db (closed)" in text),
    "child": ("child process ", lambda text, _: no_child(text)),
    "child_of_asyncio": ("child process ", lambda text, _: no_child(text)),
    "child_of_multiprocessing": ("child process ", lambda text, _: no_child(text)),
    "signal_handler": ("signal handler SIGUSR2 leaky.on_signal (restored)", lambda *_: restored()),
    "atexit_callback": ("atexit callback leaky.note (called)", lambda _, at: (at / "at_exit").read_text()),
    "failing_atexit_callback": ("atexit callback leaky.note (called)", lambda *_: True),
    "own_log_handler": (
        "log handler leaky.MyHandler of the logger of.all (removed)",
        lambda *_: not logging.getLogger("of.all").handlers,
    ),
    "log_handler": (
        "log handler logging.StreamHandler of the logger root",
        lambda text, _: "of the logger root (removed)" in text,
    ),
    "warnings_filter": (
        "warnings filter error::MyWarning",
        lambda text, _: "MyWarning" not in str(warnings.filters),
    ),
    "path": ("sys.path entry ", lambda text, at: "left as it is" in text and sys.path.pop(0) == str(at)),
    "own_path": ("sys.path entry ", lambda text, _: "(removed)" in text and "/store/" not in str(sys.path)),
    "module": ("module sys.modules['leaky_by_another_name'] (removed)", lambda *_: True),
    "environment": ("environment variable LEAKY_TOKEN (left as it is", lambda *_: True),
    "policy": ("event loop policy leaky.MyPolicy (restored)", lambda *_: True),
    "hook": ("hook sys.excepthook leaky.on_error (restored)", lambda *_: True),
    "import_hook": ("import hook leaky.MyFinder (removed)", lambda *_: "MyFinder" not in str(sys.meta_path)),
    "folder": ("working directory ", lambda text, _: "left as it is" in text),
    "timeout": ("socket default timeout 77.0 (left as it is", lambda *_: True),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A plugin that leaves behind what its configuration says."""
    root = tmp_path_factory.mktemp("leaky")
    helping = make_wheel(root, "helping", "1.0", {"helping.py": "KEPT = []\n"})
    config = {"leak": "", "folder": ""}
    return make_library(
        make_workspace(root / "workspace"), "leaky", code=CODE, carrying=[helping], config=config
    )


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory and the hook are the tests' again afterwards."""
    monkeypatch.chdir(os.getcwd())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def of(library: Library, leak: str, folder: Path) -> Offer:
    """The plugin, to be brought up."""
    offer = offer_of(library, Store(library.path.parents[4] / "core" / "state"))
    config = {"leak": leak, "folder": str(folder)}
    return replace(offer, manifest=msgspec.structs.replace(offer.manifest, config=config))


async def come_and_go(
    library: Library, folder: Path, leak: str, otel: Mapping[str, str] | None = None
) -> tuple[World, PluginEvent]:
    """Bring the plugin up and take it down; its last move."""
    world = World(folder, otel=otel, health_interval_s=3600)
    async with running(world) as host:
        await host.activate(of(library, leak, folder))
        await asyncio.sleep(0.02)
        await host.deactivate("leaky")
        TIDY.get(leak, lambda: None)()
    return world, world.events[-1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("leak", KINDS)
def test_what_a_plugin_leaves_behind_is_ended_and_told(library: Library, tmp_path: Path, leak: str) -> None:
    said, holds = KINDS[leak]
    _, last = asyncio.run(come_and_go(library, tmp_path, leak))
    assert last.state is PluginState.STOPPED
    assert last.reason.startswith("it left behind: ")
    assert said in last.reason
    assert holds(last.reason, tmp_path)


def test_a_plugin_that_ends_what_it_began_has_nothing_reported(library: Library, tmp_path: Path) -> None:
    world, last = asyncio.run(come_and_go(library, tmp_path, "nothing"))
    assert (last.state, last.reason) == (PluginState.STOPPED, "")
    assert all(event.reason == "" for event in world.events)


def test_a_thread_that_ends_in_a_moment_is_waited_for(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_GRACE_S", 60.0)  # as long as a busy machine takes for that moment
    _, last = asyncio.run(come_and_go(library, tmp_path, "ending_thread"))
    assert last.reason == ""


def test_an_atexit_callback_that_does_not_return_keeps_nobody_waiting(
    library: Library, tmp_path: Path
) -> None:
    async def scenario() -> str:
        world = World(tmp_path, health_interval_s=3600)
        offer = of(library, "slow_atexit_callback", tmp_path)
        quick = msgspec.structs.replace(offer.manifest.timeouts, shutdown_ms=100)
        async with running(world) as host:
            await host.activate(
                replace(offer, manifest=msgspec.structs.replace(offer.manifest, timeouts=quick))
            )
            await host.deactivate("leaky")
        return world.events[-1].reason

    assert "atexit callback one of them (did not return within" in asyncio.run(scenario())
    for thread in threading.enumerate():
        if thread.name == "echo-core load":
            thread.join()
    assert not (tmp_path / "never").exists()  # nor would the end of the process have called it


def test_it_is_told_in_log_history_and_telemetry(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OtlpReceiver() as receiver:
        world, last = asyncio.run(come_and_go(library, tmp_path, "file", receiver.environ()))
        assert world.telemetry.shutdown()
        [span] = [span for span in receiver.spans() if span.name == "plugin.leftovers"]
    assert last in world.host.history.moves("leaky")
    assert f"leaky 0.1.0 is stopped: {last.reason}" in caplog.text
    assert (span.attributes["plugin.name"], span.attributes["result"]) == ("leaky", "failure")
    assert span.status_description == last.reason


def test_a_plugin_that_fails_in_init_is_swept_too(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        async with running(world) as host:
            with pytest.raises(PluginInitError):
                await host.activate(of(library, "failing_init", tmp_path))
            [event] = [event for event in world.events if event.state is PluginState.FAILED]
            assert event.reason.startswith("init: ValueError: no (leaky/__init__.py:")
        assert "leaky 0.1.0: it left behind: file " in caplog.text

    asyncio.run(scenario())


def test_an_old_version_is_swept_and_the_new_one_keeps_its_own(library: Library, tmp_path: Path) -> None:
    async def scenario() -> None:
        world = World(tmp_path)
        async with running(world) as host:
            await host.activate(of(library, "task", tmp_path))
            await host.activate(of(library, "task", tmp_path))
            polls = [task for task in asyncio.all_tasks() if "poll" in repr(task.get_coro())]
            [told] = [event for event in world.events if event.state is PluginState.STOPPED]
            assert len(polls) == 1
            assert told.reason.count("task poll") == 1
        assert world.events[-1].reason.count("task poll") == 1, "also when the host stops"

    asyncio.run(scenario())


def test_what_appears_while_two_plugins_start_is_nobodys(library: Library, tmp_path: Path) -> None:
    async def scenario() -> World:
        world = World(tmp_path)
        for name, leak in (("one", "slow_environment"), ("two", "slow")):
            offer = of(library, leak, tmp_path)
            world.host.offer(replace(offer, manifest=msgspec.structs.replace(offer.manifest, name=name)))
        async with running(world) as host:
            await host.started()
        return world

    try:
        world = asyncio.run(scenario())
        gone = {event.name: event.reason for event in world.events if event.state is PluginState.STOPPED}
        assert gone == {"one": "", "two": ""}
    finally:
        del os.environ["LEAKY_TOKEN"]
