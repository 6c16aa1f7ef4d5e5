"""What was typed wrongly, said in our words, with the right spelling where one is near."""

import difflib
from collections.abc import Iterable
from typing import get_args

from cyclopts import (
    App,
    ArgumentCollection,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from echo_core.errors import EchoCoreError

PROGRAM = "echo-core"


class UsageError(EchoCoreError):
    """The command line does not fit the command: a misspelt word, a missing or a superfluous argument."""

    code = "E-USAGE"
    exit_code = 2


def usage_error(error: CycloptsError, app: App) -> UsageError:
    """The parser's complaint as ours."""
    command = " ".join((PROGRAM, *(error.command_chain or ())))
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error, command, app)
    if isinstance(error, UnknownOptionError):
        return _unknown_option(error, command, app)
    if isinstance(error, CoercionError):
        return _wrong_value(error, command)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        what = f"{_shown(error.argument.name)} is missing"
        return UsageError(what, where=command, fix=f"{command} --help")
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return _too_many(error.unused_tokens[0], command)
    error.verbose = False
    return UsageError(str(error).rstrip("."), where=command, fix=f"{command} --help")


def _unknown_command(error: UnknownCommandError, command: str, app: App) -> UsageError:
    typed = (error.unused_tokens or [""])[0]
    if typed.startswith("-"):
        return _no_option(typed, command, app.meta.assemble_argument_collection())
    # The table of commands, not the commands: looking for a near one must not import them all.
    known = [name for name in (error.app or ()) if not name.startswith("-")]
    return UsageError(
        f"no command {typed!r}",
        where=command,
        fix=_meant(typed, known, f"the commands are {', '.join(known)}; {command} --help"),
    )


def _unknown_option(error: UnknownOptionError, command: str, app: App) -> UsageError:
    typed = (error.token.keyword or error.token.value).partition("=")[0]
    if not typed.startswith("-"):
        return _too_many(typed, command)
    return _no_option(typed, command, error.argument_collection, app.meta.assemble_argument_collection())


def _too_many(typed: str, command: str) -> UsageError:
    return UsageError(f"{typed!r} is one argument too many", where=command, fix=f"{command} --help")


def _no_option(typed: str, command: str, *collections: ArgumentCollection) -> UsageError:
    arguments = (argument for collection in collections for argument in collection if argument.parse)
    known = [name for argument in arguments for name in argument.names if name.startswith("-")]
    return UsageError(f"no option {typed}", where=command, fix=_meant(typed, known, f"{command} --help"))


def _wrong_value(error: CoercionError, command: str) -> UsageError:
    typed = error.token.value if error.token else ""
    name = _shown(error.argument.name) if error.argument else "the value"
    choices = [str(choice) for choice in get_args(error.target_type)]
    if not choices:
        kind = getattr(error.target_type, "__name__", str(error.target_type))
        return UsageError(f"{typed!r} is no {name}", where=command, why=f"it must be of the kind {kind}")
    return UsageError(
        f"{typed!r} is no {name.lower().replace('_', ' ')}",
        where=command,
        why=f"it is one of {', '.join(choices)}",
        fix=_meant(typed, choices, f"{command} --help"),
    )


def _meant(typed: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(typed, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _shown(name: str) -> str:
    """An argument's name as help shows it."""
    return name if name.startswith("--") else name.upper().replace("-", "_")
