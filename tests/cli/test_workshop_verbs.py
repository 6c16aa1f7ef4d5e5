"""From nothing to an activated plugin, and back: init, create, test, build, activate, list, deactivate."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from echo_core.workspace import Workspace

Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> Workspace:
    """A new workspace, in which the tests stand."""
    monkeypatch.chdir(tmp_path)
    call("init", "ws")
    monkeypatch.chdir(tmp_path / "ws")
    return Workspace(tmp_path / "ws")


@pytest.fixture
def built(workspace: Workspace, call: Call) -> Workspace:
    """One in which `loud_words` is built for development."""
    assert call("create", "loud_words").returncode == 0
    assert call("build", "loud_words").returncode == 0
    return workspace


def document(done: CompletedProcess[str]) -> dict[str, Any]:
    """The one object on stdout, with nothing on stderr."""
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
    value = json.loads(done.stdout)
    return dict(value)


def error(done: CompletedProcess[str]) -> dict[str, str]:
    """The one error on stderr, with nothing on stdout."""
    assert done.stdout == ""
    value = json.loads(done.stderr)["error"]
    assert value.keys() == {"code", "message", "where", "why", "fix"}
    return dict(value)


def test_init_makes_a_workspace_and_refuses_to_make_it_again(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = document(call("init", "ws", "--json"))
    assert made == {"schema": "echo-core.init/1", "path": str(tmp_path / "ws")}
    again = call("init", "ws", "--json")
    assert (again.returncode, error(again)["code"]) == (2, "E-WORKSPACE")
    assert "next: cd other, then echo-core create NAME" in call("init", "other").stdout


@pytest.mark.usefixtures("workspace")
def test_create_says_what_it_wrote_and_what_comes_next(call: Call) -> None:
    done = call("create", "loud_words", "filter")
    assert done.returncode == 0
    first, *files, following = done.stdout.splitlines()
    assert first == "created loud_words (filter) in plugins/workshop/loud_words"
    assert "  src/loud_words/__init__.py" in files
    assert following == "next: echo-core test loud_words, then echo-core build loud_words"


@pytest.mark.usefixtures("workspace")
def test_create_answers_to_the_name_of_its_script_too(call: Call) -> None:
    made = document(call("create_plugin", "loud_words", "--json"))
    assert (made["schema"], made["plugin_type"]) == ("echo-core.create/1", "transformer")


def test_a_misspelt_type_is_corrected_and_nothing_written(call: Call, workspace: Workspace) -> None:
    done = call("create", "loud_words", "transfomer", "--json")
    assert done.returncode == 2
    assert error(done)["fix"] == "did you mean 'transformer'?"
    assert not (workspace.workshop / "loud_words").exists()


def test_a_bad_name_is_refused_and_the_one_offered_works(call: Call, workspace: Workspace) -> None:
    done = call("create", "Loud-Words")
    assert done.returncode == 2
    assert "error[E-NAME]" in done.stderr
    assert "fix: use 'loud_words'" in done.stderr
    assert call("create", "loud_words").returncode == 0


def test_build_tells_where_the_library_is_and_when_there_was_nothing_to_do(
    call: Call, built: Workspace
) -> None:
    again = call("build", "loud_words").stdout.splitlines()
    assert again[0] == "loud_words 0.1.0 (development) is unchanged"
    assert again[1] == "  library  plugins/libraries/development/loud_words/0.1.0"
    assert again[-1] == "next: echo-core activate loud_words development"


def test_build_under_json_is_the_whole_report(call: Call, built: Workspace) -> None:
    report = document(call("build_plugin", "loud_words", "development", "--json"))
    assert report["schema"] == "echo-core.build/1"
    assert report["path"] == str(built.libraries("development") / "loud_words" / "0.1.0")
    assert report["unchanged"] is True


@pytest.mark.slow
def test_a_plugins_own_tests_are_run_and_a_failure_is_shown(call: Call, built: Workspace) -> None:
    verdict = document(call("test", "loud_words", "--json"))["verdict"]
    assert "passed" in verdict
    (built.workshop / "loud_words" / "tests" / "test_wrong.py").write_text("def test_it():\n    assert 0\n")
    wrong = call("test", "loud_words", "--json")
    assert wrong.returncode == 1
    assert error(wrong)["code"] == "E-BUILD"
    assert "test_wrong" in error(wrong)["why"]


@pytest.mark.parametrize("verb", ["test", "build", "deactivate"])
def test_a_misspelt_plugin_is_not_found_and_the_near_one_offered(
    verb: str, call: Call, built: Workspace
) -> None:
    done = call(verb, "loud_word", "--json")
    assert done.returncode == 3
    assert error(done)["code"] == "E-NOT-FOUND"
    assert "did you mean 'loud_words'?" in error(done)["fix"]


def test_a_misspelt_plugin_cannot_be_activated(call: Call, built: Workspace) -> None:
    done = call("activate", "loud_word")
    assert done.returncode == 3
    assert "did you mean 'loud_words'?" in done.stderr


def test_a_misspelt_build_type_is_corrected(call: Call, built: Workspace) -> None:
    done = call("activate", "loud_words", "developmnt", "--json")
    assert (done.returncode, error(done)["fix"]) == (2, "did you mean 'development'?")


def test_activate_and_deactivate_are_safe_to_repeat_and_say_so(call: Call, built: Workspace) -> None:
    link = built.enabled / "loud_words"
    assert "0.1.0 (development) is activated" in call("activate", "loud_words").stdout
    assert link.is_symlink()
    assert "was activated already" in call("activate", "loud_words", "development").stdout
    assert document(call("activate", "loud_words", "--version", "0.1.0", "--json"))["already"] is True
    assert call("deactivate", "loud_words").stdout == "loud_words is deactivated\n"
    assert not link.is_symlink()
    assert document(call("deactivate", "loud_words", "--json"))["already"] is True


def test_a_version_that_was_not_built_is_not_found(call: Call, built: Workspace) -> None:
    assert call("activate", "loud_words", "--version", "9.9").returncode == 3


def test_one_door_switches_on_and_off(call: Call, built: Workspace) -> None:
    assert document(call("activate_plugin", "activate", "loud_words", "development", "--json"))["link"]
    assert document(call("activate_plugin", "deactivate", "loud_words", "--json"))["already"] is False
    done = call("activate_plugin", "activat", "loud_words", "--json")
    assert (done.returncode, error(done)["fix"]) == (2, "did you mean 'activate'?")


def test_list_shows_what_is_built_and_what_of_it_is_activated(call: Call, built: Workspace) -> None:
    def row() -> list[str]:
        return call("list").stdout.splitlines()[1].split()[:5]

    assert row() == ["loud_words", "transformer", "development", "-", "0.1.0"]
    call("activate", "loud_words")
    assert row() == ["*", "loud_words", "transformer", "development", "0.1.0"]
    assert call("list_plugins", "production").stdout.startswith("no plugin is built")


def test_list_under_json_has_a_row_for_each_plugin_and_build_type(call: Call, built: Workspace) -> None:
    listed = document(call("list", "development", "--json"))
    assert (listed["schema"], listed["scope"]) == ("echo-core.list/1", "development")
    (row,) = listed["plugins"]
    assert (row["name"], row["versions"], row["activated"]) == ("loud_words", ["0.1.0"], "")


def test_list_shows_what_is_wrong_with_a_plugin_and_is_still_done(call: Call, built: Workspace) -> None:
    call("activate", "loud_words")
    (built.libraries("development") / "loud_words" / "0.1.0" / "extra.py").touch()
    done = call("list")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].startswith("!")
    assert "extra.py is not part of the release" in done.stdout


def test_doctor_names_a_library_that_was_changed(call: Call, built: Workspace) -> None:
    call("activate", "loud_words")
    assert "ok    plugin loud_words: 0.1.0 (development) is intact" in call("doctor").stdout
    (built.libraries("development") / "loud_words" / "0.1.0" / "extra.py").touch()
    done = call("doctor")
    assert done.returncode == 1
    assert "FAIL  plugin loud_words:" in done.stdout


def test_doctor_names_a_configuration_that_does_not_fit(call: Call, built: Workspace) -> None:
    call("activate", "loud_words")
    text = '[plugins.loud_words]\nno_such_key = 1\n\n[telemetry]\nengine = "quick"\n'
    built.settings_file.write_text(text, encoding="utf-8")
    done = call("doctor")
    assert done.returncode == 1
    assert "FAIL  plugin loud_words: the configuration" in done.stdout
    assert "FAIL  settings: telemetry cannot be set up" in done.stdout


@pytest.mark.usefixtures("built")
def test_a_shell_is_offered_the_names_of_the_plugins(call: Call) -> None:
    call("create", "quiet_words")
    offered = call("__complete", "build", "").stdout.split("\x1fbegin\n")[1]
    assert offered.splitlines() == ["loud_words", "quiet_words"]
