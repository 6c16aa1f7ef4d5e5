import asyncio
import shutil
import sys
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import pytest
from packaging.tags import sys_tags

from echo_core import BaseMessage
from echo_core.errors import BuildError
from echo_core.runtime.libraries.library import read_library, this_platform
from echo_core.runtime.libraries.platform import platform_versions
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import load
from echo_core.workshop.build import build
from echo_core.workspace import Workspace
from support.libraries import go_offline, make_library, make_wheel, make_workspace, write_plugin


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "workspace")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, all that pip can find: `words` 1.0 and 1.1, which needs `letters`."""
    index = tmp_path / "index"
    go_offline(monkeypatch, index)
    make_wheel(index, "letters", "3.0", {"letters.py": "ALL = 'abc'\n"})
    for version in ("1.0", "1.1"):
        files = {"words/__init__.py": f"import letters\nVERSION = '{version}'\n"}
        make_wheel(index, "words", version, files, requires=["letters>=3", "msgspec>=0.1"])
    return index


def lock_of(workspace: Workspace, name: str = "greeter") -> Path:
    return workspace.workshop / name / "requirements.lock"


def pins(lock: Path) -> list[str]:
    return [line.split()[0] for line in lock.read_text().splitlines() if not line.startswith("#")]


def wheels(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "wheels").iterdir())


def test_a_library_carries_its_dependencies_and_what_they_need(workspace: Workspace, index: Path) -> None:
    library = make_library(workspace, dependencies=["words"])
    assert wheels(library.path) == ["letters-3.0-py3-none-any.whl", "words-1.1-py3-none-any.whl"]
    lock = library.path / "requirements.lock"
    assert lock.read_bytes() == lock_of(workspace).read_bytes()
    assert pins(lock) == ["letters==3.0", "words==1.1"]
    assert lock.read_text().count("--hash=sha256:") == 2
    assert str(index) not in lock.read_text()
    assert library.release.platform == "any"


def test_a_plugin_without_dependencies_has_no_lock(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    library = make_library(workspace, dependencies=[])
    assert not (library.path / "requirements.lock").exists()
    assert not (library.path / "wheels").exists()
    assert not lock_of(workspace).exists()


def test_what_is_locked_stays_until_the_dependencies_change(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words>=1"])
    make_wheel(index, "words", "1.2", {"words/__init__.py": ""})
    make_library(workspace, version="0.2.0", dependencies=["words>=1"])
    assert pins(lock_of(workspace)) == ["letters==3.0", "words==1.1"]
    make_library(workspace, version="0.2.0", dependencies=["words>=1.0"])
    assert pins(lock_of(workspace)) == ["words==1.2"]


def test_deleting_the_lock_resolves_again(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    make_wheel(index, "words", "1.2", {"words/__init__.py": ""})
    lock_of(workspace).unlink()
    assert not build(workspace, "greeter").unchanged
    assert pins(lock_of(workspace)) == ["words==1.2"]


def test_an_unchanged_plugin_with_dependencies_is_not_built_again(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    assert build(workspace, "greeter").unchanged


@pytest.mark.parametrize("kept", ["the wheels fetched before", "an earlier library"])
def test_building_again_needs_no_index(workspace: Workspace, index: Path, kept: str) -> None:
    first = make_library(workspace, dependencies=["words"])
    shutil.rmtree(index)
    if kept == "an earlier library":
        shutil.rmtree(workspace.state)
    else:
        shutil.rmtree(first.path)
    second = make_library(workspace, version="0.2.0", dependencies=["words"])
    assert wheels(second.path) == ["letters-3.0-py3-none-any.whl", "words-1.1-py3-none-any.whl"]


def test_what_is_neither_locked_nor_at_hand_is_fetched_by_its_hash(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    shutil.rmtree(workspace.state)
    shutil.rmtree(workspace.libraries("development"))
    assert wheels(build(workspace, "greeter").path) == [
        "letters-3.0-py3-none-any.whl",
        "words-1.1-py3-none-any.whl",
    ]


def test_a_wheel_with_another_hash_is_refused(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    shutil.rmtree(workspace.state)
    shutil.rmtree(workspace.libraries("development"))
    make_wheel(index, "letters", "3.0", {"letters.py": "evil = True\n"})
    with pytest.raises(BuildError, match="the dependencies of greeter cannot be had") as caught:
        build(workspace, "greeter")
    assert "DO NOT MATCH THE HASHES" in caught.value.why
    assert not list(workspace.libraries("development").rglob("*.whl"))


def test_a_production_build_tests_with_the_dependencies_it_carries(workspace: Workspace, index: Path) -> None:
    test = "import words\n\ndef test_version():\n    assert words.VERSION == '1.0'\n"
    library = make_library(
        workspace,
        build_type="production",
        dependencies=["words==1.0"],
        files={"tests/test_greeter.py": test},
    )
    assert wheels(library.path)[-1] == "words-1.0-py3-none-any.whl"


def test_platform_packages_are_checked_and_never_carried(workspace: Workspace, index: Path) -> None:
    platform = ["msgspec>=0.1", "opentelemetry-api", "echo-core"]
    library = make_library(workspace, dependencies=[*platform, "words"])
    assert wheels(library.path) == ["letters-3.0-py3-none-any.whl", "words-1.1-py3-none-any.whl"]
    assert pins(library.path / "requirements.lock") == ["letters==3.0", "words==1.1"]


def test_a_contradiction_to_a_platform_package_is_refused(workspace: Workspace, index: Path) -> None:
    write_plugin(workspace, dependencies=["msgspec<0.1"])
    with pytest.raises(BuildError, match="greeter does not go with this host") as caught:
        build(workspace, "greeter")
    assert caught.value.why == f"msgspec<0.1 is wanted, and the host has {platform_versions()['msgspec']}"
    assert "loosen the version" in caught.value.fix


def test_a_contradiction_further_down_is_refused_with_both_sides(workspace: Workspace, index: Path) -> None:
    make_wheel(index, "old", "1.0", {"old.py": ""}, requires=["msgspec<0.1"])
    write_plugin(workspace, dependencies=["old"])
    with pytest.raises(BuildError, match="the dependencies of greeter cannot be had") as caught:
        build(workspace, "greeter")
    assert "old 1.0 depends on msgspec<0.1" in caught.value.why
    assert f"msgspec=={platform_versions()['msgspec']}" in caught.value.why
    assert "echo.core.host" not in caught.value.why
    assert "loosen the version" in caught.value.fix


def test_a_platform_package_that_the_host_lacks_is_refused(workspace: Workspace, index: Path) -> None:
    make_wheel(index, "opentelemetry_extras", "1.0", {"opentelemetry/extras.py": ""})
    make_wheel(index, "wants_extras", "1.0", {"wants.py": ""}, requires=["opentelemetry-extras"])
    for wanted in ("opentelemetry-extras", "wants-extras"):
        write_plugin(workspace, dependencies=[wanted])
        with pytest.raises(BuildError, match="greeter does not go with this host") as caught:
            build(workspace, "greeter")
        assert "opentelemetry-extras" in caught.value.why
        assert "not installed" in caught.value.why


def test_a_stranger_named_like_a_platform_package_is_not_taken(workspace: Workspace, index: Path) -> None:
    make_wheel(index, "echo_core", "99.0", {"echo_core/__init__.py": "evil = True\n"})
    make_wheel(index, "helper", "1.0", {"helper.py": ""}, requires=["echo-core>=0.1"])
    library = make_library(workspace, dependencies=["helper"])
    assert wheels(library.path) == ["helper-1.0-py3-none-any.whl"]


def test_pips_reason_is_told_in_a_few_lines(workspace: Workspace, index: Path) -> None:
    write_plugin(workspace, dependencies=["nothing-like-it>=2"])
    with pytest.raises(BuildError, match="the dependencies of greeter cannot be had") as caught:
        build(workspace, "greeter")
    assert "No matching distribution found for nothing-like-it>=2" in caught.value.why
    assert len(caught.value.why.splitlines()) <= 3
    assert not lock_of(workspace).exists()


def test_a_lock_that_is_none_is_refused(workspace: Workspace, index: Path) -> None:
    make_library(workspace, dependencies=["words"])
    lock_of(workspace).write_text("words from somewhere\n")
    with pytest.raises(BuildError, match="the lock of the dependencies cannot be read") as caught:
        build(workspace, "greeter")
    assert caught.value.where == str(lock_of(workspace))
    assert "delete the file" in caught.value.fix


def test_a_hostile_dependency_is_refused(workspace: Workspace, index: Path) -> None:
    path = make_wheel(index, "evil", "1.0", {"evil.py": ""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("evil.pth", "import os")
    write_plugin(workspace, dependencies=["evil"])
    with pytest.raises(BuildError, match="a dependency of greeter is refused") as caught:
        build(workspace, "greeter")
    assert "evil-1.0-py3-none-any.whl: its member 'evil.pth' is a .pth file" in caught.value.why


def test_a_dependency_that_is_not_what_its_record_says_is_refused(workspace: Workspace, index: Path) -> None:
    path = make_wheel(index, "odd", "1.0", {"odd.py": "A = 1\n"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"odd.py": b"A = 2\n"}).items():
            archive.writestr(name, content)
    write_plugin(workspace, dependencies=["odd"])
    with pytest.raises(BuildError, match=r"odd\.py is not what its RECORD says"):
        build(workspace, "greeter")


def test_dependencies_that_carry_the_same_file_are_refused(workspace: Workspace, index: Path) -> None:
    for name in ("one", "other"):
        make_wheel(index, name, "1.0", {f"{name}.py": "", "shared/__init__.py": ""})
    write_plugin(workspace, dependencies=["one", "other"])
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert caught.value.why == "one and other both carry shared/__init__.py"


def test_a_dependency_with_a_package_named_like_the_plugin_is_refused(
    workspace: Workspace, index: Path
) -> None:
    make_wheel(index, "hello", "1.0", {"greeter/extra.py": ""})
    write_plugin(workspace, dependencies=["hello"])
    with pytest.raises(BuildError) as caught:
        build(workspace, "greeter")
    assert "its dependency hello has a package of the same name, greeter" in caught.value.why


def test_a_choice_that_depends_on_the_python_holds_for_this_python_only(
    workspace: Workspace, index: Path
) -> None:
    make_wheel(index, "picky", "1.0", {"picky.py": ""}, requires=["letters; python_version >= '3.0'"])
    library = make_library(workspace, dependencies=["picky"])
    assert library.release.python == "=={}.{}.*".format(*sys.version_info[:2])
    assert library.release.platform == this_platform()
    locked = lock_of(workspace).read_text()
    assert f"# environment: Python {library.release.python}, {this_platform()}\n" in locked
    shutil.rmtree(index)
    make_library(workspace, version="0.2.0", dependencies=["picky"])
    assert lock_of(workspace).read_text() == locked


def test_a_lock_of_another_environment_is_resolved_again_with_the_same_versions(
    workspace: Workspace, index: Path
) -> None:
    make_library(workspace, dependencies=["words>=1"])
    make_wheel(index, "words", "1.2", {"words/__init__.py": ""})
    lock = lock_of(workspace)
    lock.write_text(lock.read_text().replace("environment: any", "environment: Python ==3.9.*, elsewhere"))
    build(workspace, "greeter")
    assert pins(lock) == ["letters==3.0", "words==1.1"]
    assert "environment: any" in lock.read_text()


def test_a_real_template_engine_is_resolved_tested_carried_and_loaded(workspace: Workspace) -> None:
    test = """
        import asyncio
        import greeter

        def test_it_greets():
            assert asyncio.run(greeter.create_plugin().transform(None)) == "hello &lt;you&gt;"
    """
    code = """
        from echo_core import Transformer
        from jinja2 import Environment

        class Greeter(Transformer):
            async def transform(self, message):
                return Environment(autoescape=True).from_string("hello {{ name }}").render(name="<you>")

        def create_plugin():
            return Greeter()
    """
    write_plugin(workspace, code=code, dependencies=["jinja2>=3.1"], files={"tests/test_greeter.py": test})
    report = build(workspace, "greeter", "production")
    assert report.tests.startswith("1 passed")
    assert [name.split("-")[0] for name in wheels(report.path)] == ["jinja2", "markupsafe"]
    loaded = load(read_library(report.path), Store(workspace.state))
    plugin: Any = loaded.plugin
    answer = asyncio.run(plugin.transform(BaseMessage(source="test", data=None)))
    assert answer == "hello &lt;you&gt;"
    assert "jinja2" not in sys.modules
    loaded.unload()


@pytest.fixture
def compiled(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions of a compiled package, of which the older one is installed beside Echo Core."""
    tag = str(next(iter(sys_tags())))
    module = f"speedy{EXTENSION_SUFFIXES[0]}"
    for version in ("1.0", "1.1"):
        make_wheel(index, "speedy", version, {module: b"no machine code"}, tag=tag)
    info = tmp_path / "host" / "speedy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: speedy\nVersion: 1.0\n")
    (info / "RECORD").write_text(f"{module},,\n")
    (tmp_path / "host" / module).touch()  # Python 3.12 passes over files that are not there
    monkeypatch.syspath_prepend(tmp_path / "host")
    return index


@pytest.mark.parametrize(
    ("isolation", "requirement", "chosen"),
    [
        ("in_process", "speedy", "speedy==1.0"),
        ("in_process", "speedy>1.0", "speedy==1.1"),
        ("process", "speedy", "speedy==1.1"),
    ],
)
def test_in_the_hosts_process_a_compiled_package_is_wanted_as_the_host_has_it(
    workspace: Workspace, compiled: Path, isolation: str, requirement: str, chosen: str
) -> None:
    make_library(workspace, dependencies=[requirement], isolation=isolation)
    assert pins(lock_of(workspace)) == [chosen]
