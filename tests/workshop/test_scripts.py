"""The four scripts: doors to `echo-core`, which a fake stands in for here."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

FAKE = """#!/bin/sh
printf '%s\\n' "{name}" "$@"
exit 7
"""


def fake_echo_core(folder: Path, name: str) -> None:
    folder.mkdir(parents=True)
    program = folder / "echo-core"
    program.write_text(FAKE.format(name=name))
    program.chmod(0o755)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init(tmp_path / "a folder with  spaces")


@pytest.fixture
def on_the_path(tmp_path: Path) -> str:
    """A PATH of the bare necessities, and an echo-core."""
    fake_echo_core(tmp_path / "bin", "from the PATH")
    return f"{tmp_path / 'bin'}:{bare_path(tmp_path)}"


def bare_path(tmp_path: Path) -> str:
    """A PATH with nothing but what the scripts themselves call."""
    folder = tmp_path / "bare"
    folder.mkdir(exist_ok=True)
    for program in ("sh", "dirname"):
        found = shutil.which(program)
        assert found is not None
        if not (folder / program).exists():
            (folder / program).symlink_to(found)
    return str(folder)


def run(
    script: str | Path, *arguments: str, path: str, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "CDPATH": "/"}
    command = [str(script), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment, check=False, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize(
    ("script", "arguments", "called"),
    [
        ("create_plugin.sh", ["loud_words", "filter"], ["create", "loud_words", "filter"]),
        ("build_plugin.sh", ["loud_words", "production"], ["build", "loud_words", "production"]),
        ("list_plugins.sh", [], ["list"]),
        ("list_plugins.sh", ["all", "--json"], ["list", "all", "--json"]),
        ("activate_plugin.sh", ["activate", "loud_words", "x"], ["activate", "loud_words", "x"]),
        ("activate_plugin.sh", ["deactivate", "loud_words"], ["deactivate", "loud_words"]),
        ("create_plugin.sh", ["two words", "", "*"], ["create", "two words", "", "*"]),
    ],
)
def test_a_script_calls_its_verb_with_every_argument_as_it_is(
    workspace: Workspace, on_the_path: str, script: str, arguments: list[str], called: list[str]
) -> None:
    done = run(workspace.scripts / script, *arguments, path=on_the_path)
    assert done.stdout.split("\n")[:-1] == ["from the PATH", "--project", str(workspace.root), *called]
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("script", "folder"), [("./list_plugins.sh", "plugins/scripts"), ("plugins/scripts/list_plugins.sh", ".")]
)
def test_a_script_finds_its_workspace_from_any_working_directory(
    workspace: Workspace, on_the_path: str, script: str, folder: str
) -> None:
    done = run(script, path=on_the_path, cwd=workspace.root / folder)
    assert str(workspace.root) in done.stdout.split("\n")


def test_a_script_may_be_given_to_a_shell_by_its_bare_name(workspace: Workspace, on_the_path: str) -> None:
    done = run(shutil.which("sh") or "sh", "list_plugins.sh", path=on_the_path, cwd=workspace.scripts)
    assert str(workspace.root) in done.stdout.split("\n")


def test_the_workspace_s_own_environment_comes_before_the_path(
    workspace: Workspace, on_the_path: str
) -> None:
    fake_echo_core(workspace.root / ".venv" / "bin", "from .venv")
    assert run(workspace.scripts / "list_plugins.sh", path=on_the_path).stdout.startswith("from .venv\n")


@pytest.mark.parametrize(
    "script", ["create_plugin.sh", "build_plugin.sh", "activate_plugin.sh", "list_plugins.sh"]
)
def test_without_echo_core_a_script_says_what_to_do(
    workspace: Workspace, tmp_path: Path, script: str
) -> None:
    done = run(workspace.scripts / script, "loud_words", path=bare_path(tmp_path))
    assert done.returncode == 127
    assert "pip install echo-core" in done.stderr
    assert str(workspace.root / ".venv" / "bin") in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["--help"], ["loud_words"], ["list", "--json"]])
def test_anything_but_activate_and_deactivate_is_left_to_the_verb_of_the_script_s_name(
    workspace: Workspace, on_the_path: str, arguments: list[str]
) -> None:
    done = run(workspace.scripts / "activate_plugin.sh", *arguments, path=on_the_path)
    called = ["--project", str(workspace.root), "activate_plugin", *arguments]
    assert done.stdout.split("\n")[:-1] == ["from the PATH", *called]


def test_shellcheck_has_nothing_to_say(workspace: Workspace) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        if os.environ.get("CI"):
            pytest.fail("shellcheck is not installed: make setup")
        pytest.skip("shellcheck is not installed: make setup")
    scripts = sorted(str(path) for path in workspace.scripts.iterdir())
    done = subprocess.run([shellcheck, *scripts], check=False, capture_output=True, text=True, timeout=100)
    assert done.stdout == ""
    assert done.returncode == 0
