"""The table of verbs, and the way from a command line to a call.

Nothing heavy is imported before a verb asks for it: `--version` answers before the parser is loaded, and
`--help` knows each verb only by its line in the table.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

from echo_core._version import __version__
from echo_core.cli.output import Color, Output
from echo_core.errors import EchoCoreError

if TYPE_CHECKING:
    from cyclopts import App

DEBUG_VARIABLE: Final = "ECHO_CORE_DEBUG"


class Unexpected(EchoCoreError):
    """Something went wrong that nobody foresaw."""

    code = "E-UNEXPECTED"


class Interrupted(EchoCoreError):
    """Ctrl-C, before the command was done."""

    code = "E-INTERRUPTED"
    exit_code = 130


class Verb(NamedTuple):
    """One line of the table."""

    name: str
    """One word, or a family's name and one word."""
    target: str
    """module:function under `echo_core.cli`."""
    group: str
    help: str
    alias: tuple[str, ...] = ()


_PROJECT_HELP: Final = "The workspace; else ECHO_CORE_PROJECT, else the nearest one upwards from here."
_COLOR_HELP: Final = "When to colour; auto: on a terminal, unless NO_COLOR is set."
_WRITE: Final = "Write plugins"
_RUN: Final = "Run plugins"
_LEARN: Final = "Learn"
FAMILIES: Final = {"dlq": "Look at the messages that could not be handled."}
VERBS: Final = (
    Verb("init", "init:init", _WRITE, "Make a new workspace."),
    Verb("create", "create:create", _WRITE, "Write a new plugin into the workshop.", ("create_plugin",)),
    Verb("test", "test:test", _WRITE, "Run a plugin's own tests."),
    Verb("build", "build:build", _WRITE, "Build a plugin into a library.", ("build_plugin",)),
    Verb("activate", "activate:activate", _RUN, "Switch a built plugin on."),
    Verb("deactivate", "deactivate:deactivate", _RUN, "Switch a plugin off."),
    Verb("activate_plugin", "activate_plugin:activate_plugin", _RUN, "Switch a plugin on or off."),
    Verb("list", "list:list_plugins", _RUN, "Show which plugins there are.", ("list_plugins",)),
    Verb("run", "run:run", _RUN, "Run the activated plugins."),
    Verb("dlq list", "dlq:list_letters", _RUN, "Show the dead letters, the newest first."),
    Verb("dlq show", "dlq:show_letter", _RUN, "Show one dead letter whole."),
    Verb("doctor", "doctor:doctor", _RUN, "Check everything, and say how to mend it."),
    Verb("explain", "explain:explain", _LEARN, "Explain an error code."),
    Verb("help", "help:help_topic", _LEARN, "Read about a topic: exit-codes, reference."),
    Verb("completion", "completion:completion", _LEARN, "Print a completion script for a shell."),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the result is its exit code."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    # The parser may fail before it has read these, and its complaint must obey them already.
    out = Output(json="--json" in tokens, color=_color(tokens))
    debug = "--debug" in tokens or bool(os.environ.get(DEBUG_VARIABLE))
    try:
        code = _call(tokens, out)
        out.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except KeyboardInterrupt:
        out.error(Interrupted("interrupted"))
        return Interrupted.exit_code
    except EchoCoreError as error:
        if debug:
            raise
        out.error(error)
        return error.exit_code
    except Exception as error:  # the last net: whatever it is, a person reads it
        if debug:
            raise
        out.error(_unexpected(error))
        return 1
    return code


def _call(tokens: list[str], out: Output) -> int:
    if set(tokens) - {"--json"} == {
        "--version"
    }:  # before the parser is loaded: it takes longer than the answer
        out.result("version", {"version": __version__}, __version__)
        return 0
    from cyclopts import CycloptsError

    from echo_core.cli.usage import usage_error

    app = build_app(out, tokens)
    try:
        result = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise usage_error(error, app) from None
    return result or 0


def build_app(out: Output, tokens: Sequence[str] = ()) -> "App":
    """The parser. Verbs that are not among `tokens` are known by their line in the table alone."""
    from cyclopts import App, Group, Parameter

    from echo_core.cli.session import Session

    everywhere = Group("Everywhere", sort_key=99)
    groups = {name: Group(name, sort_key=place) for place, name in enumerate((_WRITE, _RUN, _LEARN))}
    app = App(
        name="echo-core",
        help="Plugins for message pipelines, fully observed.",
        help_format="plaintext",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=False),
        console=out.console(out.stdout, wide=False),
    )
    for flag in ("--help", "--version"):
        app[flag].group = everywhere
    app.meta.group_parameters = everywhere
    app.meta.suppress_keyboard_interrupt = False  # `main` says it, and gives the exit code
    families = {"": app}
    for place, verb in enumerate(VERBS):
        family, _, name = verb.name.rpartition(" ")
        if family not in families:
            families[family] = App(
                name=family, help=FAMILIES[family], group=groups[verb.group], sort_key=place
            )
            app.command(families[family])
        families[family].command(
            f"{__package__}.{verb.target}",
            name=name,
            alias=verb.alias,
            help=None if {name, *verb.alias} & set(tokens) else verb.help,
            group=None if family else groups[verb.group],
            sort_key=place,
        )

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        json: Annotated[bool, Parameter(help="Print one JSON object; an error too, on stderr.")] = False,
        project: Annotated[Path | None, Parameter(help=_PROJECT_HELP)] = None,
        color: Annotated[Color, Parameter(help=_COLOR_HELP)] = "auto",
        debug: Annotated[bool, Parameter(help=f"Show tracebacks; so does {DEBUG_VARIABLE}=1.")] = False,
    ) -> Any:
        command, bound, injected = app.parse_args(tokens, exit_on_error=False, print_error=False)
        session = Session(out=out, project=project)
        return command(*bound.args, **bound.kwargs, **dict.fromkeys(injected, session))

    return app


def _color(tokens: Sequence[str]) -> Color:
    joined = " ".join(tokens).replace("--color=", "--color ")
    if "--color always" in joined:
        return "always"
    return "never" if "--color never" in joined else "auto"


def _forget_stdout() -> None:
    """Whoever read our output has had enough; keep the interpreter's last flush from complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _unexpected(error: BaseException) -> Unexpected:
    while error.__cause__ is not None:
        error = error.__cause__
    return Unexpected(
        f"{type(error).__name__}: {error}",
        why="this is a fault in Echo Core",
        fix="run the same command with --debug to see the traceback, and report it",
    )
