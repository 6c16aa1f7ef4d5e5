"""The way from a command line to a call: help, usage errors, exit codes, and what is imported when."""

import importlib
import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import echo_core
from echo_core._version import __version__
from echo_core.cli import help as help_verb
from echo_core.cli.app import VERBS, Verb

Call = Callable[..., CompletedProcess[str]]

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).parent / "echo-core"
REFERENCE = HERE.parents[1] / "docs" / "cli.md"

FORBIDDEN = ("opentelemetry.sdk", "hatchling", "pip", "jsonschema", "sqlite3")
"""What only a verb that needs it may import; `--version` does not even load the parser."""


def modules_after(*arguments: str) -> set[str]:
    code = f"import sys; from echo_core.cli.app import main; main({list(arguments)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_version_is_answered_by_the_installed_program() -> None:
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{__version__}\n", "")


def test_the_version_is_answered_before_the_parser_and_the_vocabulary_are_loaded() -> None:
    assert not modules_after("--version") & {"cyclopts", "rich", "msgspec", "echo_core.plugin", *FORBIDDEN}


def test_help_knows_every_verb_without_importing_what_it_runs_with() -> None:
    loaded = modules_after("--help")
    assert not loaded & set(FORBIDDEN)
    verbs = {f"echo_core.cli.{verb.target.partition(':')[0]}" for verb in VERBS}
    assert not loaded & verbs


def test_help_of_no_verb_imports_what_takes_long() -> None:
    calls = [[*verb.name.split(), "--help"] for verb in VERBS]
    code = f"import sys; from echo_core.cli.app import main; [main(call) for call in {calls!r}]"
    code += "; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "echo_core.cli.run" in loaded
    assert not loaded & {"opentelemetry.sdk", "hatchling", "pip", "jsonschema"}


def test_the_version_under_json_is_an_object(call: Call) -> None:
    for arguments in (("--version", "--json"), ("--json", "--version")):
        done = call(*arguments)
        assert json.loads(done.stdout) == {"schema": "echo-core.version/1", "version": __version__}


def test_the_listing_of_all_verbs_is_as_agreed(call: Call) -> None:
    # After a deliberate change: COLUMNS=100 echo-core --help > tests/cli/help.txt
    done = call("--help")
    assert done.returncode == 0
    assert done.stdout == (HERE / "help.txt").read_text(encoding="utf-8")


def test_the_reference_in_the_docs_is_what_the_program_says(call: Call) -> None:
    # After a deliberate change: echo-core help reference > docs/cli.md
    assert call("help", "reference").stdout == REFERENCE.read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: str(verb.name))
def test_every_verb_has_help_with_its_usage_its_line_and_an_example(verb: Verb, call: Call) -> None:
    done = call(*verb.name.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: echo-core {verb.name}")
    assert verb.help in done.stdout
    assert f"example: echo-core {verb.name} " in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout


def test_a_family_of_verbs_has_help_that_lists_them(call: Call) -> None:
    done = call("dlq", "--help")
    assert "Show one dead letter whole." in done.stdout
    assert call("dlq").stdout == done.stdout


def test_no_command_is_answered_with_the_help(call: Call) -> None:
    assert call().stdout == call("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message", "fix"),
    [
        (("explian", "E-NAME"), "no command 'explian'", "did you mean 'explain'?"),
        (("explain", "--jsn"), "no option --jsn", "did you mean '--json'?"),
        (("--jsn", "explain"), "no option --jsn", "did you mean '--json'?"),
        (("help", "exit-code"), "'exit-code' is no topic", "did you mean 'exit-codes'?"),
        (("--color", "alway", "explain"), "'alway' is no --color", "did you mean 'always'?"),
        (("completion",), "SHELL is missing", "echo-core completion --help"),
        (("explain", "E-NAME", "x"), "'x' is one argument too many", "echo-core explain --help"),
        (("explain", "--project"), "--project is missing", "echo-core --help"),
    ],
)
def test_what_is_typed_wrongly_is_refused_with_the_right_word(
    arguments: tuple[str, ...], message: str, fix: str, call: Call
) -> None:
    done = call("--json", *arguments)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, done.stdout) == (2, "")
    assert (error["code"], error["message"], error["fix"]) == ("E-USAGE", message, fix)


def test_a_command_nobody_could_mean_is_answered_with_those_there_are(call: Call) -> None:
    done = call("zzzz")
    assert done.returncode == 2
    assert all(verb.name.split()[0] in done.stderr for verb in VERBS)


def test_an_unknown_error_code_is_not_found_and_the_near_one_offered(call: Call) -> None:
    done = call("explain", "E-NAM")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error[E-NOT-FOUND]: there is no error code 'E-NAM'\n")
    assert "fix: did you mean E-NAME?" in done.stderr


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(help_verb, "EXIT_CODES", None)


@pytest.mark.usefixtures("fault")
def test_a_fault_of_our_own_is_one_error_without_a_traceback(call: Call) -> None:
    done = call("help", "exit-codes")
    assert done.returncode == 1
    assert done.stderr.startswith("error[E-UNEXPECTED]: AttributeError: ")
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("fault")
def test_a_traceback_is_shown_before_the_error_when_asked_for(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [call("help", "exit-codes", "--debug")]
    monkeypatch.setenv("ECHO_CORE_DEBUG", "1")
    asked += [call("help", "exit-codes"), call("explain", "E-NAM")]
    assert [done.returncode for done in asked] == [1, 1, 3]
    for done in asked:
        assert done.stderr.startswith("Traceback")
        assert "\nerror[E-" in done.stderr


def test_an_interrupted_command_has_its_own_exit_code(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(help_verb, "reference", interrupted)
    done = call("help", "reference")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error[E-INTERRUPTED]: interrupted\n")


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    """The pipe is closed before anything is written; a traceback or a complaint at exit would show."""
    process = subprocess.Popen(
        [PROGRAM, "help", "reference"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == ""
    assert process.wait() == 0


def test_the_exit_codes_of_all_errors_are_explained(call: Call) -> None:
    from echo_core.cli.explain import error_classes

    explained = json.loads(call("help", "exit-codes", "--json").stdout)["exit_codes"]
    used = {str(kind.exit_code) for kinds in error_classes().values() for kind in kinds}
    assert used <= explained.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script_that_completes_the_verbs(shell: str, call: Call) -> None:
    script = json.loads(call("completion", shell, "--json").stdout)["script"]
    assert all(word in script for verb in VERBS for word in verb.name.split())


def test_json_of_every_error_code_is_an_object_with_advice(call: Call) -> None:
    codes = json.loads(call("explain", "--json").stdout)["codes"]
    assert {"E-NAME", "E-USAGE", "E-LIBRARY"} <= codes.keys()
    for code in codes:
        page = json.loads(call("explain", code, "--json").stdout)
        assert page["schema"] == "echo-core.explain/1"
        assert page["code"] == code
        assert page["meaning"]
        assert page["advice"]


def test_what_else_has_an_error_code_stands_below_what_it_means(call: Call) -> None:
    assert call("explain", "E-PLUGIN").stdout.split("\n\n")[1:4] == [
        "A plugin failed.",
        "These have it too:",
        "- ProcessLost: The plugin's process ended before it answered.\n"
        "- Asked: What a process was asked to do failed there, with this error.",
    ]
    lines = call("explain").stdout.splitlines()
    assert "E-FAILED        Something failed that has no kind of its own." in lines


def test_an_error_code_is_known_in_small_letters_too(call: Call) -> None:
    assert call("explain", "e-name").stdout == call("explain", "E-NAME").stdout


def test_every_error_class_of_the_project_has_its_explanation() -> None:
    from echo_core.cli.explain import advice, error_classes

    known = {kind for kinds in error_classes().values() for kind in kinds}
    for module in pkgutil.walk_packages(echo_core.__path__, "echo_core."):
        if ".templates." not in module.name:
            importlib.import_module(module.name)
    assert {kind for kinds in error_classes().values() for kind in kinds} == known
    assert advice().keys() == error_classes().keys()


def test_help_is_wrapped_where_it_is_shown_and_tells_a_verb_s_options_from_those_of_all(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    page = call("upgrade", "--help").stdout
    own, everywhere = page.split("─ Parameters ─")[1].split("─ Everywhere ─")
    assert "--strategy" in own
    assert "--json" in everywhere
    assert "--strategy" not in everywhere
    text = [line.rstrip() for line in page.partition("╭")[0].splitlines()]
    assert "For example: echo-core upgrade loud_words 2.0.0 --strategy canary --percent 10" in text
    lines = text[text.index("") + 1 :]
    assert all(len(line) > 60 for line, after in pairwise(lines) if line and after)
