from pathlib import Path

import pytest

from echo_core.errors import WorkspaceError
from echo_core.workspace import BUILD_TYPES, ENVIRONMENT_VARIABLE, SETTINGS_FILE, Workspace, find_workspace


def made(folder: Path) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).touch()
    return Workspace(folder.resolve())


def test_it_is_found_in_the_folder_itself_and_from_any_folder_below(tmp_path: Path) -> None:
    workspace = made(tmp_path / "mine")
    below = workspace.workshop / "a_plugin" / "src"
    below.mkdir(parents=True)
    for start in (workspace.root, workspace.workshop, below):
        assert find_workspace(start=start, environ={}) == workspace


def test_it_is_found_from_a_folder_that_a_symlink_leads_to(tmp_path: Path) -> None:
    workspace = made(tmp_path / "mine")
    workspace.workshop.mkdir(parents=True)
    (tmp_path / "shortcut").symlink_to(workspace.workshop)
    assert find_workspace(start=tmp_path / "shortcut", environ={}) == workspace


def test_the_nearest_one_upwards_is_taken(tmp_path: Path) -> None:
    outer = made(tmp_path)
    inner = made(tmp_path / "examples" / "inner")
    assert find_workspace(start=inner.root, environ={}) == inner
    assert find_workspace(start=inner.root.parent, environ={}) == outer


def test_the_working_directory_is_where_the_search_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = made(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_workspace(environ={}) == workspace


def test_a_folder_that_only_looks_like_settings_is_passed_by(tmp_path: Path) -> None:
    workspace = made(tmp_path)
    (tmp_path / "inner" / SETTINGS_FILE).mkdir(parents=True)
    assert find_workspace(start=tmp_path / "inner", environ={}) == workspace


def test_the_project_goes_before_the_variable_and_the_variable_before_the_search(tmp_path: Path) -> None:
    here, told, variable = made(tmp_path / "here"), made(tmp_path / "told"), made(tmp_path / "variable")
    environ = {ENVIRONMENT_VARIABLE: str(variable.root)}
    assert find_workspace(told.root, start=here.root, environ=environ) == told
    assert find_workspace(start=here.root, environ=environ) == variable
    assert find_workspace(start=here.root, environ={ENVIRONMENT_VARIABLE: ""}) == here


def test_a_tilde_and_a_relative_path_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = made(tmp_path / "home" / "mine")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    assert find_workspace(Path("~/mine"), environ={}) == workspace
    assert find_workspace(environ={ENVIRONMENT_VARIABLE: "~/mine"}) == workspace
    assert find_workspace(Path("mine"), environ={}) == workspace


def test_a_search_in_vain_says_where_it_looked_and_the_three_ways_on(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError) as error:
        find_workspace(start=tmp_path, environ={})
    assert str(tmp_path) in error.value.what
    assert SETTINGS_FILE in error.value.why
    for way in ("echo-core init", "--project", ENVIRONMENT_VARIABLE):
        assert way in error.value.fix


@pytest.mark.parametrize("folder", ["none", "~no_such_user_of_this_machine/x"])
def test_a_project_without_settings_is_refused_and_nothing_else_is_tried(tmp_path: Path, folder: str) -> None:
    made(tmp_path)
    with pytest.raises(WorkspaceError, match=f"there is no {SETTINGS_FILE} in it") as error:
        find_workspace(Path(folder), start=tmp_path, environ={})
    assert error.value.where == "the folder given by --project"


def test_a_variable_that_names_no_workspace_is_blamed_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError) as error:
        find_workspace(start=tmp_path, environ={ENVIRONMENT_VARIABLE: str(tmp_path)})
    assert error.value.where == f"the folder given by {ENVIRONMENT_VARIABLE}"


def test_the_next_step_can_be_pasted_also_when_the_folder_has_a_space(tmp_path: Path) -> None:
    folder = tmp_path / "my project"
    with pytest.raises(WorkspaceError) as error:
        find_workspace(folder, environ={})
    assert error.value.fix == f"echo-core init '{folder.resolve()}'"


def test_its_folders_are_the_tree_of_the_contract() -> None:
    workspace = Workspace(Path("/project"))
    folders = [
        workspace.settings_file,
        workspace.workshop,
        *map(workspace.libraries, BUILD_TYPES),
        workspace.scripts,
        workspace.enabled,
        workspace.state,
    ]
    assert [folder.relative_to("/project").as_posix() for folder in folders] == [
        "echo-core.toml",
        "plugins/workshop",
        "plugins/libraries/development",
        "plugins/libraries/production",
        "plugins/scripts",
        "core/plugins/enabled",
        "core/state",
    ]
