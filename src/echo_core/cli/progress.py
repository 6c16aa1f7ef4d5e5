"""How a run is shown while it runs: a table that moves on a terminal, plain lines everywhere else."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol, TextIO

from echo_core.cli.output import Output, is_terminal
from echo_core.cli.view import live_view, state_line, totals_line
from echo_core.runtime.states import BROKEN, PluginState
from echo_core.runtime.statistics import HostSnapshot

if TYPE_CHECKING:
    from rich.live import Live

_TROUBLE: Final = frozenset(
    {PluginState.DEGRADED, PluginState.STALLED, PluginState.CIRCUIT_OPEN, PluginState.BACKOFF}
)
RUNNING: Final = "Ctrl-C stops"
STOPPING: Final = "stopping: what is under way is finished first; Ctrl-C again stops at once"
ABORTING: Final = "stopping at once: what is not finished stays undone"


class Progress(Protocol):
    """Told of everything, shows what fits its kind."""

    interval_s: float
    """How often `show` is wanted."""

    def show(self, snapshot: HostSnapshot) -> None:
        """The host as it is now."""

    def moved(self, name: str, version: str, state: PluginState, reason: str) -> None:
        """A plugin is in another state."""

    def say(self, hint: str) -> None:
        """What goes on, and what Ctrl-C would do now."""


class PlainProgress:
    """A line for each change of state, and one with the totals every five seconds."""

    interval_s = 5.0

    def __init__(self, stream: TextIO | None) -> None:
        """`None`: say nothing."""
        self._stream = stream
        self._before = HostSnapshot(uptime_s=0.0)

    def show(self, snapshot: HostSnapshot) -> None:
        """See `Progress.show`."""
        if snapshot.uptime_s > self._before.uptime_s:
            self.say(totals_line(self._before, snapshot))
            self._before = snapshot

    def moved(self, name: str, version: str, state: PluginState, reason: str) -> None:
        """See `Progress.moved`."""
        self.say(state_line(name, version, state, reason))

    def say(self, hint: str) -> None:
        """See `Progress.say`. A reader that went away does not stop the host."""
        if self._stream is None:
            return
        try:
            print(hint, file=self._stream, flush=True)
        except BrokenPipeError:
            self._stream = None


class LiveProgress:
    """A table, at most four times a second; rates are over the last two seconds."""

    interval_s = 0.25
    _WINDOW: Final = 8

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._recent: deque[HostSnapshot] = deque(maxlen=self._WINDOW)
        self._hint = RUNNING

    def show(self, snapshot: HostSnapshot) -> None:
        """See `Progress.show`."""
        self._recent.append(snapshot)
        self._live.update(live_view(self._recent[0], snapshot, hint=self._hint), refresh=True)

    def moved(self, name: str, version: str, state: PluginState, reason: str) -> None:
        """See `Progress.moved`; the table shows all but what should stay readable above it."""
        if state in BROKEN or state in _TROUBLE:
            self._live.console.print(state_line(name, version, state, reason))

    def say(self, hint: str) -> None:
        """See `Progress.say`."""
        self._hint = hint


@contextmanager
def progress_for(out: Output, *, plain: bool) -> Iterator[Progress]:
    """The kind that fits where stderr leads: a table, lines, or nothing for a script that reads JSON."""
    if plain or not is_terminal(out.stderr):
        yield PlainProgress(None if out.json else out.stderr)
        return
    from rich.live import Live

    with Live(console=out.console(out.stderr), auto_refresh=False, transient=True) as live:
        yield LiveProgress(live)
