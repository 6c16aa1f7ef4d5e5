"""`echo-core status`: a running host and its plugins, at this moment."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import SessionArgument
from echo_core.cli.view import duration, mark
from echo_core.control.documents import Moves, Status
from echo_core.errors import NotFound
from echo_core.runtime.statistics import PluginSnapshot

if TYPE_CHECKING:
    from rich.console import RenderableType

Name = Annotated[
    str | None, Parameter(help="Only this plugin, with what happened to it.", completer=plugin_names)
]
_NOT_READY = 1


def status(name: Name = None, /, *, session: SessionArgument) -> int:
    """Show the running host and its plugins.

    The exit code is 1 when a plugin is not well, and 5 when no host runs. For example: echo-core status
    """
    from echo_core.control.client import reach_host

    host = reach_host(session.workspace())
    now = host.get("/v1/status", Status)
    if name is None:
        session.out.result("status", to_builtins(now), _overview(now))
        return 0 if now.ready else _NOT_READY
    plugins = [plugin for plugin in now.plugins if plugin.name == name]
    moves = host.get(f"/v1/plugins/{name}/history", Moves)
    if not plugins and not moves.moves:
        raise NotFound(f"no plugin {name!r} runs", fix="echo-core status shows what runs")
    document = {"plugins": plugins, "refused": now.refused.get(name), "moves": moves.moves}
    session.out.result("status", document, "\n".join(_page(name, plugins, now, moves)))
    return 0


def _overview(now: Status) -> "RenderableType":
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("PLUGIN", "STATE", "BUILD"):
        table.add_column(heading)
    for heading in ("RECEIVED", "PROCESSED", "FILTERED", "DEAD", "QUEUE", "P95 ms"):
        table.add_column(heading, justify="right")
    for plugin in now.plugins:
        sign, style = mark(plugin.state)
        table.add_row(
            f"{plugin.name} {plugin.version}".strip(),
            Text(f"{sign} {plugin.state.value}", style=style),
            plugin.build_type or "-",
            *(f"{count:,}" for count in (plugin.received, plugin.processed, plugin.filtered)),
            *(f"{count:,}" for count in (plugin.dead_lettered, plugin.queue)),
            "-" if plugin.p95_ms is None else f"{plugin.p95_ms:,.1f}",
        )
    head = f"host {now.version}, process {now.pid}, up {duration(now.uptime_s)}"
    verdict = Text("ready") if now.ready else Text("not ready", style="bold red")
    reasons = [Text(f"  {printable(reason)}", style="red") for reason in now.reasons]
    nothing = [] if now.plugins else [Text("no plugin runs\nnext: echo-core activate NAME")]
    return Group(Text(head), *([table] if now.plugins else nothing), verdict, *reasons)


def _page(name: str, plugins: list[PluginSnapshot], now: Status, moves: Moves) -> Iterator[str]:
    for plugin in plugins:
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
        yield f"  queue      {plugin.queue:,}"
    if name in now.refused:
        yield f"enabled otherwise, and refused: {printable(now.refused[name].message)}"
        yield f"  why: {printable(now.refused[name].why)}"
    for move in moves.moves:
        when = datetime.fromtimestamp(move.time_ns / 1e9, tz=UTC).isoformat(sep=" ", timespec="milliseconds")
        because = f": {printable(move.reason.partition(chr(10))[0])}" if move.reason else ""
        yield f"{when}  {move.version}  {move.previous.value} -> {move.state.value}{because}"
