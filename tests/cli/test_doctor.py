"""Each planted fault is found, named, and has a fix; all well is exit code 0."""

import io
import json
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rich.console import Console

from echo_core.cli import checks
from echo_core.cli.checks import Check
from echo_core.cli.doctor import report
from echo_core.errors import LibraryError
from echo_core.manifest import Manifest
from echo_core.message import BaseMessage
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetter, DeadLetterStore
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.registry import Enabled
from echo_core.runtime.settings import Settings
from echo_core.workspace import BUILD_TYPES, SETTINGS_FILE, Workspace

Call = Callable[..., CompletedProcess[str]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    workspace = Workspace(tmp_path)
    folders = (
        workspace.workshop,
        *map(workspace.libraries, BUILD_TYPES),
        workspace.scripts,
        workspace.enabled,
    )
    for folder in folders:
        folder.mkdir(parents=True)
    (tmp_path / SETTINGS_FILE).touch()
    monkeypatch.chdir(tmp_path)
    return workspace


def manifest(name: str, subscriptions: Iterable[str] = (), publications: Iterable[str] = ()) -> Manifest:
    return Manifest(
        name=name,
        version="1.0.0",
        description="for a test",
        entry_point="create_plugin",
        subscriptions=tuple(subscriptions),
        publications=tuple(publications),
    )


def said(found: Iterable[Check]) -> list[tuple[str, str]]:
    return [(check.status, check.detail) for check in found]


def test_nothing_wrong_is_exit_code_0_and_warnings_do_not_change_it(call: Call, workspace: Workspace) -> None:
    done = call("doctor")
    assert done.returncode == 0
    assert "ok    python: Python 3." in done.stdout
    assert "warn  plugins: no plugin is activated\n      fix: echo-core list" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 problems, ")


def test_a_fault_is_exit_code_1_and_the_document_counts_it(call: Call, workspace: Workspace) -> None:
    workspace.workshop.rmdir()
    done = call("doctor", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"], document["failures"]) == (1, False, 1)
    assert document["schema"] == "echo-core.doctor/1"
    (fault,) = [check for check in document["checks"] if check["status"] == "FAIL"]
    assert fault["fix"] == f"mkdir -p '{workspace.workshop}'"


def test_a_report_is_a_line_a_check_with_the_fix_below_what_is_not_ok_and_all_of_it_indented() -> None:
    found = [Check("a", "ok", "fine", "never shown"), Check("b", "FAIL", "one two\nthree", "mend it now")]
    stream = io.StringIO()
    Console(file=stream, width=18, color_system=None).print(report(found, 1, 0))
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "ok    a: fine",
        "FAIL  b: one two",
        "           three",
        "      fix: mend it",
        "      now",
        "1 problem, 0",
        "warnings",
    ]


@pytest.mark.parametrize("version", [(3, 10, 9), (3, 14, 0)])
def test_a_python_that_is_too_old_or_too_new_is_a_fault(version: tuple[int, ...]) -> None:
    assert checks.check_python(version).status == "FAIL"
    assert checks.check_python((3, 13, 1)).status == "ok"


def test_two_programs_on_the_path_are_a_warning_that_names_the_hidden_one(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        program = tmp_path / folder / "echo-core"
        program.parent.mkdir()
        program.touch(0o755)
    one, both = str(tmp_path / "first"), f"{tmp_path / 'first'}:{tmp_path / 'second'}"
    assert checks.check_path({"PATH": one}).status == "ok"
    found = checks.check_path({"PATH": both})
    assert (found.status, str(tmp_path / "second") in found.detail) == ("warn", True)
    assert checks.check_path({"PATH": str(tmp_path)}).status == "warn"


def test_state_that_cannot_be_written_is_a_fault_and_nothing_is_left_behind(workspace: Workspace) -> None:
    assert checks.check_state(workspace).status == "ok"
    assert not workspace.state.exists()
    workspace.state.touch()
    found = checks.check_state(workspace)
    assert (found.status, str(workspace.state) in found.detail) == ("FAIL", True)


def test_settings_that_cannot_be_read_are_a_fault_and_the_other_checks_go_on(
    call: Call, workspace: Workspace
) -> None:
    workspace.settings_file.write_text("[host]\ntransprt = 1\n", encoding="utf-8")
    done = call("doctor")
    assert done.returncode == 1
    assert "FAIL  settings: the settings are wrong" in done.stdout
    assert "dead letters: none" in done.stdout


def test_settings_for_a_plugin_that_is_not_activated_are_a_warning_with_the_near_name() -> None:
    settings = Settings(plugins={"shuot": {}, "shout": {}})
    (found,) = checks.check_overrides(settings, ["shout"])
    assert found.detail == "[plugins.shuot] is for no activated plugin"
    assert found.fix == "did you mean [plugins.shout]?"


def test_an_entry_without_a_library_is_a_fault_with_its_reason() -> None:
    error = LibraryError("x is enabled, but there is no library", where="x", why="no link", fix="remove x")
    (found,) = checks.check_plugins([Enabled("x", Path("x"), error=error)], Settings(), {})
    assert found == Check(
        "plugin x", "FAIL", "x is enabled, but there is no library: no link (x)", "remove x"
    )


def test_a_broken_link_among_the_enabled_is_found(call: Call, workspace: Workspace) -> None:
    (workspace.enabled / "gone").symlink_to("../../../plugins/libraries/development/gone/1.0")
    done = call("doctor")
    assert done.returncode == 1
    assert "FAIL  plugin gone:" in done.stdout


def test_topics_that_fit_are_well() -> None:
    plugins = [manifest("a", publications=["t.raw"]), manifest("b", subscriptions=["t.*"])]
    assert said(checks.check_topics(plugins)) == [
        ("ok", "everything published is read, everything read is published")
    ]


def test_what_nobody_publishes_and_what_nobody_reads_is_a_warning_with_the_near_topic() -> None:
    plugins = [
        manifest("a", publications=["transcript.raw"]),
        manifest("b", subscriptions=["transcripts.raw"], publications=["#"]),
    ]
    assert said(checks.check_topics(plugins)) == [
        ("warn", "a publishes to transcript.raw, and no activated plugin reads it")
    ]
    plugins = [
        manifest("a", publications=["transcript.raw"]),
        manifest("b", subscriptions=["transcripts.raw"]),
    ]
    lonely, unread = checks.check_topics(plugins)
    assert lonely.detail == "b subscribes to transcripts.raw, and no activated plugin publishes there"
    assert lonely.fix == "did you mean transcript.raw, which a publishes?"
    assert unread.fix == "did you mean transcripts.raw, which b reads?"


def test_dead_letters_that_wait_are_a_warning(workspace: Workspace) -> None:
    assert checks.check_dead_letters(workspace).status == "ok"
    store = DeadLetterStore(workspace.state / FILE_NAME)
    store.add(
        [
            DeadLetter(
                time_ns=0,
                plugin="a",
                version="1.0.0",
                topic="t",
                message_id="m",
                root_id="m",
                trace_id="",
                reason="no",
                attempts=(),
                original=b"",
            )
        ]
    )
    store.close()
    found = checks.check_dead_letters(workspace)
    assert (found.status, found.detail, found.fix) == ("warn", "1 kept", "echo-core dlq list")


def test_telemetry_that_goes_nowhere_is_a_warning() -> None:
    assert [check.status for check in checks.check_telemetry({})] == ["warn"]
    assert [check.status for check in checks.check_telemetry({"OTEL_SDK_DISABLED": "true"})] == ["warn"]
    assert list(checks.check_telemetry({"OTEL_TRACES_EXPORTER": "console"})) == []


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_an_endpoint_that_answers_is_well_and_one_that_does_not_is_a_fault(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"{scheme}127.0.0.1:{port}"}
        assert [check.status for check in checks.check_telemetry(environ)] == ["ok"]
    (found,) = checks.check_telemetry(environ)
    assert found.status == "FAIL"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in found.fix


@pytest.mark.parametrize("endpoint", ["http://", "http://h:port", "::"])
def test_an_endpoint_that_is_none_is_a_fault_too(endpoint: str) -> None:
    (found,) = checks.check_telemetry({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint})
    assert found.status == "FAIL"


def test_a_history_of_messages_that_is_damaged_or_has_gaps_is_named(workspace: Workspace) -> None:
    settings = Settings()
    assert checks.check_history(workspace, settings).detail == "none yet"
    recorder = Recorder(history_path(settings, workspace), settings.history, stays=("#",), queue_limit=1)
    for _ in range(3):
        message = BaseMessage(source="mic")
        recorder.of("mic", "1").accepted("t.a", message, message.id, ())
    recorder.start()
    recorder.close()
    found = checks.check_history(workspace, settings)
    assert found.status == "warn"
    assert found.detail.startswith("1 records, ")
    assert "2 were dropped" in found.detail
    history_path(settings, workspace).write_bytes(b"no database, but long enough to be one" * 1_000)
    found = checks.check_history(workspace, settings)
    assert found.status == "FAIL"
    assert "move it away" in found.fix
