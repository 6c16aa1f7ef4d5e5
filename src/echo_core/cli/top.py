"""`echo-core top`: a running host and its plugins, as they go on."""

import itertools
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter, validators

from echo_core.cli.output import Output, is_terminal, printable
from echo_core.cli.session import SessionArgument
from echo_core.cli.status import kept_line, trial_line
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

    A table on a terminal, a line for each look elsewhere, an object with --json, as `status` has it; Ctrl-C
    ends it, and the host runs on.
    For example: echo-core top --interval 5
    """
    looks = _looks(reach_host(session.workspace()), interval, count)
    try:
        _show(looks, session.out)
    except KeyboardInterrupt:
        return


def _looks(host: HostClient, interval: float, count: int | None) -> Iterator[tuple[Status, Status]]:
    """The host at each look, with the look before."""
    before = _look(host)
    for _ in itertools.count() if count is None else range(count):
        time.sleep(interval)
        after = _look(host)
        yield before, after
        before = after


def _show(looks: Iterator[tuple[Status, Status]], out: Output) -> None:
    if out.json:
        for _, after in looks:
            out.result("top", after, "")
            out.stdout.flush()
        return
    if not is_terminal(out.stdout):
        for before, after in looks:
            line = totals_line(_numbers(before), _numbers(after))
            print("; ".join((line, *_notes(after))), file=out.stdout, flush=True)
        return
    from rich.live import Live

    hint = "Ctrl-C ends this view"
    with Live(console=out.console(out.stdout), auto_refresh=False) as live:
        for before, after in looks:
            view = live_view(_numbers(before), _numbers(after), hint=hint, notes=_notes(after))
            live.update(view, refresh=True)


def _look(host: HostClient) -> Status:
    return host.get("/v1/status", Status)


def _numbers(now: Status) -> HostSnapshot:
    return HostSnapshot(uptime_s=now.uptime_s, plugins=now.plugins)


def _notes(now: Status) -> list[str]:
    """What no plugin's row says."""
    trouble = f"the transport does not work: {printable(now.trouble)}" if now.trouble else ""
    refused = [
        f"{name} is not as it is enabled: {printable(why.message)}" for name, why in now.refused.items()
    ]
    trials = map(trial_line, now.upgrades)
    return [note for note in (trouble, *refused, *trials, kept_line(now.dead_letters)) if note]
