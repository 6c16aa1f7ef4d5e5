"""The parser that is made from the table of verbs."""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Group, Parameter

from echo_core._version import __version__
from echo_core.cli.app import DEBUG_VARIABLE, FAMILIES, GROUPS, PROGRAM, VERBS, Verb
from echo_core.cli.output import Color, Output
from echo_core.cli.session import Session

_EXAMPLE: Final = "For example: "
_EVERYWHERE: Final = Group("Everywhere", sort_key=99)

Json = Annotated[bool, Parameter(help="Print one JSON object; an error too, on stderr.", group=_EVERYWHERE)]
Project = Annotated[
    Path | None,
    Parameter(
        help="The workspace; else ECHO_CORE_PROJECT, else the nearest one upwards from here.",
        group=_EVERYWHERE,
    ),
]
ColorArgument = Annotated[
    Color,
    Parameter(help="When to colour; auto: on a terminal, unless NO_COLOR is set.", group=_EVERYWHERE),
]
Debug = Annotated[bool, Parameter(help=f"Show tracebacks; so does {DEBUG_VARIABLE}=1.", group=_EVERYWHERE)]


def build_app(out: Output, tokens: Sequence[str] = ()) -> App:
    """The parser; calling its `meta` with a command line parses it and runs the verb.

    Verbs that are not among `tokens` are known by their line in the table alone, and not imported.
    """
    app = App(
        name=PROGRAM,
        help="Plugins for message pipelines, fully observed.",
        help_format="plaintext",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=False),
        console=out.console(out.stdout, wide=False),
    )
    for flag in ("--help", "--version"):
        app[flag].group = _EVERYWHERE
    _add_verbs(app, frozenset(tokens))
    _add_launcher(app, out)
    return app


def _add_verbs(app: App, tokens: frozenset[str]) -> None:
    groups = {name: Group(name, sort_key=place) for place, name in enumerate(GROUPS)}
    families = {"": app}
    for place, verb in enumerate(VERBS):
        family, _, name = verb.name.rpartition(" ")
        group = groups[verb.group]
        is_asked_for = tokens >= set(verb.name.split()) or tokens & set(verb.alias)
        if family not in families:
            families[family] = App(name=family, help=FAMILIES[family], group=group, sort_key=place)
            app.command(families[family])
        families[family].command(
            f"{__package__}.{verb.target}",
            name=name,
            alias=verb.alias,
            help=_whole_help(verb) if is_asked_for else verb.help,
            group=None if family else group,
            sort_key=place,
        )


def _whole_help(verb: Verb) -> str:
    """What the verb's docstring says, in paragraphs that are wrapped where they are shown."""
    module, _, function = verb.target.partition(":")
    text = inspect.getdoc(getattr(importlib.import_module(f"{__package__}.{module}"), function)) or verb.help
    paragraphs = text.replace(_EXAMPLE, f"\n\n{_EXAMPLE}").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _add_launcher(app: App, out: Output) -> None:
    """The options that stand before or after any verb, and the call of the verb."""
    app.meta.suppress_keyboard_interrupt = False  # `main` says it, and gives the exit code

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        json: Json = False,
        project: Project = None,
        color: ColorArgument = "auto",
        debug: Debug = False,
    ) -> Any:
        # `main` has looked for json, color and debug itself, since it must obey them if parsing fails.
        command, bound, injected = app.parse_args(tokens, exit_on_error=False, print_error=False)
        session = Session(out=out, project=project)
        return command(*bound.args, **bound.kwargs, **dict.fromkeys(injected, session))
