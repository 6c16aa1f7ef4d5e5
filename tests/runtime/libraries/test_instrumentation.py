"""A plugin that instruments a library it carries: it is the plugin's own copy that is patched."""

import asyncio
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags

from echo_core import BaseMessage, Transformer
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import LoadedPlugin, load
from echo_core.workspace import Workspace
from support.libraries import make_library, make_wheel, make_workspace

TAG = str(next(iter(sys_tags())))
CODE = """
    import client
    from echo_core import Transformer
    from opentelemetry.instrumentation.client import instrument

    instrument()

    class Mine(Transformer):
        async def transform(self, message):
            return client.get()

    def create_plugin():
        return Mine()
"""
# As wrapt: compiled, therefore shared by all plugins, and told by name what to patch.
PATCHER = """
import importlib

def patch(module, name, wrapper):
    target = importlib.import_module(module)
    setattr(target, name, wrapper(getattr(target, name)))
"""
# As those of OpenTelemetry: looks whether there is what it patches, and reports by the API's globals.
INSTRUMENTATION = """
from opentelemetry import trace
from opentelemetry.util._importlib_metadata import distribution
from patcher import patch

def instrument():
    version = distribution("client").version
    tracer = trace.get_tracer(__name__)

    def wrapper(get):
        def traced():
            with tracer.start_as_current_span("GET"):
                return version, get()
        return traced

    patch("client", "get", wrapper)
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.state)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Path]:
    index = tmp_path / "index"
    for version in ("1.0", "2.0"):
        make_wheel(index, "client", version, {"client.py": f"def get():\n    return 'got by {version}'\n"})
    patcher: dict[str, str | bytes] = {
        "patcher/__init__.py": PATCHER,
        f"patcher/_core{EXTENSION_SUFFIXES[0]}": b"no real machine code",
    }
    make_wheel(index, "patcher", "1.0", patcher, tag=TAG)
    make_wheel(
        index,
        "opentelemetry_instrumentation_client",
        "1.0",
        {"opentelemetry/instrumentation/client/__init__.py": INSTRUMENTATION},
        requires=["opentelemetry-api", "patcher"],
    )
    yield index
    sys.modules.pop("patcher", None)


def plugin_with(workspace: Workspace, store: Store, index: Path, name: str, version: str) -> LoadedPlugin:
    carried = [
        index / f"client-{version}-py3-none-any.whl",
        index / f"patcher-1.0-{TAG}.whl",
        index / "opentelemetry_instrumentation_client-1.0-py3-none-any.whl",
    ]
    return load(make_library(workspace, name, code=CODE, carrying=carried), store)


def answer(loaded: LoadedPlugin) -> object:
    assert isinstance(loaded.plugin, Transformer)
    plugin: Any = loaded.plugin
    return asyncio.run(plugin.transform(BaseMessage(source="test", data=None)))


def test_each_plugin_instruments_its_own_copy_of_a_library(
    workspace: Workspace, store: Store, index: Path
) -> None:
    one = plugin_with(workspace, store, index, "one", "1.0")
    two = plugin_with(workspace, store, index, "two", "2.0")
    assert answer(one) == ("1.0", "got by 1.0")
    assert answer(two) == ("2.0", "got by 2.0")
    assert "opentelemetry.instrumentation.client" not in sys.modules
    assert "client" not in sys.modules
    for loaded in (one, two):
        loaded.unload()


def test_what_a_shared_package_cannot_find_anywhere_is_missing_under_its_own_name(
    workspace: Workspace, store: Store, index: Path
) -> None:
    one = plugin_with(workspace, store, index, "one", "1.0")
    with pytest.raises(ModuleNotFoundError, match="nowhere") as raised:
        sys.modules["patcher"].patch("nowhere", "get", None)
    assert raised.value.name == "nowhere"
    one.unload()
