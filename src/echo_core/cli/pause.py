"""`echo-core pause`: letting a plugin's messages wait."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.session import SessionArgument
from echo_core.control.client import reach_host
from echo_core.control.documents import Changed


def pause(name: PluginName, /, *, session: SessionArgument) -> None:
    """Let a running plugin's messages wait, or a source's publications.

    Returns when nothing is in hand any more. The pause ends with `resume`, and with the host.
    For example: echo-core pause loud_words
    """
    done = reach_host(session.workspace()).post(f"/v1/plugins/{name}/pause", Changed)
    waiting = f", {done.plugin.queue:,} message(s) wait" if done.plugin else ""
    text = f"{name} {'was paused already' if done.already else 'is paused'}{waiting}"
    session.out.result("pause", done, f"{text}\nnext: echo-core resume {name}")
