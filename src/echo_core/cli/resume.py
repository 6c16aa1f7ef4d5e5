"""`echo-core resume`: going on after a pause."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.session import SessionArgument
from echo_core.control.client import reach_host
from echo_core.control.documents import Changed


def resume(name: PluginName, /, *, session: SessionArgument) -> None:
    """Let a paused plugin go on.

    With the message that was next. For example: echo-core resume loud_words
    """
    done = reach_host(session.workspace()).post(f"/v1/plugins/{name}/resume", Changed)
    session.out.result("resume", done, f"{name} {'was not paused' if done.already else 'goes on'}")
