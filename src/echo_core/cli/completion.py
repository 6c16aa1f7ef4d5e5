"""`echo-core completion`: completion of commands, options and choices in a shell."""

from typing import Annotated, Literal

from cyclopts import Parameter

from echo_core.cli.session import SessionArgument

Shell = Annotated[Literal["bash", "zsh", "fish"], Parameter(help="The shell.")]


def completion(shell: Shell, /, *, session: SessionArgument) -> None:
    """Print a completion script for a shell.

    For example: echo-core completion bash > ~/.local/share/bash-completion/completions/echo-core
    """
    from echo_core.cli.app import build_app

    script = build_app(session.out).generate_completion(shell=shell)
    session.out.result("completion", {"shell": shell, "script": script}, script)
