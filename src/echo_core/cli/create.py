"""`echo-core create`: a new plugin in the workshop."""

from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import NewName
from echo_core.cli.output import place
from echo_core.cli.session import SessionArgument
from echo_core.manifest import PluginType
from echo_core.workshop.create import create as create_plugin

PluginTypeArgument = Annotated[
    PluginType, Parameter(help="What the plugin does with messages.", show_default=True)
]


def create(
    name: NewName, plugin_type: PluginTypeArgument = "transformer", /, *, session: SessionArgument
) -> None:
    """Write a new plugin into the workshop.

    It is typed, documented, has tests that pass, and does its type's job at once.
    For example: echo-core create loud_words filter
    """
    created = create_plugin(session.workspace(), name, plugin_type)
    text = (
        f"created {created.name} ({created.plugin_type}) in {place(created.path)}\n"
        + "".join(f"  {file}\n" for file in created.files)
        + f"next: echo-core test {name}, then echo-core build {name}"
    )
    session.out.result("create", created, text)
