"""Plugins for message pipelines: everything that a plugin's author imports."""

from echo_core._version import __version__
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
