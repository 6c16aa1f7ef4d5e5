"""The store of the workspace's transport, for whoever looks after it: command line or control API."""

from pathlib import Path

from echo_core.errors import NotFound
from echo_core.runtime.settings import load_settings
from echo_core.transports.sqlite.inspection import CheckReport, StoreNumbers, check, numbers
from echo_core.transports.sqlite.repair import RepairReport, repair
from echo_core.transports.sqlite.settings import settings_from_url
from echo_core.transports.sqlite.upkeep import CompactReport, ForgetReport, compact, forget
from echo_core.workspace import Workspace

__all__ = [
    "CheckReport",
    "CompactReport",
    "ForgetReport",
    "RepairReport",
    "StoreNumbers",
    "check",
    "compact",
    "forget",
    "numbers",
    "repair",
    "store_path",
]


def store_path(workspace: Workspace) -> Path:
    """The file of messages that the workspace's settings name.

    Raises `NotFound` when its transport keeps messages in no file.
    """
    url = load_settings(workspace).host.transport
    if not url.startswith("sqlite:"):
        raise NotFound(
            "this workspace has no store of messages",
            where=str(workspace.settings_file),
            why=f"its transport is {url}",
            fix='set transport = "sqlite://" under [host]',
        )
    return settings_from_url(url, workspace.root).path
