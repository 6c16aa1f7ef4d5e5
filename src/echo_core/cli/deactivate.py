"""`echo-core deactivate`: switching a plugin off."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.session import SessionArgument


def deactivate(name: PluginName, /, *, session: SessionArgument) -> None:
    """Switch a plugin off.

    Its libraries stay. A running host ends what the plugin has, then takes it down.
    For example: echo-core deactivate loud_words
    """
    from echo_core.control.client import running_host  # as in activate
    from echo_core.control.documents import Changed
    from echo_core.workshop.activate import Deactivation, check_known
    from echo_core.workshop.activate import deactivate as deactivate_plugin

    workspace = session.workspace()
    host = running_host(workspace)
    if host is None:
        done = deactivate_plugin(workspace, name)
    else:
        check_known(workspace, name)
        changed = host.post(f"/v1/plugins/{name}/deactivate", Changed)
        done = Deactivation(name, workspace.enabled / name, changed.already)
    text = f"{done.name} {'was not activated' if done.already else 'is deactivated'}"
    session.out.result("deactivate", done, text)
