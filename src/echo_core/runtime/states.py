"""The states of a plugin in the host, and the moves between them: one literal table."""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class PluginState(Enum):
    """Where a plugin is in its life. The value is `plugin.status` on its telemetry."""

    LOADING = "loading"
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


S = PluginState
NEXT: Final[Mapping[PluginState, frozenset[PluginState]]] = {
    S.LOADING: frozenset({S.STARTING, S.FAILED, S.STOPPED}),
    S.STARTING: frozenset({S.RUNNING, S.FAILED, S.STOPPING}),
    S.RUNNING: frozenset({S.DEGRADED, S.PAUSED, S.FINISHED, S.STOPPING, S.FAILED}),
    S.DEGRADED: frozenset({S.RUNNING, S.PAUSED, S.FINISHED, S.STOPPING, S.FAILED}),
    S.PAUSED: frozenset({S.RUNNING, S.FINISHED, S.STOPPING, S.FAILED}),  # by an operator: its messages wait
    S.FINISHED: frozenset({S.STOPPING}),  # a source that has nothing more to say
    S.STOPPING: frozenset({S.STOPPED, S.FAILED}),
    S.STOPPED: frozenset(),
    S.FAILED: frozenset({S.STOPPED}),
}
"""The moves that are allowed; every state can still reach STOPPED."""

LIVE: Final = frozenset({S.RUNNING, S.DEGRADED, S.PAUSED, S.FINISHED})
"""Initialised, and not yet shut down."""
