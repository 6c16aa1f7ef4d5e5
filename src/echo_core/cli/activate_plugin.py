"""`echo-core activate_plugin`: switching on and off under the name that the script has."""

from typing import Annotated, Literal

from cyclopts import Parameter

from echo_core.cli.activate import activate
from echo_core.cli.arguments import BuildTypeArgument, PluginName
from echo_core.cli.deactivate import deactivate
from echo_core.cli.session import SessionArgument

Action = Annotated[Literal["activate", "deactivate"], Parameter(help="What to do.")]


def activate_plugin(
    action: Action,
    name: PluginName,
    build_type: BuildTypeArgument = "development",
    /,
    *,
    session: SessionArgument,
) -> None:
    """Switch a plugin on or off.

    For example: echo-core activate_plugin activate loud_words production
    """
    if action == "activate":
        activate(name, build_type, session=session)
    else:
        deactivate(name, session=session)
