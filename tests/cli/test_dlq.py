"""Dead letters, listed and shown whole."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from echo_core.message import BaseMessage, encode
from echo_core.runtime.dead_letters import FILE_NAME, Attempt, DeadLetter, DeadLetterStore
from echo_core.workspace import SETTINGS_FILE, Workspace

Call = Callable[..., CompletedProcess[str]]

MESSAGE = BaseMessage(id="m-1", source="src", data={"text": "um \x1b[2Jhello", "raw": b"\x00"})


def letter(plugin: str = "checker", reason: str = "missing field lang", second: int = 0) -> DeadLetter:
    time_ns = (1_790_000_000 + second) * 1_000_000_000
    return DeadLetter(
        time_ns=time_ns,
        plugin=plugin,
        version="1.0.0",
        topic="transcript.raw",
        message_id="m-1",
        root_id="m-0",
        trace_id="ab" * 16,
        reason=reason,
        attempts=(
            Attempt(
                number=1, time_ns=time_ns, error_type="ValueError", error="the clue", traceback="File x\n  y"
            ),
            Attempt(number=2, time_ns=time_ns, error_type="TimeoutError", error="late"),
        ),
        original=encode(MESSAGE),
    )


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / SETTINGS_FILE).touch()
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def keep(workspace: Workspace, *letters: DeadLetter) -> None:
    store = DeadLetterStore(workspace.state / FILE_NAME)
    store.add(letters)
    store.close()


@pytest.mark.usefixtures("workspace")
def test_no_dead_letters_is_said_and_creates_nothing(call: Call, workspace: Workspace) -> None:
    done = call("dlq", "list")
    assert (done.returncode, done.stdout) == (0, "no dead letters\n")
    assert not workspace.state.exists()


def test_the_list_has_a_row_for_each_newest_first_and_the_groups_beside_it(
    call: Call, workspace: Workspace
) -> None:
    keep(workspace, letter(), letter(second=60), letter("sink", "no\nroom"))
    done = call("dlq", "list")
    rows = done.stdout.splitlines()
    assert rows[0].split() == ["ID", "TIME", "(UTC)", "PLUGIN", "VERSION", "TRIES", "REASON"]
    assert [row.split()[0] for row in rows[1:]] == ["3", "2", "1"]
    assert rows[1].split()[-1] == "no"
    assert done.stderr.splitlines()[0] == "2 x checker: missing field lang"
    assert done.stderr.splitlines()[-1] == "3 of 3 shown; one of them whole: echo-core dlq show ID"


def test_a_very_long_reason_does_not_fill_the_list_and_stands_on_its_own_page(
    call: Call, workspace: Workspace
) -> None:
    keep(workspace, letter(reason="ValueError: " + "x" * 9_000))
    row = call("dlq", "list").stdout.splitlines()[1]
    assert row.endswith("xxx… (9,012 characters)")
    assert len(row) < 400
    assert "x" * 9_000 in call("dlq", "show", "1").stdout


def test_the_list_under_json_has_groups_and_letters_and_nothing_beside(
    call: Call, workspace: Workspace
) -> None:
    keep(workspace, letter(), letter(second=60), letter("sink"))
    done = call("dlq", "list", "--json")
    document = json.loads(done.stdout)
    assert done.stderr == ""
    assert document["schema"] == "echo-core.dlq.list/1"
    assert document["total"] == 3
    assert [(kind["plugin"], kind["count"]) for kind in document["groups"]] == [("checker", 2), ("sink", 1)]
    assert document["letters"][0]["id"] == 3
    assert document["letters"][0]["attempts"] == 2


def test_the_list_can_be_of_one_plugin_and_short(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter(), letter("sink"), letter("sink"))
    document = json.loads(call("dlq", "list", "--plugin", "sink", "--limit", 1, "--json").stdout)
    assert [(one["id"], one["plugin"]) for one in document["letters"]] == [(3, "sink")]
    assert call("dlq", "list", "--plugin", "other").stdout == "no dead letters of other\n"


def test_letters_that_are_not_alike_are_not_counted_beside_the_list(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter(), letter("sink"))
    assert call("dlq", "list").stderr == "2 of 2 shown; one of them whole: echo-core dlq show ID\n"


def test_the_groups_alone_are_a_table_and_a_page_begins_where_the_last_one_ended(
    call: Call, workspace: Workspace
) -> None:
    keep(workspace, letter(reason="no 1"), letter(reason="no 2", second=60), letter("sink"))
    done = call("dlq", "list", "--groups")
    assert [line.split()[:4] for line in done.stdout.splitlines()[1:]] == [
        ["2", "checker", "no", "…"],
        ["1", "sink", "missing", "field"],
    ]
    assert done.stderr == ""
    document = json.loads(call("dlq", "list", "--before", 3, "--limit", 1, "--json").stdout)
    assert [one["id"] for one in document["letters"]] == [2]


def test_lines_in_a_pipe_have_no_blanks_at_their_ends(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter(), letter(reason="a much longer reason than that"))
    assert not [line for line in call("dlq", "list").stdout.splitlines() if line != line.rstrip()]


def test_the_groups_count_every_letter_however_few_are_shown(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter("b"), letter("a", second=60), letter("a"), *[letter("c")] * 3)
    document = json.loads(call("dlq", "list", "--limit", 3, "--json").stdout)
    assert document["total"] == 6
    assert [(kind["plugin"], kind["count"]) for kind in document["groups"]] == [("c", 3), ("a", 2), ("b", 1)]
    assert (document["groups"][1]["first"], document["groups"][1]["last"]) == (
        "2026-09-21T14:13:20.000+00:00",
        "2026-09-21T14:14:20.000+00:00",
    )
    document = json.loads(call("dlq", "list", "--plugin", "a", "--limit", 1, "--json").stdout)
    assert (document["total"], document["groups"][0]["count"]) == (2, 2)


def test_one_letter_is_shown_with_every_attempt_and_the_message_as_it_came(
    call: Call, workspace: Workspace
) -> None:
    keep(workspace, letter())
    done = call("dlq", "show", 1)
    assert done.returncode == 0
    for part in (
        "checker 1.0.0",
        "m-0",
        "ab" * 16,
        "missing field lang",
        "ValueError: the clue",
        "late",
        "File x",
    ):
        assert part in done.stdout
    shown = json.loads(done.stdout.partition("message as it came\n")[2])
    assert shown["data"]["text"] == "um \x1b[2Jhello"
    assert "\x1b" not in done.stdout


def test_one_letter_under_json_has_the_message_decoded(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter())
    document = json.loads(call("dlq", "show", 1, "--json").stdout)
    assert document["schema"] == "echo-core.dlq.show/1"
    assert document["message"]["data"]["raw"] == "AA=="
    assert [attempt["error"] for attempt in document["errors"]] == ["the clue", "late"]


def test_bytes_that_are_no_message_are_shown_as_the_text_they_are(call: Call, workspace: Workspace) -> None:
    keep(workspace, msgspec.structs.replace(letter(), original=b"<object \x1b at 1>"))
    done = call("dlq", "show", 1)
    assert done.stdout.endswith("not decodable, its text\n<object \\x1b at 1>\n")
    assert json.loads(call("dlq", "show", 1, "--json").stdout)["message"] is None


def test_a_letter_that_is_not_there_is_not_found(call: Call, workspace: Workspace) -> None:
    keep(workspace, letter())
    done = call("dlq", "show", 7)
    assert (done.returncode, done.stdout) == (3, "")
    assert "echo-core dlq list" in done.stderr


@pytest.mark.usefixtures("workspace")
def test_a_number_is_asked_for_and_a_misspelt_verb_corrected(call: Call) -> None:
    assert call("dlq", "show", "x").returncode == 2
    done = call("dlq", "shwo", 1)
    assert (done.returncode, "did you mean 'show'?" in done.stderr) == (2, True)


def test_outside_of_a_workspace_the_way_to_one_is_shown(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("dlq", "list")
    assert done.returncode == 2
    assert done.stderr.startswith("error[E-WORKSPACE]")
    assert "echo-core init" in done.stderr


def test_the_workspace_can_be_named_before_and_after_the_verb(
    call: Call,
    workspace: Workspace,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep(workspace, letter())
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for arguments in (
        ("--project", workspace.root, "dlq", "list", "--json"),
        ("dlq", "list", "--json", "--project", workspace.root),
        ("dlq", "list", f"--project={workspace.root}", "--json"),
    ):
        assert json.loads(call(*arguments).stdout)["total"] == 1
