"""`echo-core rollback`: returning to the version that ran before."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.output import to_builtins
from echo_core.cli.session import SessionArgument
from echo_core.cli.upgrade import text_of
from echo_core.control.client import reach_host
from echo_core.control.documents import Upgraded


def rollback(name: PluginName, /, *, session: SessionArgument) -> None:
    """Return to the version that ran before.

    Gracefully: it is ready first, then takes over. From an upgrade under way, to the version that still runs.
    For example: echo-core rollback loud_words
    """
    done = reach_host(session.workspace()).post(f"/v1/plugins/{name}/rollback", Upgraded)
    session.out.result("rollback", to_builtins(done), text_of(done))
