"""`echo-core top`: a running host and its plugins, as they go on."""

import time
from typing import Annotated

from cyclopts import Parameter, validators

from echo_core.cli.output import is_terminal
from echo_core.cli.session import SessionArgument
from echo_core.cli.usage import UsageError
from echo_core.cli.view import live_view, totals_line
from echo_core.control.client import HostClient, reach_host
from echo_core.control.documents import Status
from echo_core.runtime.statistics import HostSnapshot

Interval = Annotated[
    float, Parameter(help="Seconds between two looks.", show_default=True, validator=validators.Number(gt=0))
]
Count = Annotated[int | None, Parameter(help="End after so many looks.", validator=validators.Number(gte=1))]


def top(*, interval: Interval = 1.0, count: Count = None, session: SessionArgument) -> None:
    """Watch the running host and its plugins.

    A table on a terminal, a line for each look elsewhere; Ctrl-C ends it, and the host runs on.
    For example: echo-core top --interval 5
    """
    if session.out.json:
        raise UsageError("top is for people", fix="echo-core status --json")
    host = reach_host(session.workspace())
    try:
        _watch(host, interval, count, session)
    except KeyboardInterrupt:
        return


def _watch(host: HostClient, interval: float, count: int | None, session: SessionArgument) -> None:
    before = _look(host)
    looks = 0
    if not is_terminal(session.out.stdout):
        while count is None or looks < count:
            time.sleep(interval)
            after = _look(host)
            print(totals_line(before, after), file=session.out.stdout, flush=True)
            before, looks = after, looks + 1
        return
    from rich.live import Live

    with Live(console=session.out.console(session.out.stdout), auto_refresh=False) as live:
        while count is None or looks < count:
            time.sleep(interval)
            after = _look(host)
            live.update(live_view(before, after, hint="Ctrl-C ends this view"), refresh=True)
            before, looks = after, looks + 1


def _look(host: HostClient) -> HostSnapshot:
    now = host.get("/v1/status", Status)
    return HostSnapshot(uptime_s=now.uptime_s, plugins=now.plugins)
