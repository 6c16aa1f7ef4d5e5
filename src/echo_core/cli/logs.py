"""`echo-core logs`: what plugins and host logged lately."""

import time
from datetime import datetime
from typing import Annotated, Final
from urllib.parse import urlencode

from cyclopts import Parameter, validators

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import print_json, printable, to_builtins
from echo_core.cli.session import Session, SessionArgument
from echo_core.control.client import reach_host
from echo_core.control.documents import LogLine, Logs, Moves
from echo_core.runtime.statistics import PluginSnapshot

Name = Annotated[str | None, Parameter(help="Only what concerns this plugin.", completer=plugin_names)]
Lines = Annotated[
    int,
    Parameter(
        help="At most so many, the newest.", show_default=True, validator=validators.Number(gte=1, lte=1_000)
    ),
]
Follow = Annotated[bool, Parameter(alias="-f", help="Go on with what comes, until Ctrl-C.")]
_LOOK_S: Final = 0.5


def logs(
    name: Name = None, /, *, lines: Lines = 100, follow: Follow = False, session: SessionArgument
) -> None:
    """Show what plugins and host logged lately.

    From level INFO up; the host keeps the newest 2,000 records in memory. With --follow and --json, an
    object for each record. For example: echo-core logs loud_words --follow
    """
    host = reach_host(session.workspace())
    asked = {"limit": lines} | ({"plugin": name} if name else {})
    found = host.get(f"/v1/logs?{urlencode(asked)}", Logs).lines
    if name and not found and not host.get(f"/v1/plugins/{name}/history", Moves).moves:
        host.get(f"/v1/plugins/{name}", PluginSnapshot)  # says that there is none, and which may be meant
    if not follow:
        text = "\n".join(map(_text, found)) or "nothing was logged"
        session.out.result("logs", {"lines": found}, text)
        return
    try:
        last = 0
        while True:
            for line in found:
                _print(line, session)
                last = line.number
            time.sleep(_LOOK_S)
            found = host.get(f"/v1/logs?{urlencode(asked | {'after': last, 'limit': 1_000})}", Logs).lines
    except KeyboardInterrupt:
        return


def _print(line: LogLine, session: Session) -> None:
    if session.out.json:
        print_json(to_builtins(line), session.out.stdout)
    else:
        print(_text(line), file=session.out.stdout, flush=True)


def _text(line: LogLine) -> str:
    when = datetime.fromtimestamp(line.time_ns / 1e9).astimezone().strftime("%H:%M:%S")
    who = f"{line.plugin} {line.version}" if line.plugin else line.logger
    about = f" ({line.message_id})" if line.message_id else ""
    return f"{when} {line.level} {who}: {printable(line.text)}{about}"
