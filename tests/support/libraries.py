"""What tests of libraries are made from: a workspace, plugins written into it, and wheels made by hand."""

import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from echo_core.runtime.libraries.files import replace_file, sha256_of
from echo_core.runtime.libraries.library import ANY_PLATFORM, LOCK_FILE, Library, read_library
from echo_core.runtime.libraries.wheel import read_wheel
from echo_core.workshop.build import build
from echo_core.workshop.dependencies import Lock, Pin
from echo_core.workshop.wheels import write_wheel
from echo_core.workspace import BuildType, Workspace

GREETER = """
    from echo_core import Transformer

    class Greeter(Transformer):
        async def transform(self, message):
            return "hello"

    def create_plugin():
        return Greeter()
"""
PASSING_TEST = """
    import {name}

    def test_the_plugin_is_made():
        assert {name}.create_plugin()
"""
PYPROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "{name}"
    dynamic = ["version"]
    requires-python = ">=3.11"
    dependencies = {dependencies}

    [tool.hatch.version]
    path = "manifest.json"
    pattern = '"version":\\s*"(?P<version>[^"]+)"'

    [tool.hatch.build.targets.wheel]
    packages = ["src/{name}"]
"""


def make_workspace(root: Path) -> Workspace:
    root.mkdir(parents=True, exist_ok=True)
    (root / "echo-core.toml").touch()
    return Workspace(root)


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            content = textwrap.dedent(content).lstrip("\n").encode()
        file.write_bytes(content)


def write_plugin(
    workspace: Workspace,
    name: str = "greeter",
    *,
    code: str = GREETER,
    version: str = "0.1.0",
    dependencies: Iterable[str] = (),
    carrying: Iterable[Path] = (),
    files: Mapping[str, str | bytes] | None = None,
    **manifest: Any,
) -> Path:
    """Write a plugin into the workshop. `files` are relative to its folder, and win.

    It depends on the wheels in `carrying` as if they had been resolved and fetched already.
    """
    folder = workspace.workshop / name
    wheels = [read_wheel(path) for path in carrying]
    dependencies = sorted([*dependencies, *(f"{wheel.name}=={wheel.version}" for wheel in wheels)])
    document = {
        "name": name,
        "version": version,
        "description": "Greets.",
        "entry_point": "create_plugin",
        "subscriptions": ["greetings.wanted"],
        "publications": ["greetings.made"],
    }
    standard: dict[str, str | bytes] = {
        "pyproject.toml": PYPROJECT.format(name=name, dependencies=json.dumps(list(dependencies))),
        "manifest.json": json.dumps(document | manifest, indent=2),
        "README.md": f"# {name}\n",
        f"src/{name}/__init__.py": code,
        f"tests/test_{name}.py": PASSING_TEST.format(name=name),
    }
    write(folder, standard | dict(files or {}))
    if wheels:
        pins = tuple(Pin(wheel.name, wheel.version, sha256_of(wheel.path)) for wheel in wheels)
        (folder / LOCK_FILE).write_text(Lock(tuple(dependencies), ANY_PLATFORM, pins).text)
        for wheel in wheels:
            replace_file(workspace.state / "wheels" / wheel.path.name, wheel.path.read_bytes())
    return folder


def make_library(
    workspace: Workspace, name: str = "greeter", build_type: BuildType = "development", **plugin: Any
) -> Library:
    """Write a plugin and build it."""
    write_plugin(workspace, name, **plugin)
    return read_library(build(workspace, name, build_type).path)


def make_wheel(
    folder: Path,
    name: str,
    version: str,
    files: Mapping[str, str | bytes],
    *,
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """A minimal wheel, as a package index might hold."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    content = {
        path: textwrap.dedent(text).lstrip("\n").encode() if isinstance(text, str) else text
        for path, text in files.items()
    }
    path = folder / f"{name}-{version}-{tag}.whl"
    write_wheel(path, {**content, f"{info}/METADATA": ("\n".join(metadata) + "\n").encode()})
    return path


def go_offline(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """Let pip find these wheels, and nothing else."""
    wheels.mkdir(parents=True, exist_ok=True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
