"""`echo-core status --cluster`: all hosts that share a transport, and their plugins."""

from typing import TYPE_CHECKING, Final

from echo_core.cli.output import printable
from echo_core.cli.tables import Column, FittingTable, numbers
from echo_core.cli.view import duration, mark, span
from echo_core.control.documents import Cluster
from echo_core.runtime.presence import listen
from echo_core.runtime.settings import load_settings
from echo_core.runtime.states import PluginState
from echo_core.workspace import Workspace

if TYPE_CHECKING:
    from rich.console import RenderableType

_WELL: Final = (PluginState.RUNNING, PluginState.FINISHED, PluginState.STOPPED)


def hosts_of(workspace: Workspace) -> Cluster:
    """What the workspace's host knows, or what is heard in its place; raises `NoHost` where none is."""
    from echo_core.control.client import running_host

    here = running_host(workspace)
    if here is not None:
        return here.get("/v1/cluster", Cluster)
    return Cluster(hosts=tuple(listen(load_settings(workspace).host.transport, workspace.root)))


def is_well(cluster: Cluster) -> bool:
    """Whether all hosts are heard, and all that they run is well."""
    return not cluster.warnings and all(
        not seen.silent
        and not seen.host.trouble
        and all(plugin.state in _WELL for plugin in seen.host.plugins)
        for seen in cluster.hosts
    )


def cluster_view(cluster: Cluster) -> "RenderableType":
    """A table of all plugins by host, and what is wrong."""
    from rich.console import Group
    from rich.text import Text

    table = FittingTable(
        *("HOST", "PLUGIN", "STATE"),
        *(*numbers("PROCESSED", spare=1), *numbers("DEAD", "QUEUE"), Column("HEARD", spare=2)),
    )
    wrong: list[Text] = []
    for seen in cluster.hosts:
        host = seen.host
        heard = f"{span(seen.heard_s)} ago" if seen.heard_s >= 1 else "now"
        if seen.silent:
            wrong.append(
                Text(f"  {host.name} is silent for {span(seen.heard_s)}: dead, or cut off", style="red")
            )
        if host.trouble:
            wrong.append(Text(f"  {host.name}: {printable(host.trouble)}", style="red"))
        for at, plugin in enumerate(host.plugins):
            sign, style = mark(plugin.state)
            table.add_row(
                f"{host.name}, up {duration(host.uptime_s)}" if at == 0 else "",
                f"{plugin.name} {plugin.version}".strip(),
                Text("? silent", style="red")
                if seen.silent
                else Text(f"{sign} {plugin.state.value}", style=style),
                *(f"{count:,}" for count in (plugin.processed, plugin.dead_lettered, plugin.queue)),
                heard if at == 0 else "",
            )
            if plugin.state not in _WELL and not seen.silent:
                because = f": {printable(plugin.reason)}" if plugin.reason else ""
                wrong.append(
                    Text(f"  {plugin.name} on {host.name} is {plugin.state.value}{because}", style="red")
                )
        if not host.plugins:
            table.add_row(f"{host.name}, up {duration(host.uptime_s)}", "no plugin", "", "", "", "", heard)
    wrong += [Text(f"  {printable(warning)}", style="red") for warning in cluster.warnings]
    count = len(cluster.hosts)
    head = f"{count} host{'s' if count != 1 else ''}"
    verdict = Text("not well", style="bold red") if wrong else Text("all well")
    return Group(Text(head), table, verdict, *wrong)
