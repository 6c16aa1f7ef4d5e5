"""The account at the end of a run: every message received ended in one way, and the counts show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from echo_core.cli.tables import FittingTable, numbers
from echo_core.runtime.states import BROKEN
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

_BROKEN: Final = frozenset(state.value for state in BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of messages: received = processed + filtered + dead_lettered + unfinished."""

    received: int
    processed: int
    filtered: int
    dead_lettered: int
    unfinished: int
    """Received, and not ended when the host stopped."""
    waiting: int
    """Still in the queue, never received."""
    published: int
    failed_attempts: int
    shed: int
    """Given up before they were received, because `delivery.when_full` asks for it."""

    @property
    def add_up(self) -> bool:
        """Whether every message received is accounted for."""
        return self.received == self.processed + self.filtered + self.dead_lettered + self.unfinished


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSummary:
    """One plugin's part."""

    name: str
    version: str
    build_type: str
    plugin_type: str
    state: str
    reason: str
    counts: Counts
    shed: Mapping[str, int]
    """The shed ones by reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A whole run."""

    ok: bool
    """Nothing failed, nothing was dead-lettered, nothing was left undone, and the counts add up."""
    duration_s: float
    plugins: tuple[PluginSummary, ...]
    totals: Counts
    problems: tuple[str, ...]
    """One sentence for each thing that is not as it should be."""
    next: tuple[str, ...]
    """What to do about them."""


def summarize(snapshot: HostSnapshot) -> Summary:
    """The account that the host's last snapshot gives."""
    plugins = tuple(_plugin(plugin) for plugin in snapshot.plugins)
    totals = _total([plugin.counts for plugin in plugins])
    findings = _findings(plugins, totals)
    return Summary(
        ok=not snapshot.failed and not findings,
        duration_s=round(snapshot.uptime_s, 3),
        plugins=plugins,
        totals=totals,
        problems=tuple(findings),
        next=tuple(dict.fromkeys(findings.values())),
    )


def _plugin(plugin: PluginSnapshot) -> PluginSummary:
    return PluginSummary(
        name=plugin.name,
        version=plugin.version,
        build_type=plugin.build_type,
        plugin_type=plugin.plugin_type,
        state=plugin.state.value,
        reason=plugin.reason,
        counts=Counts(
            received=plugin.received,
            processed=plugin.processed,
            filtered=plugin.filtered,
            dead_lettered=plugin.dead_lettered,
            unfinished=plugin.in_hand,
            waiting=plugin.queue,
            published=plugin.published,
            failed_attempts=plugin.failed_attempts,
            shed=sum(plugin.shed.values()),
        ),
        shed=plugin.shed,
    )


def _total(parts: list[Counts]) -> Counts:
    return Counts(**{name: sum(getattr(part, name) for part in parts) for name in Counts.__slots__})


def _findings(plugins: tuple[PluginSummary, ...], totals: Counts) -> dict[str, str]:
    """What is not as it should be, and what to do about each."""
    found: dict[str, str] = {}
    for plugin in plugins:
        if plugin.state in _BROKEN:
            said = f"{plugin.name} {plugin.version}".strip() + f" {plugin.state}: {plugin.reason}"
            found[said] = "echo-core doctor"
        if not plugin.counts.add_up:
            found[f"the counts of {plugin.name} do not add up"] = "report it: this is a fault in Echo Core"
    if totals.dead_lettered:
        found[f"{_messages(totals.dead_lettered)} dead-lettered"] = "echo-core dlq list"
    left = totals.unfinished + totals.waiting
    if left:
        found[f"{_messages(left)} left undone"] = "raise host.shutdown_timeout_s in echo-core.toml"
    return found


def _messages(count: int) -> str:
    return "1 message was" if count == 1 else f"{count:,} messages were"


def summary_text(summary: Summary, more: Sequence[str] = ()) -> "RenderableType":
    """The account, for people; before the verdict, `more` lines."""
    from rich.console import Group
    from rich.text import Text

    lines = [Text(f"{problem}", style="bold red") for problem in summary.problems]
    advice = [Text(f"next: {step}", style="bold") for step in summary.next]
    end = Text(f"{'done' if summary.ok else 'done, with problems'} in {summary.duration_s:,.1f} s")
    return Group(_Account(summary), *(Text(line) for line in more), end, *lines, *advice)


class _Account:
    """A table of the plugins; where it is too wide, as on most terminals, a sentence for each of them."""

    def __init__(self, summary: Summary) -> None:
        self._summary = summary

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        table = _table(self._summary)
        yield table if table.fits(console, options) else _sentences(self._summary)


def _sentences(summary: Summary) -> "RenderableType":
    from rich.text import Text

    parts = [(f"{plugin.name} {plugin.version}", plugin.state, plugin.counts) for plugin in summary.plugins]
    text = Text()
    for name, state, counts in (*parts, ("total", "", summary.totals)):
        style = "red" if state in _BROKEN else "bold"
        text.append(f"{name.strip()}  {state}".rstrip() + "\n", style=style)
        text.append(
            f"  received {counts.received:,} = {counts.processed:,} processed + {counts.filtered:,} filtered"
            f" + {counts.dead_lettered:,} dead + {counts.unfinished:,} unfinished\n"
            f"  published {counts.published:,}, failed tries {counts.failed_attempts:,}"
            + (f", shed {counts.shed:,}" if summary.totals.shed else "")
            + "\n"
        )
    text.rstrip()
    return text


def _table(summary: Summary) -> FittingTable:
    outcomes = (
        "RECEIVED",
        "= PROCESSED",
        "+ FILTERED",
        "+ DEAD",
        "+ UNFINISHED",
        "PUBLISHED",
        "FAILED TRIES",
    )
    table = FittingTable("PLUGIN", "STATE", *numbers(*outcomes, *(["SHED"] if summary.totals.shed else [])))
    for plugin in summary.plugins:
        style = "red" if plugin.state in _BROKEN else ""
        table.add_row(
            f"{plugin.name} {plugin.version}",
            plugin.state,
            *_cells(plugin.counts, summary.totals),
            style=style,
        )
    table.add_row("total", "", *_cells(summary.totals, summary.totals), style="bold")
    return table


def _cells(counts: Counts, totals: Counts) -> list[str]:
    numbers = [
        counts.received,
        counts.processed,
        counts.filtered,
        counts.dead_lettered,
        counts.unfinished,
        counts.published,
        counts.failed_attempts,
    ]
    if totals.shed:
        numbers.append(counts.shed)
    return [f"{number:,}" for number in numbers]
