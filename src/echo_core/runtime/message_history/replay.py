"""Kept messages are sent again: each as a new one made from the old, in a new trace that links to the old.

A dead letter comes back under its own id, because it had never been handled. What is replayed from the
history mostly had been, and is to be handled once more: a sink that knows ids would do nothing for the old.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from echo_core.errors import EchoCoreError, NoHost, NotFound
from echo_core.message import REPLAYED, BaseMessage, decode
from echo_core.runtime.dead_letters import replays_of
from echo_core.runtime.message_history.documents import MessagePath, Step
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import Settings
from echo_core.topics import TopicSet
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for
from echo_core.workspace import Workspace

MOST: Final = 100
"""Messages that one replay sends."""


class NotReplayable(EchoCoreError):
    """The message was not kept, or not as it was."""

    code = "E-REPLAY"


class Resent(msgspec.Struct, frozen=True, kw_only=True):
    """One message that is, or was, sent again."""

    id: str
    """The old one's."""
    topic: str
    plugin: str
    """The one that it is for; empty: for all who subscribe to the topic."""
    sent_as: str
    """The new one's id; empty: it was not sent."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay sent, or would send."""

    dry_run: bool
    messages: tuple[Resent, ...]


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """A message about to be sent again."""

    old: str
    topic: str
    plugin: str
    message: BaseMessage

    def told(self, *, sent: bool) -> Resent:
        """The same, for people and scripts."""
        return Resent(
            id=self.old, topic=self.topic, plugin=self.plugin, sent_as=self.message.id if sent else ""
        )


def what_to_send(history: History, asked: str, plugin: str = "") -> list[Again]:
    """The message that is asked for; or with `plugin` those that this one had of it and of all made from it.

    Raises `NotFound`, `AmbiguousId`, `NotReplayable` when one of them was not kept as it was.
    """
    path = history.trace(asked)
    first = path.messages[0].id if path.kind == "trace" else path.asked
    by_id = {step.id: step for step in path.messages}
    if not plugin:
        return [_again(history, by_id[first], "")]
    wanted = {first}
    for step in path.messages:  # parents come first
        if wanted & set(step.parents) and not step.is_replay:  # what was made of replays was made before
            wanted.add(step.id)
    found = [step for step in path.messages if step.id in wanted and _was_for(step, plugin)]
    if not found:
        raise _not_for(path, wanted, plugin)
    if len(found) > MOST:
        raise NotReplayable(
            f"{len(found):,} messages were for {plugin}",
            why=f"a replay sends {MOST} at most",
            fix="replay one of them: echo-core trace shows their ids",
        )
    return [_again(history, step, plugin) for step in found]


def _was_for(step: Step, plugin: str) -> bool:
    return any(visit.plugin == plugin for visit in step.visits)


def _not_for(path: MessagePath, wanted: set[str], plugin: str) -> NotFound:
    plugins = {visit.plugin for step in path.messages if step.id in wanted for visit in step.visits}
    return NotFound(
        f"no message of this path was for {plugin!r}",
        where=path.asked,
        why=f"they were for {', '.join(sorted(plugins)) or 'nobody'}",
        fix="name one of these with --from",
    )


def _again(history: History, step: Step, plugin: str) -> Again:
    kept = history.kept(step.id)
    if kept is None:
        raise NotReplayable(
            f"message {step.id} was not kept",
            where=f"topic {step.topic!r}" if step.topic else "",
            why="its payload was not recorded, was too large, or was pruned",
            fix='set payloads = "all", "sample" or "failures" under [history] of echo-core.toml, for the '
            "messages from then on; a dead letter is kept whole anyway: echo-core dlq replay",
        )
    if kept.masked:
        raise NotReplayable(
            f"message {step.id} was not kept as it was",
            why=f"masked are {', '.join(kept.masked)}",
            fix="take these out of `mask` under [history] of echo-core.toml, for messages from then on; "
            "a dead letter is kept as it was: echo-core dlq replay",
        )
    old = decode(kept.message)
    new = old.derive(old.data, source=old.source, version=old.version, schema=old.schema)
    marked = {**old.trace_context, REPLAYED: str(replays_of(old) + 1)}
    return Again(
        old=old.id,
        topic=step.topic,
        plugin=plugin,
        message=msgspec.structs.replace(new, trace_context=marked),
    )


async def send(messages: Sequence[Again], transport: Transport, recorder: Recorder | None) -> Replayed:
    """Send them, and record that; raises `TransportError` when one is not accepted: those before it were."""
    for each in messages:
        if each.plugin:
            await transport.redeliver(each.plugin, each.topic, each.message)
        else:
            await transport.publish(each.topic, each.message)
        if recorder is not None:
            only = each.plugin if transport.capabilities.redelivers_to_one else ""
            new = each.message
            by = recorder.of(new.source, new.version)
            by.accepted(each.topic, new, new.root_id, new.parent_ids, only, is_replay=True)
    return Replayed(dry_run=False, messages=tuple(each.told(sent=True) for each in messages))


def send_alone(messages: Sequence[Again], settings: Settings, workspace: Workspace) -> Replayed:
    """`send` in a process that is no host; raises `NoHost` where messages wait in hosts alone."""
    transport = transport_for(settings.host.transport, workspace.root, settings.host.local)
    stays = TopicSet(settings.host.local if transport.capabilities.durable else ("#",))
    if any(each.topic in stays for each in messages):
        raise NoHost(
            "no host runs here",
            where=str(workspace.root),
            why="messages on this topic wait in a host, and nowhere else",
            fix="echo-core run",
        )
    recorder = None
    if settings.history.enabled:
        recorder = Recorder(history_path(settings, workspace), settings.history, stays=settings.host.local)
        recorder.start()
    try:
        return asyncio.run(_send_over(messages, transport, recorder))
    finally:
        if recorder is not None:
            recorder.close()


async def _send_over(messages: Sequence[Again], transport: Transport, recorder: Recorder | None) -> Replayed:
    async with transport:
        return await send(messages, transport, recorder)
