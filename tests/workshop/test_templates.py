"""Walks the templates: what is created from them must be as good as what we would write ourselves."""

import ast
import asyncio
import importlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from echo_core import Plugin, roles
from echo_core import manifest as manifests
from echo_core.manifest import PLUGIN_TYPES
from echo_core.testing import async_test, check_plugin_contract
from echo_core.topics import TopicPattern
from echo_core.workshop.create import Created, create
from echo_core.workspace import Workspace
from runtime.hosting import World

# The order in which the six, as they are created, hand messages on.
CHAIN = ("source", "validator", "filter", "transformer", "router", "sink")
SAMPLES = [{"language": "en", "text": "Good morning."}, {}, "no object", None]


@pytest.fixture(scope="module")
def created(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Created]:
    """One plugin of each type, by type."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    return {plugin_type: create(workspace, f"a_{plugin_type}", plugin_type) for plugin_type in PLUGIN_TYPES}


@pytest.fixture
def new_plugin(created: dict[str, Created], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a new instance of the plugin of a type, from its source in the workshop."""
    before = set(sys.modules)

    def make(plugin_type: str) -> Plugin:
        monkeypatch.syspath_prepend(str(created[plugin_type].path / "src"))
        module = importlib.import_module(created[plugin_type].name)
        plugin = module.create_plugin()
        assert isinstance(plugin, Plugin)
        return plugin

    yield make
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {made.name for made in created.values()}:
            del sys.modules[name]


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_a_created_plugin_passes_its_own_tests(created: dict[str, Created], plugin_type: str) -> None:
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", cwd=created[plugin_type].path)


def test_created_plugins_are_formatted_and_lint_clean(created: dict[str, Created]) -> None:
    workshop = created["source"].path.parent
    run("-m", "ruff", "check", "--no-cache", ".", cwd=workshop)
    run("-m", "ruff", "format", "--no-cache", "--check", ".", cwd=workshop)


def test_created_plugins_pass_the_strict_type_checker(
    created: dict[str, Created], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [str(made.path / folder) for made in created.values() for folder in ("src", "tests")]
    monkeypatch.setenv("MYPYPATH", ":".join(str(made.path / "src") for made in created.values()))
    run("-m", "mypy", f"--cache-dir={tmp_path}", *sources, cwd=created["source"].path)


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
@async_test
async def test_a_created_plugin_keeps_the_contract(
    created: dict[str, Created], new_plugin: Any, tmp_path: Path, plugin_type: str
) -> None:
    config = {"path": str(tmp_path / "out.jsonl")} if plugin_type == "sink" else {}
    await check_plugin_contract(
        lambda: new_plugin(plugin_type),
        created[plugin_type].path / "manifest.json",
        config=config,
        samples=SAMPLES,
    )


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_a_created_plugin_is_of_its_role(new_plugin: Any, plugin_type: str) -> None:
    assert isinstance(new_plugin(plugin_type), getattr(roles, plugin_type.capitalize()))


def test_the_six_as_they_are_created_make_a_chain_in_a_host(
    created: dict[str, Created], new_plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the sink's default file goes
    world = World(tmp_path / "host")
    for plugin_type in CHAIN:
        manifest = manifests.read(created[plugin_type].path / "manifest.json")
        world.add(new_plugin(plugin_type), manifest)
    final = asyncio.run(world.run())

    assert (final["a_filter"].processed, final["a_filter"].filtered) == (9, 3)  # three samples are too short
    assert [numbers.dead_lettered for numbers in final.values()] == [0] * 6
    lines = (tmp_path / "out" / "a_sink.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line)["data"] for line in lines]
    assert len(records) == 9
    assert records[0] == {"number": 1, "language": "en", "text": "THE FERRY LEAVES AT HALF PAST SIX."}
    assert {record["language"] for record in records} == {"en", "de", "fr"}


def test_each_one_of_the_chain_is_subscribed_to_what_the_one_before_publishes(
    created: dict[str, Created],
) -> None:
    chain = [manifests.read(created[plugin_type].path / "manifest.json") for plugin_type in CHAIN]
    for before, after in pairwise(chain):
        published = [topic.replace("*", "word") for topic in before.publications]
        assert published
        assert all(TopicPattern(after.subscriptions[0]).matches(topic) for topic in published)


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_a_role_is_written_in_under_fifteen_lines(created: dict[str, Created], plugin_type: str) -> None:
    made = created[plugin_type]
    tree = ast.parse((made.path / "src" / made.name / "__init__.py").read_text(encoding="utf-8"))
    (role,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert role.end_lineno is not None
    assert role.end_lineno - role.lineno + 1 < 15


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_the_readme_describes_every_topic_and_every_key_of_the_configuration(
    created: dict[str, Created], plugin_type: str
) -> None:
    readme = (created[plugin_type].path / "README.md").read_text(encoding="utf-8")
    manifest = manifests.read(created[plugin_type].path / "manifest.json")
    described = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", readme, flags=re.MULTILINE))
    assert {key: json.loads(value) for key, value in described.items()} == manifest.config
    assert f"**{plugin_type}**" in readme
    for topic in (*manifest.subscriptions, *manifest.publications):
        assert topic.removesuffix("*") in readme


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_the_schema_knows_exactly_the_keys_of_the_configuration(
    created: dict[str, Created], plugin_type: str
) -> None:
    manifest = manifests.read(created[plugin_type].path / "manifest.json")
    schema = manifest.config_schema
    assert schema is not None
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(schema["required"]) == set(manifest.config)
    assert schema["additionalProperties"] is False


def test_the_version_is_stated_once_and_reaches_the_wheel(tmp_path: Path) -> None:
    folder = create(Workspace(tmp_path), "loud_words", "sink").path
    document = folder / "manifest.json"
    document.write_text(document.read_text().replace('"0.1.0"', '"3.4.5"'))
    assert "0.1.0" not in (folder / "pyproject.toml").read_text()
    run("-m", "hatchling", "build", "-t", "wheel", "-d", "dist", cwd=folder)
    (wheel,) = (folder / "dist").iterdir()
    assert wheel.name == "loud_words-3.4.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {"loud_words/__init__.py", "loud_words/json_lines.py", "loud_words/py.typed"}


def test_a_plugin_imports_echo_core_by_its_public_doors_alone(created: dict[str, Created]) -> None:
    doors = {"echo_core", "echo_core.transports", "echo_core.testing"}
    for made in created.values():
        for file in made.path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("echo_core"):
                    assert node.module in doors, file
                if isinstance(node, ast.Import):
                    assert not [alias for alias in node.names if alias.name.startswith("echo_core")], file


def test_the_longest_name_is_still_formatted_and_lint_clean(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for plugin_type in PLUGIN_TYPES:
        name = f"{plugin_type}_".ljust(64, "n")
        run("-m", "ruff", "check", "--no-cache", ".", cwd=create(workspace, name, plugin_type).path)
