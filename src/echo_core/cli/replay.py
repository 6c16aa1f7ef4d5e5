"""`echo-core replay`: a message of the history, sent again."""

from contextlib import closing
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter

from echo_core.cli.arguments import plugin_names
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import Session, SessionArgument
from echo_core.cli.trace import MessageId
from echo_core.control.client import running_host
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.replay import Replayed, Resent, send_alone, what_to_send
from echo_core.runtime.settings import load_settings

From = Annotated[
    str,
    Parameter(
        name="--from",
        help="Only what this plugin had of the message and of all made from it, and only to this plugin.",
        completer=plugin_names,
    ),
]
DryRun = Annotated[bool, Parameter(help="Only show what would be sent.")]


def replay(
    message_id: MessageId, /, *, from_: From = "", dry_run: DryRun = False, session: SessionArgument
) -> None:
    """Send a message again.

    As a new message made from the old one, in a new trace that links to the old: to all who subscribe to its
    topic, or with --from to one plugin of its path. It must have been kept whole: [history] payloads.
    For example: echo-core replay 019abf00-6c3a-7a11-8f0e-5d1c2b3a4f50 --from webvtt_sink
    """
    replayed = _replay(message_id, from_, session, dry_run=dry_run)
    text = "\n".join(_line(each) for each in replayed.messages)
    session.out.result("replay", to_builtins(replayed), text)


def _replay(message_id: str, plugin: str, session: Session, *, dry_run: bool) -> Replayed:
    """By the host if one runs: it knows what it has not written yet, and holds the transport."""
    workspace = session.workspace()
    host = running_host(workspace)
    if host is not None:
        path = f"/v1/messages/{quote(message_id, safe='')}/replay"
        return host.post(path, Replayed, {"plugin": plugin, "dry_run": dry_run})
    settings = load_settings(workspace)
    with closing(History(history_path(settings, workspace))) as history:
        messages = what_to_send(history, message_id, plugin)
    if dry_run:
        return Replayed(dry_run=True, messages=tuple(each.told(sent=False) for each in messages))
    return send_alone(messages, settings, workspace)


def _line(message: Resent) -> str:
    to = message.plugin or f"all who subscribe to {printable(message.topic)}"
    if not message.sent_as:
        return f"{message.id} would be sent to {to}"
    return f"{message.id} was sent to {to}, as {message.sent_as}"
