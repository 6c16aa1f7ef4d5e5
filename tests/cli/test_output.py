"""Results to stdout, talk to stderr, and never an escape code that nobody asked for."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.table import Table

from echo_core.cli.output import Output, printable
from echo_core.errors import EchoCoreError, Fault, ManifestError


class Terminal(io.StringIO):
    """A stream that says a person is looking."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Made:
    name: str
    path: Path


def an_error() -> EchoCoreError:
    return EchoCoreError("it broke", where="here", why="it was\nold", fix="echo-core doctor")


def out_and_streams(*, json: bool = False, terminal: bool = False) -> tuple[Output, io.StringIO, io.StringIO]:
    kind = Terminal if terminal else io.StringIO
    stdout, stderr = kind(), kind()
    return Output(json=json, stdout=stdout, stderr=stderr), stdout, stderr


def test_a_result_is_text_on_stdout_for_people() -> None:
    out, stdout, stderr = out_and_streams()
    out.result("create", Made("a", Path("b")), "made a")
    assert (stdout.getvalue(), stderr.getvalue()) == ("made a\n", "")


def test_a_result_under_json_is_one_object_with_its_schema() -> None:
    out, stdout, _ = out_and_streams(json=True)
    out.result("create", Made("a", Path("b")), "made a")
    assert json.loads(stdout.getvalue()) == {"schema": "echo-core.create/1", "name": "a", "path": "b"}
    assert stdout.getvalue().count("\n") == 1


def test_talk_never_reaches_stdout() -> None:
    out, stdout, stderr = out_and_streams()
    out.note("by the way")
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "by the way\n")


def test_a_script_is_told_nothing_by_the_way() -> None:
    out, stdout, stderr = out_and_streams(json=True)
    out.note("by the way")
    assert (stdout.getvalue(), stderr.getvalue()) == ("", "")


def test_an_error_says_what_where_why_and_the_next_step() -> None:
    out, stdout, stderr = out_and_streams()
    out.error(an_error())
    assert stdout.getvalue() == ""
    assert stderr.getvalue() == (
        "error[E-FAILED]: it broke\n  at:  here\n  why: it was\n       old\n  fix: echo-core doctor\n"
    )


def test_an_error_under_json_is_one_object_on_stderr() -> None:
    out, stdout, stderr = out_and_streams(json=True)
    out.error(ManifestError([Fault("$.name", "is missing", "add it")], where="manifest.json"))
    assert stdout.getvalue() == ""
    assert json.loads(stderr.getvalue()) == {
        "error": {
            "code": "E-MANIFEST",
            "message": "the manifest has 1 fault",
            "where": "manifest.json",
            "why": "$.name: is missing",
            "fix": "$.name: add it",
        }
    }


def test_what_an_error_quotes_cannot_steer_the_terminal() -> None:
    out, _, stderr = out_and_streams(terminal=True)
    out.color = "never"
    out.error(EchoCoreError("no plugin \x1b[2J\x07", why="line\nline"))
    assert "\x1b" not in stderr.getvalue()
    assert r"\x1b[2J\x07" in stderr.getvalue()


def test_printable_text_is_left_as_it_is() -> None:
    assert printable("Größe: 42 字\n\tok") == "Größe: 42 字\n\tok"


def test_an_error_is_coloured_on_a_terminal() -> None:
    out, _, stderr = out_and_streams(terminal=True)
    out.error(an_error())
    assert "\x1b[" in stderr.getvalue()


@pytest.mark.parametrize("color", ["never", "auto"])
def test_colour_can_be_refused_on_a_terminal(color: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, _, stderr = out_and_streams(terminal=True)
    if color == "never":
        out.color = "never"
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    out.error(an_error())
    assert "\x1b" not in stderr.getvalue()


def test_colour_can_be_demanded_in_a_pipe() -> None:
    out, _, stderr = out_and_streams()
    out.color = "always"
    out.error(an_error())
    assert "\x1b[" in stderr.getvalue()


def test_a_table_in_a_pipe_is_neither_cut_nor_coloured() -> None:
    out, stdout, _ = out_and_streams()
    table = Table("NAME", box=None)
    table.add_row("x" * 500, style="red")
    out.result("list", {}, table)
    assert "x" * 500 in stdout.getvalue()
    assert "\x1b" not in stdout.getvalue()


def test_long_error_lines_are_not_broken_so_that_a_fix_can_be_pasted() -> None:
    out, _, stderr = out_and_streams(terminal=True)
    out.color = "never"
    out.error(EchoCoreError("x", fix="echo-core " + "y" * 300))
    assert "echo-core " + "y" * 300 in stderr.getvalue()
