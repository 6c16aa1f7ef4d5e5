"""What happened to the plugins of a host: their moves between states, each with its cause."""

from collections import deque
from collections.abc import Sequence
from typing import Final

from echo_core.runtime.slot import PluginEvent

KEPT: Final = 100
"""Moves kept of each plugin, so that a restless one does not push out what became of the others."""


class History:
    """Remembers the newest moves of each plugin."""

    def __init__(self) -> None:
        self._moves: dict[str, deque[PluginEvent]] = {}

    def record(self, event: PluginEvent) -> None:
        """Remember it, and forget the plugin's oldest when there are too many."""
        self._moves.setdefault(event.name, deque(maxlen=KEPT)).append(event)

    def moves(self, name: str | None = None) -> Sequence[PluginEvent]:
        """Those of the plugin, or of all, the oldest first."""
        if name is not None:
            return list(self._moves.get(name, ()))
        return sorted((event for moves in self._moves.values() for event in moves), key=_when)


def _when(event: PluginEvent) -> int:
    return event.time_ns
