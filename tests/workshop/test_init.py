import json
import os
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest

from common_telemetry import TelemetryConfig
from echo_core.errors import WorkspaceError
from echo_core.runtime.settings import HostSettings, Settings, load_settings
from echo_core.workshop.create import create
from echo_core.workshop.initialise import init
from echo_core.workspace import Workspace, find_workspace

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = ("activate_plugin.sh", "build_plugin.sh", "create_plugin.sh", "list_plugins.sh")


@pytest.mark.parametrize("there", [True, False], ids=["an empty folder", "no folder"])
def test_a_workspace_has_all_its_parts(tmp_path: Path, there: bool) -> None:
    directory = tmp_path / "new workspace"
    if there:
        directory.mkdir()
    workspace = init(directory)

    assert find_workspace(start=workspace.workshop, environ={}) == workspace
    for folder in (
        workspace.workshop,
        workspace.libraries("development"),
        workspace.libraries("production"),
        workspace.enabled,
    ):
        assert folder.is_dir()
    assert sorted(path.name for path in workspace.scripts.iterdir()) == list(SCRIPTS)
    assert all(os.access(script, os.X_OK) for script in workspace.scripts.iterdir())
    assert (workspace.root / ".gitignore").is_file()
    assert (workspace.root / "README.md").is_file()


def test_a_plugin_can_be_created_in_a_new_workspace(tmp_path: Path) -> None:
    assert create(init(tmp_path / "new"), "loud_words").path.is_dir()


def test_the_settings_show_every_key_at_its_default(tmp_path: Path) -> None:
    workspace = init(tmp_path / "new")
    text = workspace.settings_file.read_text(encoding="utf-8")
    assert load_settings(workspace) == Settings()
    shown = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert shown["host"] == json.loads(msgspec.json.encode(HostSettings()))
    assert set(shown["telemetry"]) == set(asdict(TelemetryConfig()))
    assert TelemetryConfig.from_mapping(shown["telemetry"]) == TelemetryConfig()


def test_the_repository_s_own_workspace_has_the_settings_and_the_scripts_of_a_new_one(tmp_path: Path) -> None:
    new, own = init(tmp_path / "new"), Workspace(Path(__file__).parents[2])
    assert own.settings_file.read_text(encoding="utf-8") == new.settings_file.read_text(encoding="utf-8")
    for script in new.scripts.iterdir():
        assert (own.scripts / script.name).read_bytes() == script.read_bytes()


@pytest.mark.parametrize("name", ["echo-core.toml", "README.md", "plugins/scripts/list_plugins.sh"])
def test_what_is_in_the_way_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WorkspaceError, match="cannot become a workspace") as refused:
        init(tmp_path)
    assert name in refused.value.where
    assert mine.read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_in_the_folder_stay_and_do_no_harm(tmp_path: Path) -> None:
    mine = tmp_path / "plugins" / "workshop" / "old_one" / "manifest.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    init(tmp_path)
    assert mine.read_text() == "mine"


def test_a_second_init_changes_nothing(tmp_path: Path) -> None:
    init(tmp_path)
    (tmp_path / "echo-core.toml").write_text('[host]\ntransport = "mine"')
    with pytest.raises(WorkspaceError):
        init(tmp_path)
    assert "mine" in (tmp_path / "echo-core.toml").read_text()


def test_a_file_is_no_place_for_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkspaceError, match="could not be made a workspace"):
        init(tmp_path / "file")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_of_this_repository_are_those_of_every_workspace(tmp_path: Path, script: str) -> None:
    own = REPOSITORY / "plugins" / "scripts" / script
    made = init(tmp_path).scripts / script
    assert own.read_text(encoding="utf-8") == made.read_text(encoding="utf-8")
    assert os.access(own, os.X_OK)
