"""Packages with extension modules: one version a process."""

import asyncio
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags

from echo_core import BaseMessage, Transformer
from echo_core.errors import PluginLoadError
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import LoadedPlugin, load
from echo_core.workspace import Workspace
from support.libraries import make_library, make_wheel, make_workspace

TAG = str(next(iter(sys_tags())))
CODE = """
    from echo_core import Transformer

    class Mine(Transformer):
        async def transform(self, message):
            import fast
            return fast.VERSION, fast.__name__, fast.helper.__name__

    def create_plugin():
        return Mine()
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.state)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Path]:
    """Two versions of `fast`, which carries an extension module (that nobody imports), and needs `helper`."""
    index = tmp_path / "index"
    for version in ("1.0", "2.0"):
        files: dict[str, str | bytes] = {
            "fast/__init__.py": f"import helper\nVERSION = '{version}'\n",
            f"fast/_core{EXTENSION_SUFFIXES[0]}": b"no real machine code",
        }
        make_wheel(index, "fast", version, files, requires=["helper"], tag=TAG)
    make_wheel(index, "helper", "1.0", {"helper.py": ""})
    yield index
    for name in ("fast", "helper"):
        sys.modules.pop(name, None)


def fast(index: Path, version: str) -> list[Path]:
    return [index / f"fast-{version}-{TAG}.whl", index / "helper-1.0-py3-none-any.whl"]


def answer(loaded: LoadedPlugin) -> Any:
    assert isinstance(loaded.plugin, Transformer)
    plugin: Any = loaded.plugin
    return asyncio.run(plugin.transform(BaseMessage(source="test", data=None)))


def plugin_with(workspace: Workspace, store: Store, index: Path, name: str, version: str) -> LoadedPlugin:
    return load(make_library(workspace, name, code=CODE, carrying=fast(index, version)), store)


def test_plugins_with_the_same_version_share_it_under_its_real_name(
    workspace: Workspace, store: Store, index: Path
) -> None:
    one, two = (
        plugin_with(workspace, store, index, "one", "1.0"),
        plugin_with(workspace, store, index, "two", "1.0"),
    )
    assert answer(one) == answer(two) == ("1.0", "fast", "helper")
    shared = sys.modules["fast"]
    assert str(workspace.state) in str(shared.__file__)
    one.unload()
    assert answer(two) == ("1.0", "fast", "helper")
    two.unload()
    assert sys.modules["fast"] is shared, "compiled code cannot be dropped, so it is not pretended"


def test_another_version_is_refused_with_the_names_of_both_plugins(
    workspace: Workspace, store: Store, index: Path
) -> None:
    one = plugin_with(workspace, store, index, "one", "1.0")
    answer(one)
    for _ in range(2):
        with pytest.raises(PluginLoadError, match=r"two needs the compiled package fast 2\.0") as caught:
            plugin_with(workspace, store, index, "two", "2.0")
        assert "one has 1.0 in the host's process" in caught.value.why
        assert "restart the host" in caught.value.fix
        one.unload()  # what was imported stays, so the second try is refused as well


def test_a_version_that_was_never_imported_makes_room_for_another(
    workspace: Workspace, store: Store, index: Path
) -> None:
    plugin_with(workspace, store, index, "one", "1.0").unload()
    two = plugin_with(workspace, store, index, "two", "2.0")
    assert answer(two) == ("2.0", "fast", "helper")
    two.unload()


def test_a_version_other_than_the_hosts_is_refused(
    workspace: Workspace, store: Store, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("0.5", tmp_path / "host", monkeypatch)
    with pytest.raises(PluginLoadError, match=r"one needs the compiled package fast 1\.0") as caught:
        plugin_with(workspace, store, index, "one", "1.0")
    assert "the host itself has 0.5" in caught.value.why


def with_sources(index: Path, *, needed_by: str = "") -> list[Path]:
    """A wheel as mypyc makes it; and one with real machine code only, that needs it."""
    suffix = EXTENSION_SUFFIXES[0]
    files: dict[str, str | bytes] = {
        "fast/__init__.py": "from fast import helper\nfrom fast.inner import VERSION\n",
        "fast/helper.py": "",
        "fast/inner.py": "VERSION = 'of the source'\n",
        f"fast/inner{suffix}": b"no real machine code",
        f"fast/inner__mypyc{suffix}": b"nor here",
    }
    wheels = [make_wheel(index / "mypyc", "fast", "1.0", files, tag=TAG)]
    if needed_by:
        other: dict[str, str | bytes] = {f"{needed_by}{suffix}": b"nor here"}
        wheels.append(make_wheel(index / "mypyc", needed_by, "1.0", other, requires=["fast"], tag=TAG))
    return wheels


def install(version: str, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `fast` be installed beside Echo Core."""
    info = host / f"fast-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fast\nVersion: {version}\n")
    monkeypatch.syspath_prepend(host)


def test_in_another_version_than_the_hosts_it_runs_from_its_sources_if_it_has_them(
    workspace: Workspace,
    store: Store,
    index: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install("0.5", tmp_path / "host", monkeypatch)
    one = load(make_library(workspace, "one", code=CODE, carrying=with_sources(index)), store)
    version, name, helper = answer(one)
    assert (version, name.rpartition(".")[2], helper.rpartition(".")[2]) == (
        "of the source",
        "fast",
        "helper",
    )
    assert name.startswith("_echo_one_"), "private: the host may import its own"
    assert "fast" not in sys.modules
    assert "one runs fast 1.0 from its Python sources" in caplog.text
    one.unload()


def test_what_other_compiled_code_needs_is_refused_even_if_it_has_sources(
    workspace: Workspace, store: Store, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("0.5", tmp_path / "host", monkeypatch)
    wheels = with_sources(index, needed_by="faster")
    with pytest.raises(PluginLoadError, match=r"one needs the compiled package fast 1\.0"):
        load(make_library(workspace, "one", code=CODE, carrying=wheels), store)


def test_the_hosts_own_copy_of_the_same_version_is_used(
    workspace: Workspace, store: Store, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host"
    install("1.0", host, monkeypatch)
    (host / "fast.py").write_text("import helper\nVERSION = 'of the host'\n")
    one = plugin_with(workspace, store, index, "one", "1.0")
    assert answer(one) == ("of the host", "fast", "helper")
    one.unload()


def test_a_module_of_the_host_is_not_shadowed(
    workspace: Workspace, store: Store, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "helper.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "host")
    with pytest.raises(PluginLoadError, match=r"one needs the compiled package helper 1\.0") as caught:
        plugin_with(workspace, store, index, "one", "1.0")
    assert "the host has another module named helper" in caught.value.why


def test_a_changed_extension_module_is_not_loaded(workspace: Workspace, store: Store, index: Path) -> None:
    code = CODE.replace("import fast\n", "import fast._core\n")
    loaded = load(make_library(workspace, code=code, carrying=fast(index, "1.0")), store)
    [file] = workspace.state.glob(f"store/*/site/fast/_core{EXTENSION_SUFFIXES[0]}")
    file.chmod(0o644)
    file.write_bytes(b"changed")
    with pytest.raises(ImportError, match="is not the file that was verified"):
        answer(loaded)
    loaded.unload()


def test_a_real_compiled_package_works_and_keeps_other_versions_out(
    workspace: Workspace, store: Store
) -> None:
    code = """
        import msgpack
        from msgpack import _cmsgpack
        from echo_core import Transformer

        class Mine(Transformer):
            async def transform(self, message):
                return msgpack.packb([1]), _cmsgpack.__name__, msgpack.Packer.__module__

        def create_plugin():
            return Mine()
    """
    one = load(make_library(workspace, "one", code=code, dependencies=["msgpack==1.1.0"]), store)
    two = load(make_library(workspace, "two", code=code, dependencies=["msgpack>=1.1.0,<1.1.1"]), store)
    assert answer(one) == answer(two) == (b"\x91\x01", "msgpack._cmsgpack", "msgpack._cmsgpack")
    assert one.library.release.platform != "any"
    assert one.library.release.python == "=={}.{}.*".format(*sys.version_info[:2])
    other = make_library(workspace, "other", code=code, dependencies=["msgpack==1.1.1"])
    with pytest.raises(PluginLoadError, match=r"other needs the compiled package msgpack 1\.1\.1") as caught:
        load(other, store)
    assert "one has 1.1.0 in the host's process" in caught.value.why
    for plugin in (one, two):
        plugin.unload()
