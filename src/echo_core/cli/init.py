"""`echo-core init`: a new workspace."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.output import place
from echo_core.cli.session import SessionArgument
from echo_core.workshop.initialise import init as make_workspace

Directory = Annotated[Path, Parameter(help="The folder; it is made if it is not there.")]


def init(directory: Directory, /, *, session: SessionArgument) -> None:
    """Make a new workspace.

    Settings with every default, folders for plugins, and the four scripts; nothing that is there is changed.
    For example: echo-core init captions
    """
    workspace = make_workspace(directory)
    text = f"made a workspace in {place(workspace.root)}\nnext: cd {directory}, then echo-core create NAME"
    session.out.result("init", {"path": workspace.root}, text)
