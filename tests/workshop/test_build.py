import importlib.util
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from echo_core.errors import BuildError, ManifestError, NotFound
from echo_core.runtime.libraries.library import read_library
from echo_core.workshop.build import build
from echo_core.workshop.trial import try_plugin
from echo_core.workspace import Workspace
from support.libraries import GREETER, make_library, make_workspace, write_plugin


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_development_build_makes_a_library(workspace: Workspace) -> None:
    write_plugin(workspace)
    report = build(workspace, "greeter")
    assert report.path == workspace.libraries("development") / "greeter" / "0.1.0"
    assert (report.name, report.version, report.build_type) == ("greeter", "0.1.0", "development")
    assert not report.unchanged
    assert report.digest == read_library(report.path).digest
    files = contents(report.path)
    assert set(files) == {"greeter-0.1.0-py3-none-any.whl", "manifest.json", "release.json"}
    assert files["manifest.json"] == (workspace.workshop / "greeter" / "manifest.json").read_bytes()
    assert report.size == sum(len(content) for name, content in files.items() if name != "release.json")


def test_a_plugin_that_this_echo_core_cannot_run_is_refused_where_it_says_so(workspace: Workspace) -> None:
    folder = write_plugin(workspace, requires_echo_core=">=99")
    with pytest.raises(ManifestError) as refused:
        build(workspace, "greeter")
    assert [fault.path for fault in refused.value.faults] == ["$.requires_echo_core"]
    assert refused.value.where == str(folder / "manifest.json")
    assert not workspace.libraries("development").joinpath("greeter").exists()


def test_the_wheel_holds_the_package_and_nothing_else(workspace: Workspace) -> None:
    files: dict[str, str | bytes] = {
        "src/greeter/data/words.txt": "hello",
        "src/greeter/py.typed": "",
        "src/greeter/__pycache__/x.pyc": b"",
        "src/greeter/.secret": "token",
        ".env": "token",
    }
    library = make_library(workspace, files=files)
    with zipfile.ZipFile(library.path / library.wheels[0]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    assert names == ["greeter/__init__.py", "greeter/data/words.txt", "greeter/py.typed"]


def test_what_version_control_ignores_is_built_all_the_same(workspace: Workspace) -> None:
    (workspace.root / ".gitignore").write_text("*.txt\n")
    library = make_library(workspace, files={"src/greeter/words.txt": "hello"})
    with zipfile.ZipFile(library.path / library.wheels[0]) as wheel:
        assert "greeter/words.txt" in wheel.namelist()


@pytest.mark.usefixtures("strict_umask")
def test_the_same_source_gives_the_same_bytes_wherever_and_whenever_it_is_built(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "src/greeter/b/__init__.py": "",
        "src/greeter/a.py": "",
        "src/greeter/run.sh": "",
    }
    built = []
    for place, mtime, mode in (("one", 1_600_000_000, 0o644), ("another place", 1_700_000_000, 0o700)):
        workspace = make_workspace(tmp_path / place)
        folder = write_plugin(workspace, files=files)
        for path in (folder, *folder.rglob("*")):
            path.chmod(mode if path.is_file() else 0o700)
            os.utime(path, (mtime, mtime))
        built.append(build(workspace, "greeter"))
    assert built[0].digest == built[1].digest
    assert contents(built[0].path) == contents(built[1].path)
    for content in contents(built[1].path).values():
        assert str(tmp_path).encode() not in content
        assert b"another place" not in content


def test_development_and_production_have_the_same_content(workspace: Workspace) -> None:
    write_plugin(workspace)
    development, production = build(workspace, "greeter"), build(workspace, "greeter", "production")
    assert development.digest == production.digest
    assert production.path == workspace.libraries("production") / "greeter" / "0.1.0"


def test_an_unchanged_source_is_not_built_again(workspace: Workspace) -> None:
    write_plugin(workspace)
    first = build(workspace, "greeter")
    inode = (first.path / "release.json").stat().st_ino
    second = build(workspace, "greeter")
    assert second.unchanged
    assert "wheel" not in second.timings
    assert second.digest == first.digest
    assert (first.path / "release.json").stat().st_ino == inode


def test_a_changed_source_replaces_the_library_of_its_version(workspace: Workspace) -> None:
    write_plugin(workspace)
    first = build(workspace, "greeter")
    write_plugin(workspace, code=GREETER.replace("hello", "good day"))
    second = build(workspace, "greeter")
    assert not second.unchanged
    assert (second.path, second.digest != first.digest) == (first.path, True)
    assert os.listdir(first.path.parent) == ["0.1.0"]


def test_a_failure_while_writing_leaves_the_library_that_was_there(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = make_library(workspace)
    before = contents(library.path)
    write_plugin(workspace, code=GREETER.replace("hello", "good day"))

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BuildError, match="No space left on device"):
        build(workspace, "greeter")
    assert contents(library.path) == before
    assert os.listdir(library.path.parent) == ["0.1.0"]


def test_libraries_that_cannot_be_written_are_a_clear_error(workspace: Workspace) -> None:
    write_plugin(workspace)
    workspace.libraries("development").parent.mkdir(parents=True)
    workspace.libraries("development").write_text("a file, where a folder must be")
    with pytest.raises(BuildError, match="greeter cannot be written") as caught:
        build(workspace, "greeter")
    assert str(workspace.libraries("development")) in caught.value.where


def test_a_damaged_library_is_built_again(workspace: Workspace) -> None:
    library = make_library(workspace)
    (library.path / "extra").touch()
    assert not build(workspace, "greeter").unchanged
    assert read_library(library.path) == library


def test_versions_live_side_by_side(workspace: Workspace) -> None:
    for version in ("0.1.0", "0.2.0", "1.0.0rc1", "1.0.0.post1+local.2"):
        make_library(workspace, version=version)
    names = {path.name for path in (workspace.libraries("development") / "greeter").iterdir()}
    assert names == {"0.1.0", "0.2.0", "1.0.0rc1", "1.0.0.post1+local.2"}


def test_building_runs_no_code_of_the_plugin(workspace: Workspace, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    make_library(workspace, code=f"open({str(sentinel)!r}, 'w')\ndef create_plugin(): ...")
    assert not sentinel.exists()


def test_a_production_build_runs_the_plugins_tests_first(workspace: Workspace) -> None:
    write_plugin(workspace)
    report = build(workspace, "greeter", "production")
    assert report.tests.startswith("1 passed")
    assert report.timings["tests"] > 0
    again = build(workspace, "greeter", "production")
    assert again.unchanged
    assert again.tests.startswith("1 passed")


def test_failing_tests_leave_everything_as_it_was(workspace: Workspace) -> None:
    write_plugin(workspace)
    before = contents(build(workspace, "greeter", "production").path)
    failing = "import greeter\n\ndef test_colour():\n    assert 'red' == 'blue'\n"
    changed = GREETER.replace("hello", "good day")
    write_plugin(workspace, code=changed, files={"tests/test_greeter.py": failing})
    with pytest.raises(BuildError, match="the tests of greeter fail") as caught:
        build(workspace, "greeter", "production")
    assert "assert 'red' == 'blue'" in caught.value.why
    assert len(caught.value.why.splitlines()) <= 30
    libraries = workspace.libraries("production") / "greeter"
    assert os.listdir(libraries) == ["0.1.0"]
    assert contents(libraries / "0.1.0") == before


def test_a_first_production_build_that_fails_leaves_no_library(workspace: Workspace) -> None:
    write_plugin(workspace, files={"tests/test_greeter.py": "def test_x():\n    assert False\n"})
    with pytest.raises(BuildError):
        build(workspace, "greeter", "production")
    assert contents(workspace.libraries("production")) == {}


@pytest.mark.parametrize("content", ["", "import nothing_like_it\n"])
def test_a_production_build_needs_tests(workspace: Workspace, content: str) -> None:
    write_plugin(workspace, files={"tests/test_greeter.py": content})
    with pytest.raises(BuildError, match=r"has no tests|fail"):
        build(workspace, "greeter", "production")


def test_a_plugin_without_a_folder_of_tests_has_none(workspace: Workspace) -> None:
    folder = write_plugin(workspace)
    (folder / "tests" / "test_greeter.py").unlink()
    (folder / "tests").rmdir()
    with pytest.raises(BuildError, match="greeter has no tests") as caught:
        build(workspace, "greeter", "production")
    assert "no folder tests/" in caught.value.why


def test_a_host_without_pytest_says_so(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin(workspace)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pytest" else find(name))
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter", "production")
    assert "pytest is not installed" in caught.value.why


def test_tests_that_do_not_end_are_ended(workspace: Workspace) -> None:
    write_plugin(workspace)
    with pytest.raises(BuildError, match="did not end"):
        build(workspace, "greeter", "production", test_seconds=0.01)


def test_the_settings_of_the_tests_around_do_not_reach_the_plugins_tests(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.root / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '--nonsense'\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    write_plugin(workspace)
    assert try_plugin(workspace, "greeter").startswith("1 passed")


def test_trying_a_plugin_leaves_nothing_in_its_folder(workspace: Workspace) -> None:
    folder = write_plugin(workspace)
    before = contents(folder)
    try_plugin(workspace, "greeter")
    assert contents(folder) == before


def test_an_unknown_plugin_is_not_found_with_a_near_name(workspace: Workspace) -> None:
    write_plugin(workspace)
    with pytest.raises(NotFound, match="there is no plugin source 'greetr'") as caught:
        build(workspace, "greetr")
    assert "did you mean 'greeter'?" in caught.value.fix
    assert caught.value.exit_code == 3


def test_the_next_step_for_an_unknown_plugin_is_a_command_that_works(workspace: Workspace) -> None:
    with pytest.raises(NotFound) as caught:
        build(workspace, "../Loud-Words")
    assert caught.value.fix == "echo-core create loud_words"


@pytest.mark.parametrize("name", ["../workshop/greeter", "", "."])
def test_a_path_is_no_name(workspace: Workspace, name: str) -> None:
    write_plugin(workspace)
    with pytest.raises(NotFound):
        build(workspace, name)


def test_faults_of_the_manifest_alone_are_the_manifests_error(workspace: Workspace) -> None:
    write_plugin(workspace, version="1,0", entry_point="no name")
    with pytest.raises(ManifestError) as caught:
        build(workspace, "greeter")
    assert [fault.path for fault in caught.value.faults] == ["$.version", "$.entry_point"]


def test_all_problems_are_told_at_once(workspace: Workspace) -> None:
    pyproject = """
        [build-system]
        build-backend = "setuptools.build_meta"
        [project]
        name = "another"
        requires-python = "<3"
        dependencies = ["fine>=1", "not a requirement", "here @ file:///tmp/x.whl"]
    """
    files: dict[str, str | bytes] = {
        "pyproject.toml": pyproject,
        "manifest.json": '{"name": "Greeter"}',
        "src/greeter/broken.py": "def f(:\n",
        "src/json.py": "",
        "src/greeter/evil.pth": "",
    }
    write_plugin(workspace, files=files)
    with pytest.raises(BuildError, match="greeter cannot be built") as caught:
        build(workspace, "greeter")
    places = [line.partition(": ")[0] for line in caught.value.why.splitlines()]
    assert places == [
        "manifest.json $.version",
        "manifest.json $.description",
        "manifest.json $.entry_point",
        "manifest.json $.subscriptions",
        "manifest.json $.publications",
        "manifest.json $.name",
        "pyproject.toml build-system.build-backend",
        "pyproject.toml project.name",
        "pyproject.toml project.version",
        "pyproject.toml project.requires-python",
        "pyproject.toml project.dependencies[1]",
        "pyproject.toml project.dependencies[2]",
        "src/greeter/evil.pth",
        "src/json.py",
        "src/greeter/broken.py:1",
    ]
    assert len(caught.value.fix.splitlines()) == len(places)


FAULTY: dict[str, tuple[dict[str, Any], str]] = {
    "another folder's name": (
        {"files": {"manifest.json": json.dumps({
            "name": "other", "version": "0.1.0", "description": "x", "entry_point": "create_plugin",
            "subscriptions": [], "publications": [],
        })}},
        "manifest.json $.name: 'other' is not the folder's name",
    ),
    "two versions": (
        {"files": {"pyproject.toml": '[build-system]\nbuild-backend = "hatchling.build"\n'
                                     '[project]\nname = "greeter"\nversion = "0.2.0"\n'}},
        "project.version: '0.2.0' is not the manifest's '0.1.0'",
    ),
    "no pyproject table": ({"files": {"pyproject.toml": ""}}, "has no [project] table"),
    "no TOML": ({"files": {"pyproject.toml": "["}}, "pyproject.toml: is no TOML"),
    "no entry point": ({"code": "def other(): ..."}, "does not offer the entry point create_plugin()"),
    "an entry point with arguments": (
        {"code": "\n\ndef create_plugin(config): ..."},
        "src/greeter/__init__.py:1: create_plugin needs arguments",
    ),
    "an entry point with keyword arguments": ({"code": "def create_plugin(*, x): ..."}, "needs arguments"),
    "a null byte": ({"code": "def create_plugin():\n    ...\n\0"}, "src/greeter/__init__.py:3: SyntaxError"),
    "a coroutine": ({"code": "async def create_plugin(): ..."}, "create_plugin is a coroutine"),
    "a module of the platform": ({"files": {"src/msgspec/__init__.py": ""}}, "msgspec is a module of Python"),
}  # fmt: skip


@pytest.mark.parametrize(("plugin", "reason"), FAULTY.values(), ids=FAULTY.keys())
def test_a_faulty_source_is_refused_with_its_reason(
    workspace: Workspace, plugin: dict[str, Any], reason: str
) -> None:
    write_plugin(workspace, **plugin)
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert reason in caught.value.why
    assert caught.value.fix
    assert not list(workspace.libraries("development").rglob("*.whl"))


@pytest.mark.parametrize(
    "code",
    [
        "from greeter.other import create_plugin",
        "from greeter.other import make as create_plugin",
        "from greeter.other import *",
        "create_plugin = lambda: None",
        "try:\n    from nowhere import create_plugin\nexcept ImportError:\n    def create_plugin(): ...",
        "if True:\n    def create_plugin(colour='red'): ...",
        "def __getattr__(name): ...",
        "class create_plugin: ...",
    ],
)
def test_an_entry_point_may_come_about_in_many_ways(workspace: Workspace, code: str) -> None:
    assert make_library(workspace, code=code).name == "greeter"


def test_a_version_that_hatchling_reads_elsewhere_is_refused(workspace: Workspace) -> None:
    write_plugin(workspace, files={"other.json": '{"version": "9.9"}'})
    pyproject = workspace.workshop / "greeter" / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('path = "manifest.json"', 'path = "other.json"'))
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert "makes greeter-9.9-py3-none-any.whl, and the manifest asks for greeter-0.1.0" in caught.value.why


def test_a_build_that_leaves_out_the_package_is_refused(workspace: Workspace) -> None:
    write_plugin(workspace, files={"src/other/__init__.py": ""})
    pyproject = workspace.workshop / "greeter" / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("src/greeter", "src/other"))
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert "does not hold the package greeter" in caught.value.why


def test_what_hatchling_refuses_is_told_without_a_path_of_a_copy(workspace: Workspace) -> None:
    folder = write_plugin(workspace)
    (folder / "README.md").unlink()
    pyproject = folder / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("[project]", '[project]\nreadme = "README.md"'))
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert "README.md" in caught.value.why
    assert "/source" not in caught.value.why
