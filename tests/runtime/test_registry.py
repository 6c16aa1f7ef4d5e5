import os
import shutil
from pathlib import Path

import pytest

from echo_core.errors import EchoCoreError, LibraryError
from echo_core.runtime.registry import available, enabled
from echo_core.workspace import Workspace
from support.libraries import make_library, make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = make_workspace(tmp_path / "workspace")
    workspace.enabled.mkdir(parents=True)
    return workspace


def link(workspace: Workspace, name: str, target: Path) -> None:
    (workspace.enabled / name).symlink_to(os.path.relpath(target, workspace.enabled))


def test_an_empty_workspace_has_nothing(tmp_path: Path) -> None:
    assert available(make_workspace(tmp_path)) == []
    assert enabled(make_workspace(tmp_path)) == []


def test_libraries_are_listed_by_name_the_newest_version_first(workspace: Workspace) -> None:
    for version in ("0.9.0", "0.10.0", "1.0.0rc1"):
        make_library(workspace, "two", version=version)
    make_library(workspace, "one", "production")
    found = [(entry.name, entry.version, entry.build_type) for entry in available(workspace)]
    assert found == [
        ("one", "0.1.0", "production"),
        ("two", "1.0.0rc1", "development"),
        ("two", "0.10.0", "development"),
        ("two", "0.9.0", "development"),
    ]
    assert [entry.name for entry in available(workspace, "production")] == ["one"]


def test_a_broken_library_is_listed_with_its_reason_beside_the_others(workspace: Workspace) -> None:
    whole, broken = make_library(workspace, "whole"), make_library(workspace, "broken")
    (broken.path / "manifest.json").write_text("{")
    shutil.copytree(whole.path, workspace.libraries("development") / "misplaced" / "9.9")
    (workspace.libraries("development") / ".hidden").mkdir()
    entries = {entry.name: entry for entry in available(workspace)}
    assert set(entries) == {"whole", "broken", "misplaced"}
    assert entries["whole"].library is not None
    assert "not JSON" in str(entries["broken"].error)
    assert "says that it is whole 0.1.0 (development)" in str(entries["misplaced"].error)


def test_what_is_enabled_is_verified(workspace: Workspace) -> None:
    library = make_library(workspace, "greeter", "production")
    link(workspace, "greeter", library.path)
    (workspace.enabled / ".gitkeep").touch()
    [entry] = enabled(workspace)
    assert (entry.name, entry.build_type, entry.version) == ("greeter", "production", "0.1.0")
    assert entry.library == library
    assert entry.error is None


def test_one_broken_entry_never_hides_the_others(workspace: Workspace, tmp_path: Path) -> None:
    whole = make_library(workspace, "whole")
    damaged = make_library(workspace, "damaged")
    (damaged.path / "extra.py").touch()
    other_host = make_library(workspace, "other_host")
    shutil.copytree(whole.path, tmp_path / "outside" / "0.1.0")
    link(workspace, "whole", whole.path)
    link(workspace, "damaged", damaged.path)
    link(workspace, "dangling", workspace.libraries("production") / "dangling" / "2.0")
    link(workspace, "outside", tmp_path / "outside" / "0.1.0")
    link(workspace, "renamed", other_host.path)
    link(workspace, "loop", workspace.enabled / "loop")
    (workspace.enabled / "folder").mkdir()

    entries = {entry.name: entry for entry in enabled(workspace)}

    assert entries["whole"].library is not None
    reasons = {name: entry.error.why for name, entry in entries.items() if entry.error}
    assert reasons.keys() == {"damaged", "dangling", "outside", "renamed", "loop", "folder"}
    assert "extra.py is not part of the release" in reasons["damaged"]
    assert reasons["dangling"].endswith("production/dangling/2.0, which is not there")
    assert "outside the libraries" in reasons["outside"]
    assert "says that it is other_host 0.1.0" in reasons["renamed"]
    assert "outside the libraries" in reasons["loop"]
    assert reasons["folder"] == "it is not a link"
    assert (entries["dangling"].build_type, entries["dangling"].version) == ("production", "2.0")
    for entry in entries.values():
        assert isinstance(entry.error, EchoCoreError | None)
        assert entry.error is None or entry.error.fix


def test_the_link_is_followed_once(workspace: Workspace, tmp_path: Path) -> None:
    library = make_library(workspace)
    link(workspace, "greeter", library.path)
    [entry] = enabled(workspace)
    (workspace.enabled / "greeter").unlink()
    (workspace.enabled / "greeter").symlink_to(tmp_path)
    assert entry.library is not None
    assert entry.library.path == library.path.resolve()


def test_a_library_of_the_wrong_build_type_is_refused(workspace: Workspace) -> None:
    library = make_library(workspace)
    shutil.copytree(library.path, workspace.libraries("production") / "greeter" / "0.1.0")
    link(workspace, "greeter", workspace.libraries("production") / "greeter" / "0.1.0")
    [entry] = enabled(workspace)
    assert isinstance(entry.error, LibraryError)
    assert "says that it is greeter 0.1.0 (development)" in entry.error.why
