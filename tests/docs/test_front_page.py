"""`README.md` as a new user reads it: what is printed there works as printed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PROGRAM = Path(sys.executable).with_name("echo-core")


def block(language: str, holding: str) -> str:
    """The one block of code in that language that holds this text."""
    (found,) = (
        code for code in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if holding in code
    )
    return str(found)


def echo_core(workspace: Workspace, line: str) -> str:
    """Run a command line as the README writes it; what it says on stdout."""
    done = subprocess.run(
        [str(PROGRAM), *shlex.split(line, comments=True)[1:]],
        cwd=workspace.root,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return init(tmp_path / "workspace")


def change(manifest: Path, **changes: object) -> None:
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def test_the_plugin_of_the_readme_is_tested_built_and_run_between_two_others(workspace: Workspace) -> None:
    echo_core(workspace, block("console", "create shout"))
    folder = workspace.workshop / "shout"
    (folder / "src" / "shout" / "__init__.py").write_text(block("python", "class Shout"))
    (folder / "tests" / "test_shout.py").write_text(block("python", "PluginHarness"))
    (folder / "manifest.json").write_text(block("json", "shout"))
    commands = block("console", "echo-core test shout").splitlines()
    assert commands[-1].startswith("echo-core run ")
    for line in commands[:-1]:
        echo_core(workspace, line)
    echo_core(workspace, "echo-core build shout production")
    for name, kind, topics in (
        ("before", "source", {"publications": ["transcript.clean"]}),
        ("after", "sink", {"subscriptions": ["transcript.loud"]}),
    ):
        echo_core(workspace, f"echo-core create {name} {kind}")
        change(workspace.workshop / name / "manifest.json", **topics)
        echo_core(workspace, f"echo-core build {name}")
        echo_core(workspace, f"echo-core activate {name}")
    account = json.loads(echo_core(workspace, "echo-core run --until-idle --json"))
    counts = {plugin["name"]: plugin["counts"] for plugin in account["plugins"]}
    assert counts["before"]["published"] == counts["shout"]["processed"] == counts["after"]["processed"] > 0
    lines = (workspace.root / "out" / "after.jsonl").read_text().splitlines()
    texts = [json.loads(line)["data"]["text"] for line in lines]
    assert texts == [text.upper() for text in texts]


def test_the_readme_is_short_and_leads_somewhere() -> None:
    assert len(README.splitlines()) <= 200
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (REPOSITORY / target).exists(), target
