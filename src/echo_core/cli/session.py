"""What every verb is given besides its own arguments."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from echo_core.cli.output import Output
from echo_core.workspace import Workspace, find_workspace


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the command line."""

    out: Output = field(default_factory=Output)
    project: Path | None = None
    """The workspace, if `--project` named it."""

    def workspace(self) -> Workspace:
        """The workspace that is meant; raises `WorkspaceError` when there is none."""
        return find_workspace(self.project)


SessionArgument = Annotated[Session, Parameter(parse=False)]
"""Given by `echo_core.cli.app`, not by the person who types."""
