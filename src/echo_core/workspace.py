"""The tree of a project: where plugins are written, built, switched on, and where the host keeps state."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from echo_core.errors import WorkspaceError

SETTINGS_FILE: Final = "echo-core.toml"
ENVIRONMENT_VARIABLE: Final = "ECHO_CORE_PROJECT"

BuildType = Literal["development", "production"]
BUILD_TYPES: Final[tuple[BuildType, ...]] = get_args(BuildType)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A project's folders, by name. Holding one proves that its settings file is there."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """The host's settings; its presence marks the root."""
        return self.root / SETTINGS_FILE

    @property
    def workshop(self) -> Path:
        """Sources of plugins, a folder each."""
        return self.root / "plugins" / "workshop"

    def libraries(self, build_type: BuildType) -> Path:
        """Built plugins of one build type: <name>/<version>/ below it."""
        return self.root / "plugins" / "libraries" / build_type

    @property
    def scripts(self) -> Path:
        """The four scripts."""
        return self.root / "plugins" / "scripts"

    @property
    def enabled(self) -> Path:
        """One symlink a plugin that is switched on."""
        return self.root / "core" / "plugins" / "enabled"

    @property
    def state(self) -> Path:
        """What the host keeps between runs: unpacked libraries, dead letters, how far sources have come."""
        return self.root / "core" / "state"


def find_workspace(
    project: Path | None = None, *, start: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Workspace:
    """The workspace at `project`, or the variable's, or the nearest one upwards from `start`.

    Raises `WorkspaceError` when there is none there.
    """
    if project is not None:
        return _workspace_at(project, told_by="--project")
    if environ.get(ENVIRONMENT_VARIABLE):
        return _workspace_at(environ[ENVIRONMENT_VARIABLE], told_by=ENVIRONMENT_VARIABLE)
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / SETTINGS_FILE).is_file():
            return Workspace(folder)
    raise WorkspaceError(
        f"no workspace in {here} or above it",
        why=f"no folder on the way up holds an {SETTINGS_FILE}",
        fix=f"echo-core init DIR makes one; or use --project DIR, or set {ENVIRONMENT_VARIABLE}",
    )


def _workspace_at(folder: Path | str, *, told_by: str) -> Workspace:
    root = Path(os.path.expanduser(folder)).resolve()
    if (root / SETTINGS_FILE).is_file():
        return Workspace(root)
    raise WorkspaceError(
        f"no workspace at {root}",
        where=f"the folder given by {told_by}",
        why=f"there is no {SETTINGS_FILE} in it",
        fix=f"echo-core init {shlex.quote(str(root))}",
    )
