"""Where a workspace's message history is."""

from pathlib import Path

from echo_core.runtime.message_history.store import FILE_NAME
from echo_core.runtime.settings import Settings
from echo_core.workspace import Workspace


def history_path(settings: Settings, workspace: Workspace) -> Path:
    """The file that the settings name."""
    path = settings.history.path
    return workspace.root / Path(path).expanduser() if path else workspace.state / FILE_NAME
