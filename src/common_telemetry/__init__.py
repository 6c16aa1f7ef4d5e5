"""OpenTelemetry for programs that handle messages, usable alone by any Python program.

    from common_telemetry import TelemetryConfig, TelemetryContext

    telemetry = TelemetryContext.from_config(TelemetryConfig())      # OTEL_* decide where data goes
    plugin = telemetry.for_plugin("greeter", "1.0.0", status="running")
    with plugin.messages.process("greetings.new", message):
        plugin.record_counter("greetings")
    telemetry.shutdown()

Importing this package is cheap: OpenTelemetry itself is imported when a name that needs it is first used, its
SDK when a context is made, an exporter when the environment asks for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common_telemetry import compiled

compiled.obey()

if TYPE_CHECKING:
    from common_telemetry.account import Account
    from common_telemetry.attributes import Attributes
    from common_telemetry.config import TelemetryConfig, TelemetryConfigError
    from common_telemetry.context import TelemetryContext
    from common_telemetry.fallback import get_global_telemetry, plugin_telemetry, set_global_telemetry
    from common_telemetry.health import PipelineHealth, SignalHealth, TelemetryHealth
    from common_telemetry.lifecycle import LifecycleScope
    from common_telemetry.logs import show_record
    from common_telemetry.message import ObservedMessage, Outgoing
    from common_telemetry.messages import MessageTelemetry, ProcessScope, PublishBatchScope, PublishScope
    from common_telemetry.plugin import PluginTelemetry
    from common_telemetry.spans import SpanEvent, SpanLink, SpanRecord

__all__ = [
    "Account",
    "Attributes",
    "LifecycleScope",
    "MessageTelemetry",
    "ObservedMessage",
    "Outgoing",
    "PipelineHealth",
    "PluginTelemetry",
    "ProcessScope",
    "PublishBatchScope",
    "PublishScope",
    "SignalHealth",
    "SpanEvent",
    "SpanLink",
    "SpanRecord",
    "TelemetryConfig",
    "TelemetryConfigError",
    "TelemetryContext",
    "TelemetryHealth",
    "get_global_telemetry",
    "plugin_telemetry",
    "set_global_telemetry",
    "show_record",
]

_HOME = {
    "Account": "account",
    "Attributes": "attributes",
    "LifecycleScope": "lifecycle",
    "MessageTelemetry": "messages",
    "ObservedMessage": "message",
    "Outgoing": "message",
    "PipelineHealth": "health",
    "PluginTelemetry": "plugin",
    "ProcessScope": "messages",
    "PublishBatchScope": "messages",
    "PublishScope": "messages",
    "SignalHealth": "health",
    "SpanEvent": "spans",
    "SpanLink": "spans",
    "SpanRecord": "spans",
    "TelemetryConfig": "config",
    "TelemetryConfigError": "config",
    "TelemetryContext": "context",
    "TelemetryHealth": "health",
    "get_global_telemetry": "fallback",
    "plugin_telemetry": "fallback",
    "set_global_telemetry": "fallback",
    "show_record": "logs",
}


def __getattr__(name: str) -> Any:
    """Import the home of a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'common_telemetry' has no attribute {name!r}")
    value = getattr(import_module(f"common_telemetry.{_HOME[name]}"), name)
    globals()[name] = value
    return value
