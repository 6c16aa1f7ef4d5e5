"""The example plugins as an author would leave them: in order, tested, documented."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from echo_core.manifest import read
from plugins.running import REPOSITORY, WORKSHOP

PLUGINS = sorted(path.name for path in WORKSHOP.iterdir() if (path / "manifest.json").is_file())
DOORS = ("echo_core", "echo_core.transports", "echo_core.testing")


def test_the_examples_are_all_there() -> None:
    assert set(PLUGINS) >= {
        "caption_transformer",
        "filler_filter",
        "language_router",
        "telemetry_example",
        "transcript_source",
        "transcript_validator",
        "webvtt_sink",
    }


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_says_its_name_the_same_everywhere_and_its_version_once(name: str) -> None:
    manifest = read(WORKSHOP / name / "manifest.json")
    project = tomllib.loads((WORKSHOP / name / "pyproject.toml").read_text())["project"]
    assert manifest.name == project["name"] == name
    assert "version" in project["dynamic"]
    assert (WORKSHOP / name / "src" / name / "py.typed").is_file()


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_documents_every_key_of_its_configuration(name: str) -> None:
    manifest = read(WORKSHOP / name / "manifest.json")
    assert manifest.config_schema is not None
    assert set(manifest.config_schema["properties"]) == set(manifest.config)
    readme = (WORKSHOP / name / "README.md").read_text(encoding="utf-8")
    assert [key for key in manifest.config if f"| `{key}` |" not in readme] == []
    for topic in (*manifest.subscriptions, *manifest.publications):
        assert f"`{topic}`" in readme


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_enters_echo_core_by_its_public_doors(name: str) -> None:
    files = list((WORKSHOP / name).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            inside = {module for module in modules if module.split(".")[0] == "echo_core"}
            assert inside <= set(DOORS), f"{path} imports {inside}"


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_passes_its_own_tests_in_its_own_folder(name: str) -> None:
    run = _run(WORKSHOP / name, "pytest", "-q", "-p", "no:cacheprovider")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_the_plugins_are_typed_without_a_gap() -> None:
    sources = [str(WORKSHOP / name / "src") for name in PLUGINS]
    packages = [argument for name in PLUGINS for argument in ("-p", name)]
    cache = str(REPOSITORY / ".mypy_cache" / "workshop")
    strictly = ("--strict", "--config-file", os.devnull, "--cache-dir", cache)
    run = _run(WORKSHOP, "mypy", *strictly, *packages, MYPYPATH=os.pathsep.join(sources))
    assert run.returncode == 0, run.stdout + run.stderr


def _run(folder: Path, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(REPOSITORY / ".hypothesis")} | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
