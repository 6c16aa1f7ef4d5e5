"""`echo-core test`: a plugin's own tests."""

from echo_core.cli.arguments import PluginName
from echo_core.cli.session import SessionArgument


def test(name: PluginName, /, *, session: SessionArgument) -> None:
    """Run a plugin's own tests.

    As a production build does: with the dependencies that its library would carry, and those alone.
    For example: echo-core test loud_words
    """
    from echo_core.workshop.trial import try_plugin  # help and completion do without it

    verdict = try_plugin(session.workspace(), name)
    text = f"{name}: {verdict}\nnext: echo-core build {name}"
    session.out.result("test", {"name": name, "verdict": verdict}, text)
