import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from packaging.tags import sys_tags

from echo_core.cli.checks import check_plugins
from echo_core.errors import ConfigError, LibraryError, NotFound, PluginLoadError, WorkspaceError
from echo_core.runtime.registry import enabled
from echo_core.runtime.settings import Settings
from echo_core.workshop.activate import activate, deactivate
from echo_core.workshop.build import build
from echo_core.workspace import Workspace
from support.libraries import make_library, make_wheel, make_workspace, write_plugin

SCHEMA = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size", "path"]}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "work space")


def test_activation_writes_one_relative_link(workspace: Workspace) -> None:
    make_library(workspace)
    activation = activate(workspace, "greeter", "development")
    assert (activation.version, activation.build_type, activation.already) == ("0.1.0", "development", False)
    assert os.readlink(activation.link) == "../../../plugins/libraries/development/greeter/0.1.0"
    assert os.listdir(workspace.enabled) == ["greeter"]
    assert [entry.error for entry in enabled(workspace)] == [None]


def test_a_moved_workspace_keeps_its_activations(workspace: Workspace) -> None:
    make_library(workspace)
    activate(workspace, "greeter", "development")
    moved = Workspace(workspace.root.rename(workspace.root.parent / "moved"))
    assert [entry.error for entry in enabled(moved)] == [None]


def test_activating_again_changes_nothing_and_says_so(workspace: Workspace) -> None:
    make_library(workspace)
    link = activate(workspace, "greeter", "development").link
    inode = link.lstat().st_ino
    assert activate(workspace, "greeter", "development").already
    assert link.lstat().st_ino == inode


def test_the_newest_version_is_activated_unless_told(workspace: Workspace) -> None:
    for version in ("0.10.0", "0.9.0"):
        make_library(workspace, version=version)
    assert activate(workspace, "greeter", "development").version == "0.10.0"
    assert activate(workspace, "greeter", "development", "0.9.0").version == "0.9.0"
    assert activate(workspace, "greeter", "development").version == "0.10.0"


def test_another_build_type_takes_the_place_of_the_first(workspace: Workspace) -> None:
    make_library(workspace)
    build(workspace, "greeter", "production")
    activate(workspace, "greeter", "development")
    activation = activate(workspace, "greeter", "production")
    assert not activation.already
    assert "production" in os.readlink(activation.link)


def test_a_damaged_library_is_not_activated_and_what_ran_before_stays(
    workspace: Workspace,
) -> None:
    make_library(workspace)
    link = activate(workspace, "greeter", "development").link
    before = os.readlink(link)
    newer = make_library(workspace, version="0.2.0")
    (newer.path / newer.wheels[0]).write_bytes(b"damaged")
    with pytest.raises(LibraryError, match="was modified after the build"):
        activate(workspace, "greeter", "development")
    assert os.readlink(link) == before


def test_a_library_that_stands_in_the_wrong_place_is_not_activated(workspace: Workspace) -> None:
    library = make_library(workspace)
    library.path.rename(library.path.parent / "7.0")
    with pytest.raises(LibraryError, match="another plugin's library"):
        activate(workspace, "greeter", "development", "7.0")
    assert not workspace.enabled.exists()


def test_defaults_that_contradict_the_schema_are_refused(workspace: Workspace) -> None:
    make_library(workspace, config={"size": "large"}, config_schema=SCHEMA)
    with pytest.raises(ConfigError) as caught:
        activate(workspace, "greeter", "development")
    assert caught.value.why == "$.size: 'large' is not of type 'integer'"


def test_defaults_may_leave_out_what_an_operator_must_say(workspace: Workspace) -> None:
    make_library(workspace, config={"size": 1}, config_schema=SCHEMA)
    assert not activate(workspace, "greeter", "development").already


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "no JSON Schema"),
        ({"$ref": "https://schemas.invalid/x.json"}, "refers to 'https://schemas.invalid/x.json'"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(
    workspace: Workspace, schema: dict[str, str], reason: str
) -> None:
    make_library(workspace, config_schema=schema)
    with pytest.raises(ConfigError) as caught:
        activate(workspace, "greeter", "development")
    assert reason in caught.value.why


def test_an_unknown_plugin_is_not_found_with_a_near_name(workspace: Workspace) -> None:
    make_library(workspace)
    make_library(workspace, "sorter")
    with pytest.raises(NotFound, match="no development library 'greter'") as caught:
        activate(workspace, "greter", "development")
    assert caught.value.why == "there is: greeter, sorter"
    assert "did you mean 'greeter'?" in caught.value.fix
    assert caught.value.exit_code == 3


def test_a_plugin_that_was_not_built_is_told_how_to_build_it(
    workspace: Workspace,
) -> None:
    make_library(workspace)
    with pytest.raises(NotFound, match="greeter has no production library") as caught:
        activate(workspace, "greeter", "production")
    assert caught.value.fix == "echo-core build greeter production"


@pytest.mark.parametrize("version", ["9.9", "../0.1.0", ""])
def test_an_unknown_version_is_not_found_with_those_that_exist(workspace: Workspace, version: str) -> None:
    make_library(workspace)
    with pytest.raises(NotFound) as caught:
        activate(workspace, "greeter", "development", version)
    assert caught.value.why == "there is: 0.1.0"


def test_deactivation_removes_the_link_and_is_safe_to_repeat(workspace: Workspace) -> None:
    make_library(workspace)
    link = activate(workspace, "greeter", "development").link
    assert not deactivate(workspace, "greeter").already
    assert not link.is_symlink()
    assert deactivate(workspace, "greeter").already


def test_a_dangling_link_can_be_deactivated(workspace: Workspace) -> None:
    workspace.enabled.mkdir(parents=True)
    (workspace.enabled / "gone").symlink_to("../../../plugins/libraries/development/gone/1.0")
    assert not deactivate(workspace, "gone").already
    assert list(workspace.enabled.iterdir()) == []


@pytest.mark.parametrize("name", ["greter", "../greeter", ""])
def test_deactivating_an_unknown_plugin_is_an_error(workspace: Workspace, name: str) -> None:
    write_plugin(workspace)
    with pytest.raises(NotFound, match="there is no plugin"):
        deactivate(workspace, name)


def test_what_is_no_link_is_not_touched(workspace: Workspace) -> None:
    make_library(workspace)
    folder = workspace.enabled / "greeter"
    folder.mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="is not a link"):
        activate(workspace, "greeter", "development")
    with pytest.raises(WorkspaceError, match="is not a link"):
        deactivate(workspace, "greeter")
    assert folder.is_dir()


def test_a_folder_that_cannot_be_written_is_a_clear_error(workspace: Workspace) -> None:
    make_library(workspace)
    workspace.enabled.parent.mkdir(parents=True)
    workspace.enabled.write_text("a file, where a folder must be")
    with pytest.raises(WorkspaceError, match="greeter cannot be switched"):
        activate(workspace, "greeter", "development")


def test_a_compiled_package_that_the_host_has_in_another_version_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "host" / "fast-0.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fast\nVersion: 0.5\n")
    monkeypatch.syspath_prepend(tmp_path / "host")
    tag = str(next(iter(sys_tags())))
    wheel = make_wheel(tmp_path, "fast", "1.0", {f"fast{EXTENSION_SUFFIXES[0]}": b"no machine code"}, tag=tag)
    make_library(workspace, carrying=[wheel])
    with pytest.raises(PluginLoadError, match=r"needs the compiled package fast 1\.0") as caught:
        activate(workspace, "greeter", "development")
    assert "the host itself has 0.5" in caught.value.why
    assert '"isolation": "process"' in caught.value.fix
    assert not enabled(workspace)
    # What the operator demands counts as well as what the manifest asks for.
    workspace.settings_file.write_text('[isolation.plugins.greeter]\ntier = "process"\n')
    activate(workspace, "greeter", "development")


def test_a_compiled_package_that_an_enabled_plugin_has_in_another_version_is_refused(
    workspace: Workspace, tmp_path: Path
) -> None:
    tag = str(next(iter(sys_tags())))
    for name, version in (("early", "1.0"), ("late", "2.0")):
        module = {f"fast{EXTENSION_SUFFIXES[0]}": b"no machine code"}
        make_library(workspace, name, carrying=[make_wheel(tmp_path, "fast", version, module, tag=tag)])
    activate(workspace, "early", "development")
    activate(workspace, "early", "development")  # its own is no obstacle
    with pytest.raises(PluginLoadError, match=r"late needs the compiled package fast 2\.0") as caught:
        activate(workspace, "late", "development")
    assert "early has 1.0 in the host's process" in caught.value.why
    assert [entry.name for entry in enabled(workspace)] == ["early"]

    workspace.settings_file.write_text('[isolation.plugins.early]\ntier = "process"\n')
    activate(workspace, "late", "development")
    workspace.settings_file.unlink()
    well, faulty = check_plugins(enabled(workspace), Settings(), {})
    assert (well.name, well.status) == ("plugin early", "ok")
    assert (faulty.name, faulty.status) == ("plugin late", "FAIL")
    assert "early has 1.0 in the host's process" in faulty.detail
