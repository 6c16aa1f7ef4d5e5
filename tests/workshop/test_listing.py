from pathlib import Path

import pytest

from echo_core.workshop.activate import activate
from echo_core.workshop.build import build
from echo_core.workshop.listing import Row, listing
from echo_core.workspace import Workspace
from support.libraries import make_library, make_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path)


def test_an_empty_workspace_has_no_rows(workspace: Workspace) -> None:
    assert listing(workspace) == []


def test_a_row_shows_the_versions_and_which_is_activated(workspace: Workspace) -> None:
    make_library(workspace, version="0.1.0", description="Greets.", plugin_type="transformer")
    make_library(workspace, version="0.2.0", description="Greets better.", plugin_type="transformer")
    activate(workspace, "greeter", "development", "0.1.0")
    assert listing(workspace) == [
        Row(
            name="greeter",
            build_type="development",
            versions=("0.2.0", "0.1.0"),
            plugin_type="transformer",
            description="Greets.",
            activated="0.1.0",
            problems=(),
            path="plugins/libraries/development/greeter",
        )
    ]


def test_each_build_type_has_its_own_row_and_only_one_is_activated(workspace: Workspace) -> None:
    make_library(workspace)
    build(workspace, "greeter", "production")
    activate(workspace, "greeter", "production")
    rows = listing(workspace, "all")
    assert [(row.build_type, row.activated) for row in rows] == [("development", ""), ("production", "0.1.0")]
    assert [row.build_type for row in listing(workspace, "development")] == ["development"]
    assert [row.build_type for row in listing(workspace, "production")] == ["production"]


def test_problems_are_told_and_hide_no_other_row(workspace: Workspace) -> None:
    make_library(workspace, "whole")
    damaged = make_library(workspace, "damaged", version="1.0")
    make_library(workspace, "damaged", version="2.0")
    activate(workspace, "damaged", "development", "1.0")
    (damaged.path / damaged.wheels[0]).write_bytes(b"")
    (workspace.enabled / "gone").symlink_to("../../../plugins/libraries/production/gone/3.0")
    (workspace.enabled / "stray").symlink_to("/")
    rows = {row.name: row for row in listing(workspace)}
    assert rows["whole"].problems == ()
    assert rows["damaged"].activated == "1.0"
    assert "activated: the library is damaged" in rows["damaged"].problems[0]
    assert (rows["gone"].build_type, rows["gone"].activated, rows["gone"].versions) == (
        "production",
        "3.0",
        (),
    )
    assert "which is not there" in rows["gone"].problems[0]
    assert rows["stray"].build_type == ""
    assert rows["stray"].path == "core/plugins/enabled/stray"
    assert {row.name for row in listing(workspace, "development")} == {"whole", "damaged", "stray"}


def test_a_version_that_cannot_be_read_is_a_problem_of_its_row(workspace: Workspace) -> None:
    library = make_library(workspace)
    make_library(workspace, version="0.2.0")
    (library.path / "release.json").unlink()
    [row] = listing(workspace)
    assert row.versions == ("0.2.0", "0.1.0")
    assert row.description == "Greets."
    assert row.problems[0].startswith("0.1.0: the library is damaged")
