"""`echo-core status`: a running host and its plugins, at this moment."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import SessionArgument
from echo_core.cli.tables import Column, FittingTable, numbers
from echo_core.cli.view import before_line, duration, mark, present, span
from echo_core.control.documents import Kept, Moves, Status
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.runtime.upgrade.status import TrialStatus

if TYPE_CHECKING:
    from rich.console import RenderableType

Name = Annotated[
    str | None, Parameter(help="Only this plugin, with what happened to it.", completer=plugin_names)
]
All = Annotated[
    bool, Parameter(help="All hosts that share the transport, whether one of them runs here or not.")
]
_NOT_READY = 1
_SHOWN = 5
"""Earlier versions of a plugin on its page."""
_WELL = (PluginState.RUNNING, PluginState.FINISHED, PluginState.STOPPED)


def status(name: Name = None, /, *, cluster: All = False, session: SessionArgument) -> int:
    """Show the running host and its plugins.

    And what keeps it from being ready, and the dead letters that wait. The exit code is 1 when the host, or
    the plugin that is named, is not well, and 5 when no host runs. For example: echo-core status
    """
    from echo_core.control.client import reach_host

    if cluster:
        return _cluster(session)
    host = reach_host(session.workspace())
    now = host.get("/v1/status", Status)
    if name is None:
        session.out.result("status", to_builtins(now), _overview(now))
        return 0 if now.ready else _NOT_READY
    plugins = [plugin for plugin in now.plugins if plugin.name == name]
    moves = host.get(f"/v1/plugins/{name}/history", Moves)
    if not plugins and not moves.moves and name not in now.refused:
        host.get(f"/v1/plugins/{name}", PluginSnapshot)  # says that there is none, and which may be meant
    document = {
        "plugins": plugins,
        "refused": now.refused.get(name),
        "moves": moves.moves,
        "dead_letters": [kept for kept in now.dead_letters if kept.plugin == name],
        "upgrades": [trial for trial in now.upgrades if trial.name == name],
    }
    session.out.result("status", document, "\n".join(_page(name, plugins, now, moves)))
    is_well = name not in now.refused and all(plugin.state in _WELL for plugin in plugins)
    return 0 if is_well else _NOT_READY


def _cluster(session: SessionArgument) -> int:
    from echo_core.cli.cluster import cluster_view, hosts_of, is_well

    found = hosts_of(session.workspace())
    session.out.result("status", to_builtins(found), cluster_view(found))
    return 0 if is_well(found) else _NOT_READY


def _overview(now: Status) -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    table = FittingTable(
        *("PLUGIN", "STATE", Column("BUILD", spare=4)),
        *(*numbers("RECEIVED"), *numbers("PROCESSED", spare=2), *numbers("FILTERED", spare=3)),
        *(*numbers("DEAD", "QUEUE"), *numbers("P95 ms", spare=1)),
    )
    there, before = present(now.plugins)
    for plugin in there:
        sign, style = mark(plugin.state)
        table.add_row(
            f"{plugin.name} {plugin.version}".strip(),
            Text(f"{sign} {plugin.state.value}", style=style),
            plugin.build_type or "-",
            *(f"{count:,}" for count in (plugin.received, plugin.processed, plugin.filtered)),
            *(f"{count:,}" for count in (plugin.dead_lettered, plugin.queue)),
            "-" if plugin.p95_ms is None else f"{plugin.p95_ms:,.1f}",
        )
    head = f"host {now.version}, process {now.pid}, up {duration(now.uptime_s)}, {printable(now.transport)}"
    nothing = Text("no plugin runs\nnext: echo-core activate NAME")
    verdict = Text("ready") if now.ready else Text("not ready", style="bold red")
    reasons = [Padding(Text(printable(reason), style="red"), (0, 0, 0, 2)) for reason in now.reasons]
    letters = [Text(f"{line}\nnext: echo-core dlq list")] if (line := kept_line(now.dead_letters)) else []
    earlier = [Text(line)] if (line := before_line(before)) else []
    trials = [Text(trial_line(trial)) for trial in now.upgrades]
    return Group(Text(head), table if there else nothing, *earlier, *trials, verdict, *reasons, *letters)


def trial_line(trial: TrialStatus) -> str:
    """An upgrade that waits for its end, and where more of it stands."""
    percent = f", {trial.percent:g} % to the new one" if trial.strategy != "shadow" else ""
    return (
        f"upgrade: {trial.name} {trial.old_version} to {trial.new_version}, {trial.strategy}{percent};"
        f" see echo-core upgrade {trial.name} --show"
    )


def kept_line(depths: Sequence[Kept]) -> str:
    """The dead letters that wait for somebody to look at them; empty when there are none."""
    if not depths:
        return ""
    each = ", ".join(f"{kept.plugin} {kept.count:,}" for kept in depths)
    return f"dead letters: {each}; the oldest is {span(max(kept.age_s for kept in depths))} old"


def _page(name: str, plugins: list[PluginSnapshot], now: Status, moves: Moves) -> Iterator[str]:
    there, before = present(plugins)
    for plugin in there:
        because = f": {printable(plugin.reason)}" if plugin.reason else ""
        build = plugin.build_type or "no library"
        yield f"{name} {plugin.version} ({build}) is {plugin.state.value}{because}"
        yield f"  hears      {', '.join(plugin.subscriptions) or '-'}"
        yield f"  says       {', '.join(plugin.publications) or '-'}"
        yield (
            f"  received   {plugin.received:,} = {plugin.processed:,} processed"
            f" + {plugin.filtered:,} filtered + {plugin.dead_lettered:,} dead + {plugin.in_hand:,} in hand"
        )
        yield f"  published  {plugin.published:,}, failed tries {plugin.failed_attempts:,}"
        yield f"  queue      {plugin.queue:,}" + (
            "" if plugin.p95_ms is None else f", 95 % handled within {plugin.p95_ms:,.1f} ms"
        )
    for plugin in before[-_SHOWN:]:
        build = plugin.build_type or "no library"
        yield (
            f"  before     {plugin.version} ({build}) received {plugin.received:,},"
            f" of which dead {plugin.dead_lettered:,}, failed tries {plugin.failed_attempts:,}"
        )
    if len(before) > _SHOWN:
        yield f"  before     {len(before) - _SHOWN:,} versions more: echo-core status {name} --json"
    for trial in now.upgrades:
        if trial.name == name:
            yield trial_line(trial)
    if name in now.refused:
        yield f"enabled otherwise, and refused: {printable(now.refused[name].message)}"
        yield f"  why: {printable(now.refused[name].why)}"
    for kept in now.dead_letters:
        if kept.plugin == name:
            yield f"  letters    {kept.count:,} dead letters, the oldest {span(kept.age_s)} old: see dlq list"
    for move in moves.moves:
        when = moment(move.time_ns, separator=" ")
        because = f": {printable(move.cause.partition(chr(10))[0])}" if move.cause else ""
        yield f"{when}  {move.version}  {move.previous.value} -> {move.state.value}{because}"
