import os
import shutil
from pathlib import Path

import pytest

from echo_core import manifest
from echo_core.errors import NameRefused, UnknownPluginType, WorkspaceError
from echo_core.manifest import PLUGIN_TYPES
from echo_core.workshop import create as create_module
from echo_core.workshop.create import create
from echo_core.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("plugin_type", PLUGIN_TYPES)
def test_a_plugin_has_all_its_parts(workspace: Workspace, plugin_type: str) -> None:
    created = create(workspace, "loud_words", plugin_type)

    assert created.path == workspace.workshop / "loud_words"
    assert {
        "README.md",
        "manifest.json",
        "pyproject.toml",
        "src/loud_words/__init__.py",
        "src/loud_words/py.typed",
        "tests/test_loud_words.py",
    } <= set(created.files)
    assert [created.path / file for file in created.files] == sorted(
        path for path in created.path.rglob("*") if path.is_file()
    )
    made = manifest.read(created.path / "manifest.json")
    assert (made.name, made.plugin_type, made.entry_point) == ("loud_words", plugin_type, "create_plugin")
    assert made.config_schema is not None


def test_a_plugin_is_a_transformer_unless_told_otherwise(workspace: Workspace) -> None:
    assert create(workspace, "loud_words").plugin_type == "transformer"


def test_nothing_of_the_template_s_own_name_is_left(workspace: Workspace) -> None:
    for plugin_type in PLUGIN_TYPES:
        created = create(workspace, f"a_{plugin_type}", plugin_type)
        for file in created.files:
            text = file + (created.path / file).read_text(encoding="utf-8")
            assert "my_plugin" not in text
            assert "MyPlugin" not in text


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("loud_words", "LoudWords"),
        ("v2", "V2"),
        ("my_plugin", "MyPlugin"),
        ("transformer", "TransformerPlugin"),
        ("base_message", "BaseMessagePlugin"),
    ],
)
def test_the_class_has_the_plugin_s_name_and_hides_nothing(
    workspace: Workspace, name: str, class_name: str
) -> None:
    code = (create(workspace, name).path / "src" / name / "__init__.py").read_text(encoding="utf-8")
    assert f"class {class_name}(Transformer):" in code


@pytest.mark.parametrize("name", ["Loud-Words", "class", "json", "", "../escape", "echo_core"])
def test_a_bad_name_is_refused_and_nothing_is_written(workspace: Workspace, name: str) -> None:
    with pytest.raises(NameRefused) as refused:
        create(workspace, name)
    assert everything_below(workspace.root) == []
    create(workspace, refused.value.suggestion)


@pytest.mark.parametrize(("plugin_type", "fix"), [("filtr", "use 'filter'"), ("zzz", "use one of them")])
def test_an_unknown_type_is_refused_with_the_nearest_and_all_types(
    workspace: Workspace, plugin_type: str, fix: str
) -> None:
    with pytest.raises(UnknownPluginType) as refused:
        create(workspace, "loud_words", plugin_type)
    assert refused.value.fix == fix
    assert all(known in refused.value.why for known in PLUGIN_TYPES)
    assert everything_below(workspace.root) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_what_is_in_the_way_is_left_as_it_is(workspace: Workspace, kind: str) -> None:
    workspace.workshop.mkdir(parents=True)
    target = workspace.workshop / "loud_words"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    before = everything_below(workspace.root)
    with pytest.raises(WorkspaceError, match="already"):
        create(workspace, "loud_words")
    assert everything_below(workspace.root) == before


@pytest.mark.parametrize("failing", ["write_text", "rename"])
def test_a_failure_half_way_leaves_nothing_behind(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, failing, fail)
    with pytest.raises(WorkspaceError, match="No space left on device"):
        create(workspace, "loud_words")
    assert everything_below(workspace.workshop) == []


def test_what_python_left_in_the_installed_templates_is_not_copied(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates = tmp_path / "installed"
    shutil.copytree(create_module.TEMPLATES, templates)
    compiled = templates / "filter" / "src" / "my_plugin" / "__pycache__" / "__init__.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"\xff\x00")
    monkeypatch.setattr(create_module, "TEMPLATES", templates)
    assert not [file for file in create(workspace, "loud_words", "filter").files if "pycache" in file]


def test_the_new_folder_has_the_permissions_of_any_other(workspace: Workspace) -> None:
    plain = workspace.root / "plain"
    plain.mkdir()
    created = create(workspace, "loud_words")
    assert os.stat(created.path).st_mode == os.stat(plain).st_mode
