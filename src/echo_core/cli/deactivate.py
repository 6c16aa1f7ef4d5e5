"""`echo-core deactivate`: switching a plugin off."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.session import SessionArgument


def deactivate(name: PluginName, /, *, session: SessionArgument) -> None:
    """Switch a plugin off.

    Its libraries stay. For example: echo-core deactivate loud_words
    """
    from echo_core.workshop.activate import deactivate as deactivate_plugin  # as in activate

    done = deactivate_plugin(session.workspace(), name)
    text = f"{done.name} {'was not activated' if done.already else 'is deactivated'}"
    session.out.result("deactivate", done, text)
