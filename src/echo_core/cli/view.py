"""What a run looks like while it runs: pure functions from the host's snapshots to what is printed."""

from typing import TYPE_CHECKING, Final

from echo_core.cli.output import printable
from echo_core.runtime.states import FED, PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARKS: Final = {
    PluginState.RUNNING: ("*", "green"),
    PluginState.FINISHED: ("*", "green"),
    PluginState.DEGRADED: ("!", "yellow"),
    PluginState.PAUSED: ("=", "yellow"),
    PluginState.BACKOFF: ("!", "yellow"),
    PluginState.STALLED: ("!", "bold yellow"),
    PluginState.CIRCUIT_OPEN: ("!", "bold yellow"),
    PluginState.FAILED: ("x", "bold red"),
    PluginState.QUARANTINED: ("x", "bold red"),
}
"""A shape as well as a colour: neither is ever the only sign."""
_OTHER_MARK: Final = ("-", "dim")
_UNKNOWN: Final = "-"


def mark(state: PluginState) -> tuple[str, str]:
    """The sign of a state, and the style it is shown in."""
    return _MARKS.get(state, _OTHER_MARK)


def rate(before: int, after: int, seconds: float) -> float | None:
    """How much a counter grew in a second; None when no time has passed."""
    return (after - before) / seconds if seconds > 0 else None


def live_view(before: HostSnapshot, after: HostSnapshot, *, hint: str) -> "RenderableType":
    """A table of the plugins at `after`, with rates since `before`; `hint` says what Ctrl-C does now."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    earlier = {plugin.name: plugin for plugin in before.plugins}
    seconds = after.uptime_s - before.uptime_s
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("PLUGIN")
    table.add_column("STATE")
    sheds = any(map(_shed, after.plugins))
    for heading in ("IN/S", "OUT/S", "P95 ms", "FAILED", "DEAD", "QUEUE", *(["SHED"] if sheds else [])):
        table.add_column(heading, justify="right")
    for plugin in after.plugins:
        sign, style = mark(plugin.state)
        name = f"{plugin.name} {plugin.version}".strip()
        state = Text(f"{sign} {plugin.state.value}", style=style)
        cells = _cells(earlier.get(plugin.name), plugin, seconds)
        table.add_row(name, state, *cells, *([f"{_shed(plugin):,}"] if sheds else []))
    reasons = [
        Text(f"{mark(plugin.state)[0]} {plugin.name}: {_first_line(plugin.reason)}")
        for plugin in after.plugins
        if plugin.reason
    ]
    return Group(Text(f"{duration(after.uptime_s)}  {hint}", style="dim"), table, *reasons)


def totals_line(before: HostSnapshot, after: HostSnapshot) -> str:
    """One line on the whole host: what came to pass so far, and how fast since `before`."""
    received = _sum(after, "received")
    speed = rate(_sum(before, "received"), received, after.uptime_s - before.uptime_s)
    states = [plugin.state for plugin in after.plugins]
    running = sum(state in FED for state in states)
    parts = [
        f"{running} of {len(states)} plugins running",
        f"received {received:,} ({_rate(speed)}/s)",
        f"processed {_sum(after, 'processed'):,}",
        f"filtered {_sum(after, 'filtered'):,}",
        f"dead-lettered {_sum(after, 'dead_lettered'):,}",
        f"failed attempts {_sum(after, 'failed_attempts'):,}",
        f"queue {_sum(after, 'queue'):,}",
    ]
    if shed := sum(map(_shed, after.plugins)):
        parts.append(f"shed {shed:,}")
    return f"{duration(after.uptime_s)}  {', '.join(parts)}"


def state_line(name: str, version: str, state: PluginState, reason: str = "") -> str:
    """One line on one plugin's move to a state."""
    because = f": {_first_line(reason)}" if reason else ""
    return f"{name} {version}".strip() + f" {state.value}{because}"


def _cells(before: PluginSnapshot | None, after: PluginSnapshot, seconds: float) -> list[str]:
    handles = bool(after.subscriptions)
    came = rate(before.received if before else 0, after.received, seconds)
    left = rate(before.published if before else 0, after.published, seconds)
    return [
        _rate(came) if handles else _UNKNOWN,
        _rate(left) if after.publications else _UNKNOWN,
        _UNKNOWN if after.p95_ms is None else f"{after.p95_ms:,.1f}",
        f"{after.failed_attempts:,}",
        f"{after.dead_lettered:,}",
        f"{after.queue:,}" if handles else _UNKNOWN,
    ]


def _shed(plugin: PluginSnapshot) -> int:
    return sum(plugin.shed.values())


def _sum(snapshot: HostSnapshot, counter: str) -> int:
    return sum(getattr(plugin, counter) for plugin in snapshot.plugins)


def _rate(value: float | None) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """A time span for people: hours, minutes, seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _first_line(text: str) -> str:
    return printable(text.partition("\n")[0])
