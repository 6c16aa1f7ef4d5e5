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
    STALLED = "stalled"
    CIRCUIT_OPEN = "circuit_open"
    BACKOFF = "backoff"
    PAUSED = "paused"
    FINISHED = "finished"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    QUARANTINED = "quarantined"


S = PluginState
NEXT: Final[Mapping[PluginState, frozenset[PluginState]]] = {
    S.LOADING: frozenset({S.STARTING, S.FAILED, S.STOPPED}),
    S.STARTING: frozenset({S.RUNNING, S.FAILED, S.STOPPING}),
    S.RUNNING: frozenset(
        {
            *(S.DEGRADED, S.STALLED, S.CIRCUIT_OPEN, S.BACKOFF, S.PAUSED),
            *(S.FINISHED, S.STOPPING, S.FAILED, S.QUARANTINED),
        }
    ),
    S.DEGRADED: frozenset(
        {
            *(S.RUNNING, S.STALLED, S.CIRCUIT_OPEN, S.BACKOFF, S.PAUSED),
            *(S.FINISHED, S.STOPPING, S.FAILED, S.QUARANTINED),
        }
    ),
    # Has work, and does not get on with it.
    S.STALLED: frozenset(
        {
            *(S.RUNNING, S.CIRCUIT_OPEN, S.BACKOFF, S.PAUSED),
            *(S.FINISHED, S.STOPPING, S.FAILED, S.QUARANTINED),
        }
    ),
    # Fails whatever it is given: its messages wait.
    S.CIRCUIT_OPEN: frozenset({S.RUNNING, S.BACKOFF, S.PAUSED, S.STOPPING, S.FAILED, S.QUARANTINED}),
    # Its process has died, and the next one is not ready: its messages wait.
    S.BACKOFF: frozenset({S.RUNNING, S.FINISHED, S.STOPPING, S.FAILED, S.QUARANTINED}),
    # By an operator: its messages wait.
    S.PAUSED: frozenset({S.RUNNING, S.FINISHED, S.STOPPING, S.FAILED, S.QUARANTINED}),
    S.FINISHED: frozenset({S.STOPPING}),  # a source that has nothing more to say
    S.STOPPING: frozenset({S.STOPPED, S.FAILED}),
    S.STOPPED: frozenset(),
    S.FAILED: frozenset({S.STOPPED}),
    S.QUARANTINED: frozenset({S.STOPPED, S.FAILED}),  # its process died too often; its messages are kept
}
"""The moves that are allowed; every state can still reach STOPPED."""

FED: Final = frozenset({S.RUNNING, S.DEGRADED, S.STALLED, S.CIRCUIT_OPEN})
"""Has lanes that hand it messages, or produces them."""

LIVE: Final = FED | {S.BACKOFF, S.PAUSED, S.FINISHED}
"""Initialised, and not yet shut down."""

BROKEN: Final = frozenset({S.FAILED, S.QUARANTINED})
"""It does not work, and will not by itself; the state stays, with its reason, until somebody acts."""
