"""Which telemetry a plugin reports through when it was given none of its own."""

import logging
from threading import RLock
from typing import Final
from weakref import WeakSet

from common_telemetry.config import TelemetryConfig
from common_telemetry.context import TelemetryContext
from common_telemetry.plugin import PluginTelemetry

_logger = logging.getLogger("common_telemetry")


class _Fallback:
    """The process-wide choice, and the plugins that follow it."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._chosen: TelemetryContext | None = None
        self._followers: WeakSet[PluginTelemetry] = WeakSet()
        self._warned = False

    @property
    def chosen(self) -> TelemetryContext | None:
        return self._chosen

    def choose(self, telemetry: TelemetryContext | None) -> None:
        with self._lock:
            self._chosen = telemetry
            followers = list(self._followers)
            if followers:
                context = self._context(followers[0].name)
                for follower in followers:
                    context.take_over(follower)

    def follow(self, name: str, version: str) -> PluginTelemetry:
        with self._lock:
            telemetry = self._context(name).for_plugin(name, version)
            self._followers.add(telemetry)
            return telemetry

    def _context(self, plugin: str) -> TelemetryContext:
        if self._chosen is not None:
            return self._chosen
        return TelemetryContext.over_api_globals() or self._nothing(plugin)

    def _nothing(self, plugin: str) -> TelemetryContext:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "telemetry: plugin %r reports to nobody: it was given no TelemetryContext, "
                "set_global_telemetry() was not called, and no OpenTelemetry provider is set. "
                "Said once for all plugins.",
                plugin,
            )
        return TelemetryContext.from_config(TelemetryConfig(engine="off"))


_fallback: Final = _Fallback()


def get_global_telemetry() -> TelemetryContext | None:
    """The telemetry of plugins that were given none; None until set."""
    return _fallback.chosen


def set_global_telemetry(telemetry: TelemetryContext | None) -> None:
    """Set it, or with None take it back. Plugins that already use the fallback change over at once."""
    _fallback.choose(telemetry)


def plugin_telemetry(own: TelemetryContext | None, name: str, version: str) -> PluginTelemetry:
    """The telemetry of a plugin: its own, else the global one, else OpenTelemetry's globals, else none.

    With none nothing breaks; one warning is logged in the life of the process.
    """
    return own.for_plugin(name, version) if own is not None else _fallback.follow(name, version)
