"""What a run looks like while it runs: pure functions from the host's snapshots to what is printed."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from echo_core.cli.output import printable
from echo_core.cli.tables import FittingTable, numbers
from echo_core.runtime.states import BROKEN, FED, PluginState
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


def live_view(
    before: HostSnapshot, after: HostSnapshot, *, hint: str, notes: Sequence[str] = ()
) -> "RenderableType":
    """A table of the plugins at `after`, with rates since `before`; `hint` says what Ctrl-C does now.

    Below it stand the plugins' reasons, and `notes`.
    """
    from rich.console import Group
    from rich.text import Text

    earlier = {_version(plugin): plugin for plugin in before.plugins}
    seconds = after.uptime_s - before.uptime_s
    sheds = any(map(_shed, after.plugins))
    table = FittingTable(
        *("PLUGIN", "STATE"),
        *(*numbers("IN/S"), *numbers("OUT/S", spare=1), *numbers("P95 ms", spare=2)),
        *numbers("FAILED", "DEAD", "QUEUE", *(["SHED"] if sheds else [])),
    )
    there, gone = present(after.plugins)
    for plugin in there:
        sign, style = mark(plugin.state)
        name = f"{plugin.name} {plugin.version}".strip()
        state = Text(f"{sign} {plugin.state.value}", style=style)
        cells = _cells(earlier.get(_version(plugin)), plugin, seconds)
        table.add_row(name, state, *cells, *([f"{_shed(plugin):,}"] if sheds else []))
    reasons = [
        Text(f"{mark(plugin.state)[0]} {plugin.name}: {_first_line(plugin.reason)}")
        for plugin in after.plugins
        if plugin.reason
    ]
    lines = [line for line in (before_line(gone), *notes) if line]
    return Group(Text(f"{duration(after.uptime_s)}  {hint}", style="dim"), table, *reasons, *map(Text, lines))


def present(plugins: Sequence[PluginSnapshot]) -> tuple[list[PluginSnapshot], list[PluginSnapshot]]:
    """Those that are there, and those that were: versions that went while the name goes on.

    Of a name that is not there any more, the last one stands among the first.
    """
    gone = [plugin for plugin in plugins if plugin.state is PluginState.STOPPED]
    names = {plugin.name for plugin in plugins if plugin.state is not PluginState.STOPPED}
    last = {plugin.name: plugin for plugin in gone if plugin.name not in names}
    before = [plugin for plugin in gone if last.get(plugin.name) is not plugin]
    hidden = set(map(id, before))
    return [plugin for plugin in plugins if id(plugin) not in hidden], before


def before_line(before: Sequence[PluginSnapshot]) -> str:
    """How many versions of each plugin went, and where there is more of them; empty if none did."""
    if not before:
        return ""
    each = ", ".join(f"{name} {count}" for name, count in Counter(gone.name for gone in before).items())
    return f"earlier versions: {each}; see echo-core status NAME"


_AT_WORK: Final = (PluginState.RUNNING, PluginState.DEGRADED)


def totals_line(before: HostSnapshot, after: HostSnapshot) -> str:
    """One line on the whole host: what came to pass so far, and how fast since `before`."""
    received = _sum(after, "received")
    speed = rate(_sum(before, "received"), received, after.uptime_s - before.uptime_s)
    states = [state for plugin in after.plugins if (state := plugin.state) is not PluginState.STOPPED]
    fed = [state for state in states if state in FED]
    held = Counter(state.value for state in fed if state not in _AT_WORK)
    parts = [
        f"{len(fed) - held.total()} of {len(states)} plugins running",
        *(f"{count} {state}" for state, count in held.items()),
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
    """One line on one plugin's move to a state; where it is broken, all that is known of why."""
    shown = printable(reason).replace("\n", "\n  ") if state in BROKEN else _first_line(reason)
    because = f": {shown}" if reason else ""
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


def _version(plugin: PluginSnapshot) -> tuple[str, str, str]:
    """Several of one name may be counted, while one takes the place of another and after."""
    return plugin.name, plugin.version, plugin.build_type


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


def span(seconds: float) -> str:
    """A time span for people, in one unit: how old something is."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def _first_line(text: str) -> str:
    return printable(text.partition("\n")[0])
