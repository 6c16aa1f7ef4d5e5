import asyncio
import gc
import logging
import py_compile
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import pytest

from echo_core import BaseMessage, Transformer
from echo_core.errors import LibraryError, PluginLoadError
from echo_core.manifest import PLUGIN_TYPES
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import LoadedPlugin, load
from echo_core.runtime.registry import enabled
from echo_core.workspace import Workspace
from support.libraries import make_library, make_wheel, make_workspace

TRANSFORMER = """
    {imports}
    from echo_core import Transformer

    class Mine(Transformer):
        async def transform(self, message):
            return {result}

    def create_plugin():
        return Mine()
"""


@pytest.fixture(autouse=True)
def no_test_hinders_another() -> Iterator[None]:
    forget_private_modules()  # those of tests elsewhere
    yield
    forget_private_modules()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: Workspace) -> Store:
    return Store(workspace.state)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """A folder for wheels, as a package index might have them."""
    return tmp_path / "index"


def transformer(result: str, imports: str = "") -> str:
    return TRANSFORMER.format(result=result, imports=imports)


def answer(loaded: LoadedPlugin, data: Any = None) -> Any:
    assert isinstance(loaded.plugin, Transformer)
    plugin: Any = loaded.plugin
    return asyncio.run(plugin.transform(BaseMessage(source="test", data=data)))


def forget_private_modules() -> None:
    for name in private_modules():
        del sys.modules[name]


def private_modules() -> list[str]:
    return [name for name in sys.modules if name.startswith("_echo_")]


def refused(library: Library, store: Store) -> PluginLoadError:
    """Load the library, which must fail and leave nothing behind."""
    with pytest.raises(PluginLoadError) as caught:
        load(library, store)
    assert private_modules() == []
    assert caught.value.__context__ is None, "the error would keep the plugin's frames alive"
    return caught.value


def test_a_plugin_is_loaded_named_and_used(workspace: Workspace, store: Store) -> None:
    loaded = load(make_library(workspace), store)
    assert answer(loaded) == "hello"
    assert loaded.plugin.name == "greeter"
    assert loaded.library.version == "0.1.0"
    loaded.unload()


def test_a_name_that_the_plugin_gives_itself_is_kept(workspace: Workspace, store: Store) -> None:
    code = transformer("1").replace("async def", "name = 'mine'\n        async def")
    loaded = load(make_library(workspace, code=code), store)
    assert loaded.plugin.name == "mine"
    loaded.unload()


EVERYTHING = {
    "src/greeter/__init__.py": """
        import greeter.sub.deep as deep
        from greeter.sub import VERSION
        from . import relative
        from .shapes import Colour, Point, hints
        from echo_core import Transformer

        class Greeter(Transformer):
            async def transform(self, message):
                return await __import__("greeter.lazy", fromlist=["work"]).work(self)

        def create_plugin():
            return Greeter()
    """,
    "src/greeter/relative.py": "from .sub.deep import VALUE as relative_value\n",
    "src/greeter/sub/__init__.py": "VERSION = '{version}'\n",
    "src/greeter/sub/deep.py": "VALUE = 'deep {version}'\n",
    "src/greeter/data.txt": "data {version}",
    "src/greeter/shapes.py": """
        from __future__ import annotations
        from dataclasses import dataclass
        from enum import Enum
        from typing import get_type_hints

        class Colour(Enum):
            RED = 1

        @dataclass
        class Point:
            x: int
            colour: Colour

        def hints():
            return get_type_hints(Point)
    """,
    "src/greeter/lazy.py": """
        async def work(plugin):
            import importlib
            import importlib.resources
            import logging
            import pickle
            from importlib import import_module, resources
            from importlib.metadata import distribution, version
            from importlib.util import find_spec

            import greeter
            from greeter.shapes import Colour, Point, hints

            logging.getLogger(__name__)
            point = Point(1, Colour.RED)
            return {
                "lazy": greeter.deep.VALUE,
                "relative": greeter.relative.relative_value,
                "from": greeter.VERSION,
                "import_module": import_module("greeter.sub").VERSION,
                "relative import_module": importlib.import_module(".sub", __package__).VERSION,
                "import_module of itself": import_module(__name__) is import_module("greeter.lazy"),
                "resources": (resources.files("greeter") / "data.txt").read_text(),
                "resources of the caller": (resources.files() / "data.txt").read_text(),
                "resources of a module": (importlib.resources.files(greeter) / "data.txt").read_text(),
                "version": version("greeter"),
                "own distribution": distribution("greeter").metadata["Name"],
                "platform version": version("msgspec"),
                "find_spec": [find_spec(name) is not None for name in ("greeter.sub", "json", "pytest")],
                "pickle": pickle.loads(pickle.dumps(point)) == point,
                "hints": hints()["colour"] is Colour,
                "qualified": type(plugin).__module__.rpartition(".")[2],
                "shims pass the rest": importlib.util.module_from_spec is not None,
            }
    """,
}


def everything(version: str) -> dict[str, str | bytes]:
    return {path: text.replace("{version}", version) for path, text in EVERYTHING.items()}


def test_two_versions_of_a_plugin_live_side_by_side(workspace: Workspace, store: Store) -> None:
    loaded = [
        load(make_library(workspace, version=version, files=everything(version)), store)
        for version in ("1.0", "2.0")
    ]
    for plugin, version in zip(loaded, ("1.0", "2.0"), strict=True):
        found = answer(plugin)
        platform = found.pop("platform version")
        assert platform == sys.modules["msgspec"].__version__
        assert found == {
            "lazy": f"deep {version}",
            "relative": f"deep {version}",
            "from": version,
            "import_module": version,
            "relative import_module": version,
            "import_module of itself": True,
            "resources": f"data {version}",
            "resources of the caller": f"data {version}",
            "resources of a module": f"data {version}",
            "version": version,
            "own distribution": "greeter",
            "find_spec": [True, True, False],
            "pickle": True,
            "hints": True,
            "qualified": "greeter",
            "shims pass the rest": True,
        }
        plugin.unload()


def test_loading_changes_neither_the_path_nor_the_modules_of_the_host(
    workspace: Workspace, store: Store
) -> None:
    library = make_library(workspace, files=everything("1.0"))
    first = load(library, store)
    answer(first)  # whatever it needs of the standard library is there now
    first.unload()
    path, modules = list(sys.path), set(sys.modules)
    loaded = load(library, store)
    answer(loaded)
    new = set(sys.modules) - modules
    assert sys.path == path
    assert new
    assert all(name.startswith("_echo_greeter_") for name in new)
    loaded.unload()
    assert set(sys.modules) == modules


def test_one_library_can_be_loaded_twice_at_once(workspace: Workspace, store: Store) -> None:
    library = make_library(workspace)
    one, other = load(library, store), load(library, store)
    assert type(one.plugin) is not type(other.plugin)
    one.unload()
    assert answer(other) == "hello"
    other.unload()
    assert private_modules() == []


def test_plugins_with_contradicting_dependencies_live_side_by_side(
    workspace: Workspace, store: Store, index: Path
) -> None:
    def lib(version: str) -> Path:
        part = "from lib import V\nfrom . import V as W\n"
        return make_wheel(
            index, "lib", version, {"lib/__init__.py": f"V = '{version}'\n", "lib/part.py": part}
        )

    code = transformer(
        "(lib.V, part.V, version('lib'))",
        "import lib; from lib import part; from importlib.metadata import version",
    )
    loaded = [
        load(make_library(workspace, name, code=code, carrying=[lib(version)]), store)
        for name, version in (("one", "1.0"), ("two", "2.0"))
    ]
    assert [answer(plugin) for plugin in loaded] == [("1.0",) * 3, ("2.0",) * 3]
    for plugin in loaded:
        plugin.unload()


def test_a_dependency_that_the_host_has_in_another_version_hurts_neither(
    workspace: Workspace, store: Store, index: Path
) -> None:
    import packaging

    wheel = make_wheel(
        index, "packaging", "1.0", {"packaging/__init__.py": "__version__ = 'the plugin\\'s'\n"}
    )
    code = transformer(
        "(packaging.__version__, version('packaging'))",
        "import packaging; from importlib.metadata import version",
    )
    loaded = load(make_library(workspace, code=code, carrying=[wheel]), store)
    assert answer(loaded) == ("the plugin's", "1.0")
    assert sys.modules["packaging"] is packaging
    assert packaging.__version__ != "the plugin's"
    loaded.unload()


def test_entry_points_and_optional_imports_of_a_dependency_work_in_its_scope(
    workspace: Workspace, store: Store, index: Path
) -> None:
    files = {
        "lib/__init__.py": """
            try:
                import missing_accelerator
            except ModuleNotFoundError as error:
                missing = error.name
            try:
                from lib import absent
            except ImportError as error:
                absent = "absent"
            try:
                import lib.nothing
            except ModuleNotFoundError as error:
                nothing = (error.name, str(error))
        """,
        "lib/extension.py": "def run(): return 'ran'\n",
        "lib-1.0.dist-info/entry_points.txt": "[lib]\nfirst = lib.extension:run\n",
    }
    wheel = make_wheel(index, "lib", "1.0", files)
    code = transformer(
        "(lib.missing, lib.absent, lib.nothing, [point.load()() for point in entry_points(group='lib')])",
        "import lib; from importlib.metadata import entry_points",
    )
    loaded = load(make_library(workspace, code=code, carrying=[wheel]), store)
    nothing = ("lib.nothing", "No module named 'lib.nothing'")
    assert answer(loaded) == ("missing_accelerator", "absent", nothing, ["ran"])
    loaded.unload()


def test_a_namespace_package_and_its_data_work(workspace: Workspace, store: Store, index: Path) -> None:
    one = make_wheel(
        index, "acme_one", "1.0", {"acme/one/__init__.py": "ONE = 1\n", "acme/texts/a.txt": "hello"}
    )
    two = make_wheel(index, "acme_two", "1.0", {"acme/two.py": "from acme.one import ONE\nTWO = ONE + 1\n"})
    code = transformer(
        "(acme.two.TWO, files('acme.texts').joinpath('a.txt').read_text())",
        "import acme.two; from importlib.resources import files",
    )
    loaded = load(make_library(workspace, code=code, carrying=[one, two]), store)
    assert answer(loaded) == (2, "hello")
    loaded.unload()


def test_a_package_of_the_host_that_is_not_declared_cannot_be_seen(
    workspace: Workspace, store: Store
) -> None:
    error = refused(make_library(workspace, code=transformer("1", "import packaging")), store)
    assert error.where == "greeter/__init__.py:1"
    assert "does not list it among its dependencies" in error.why
    assert (
        error.fix == "add the distribution of 'packaging' to dependencies in pyproject.toml, and build again"
    )


def test_a_private_name_of_another_plugin_cannot_be_imported(workspace: Workspace, store: Store) -> None:
    loaded = load(make_library(workspace, "first"), store)
    prefix = private_modules()[0]
    library = make_library(workspace, "second", code=transformer("1", f"import {prefix}.first"))
    with pytest.raises(PluginLoadError, match="does not list it"):
        load(library, store)
    loaded.unload()


def test_the_standard_library_wins_over_a_dependency_of_the_same_name(
    workspace: Workspace, store: Store, index: Path
) -> None:
    evil = "evil = True\n"
    wheel = make_wheel(index, "lib", "1.0", {"lib.py": "", "json.py": evil, "msgspec/__init__.py": evil})
    code = transformer("(hasattr(json, 'evil'), hasattr(msgspec, 'evil'))", "import json, msgspec")
    loaded = load(make_library(workspace, code=code, carrying=[wheel]), store)
    assert answer(loaded) == (False, False)
    loaded.unload()


def test_an_unloaded_plugin_leaves_no_module_logger_or_object(workspace: Workspace, store: Store) -> None:
    loaded = load(make_library(workspace, files=everything("1.0")), store)
    answer(loaded)
    assert any(name.startswith("_echo_greeter") for name in logging.Logger.manager.loggerDict)
    kind, plugin = weakref.ref(type(loaded.plugin)), weakref.ref(loaded.plugin)
    loaded.unload()
    loaded.unload()
    del loaded
    gc.collect()
    assert (plugin(), kind()) == (None, None)
    assert private_modules() == []
    assert not any(name.startswith("_echo_greeter") for name in logging.Logger.manager.loggerDict)


def test_a_lazy_import_after_unloading_says_so(workspace: Workspace, store: Store) -> None:
    loaded = load(make_library(workspace, files=everything("1.0")), store)
    loaded.unload()
    with pytest.raises(ImportError, match="the plugin greeter was unloaded"):
        answer(loaded)


FAULTY: dict[str, tuple[str, str, str]] = {
    "an exception while importing": (
        "x = 1\n1 / 0\ndef create_plugin(): ...",
        "greeter/__init__.py:2",
        "ZeroDivisionError: division by zero\n  greeter/__init__.py:2 in <module>: 1 / 0",
    ),
    "an exception in the entry point": (
        "def create_plugin():\n    raise KeyError('colour')",
        "greeter/__init__.py:2",
        "KeyError: 'colour'",
    ),
    "an exit": (
        "import sys\nsys.exit(3)\ndef create_plugin(): ...",
        "greeter/__init__.py:2",
        "SystemExit: 3",
    ),
    "an exception deep in the host": (
        "import json\njson.loads('{')\ndef create_plugin(): ...",
        "greeter/__init__.py:2",
        "JSONDecodeError",
    ),
    "an abstract class": (
        "from echo_core import Plugin\nclass P(Plugin): ...\ndef create_plugin(): return P()",
        "greeter/__init__.py:3",
        "Can't instantiate abstract class P",
    ),
    "an import of something missing": (
        "from greeter import nothing\ndef create_plugin(): ...",
        "greeter/__init__.py:1",
        "cannot import name 'nothing'",
    ),
}


@pytest.mark.parametrize(("code", "where", "why"), FAULTY.values(), ids=FAULTY.keys())
def test_what_plugin_code_raises_is_shown_with_its_line(
    workspace: Workspace, store: Store, code: str, where: str, why: str
) -> None:
    error = refused(make_library(workspace, code=code), store)
    assert error.where == where
    assert why in error.why
    assert "echo-core build greeter development" in error.fix


def test_a_traceback_shows_frames_of_the_plugin_only(workspace: Workspace, store: Store) -> None:
    code = """
        import json
        def down(n):
            return down(n - 1) if n else json.loads('{')
        def create_plugin():
            down(20)
    """
    error = refused(make_library(workspace, code=code), store)
    assert error.why.count("greeter/__init__.py:3 in down") == 5
    assert "decoder.py" not in error.why


def test_a_syntax_error_is_shown_at_its_place(workspace: Workspace, store: Store, index: Path) -> None:
    wheel = make_wheel(index, "lib", "1.0", {"lib/__init__.py": "", "lib/broken.py": "x = 1\ndef f(:\n"})
    library = make_library(workspace, code=transformer("1", "import lib.broken"), carrying=[wheel])
    error = refused(library, store)
    assert error.where == "lib/broken.py:2"
    assert error.why == "SyntaxError: invalid syntax"


@pytest.mark.parametrize(
    ("code", "manifest", "what"),
    [
        ("create_plugin = 1", {}, "has no function create_plugin()"),
        ("def create_plugin(): return 1", {}, "made no plugin: the entry point returned int"),
        (
            "def create_plugin(): return create_plugin",
            {},
            "made no plugin: the entry point returned function",
        ),
        (
            "from echo_core import Sink\ndef create_plugin(): return Sink",
            {},
            "made no plugin: the entry point returned the class Sink, not an instance",
        ),
        (
            "async def make(): ...\ncreate_plugin = make",
            {},
            "made no plugin: the entry point is a coroutine, and must be a plain function",
        ),
    ],
)
def test_what_is_no_plugin_is_refused(
    workspace: Workspace, store: Store, code: str, manifest: dict[str, Any], what: str
) -> None:
    error = refused(make_library(workspace, code=code, **manifest), store)
    assert error.what == f"the plugin greeter 0.1.0 {what}"
    assert error.fix


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_a_plugin_of_no_role_is_refused_as_any_of_the_types(
    workspace: Workspace, store: Store, plugin_type: str
) -> None:
    code = """
from echo_core import Plugin, ProcessingStatus
class Plain(Plugin):
    async def process_message(self, topic, message):
        return ProcessingStatus.ACKNOWLEDGED
create_plugin = Plain
"""
    library = make_library(workspace, code=code, plugin_type=plugin_type, subscriptions=[])
    error = refused(library, store)
    assert error.what == f"the plugin greeter 0.1.0 is no {plugin_type}"
    assert f"derive it from echo_core.{plugin_type.capitalize()}" in error.fix


def test_an_interrupt_from_the_keyboard_is_not_taken_for_the_plugins_fault(
    workspace: Workspace, store: Store
) -> None:
    library = make_library(workspace, code="def create_plugin(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(library, store)
    assert private_modules() == []


def sentinel_code(sentinel: Path) -> str:
    return f"from pathlib import Path\nPath({str(sentinel)!r}).touch()\n"


@pytest.mark.parametrize("target", ["part.py", "__pycache__/part.{tag}.pyc", "part.so"])
def test_code_that_was_put_into_the_store_after_verification_never_runs(
    workspace: Workspace, store: Store, tmp_path: Path, target: str
) -> None:
    sentinel = tmp_path / "ran"
    files: dict[str, str | bytes] = {"src/greeter/part.py": "VALUE = 'as built'\n"}
    code = transformer("__import__('greeter.part', fromlist=['VALUE']).VALUE")
    library = make_library(workspace, code=code, files=files)
    loaded = load(library, store)
    source = tmp_path / "evil.py"
    source.write_text(sentinel_code(sentinel))
    package = workspace.state / "store" / library.digest / "site" / "greeter"
    file = package / target.format(tag=sys.implementation.cache_tag)
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if file.suffix == ".pyc":
        py_compile.compile(str(source), str(file), invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    else:
        file.write_bytes(source.read_bytes())
    if file.suffix == ".py":
        with pytest.raises(ImportError, match="is not the file that was verified"):
            answer(loaded)
    else:
        assert answer(loaded) == "as built"
    assert not sentinel.exists()
    loaded.unload()


def test_loading_writes_no_bytecode(workspace: Workspace, store: Store) -> None:
    loaded = load(make_library(workspace, files=everything("1.0")), store)
    answer(loaded)
    assert not list(workspace.root.rglob("*.pyc"))
    loaded.unload()


def test_a_library_that_was_tampered_with_is_refused_before_any_of_its_code_runs(
    workspace: Workspace, store: Store, tmp_path: Path
) -> None:
    sentinel = tmp_path / "ran"
    library = make_library(workspace, code=sentinel_code(sentinel) + "def create_plugin(): ...")
    (workspace.enabled).mkdir(parents=True)
    (workspace.enabled / "greeter").symlink_to(library.path)
    (library.path / "extra.py").touch()
    [entry] = enabled(workspace)
    assert isinstance(entry.error, LibraryError)
    assert "extra.py is not part of the release" in entry.error.why
    (library.path / "extra.py").unlink()
    (library.path / library.wheels[0]).write_bytes(b"swapped after it was read")
    with pytest.raises(LibraryError, match="changed while it was loaded"):
        load(library, store)
    assert not sentinel.exists()
