"""The table of verbs, and the entry point: from a command line to an exit code.

Nothing heavy is imported before a verb asks for it: `--version` answers before the parser is loaded, and
`--help` knows each verb only by its line in the table.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final, NamedTuple

from echo_core._version import __version__
from echo_core.cli.output import Color, Output
from echo_core.errors import EchoCoreError

PROGRAM: Final = "echo-core"
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


_WRITE: Final = "Write plugins"
_RUN: Final = "Run plugins"
_OPERATE: Final = "Operate a running host"
_LEARN: Final = "Learn"
GROUPS: Final = (_WRITE, _RUN, _OPERATE, _LEARN)
FAMILIES: Final = {
    "dlq": "Look at the messages that could not be handled, mend them, send them again.",
    "state": "Look at how far sources have come, and let one start over.",
    "store": "Look after the file that sqlite:// keeps messages in.",
}
VERBS: Final = (
    Verb("init", "init:init", _WRITE, "Make a new workspace."),
    Verb("create", "create:create", _WRITE, "Write a new plugin into the workshop.", ("create_plugin",)),
    Verb("test", "test:test", _WRITE, "Run a plugin's own tests."),
    Verb("build", "build:build", _WRITE, "Build a plugin into a library.", ("build_plugin",)),
    Verb("dev", "dev:dev", _WRITE, "Run the workshop's plugins, and swap each on save."),
    Verb("activate", "activate:activate", _RUN, "Switch a built plugin on."),
    Verb("deactivate", "deactivate:deactivate", _RUN, "Switch a plugin off."),
    Verb("activate_plugin", "activate_plugin:activate_plugin", _RUN, "Switch a plugin on or off."),
    Verb("list", "list:list_plugins", _RUN, "Show which plugins there are.", ("list_plugins",)),
    Verb("run", "run:run", _RUN, "Run the activated plugins."),
    Verb("status", "status:status", _OPERATE, "Show the running host and its plugins."),
    Verb("upgrade", "upgrade:upgrade", _OPERATE, "Let another version take the place of the one that runs."),
    Verb("rollback", "rollback:rollback", _OPERATE, "Return to the version that ran before."),
    Verb("top", "top:top", _OPERATE, "Watch the running host and its plugins."),
    Verb(
        "pause", "pause:pause", _OPERATE, "Let a running plugin's messages wait, or a source's publications."
    ),
    Verb("resume", "resume:resume", _OPERATE, "Let a paused plugin go on."),
    Verb("logs", "logs:logs", _OPERATE, "Show what plugins and host logged lately."),
    Verb("trace", "trace:trace", _RUN, "Show the whole path of a message."),
    Verb("replay", "replay:replay", _RUN, "Send a message again."),
    Verb("dlq list", "dlq:list_letters", _RUN, "Show the dead letters, the newest first."),
    Verb("dlq show", "dlq:show_letter", _RUN, "Show one dead letter whole."),
    Verb("dlq replay", "dlq_replay:replay_letters", _RUN, "Send dead letters to their plugins again."),
    Verb("dlq jobs", "dlq_replay:list_jobs", _RUN, "Show the replays there were, the newest first."),
    Verb("dlq edit", "dlq_change:edit_letter", _RUN, "Change what a dead letter's message says."),
    Verb("dlq discard", "dlq_change:discard_letters", _RUN, "Throw dead letters away, for good."),
    Verb("dlq export", "dlq_change:export_letters", _RUN, "Write dead letters to a file."),
    Verb("dlq import", "dlq_change:import_letters", _RUN, "Read dead letters from a file."),
    Verb("dlq check", "dlq_repair:check_letters", _RUN, "Read all dead letters, and say what is damaged."),
    Verb("dlq repair", "dlq_repair:repair_letters", _RUN, "Save what can be read of damaged dead letters."),
    Verb("state list", "state:list_states", _RUN, "Show how far each source has come."),
    Verb("state show", "state:show_state", _RUN, "Show all that is kept of one source."),
    Verb("state reset", "state:reset_state", _RUN, "Let a source start over."),
    Verb("store stats", "store:store_stats", _RUN, "Show what a store of messages holds."),
    Verb("store check", "store:check_store", _RUN, "Read all of a store, and say what is damaged."),
    Verb("store repair", "store:repair_store", _RUN, "Save what can be read of a damaged store."),
    Verb("store compact", "store:compact_store", _RUN, "Give a store's free space back to the disk."),
    Verb(
        "store forget",
        "store:forget_subscription",
        _RUN,
        "End a subscription for good, with all that waits for it.",
    ),
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
        return _failed(error, error, out, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last net: whatever it is, a person reads it
        return _failed(_unexpected(error), error, out, debug=debug)
    return code


def _call(tokens: list[str], out: Output) -> int:
    if set(tokens) - {"--json"} == {"--version"}:  # the parser takes longer to load than this to answer
        out.result("version", {"version": __version__}, __version__)
        return 0
    from cyclopts import CycloptsError

    from echo_core.cli.parser import build_app
    from echo_core.cli.usage import usage_error

    app = build_app(out, tokens)
    try:
        result = app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise usage_error(error, app) from None
    return result or 0


def _failed(shown: EchoCoreError, raised: Exception, out: Output, *, debug: bool) -> int:
    if debug:
        out.stderr.write("".join(traceback.format_exception(raised)))
    out.error(shown)
    return shown.exit_code


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
