"""What a plugin's process has around it: its dependencies, little else, a host that it does not outlive."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags

from echo_core.runtime.states import PluginState
from runtime.hosting import Handler, Numbers, manifest
from runtime.isolation.tiers import Tiers
from support.libraries import make_wheel

TAG = str(next(iter(sys_tags())))
TELLS = """
    import os, sys
    from importlib import metadata
    from echo_core import Transformer

    def importable(name):
        try:
            __import__(name)
        except ImportError:
            return False
        return True

    class Tells(Transformer):
        async def transform(self, message):
            return {
                "environ": sorted(os.environ),
                "path": sys.path,
                "flags": [sys.flags.isolated, sys.flags.no_site],
                "importable": [name for name in ("pytest", "rich", "json", "msgspec") if importable(name)],
                "distributions": sorted(found.name for found in metadata.distributions()),
                "session": os.getsid(0) == os.getpid(),
                "config": dict(self.context.config),
                "threads": os.environ.get("CHOSEN"),
            }

    def create_plugin():
        return Tells()
"""


def run(tiers: Tiers, count: int = 1) -> tuple[list[Any], Any]:
    sink = Handler()
    tiers.world.add(Numbers(count), manifest("feed", says=("in",), plugin_type="source"))
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    numbers = asyncio.run(tiers.world.run())
    return sink.data, numbers


def test_it_sees_the_standard_library_the_sdk_and_its_own(tmp_path: Path) -> None:
    tiers = Tiers(tmp_path)
    secrets = {
        "DATABASE_PASSWORD": "secret",
        "PYTHONPATH": "/evil",
        "CHOSEN": "yes",
        "OTEL_SERVICE_NAME": "tests",
    }
    tiers.add(TELLS, config={"color": "red"}, environ=secrets, environment=("CHOSEN",))
    (told,), _ = run(tiers)
    assert {"DATABASE_PASSWORD", "PYTHONPATH"}.isdisjoint(told["environ"])
    assert {"CHOSEN", "OTEL_SERVICE_NAME"} <= set(told["environ"])
    assert not any("site-packages" in path or path == "" for path in told["path"])
    assert told["flags"] == [1, 1]
    assert told["importable"] == ["json", "msgspec"]
    assert "opentelemetry-sdk" in told["distributions"]
    assert "pytest" not in told["distributions"]
    assert told["session"]
    assert told["config"] == {"color": "red"}


def test_compiled_packages_that_contradict_each_other_run_side_by_side(tmp_path: Path) -> None:
    index = tmp_path / "index"
    code = """
        from echo_core import Transformer

        class Mine(Transformer):
            async def transform(self, message):
                import fast
                return fast.VERSION

        def create_plugin():
            return Mine()
    """
    tiers = Tiers(tmp_path)
    for name, version in (("one", "1.0"), ("two", "2.0")):
        files: dict[str, str | bytes] = {
            "fast/__init__.py": f"VERSION = '{version}'\n",
            f"fast/_core{EXTENSION_SUFFIXES[0]}": b"no real machine code",
        }
        wheel = make_wheel(index, "fast", version, files, tag=TAG)
        tiers.add(code, name, carrying=[wheel])
    versions, numbers = run(tiers)
    assert sorted(versions) == ["1.0", "2.0"]
    assert numbers["one"].state is numbers["two"].state is PluginState.STOPPED


def test_a_package_that_the_host_has_in_another_version_is_the_plugins_own(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "pluggy/__init__.py": "VERSION = 'mine'\n",
        f"pluggy/_c{EXTENSION_SUFFIXES[0]}": b"",
    }
    wheel = make_wheel(tmp_path / "index", "pluggy", "0.0.1", files, tag=TAG)
    code = """
        from echo_core import Transformer

        class Mine(Transformer):
            async def transform(self, message):
                import pluggy
                return pluggy.VERSION

        def create_plugin():
            return Mine()
    """
    tiers = Tiers(tmp_path)
    tiers.add(code, carrying=[wheel])
    assert run(tiers)[0] == ["mine"]


def test_a_library_that_was_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    tiers = Tiers(tmp_path)
    library = tiers.add(TELLS)
    tiers.library(TELLS.replace("Tells", "Other"))
    assert (library.path / "release.json").exists()
    _, numbers = run(tiers)
    assert numbers["subject"].state is PluginState.FAILED
    assert "is not the library that was activated" in numbers["subject"].reason


HOST = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = {paths!r}
from runtime.hosting import Numbers, manifest
from runtime.isolation.tiers import Tiers

CODE = '''
import os, re, signal, time
from echo_core import Sink

class Stuck(Sink):
    async def write(self, message):
        {{"idle": lambda: None,
          "sleeping": lambda: time.sleep(600),
          "lock held": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
          "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP)}}[self.context.config["how"]]()

def create_plugin():
    return Stuck()
'''

async def main():
    tiers = Tiers(Path({folder!r}))
    for name, how in (("a", "idle"), ("b", "sleeping"), ("c", "lock held"), ("d", "stopped")):
        tiers.add(CODE, name, config={{"how": how}}, block_s=600.0)
    tiers.world.add(Numbers(1), manifest("feed", says=("in",), plugin_type="source"))
    running = asyncio.create_task(tiers.world.run(until_idle=False))
    while len([event for event in tiers.world.events if event.state.value == "running"]) < 5:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    print(*(tiers.pid(name) for name in "abcd"), flush=True)
    await running

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's word is Linux's")
def test_no_process_outlives_its_host_whatever_it_is_doing(tmp_path: Path) -> None:
    tests = Path(__file__).parents[2]
    script = tmp_path / "host.py"
    script.write_text(HOST.format(paths=[str(tests), str(tests.parent)], folder=str(tmp_path / "host")))
    host = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    try:
        pids = [int(word) for word in host.stdout.readline().split()]
        assert len(pids) == 4
    finally:
        host.send_signal(signal.SIGKILL)
        host.wait()
        host.stdout.close()
    until = time.monotonic() + 60
    while any(_runs(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.01)
    assert [pid for pid in pids if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_without_pidfd_a_thread_waits_for_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    tiers = Tiers(tmp_path)
    tiers.add(TELLS)
    told, numbers = run(tiers)
    assert len(told) == 1
    assert numbers["subject"].state is PluginState.STOPPED
