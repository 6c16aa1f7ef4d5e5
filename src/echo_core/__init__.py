"""Plugins for message pipelines: everything that a plugin's author imports.

Each name is imported when it is first used: `echo-core --version` needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from echo_core._version import __version__

if TYPE_CHECKING:
    from echo_core.errors import EchoCoreError, Invalid, PluginError, PublishRefused
    from echo_core.manifest import Manifest
    from echo_core.message import BaseMessage, Receipt
    from echo_core.plugin import Outcome, Plugin, PluginContext, ProcessingStatus
    from echo_core.roles import Filter, Many, Router, Sink, Source, Transformer, Validator
    from echo_core.settlement import Ending, FinishedPrefix
    from echo_core.topics import TopicPattern

__all__ = [
    "BaseMessage",
    "EchoCoreError",
    "Ending",
    "Filter",
    "FinishedPrefix",
    "Invalid",
    "Manifest",
    "Many",
    "Outcome",
    "Plugin",
    "PluginContext",
    "PluginError",
    "ProcessingStatus",
    "PublishRefused",
    "Receipt",
    "Router",
    "Sink",
    "Source",
    "TopicPattern",
    "Transformer",
    "Validator",
    "__version__",
]

_HOME = {
    "BaseMessage": "message",
    "EchoCoreError": "errors",
    "Ending": "settlement",
    "Filter": "roles",
    "FinishedPrefix": "settlement",
    "Invalid": "errors",
    "Manifest": "manifest",
    "Many": "roles",
    "Outcome": "plugin",
    "Plugin": "plugin",
    "PluginContext": "plugin",
    "PluginError": "errors",
    "ProcessingStatus": "plugin",
    "PublishRefused": "errors",
    "Receipt": "message",
    "Router": "roles",
    "Sink": "roles",
    "Source": "roles",
    "TopicPattern": "topics",
    "Transformer": "roles",
    "Validator": "roles",
}


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'echo_core' has no attribute {name!r}")
    value = getattr(import_module(f"echo_core.{_HOME[name]}"), name)
    globals()[name] = value
    return value
