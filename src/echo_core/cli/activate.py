"""`echo-core activate`: switching a built plugin on."""

from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import BuildTypeArgument, PluginName
from echo_core.cli.session import SessionArgument

Version = Annotated[str | None, Parameter(help="The version; else the newest that is built.")]


def activate(
    name: PluginName,
    build_type: BuildTypeArgument = "development",
    /,
    *,
    version: Version = None,
    session: SessionArgument,
) -> None:
    """Switch a built plugin on.

    The library is checked first; when it is not in order, what was switched on before stays so.
    For example: echo-core activate loud_words production
    """
    from echo_core.workshop.activate import activate as activate_library  # help and completion do without

    done = activate_library(session.workspace(), name, build_type, version)
    what = f"{done.name} {done.version} ({done.build_type})"
    text = f"{what} {'was activated already' if done.already else 'is activated'}\nnext: echo-core run"
    session.out.result("activate", done, text)
