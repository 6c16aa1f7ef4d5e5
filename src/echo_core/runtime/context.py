"""The `PluginContext` that the host hands to a plugin."""

import asyncio
import contextvars
import functools
import logging
import time
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

from common_telemetry import Attributes, Outgoing, PluginTelemetry, TelemetryContext
from echo_core.errors import PluginError, PublishRefused, StateError, StoreError, TransportError
from echo_core.manifest import Manifest
from echo_core.message import (
    REPEATABLE,
    REPLAYED,
    BaseMessage,
    Receipt,
    derived_receipts,
    merged_receipts,
    new_id,
    parent_ids,
)
from echo_core.runtime.made import Made
from echo_core.runtime.message_history.recorder import PluginRecorder
from echo_core.runtime.statistics import Statistics
from echo_core.runtime.threads import Threads
from echo_core.topics import TopicSet, check_topic
from echo_core.transports.base import DONE, Transport
from echo_core.transports.turn import Turn

if TYPE_CHECKING:
    from opentelemetry.trace import Span

P = ParamSpec("P")
R = TypeVar("R")

Accept: TypeAlias = Callable[[str, BaseMessage], Awaitable[None]]
AcceptBatch: TypeAlias = Callable[[str, Sequence[BaseMessage]], Awaitable[None]]
_REMEMBERED: Final = 10_000
AT_ONCE: Final = 1_024
"""Messages that `publish_batch` makes and publishes before it lets others have a turn.

With a tenth of a batch of a thousand at a time the next plugin would get tenths as well: a sixth more CPU
time a message. A thousand, traced, take some 7 ms, so a timer of 10 ms still comes within 20.
"""


class BatchInHand:
    """Several messages that are being handled together; what is published meanwhile is made from all."""

    __slots__ = ("_messages", "_receipts", "at")

    trace_context: Final[Mapping[str, str]] = {}
    """Of none of them: what is marked as replayed is handled alone."""

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        self._messages = messages
        self._receipts: tuple[Receipt, ...] = ()
        self.at: BaseMessage | None = None
        """The one that is being handled just now, where they are handled one by one."""

    @property
    def id(self) -> str:
        """Of the one that is being handled just now; empty while that is all of them."""
        return "" if self.at is None else self.at.id

    def receipts_for_derived(self) -> tuple[Receipt, ...]:
        """As of a message; made once, if at all."""
        if self.at is not None:
            return self.at.receipts_for_derived()
        self._receipts = self._receipts or merged_receipts(self._messages)
        return self._receipts


message_in_hand: Final[ContextVar[BaseMessage | BatchInHand | None]] = ContextVar(
    "message_in_hand", default=None
)
"""What is being handled here; what is published meanwhile is made from it."""
_in_hand: Final = message_in_hand.get


class Gate:
    """Where publications wait, until it is opened."""

    def __init__(self, accept: Accept, accept_batch: AcceptBatch) -> None:
        self._accept = accept
        self._accept_batch = accept_batch
        self._opened = asyncio.Event()

    async def publish(self, topic: str, message: BaseMessage) -> None:
        """As `Transport.publish`, once it is open."""
        await self._opened.wait()
        await self._accept(topic, message)

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """As `Transport.publish_batch`, once it is open."""
        await self._opened.wait()
        await self._accept_batch(topic, messages)

    def open(self) -> tuple[Accept, AcceptBatch]:
        """Let those that wait pass; where all others may go without coming here."""
        self._opened.set()
        return self._accept, self._accept_batch


class HostContext:
    """One plugin's door to messages, configuration and telemetry. Satisfies `PluginContext`."""

    def __init__(
        self,
        manifest: Manifest,
        config: Mapping[str, Any],
        transport: Transport,
        plugin_telemetry: PluginTelemetry,
        *,
        telemetry: TelemetryContext | None = None,
        statistics: Statistics | None = None,
        threads: Threads | None = None,
        history: PluginRecorder | None = None,
    ) -> None:
        self.plugin_name = manifest.name
        self.plugin_version = manifest.version
        self.config = config
        self.subscriptions = manifest.subscriptions
        self.publications = manifest.publications
        self.transport = transport
        self.telemetry = telemetry
        self.statistics = statistics or Statistics()
        self._accept: Accept = transport.publish
        self._accept_batch: AcceptBatch = transport.publish_batch
        self._gate: Gate | None = None
        self.publishing = 0
        """Publications that wait to be accepted; the time they take is not the handler's."""
        self.plugin_telemetry = plugin_telemetry
        self._messages = plugin_telemetry.messages
        self._allowed = TopicSet(manifest.publications)
        self._allowed_topics: set[str] = set()
        self._threads = threads
        self.history = history
        """Records what becomes of messages; None: nobody does."""
        self._is_watched = history is not None or self._messages.recording
        self.made = Made(manifest.name)

    @property
    def state(self) -> MutableMapping[str, Any]:
        """See `PluginContext.state`."""
        raise StateError(
            f"{self.plugin_name} has no state",
            why="only a source has one: everything else is given its messages again",
            fix="subclass echo_core.Source; or keep what you need in a file or database of your own",
        )

    def position(self) -> bytes | None:
        """What `state` says now, encoded; None where it is not used."""
        return None

    def restore(self, state: bytes) -> None:
        """Go on from a state; without effect where there is none."""

    async def close(self) -> None:
        """Nothing more comes through here."""

    @property
    def door(self) -> tuple[Accept, AcceptBatch]:
        """Where publications go, one and many."""
        return self._accept, self._accept_batch

    def use_door(self, accept: Accept, accept_batch: AcceptBatch) -> tuple[Accept, AcceptBatch]:
        """Let publications go there from now on; returns where they went before."""
        before = self.door
        self._accept, self._accept_batch = accept, accept_batch
        return before

    def hold(self) -> None:
        """Let publications wait until `release`."""
        if self._gate is None:
            self._gate = Gate(self._accept, self._accept_batch)
            self._accept = self._gate.publish
            self._accept_batch = self._gate.publish_batch

    def release(self) -> None:
        """Let those that wait go on, and all later ones pass."""
        if self._gate is not None:
            self._accept, self._accept_batch = self._gate.open()
            self._gate = None

    def publish(self, topic: str, data: Any) -> Coroutine[Any, Any, BaseMessage]:
        """See `PluginContext.publish`. What it refuses is raised by the call, the rest by awaiting it."""
        if topic not in self._allowed_topics:
            self._check(topic)
        parent = _in_hand()
        if type(data) is not dict and isinstance(data, BaseMessage):  # the first is a tenth of the second
            return self._publish_message(topic, data, parent)
        if parent is None:
            return self._send(topic, self._first_id(topic, data), data, "", ())
        # `is_repeatable`, without a call.
        repeats = parent.id.startswith(REPEATABLE, 15) or REPLAYED in parent.trace_context
        message_id = self.made.id(_origin(parent), topic, data) if repeats else new_id()
        return self._send(topic, message_id, data, "", parent.receipts_for_derived())

    def _first_id(self, topic: str, data: Any) -> str:
        """The id of a message that is made from no other."""
        return new_id()

    def _publish_message(
        self, topic: str, draft: BaseMessage, parent: BaseMessage | BatchInHand | None
    ) -> Coroutine[Any, Any, BaseMessage]:
        """A message that was published before goes on as a new one made from it; a draft keeps its id."""
        if draft.trace_context or draft is parent:
            message_id = self.made.id(draft, topic, draft.data)
            return self._send(topic, message_id, draft.data, draft.schema, draft.receipts_for_derived())
        receipts = draft.receipts or (parent.receipts_for_derived() if parent is not None else ())
        return self._send(topic, draft.id, draft.data, draft.schema, receipts)

    async def _send(
        self, topic: str, message_id: str, data: Any, schema: str, receipts: tuple[Receipt, ...]
    ) -> BaseMessage:
        root_id = receipts[0].message_id if receipts else message_id
        parents = parent_ids(receipts) if self._is_watched else ()
        # Not current: what a transport does in the call is its own affair, until somebody awaits it.
        with self._messages.publish(topic, message_id, root_id, parents, False) as scope:
            message = BaseMessage(
                id=message_id,
                source=self.plugin_name,
                version=self.plugin_version,
                data=data,
                schema=schema,
                trace_context=scope.carrier(),
                receipts=receipts,
            )
            try:
                accept = self._accept
                accepting = accept(topic, message)
                if accepting is not DONE:
                    scope.make_current()
                    with self.elsewhere():
                        await accepting
            except StoreError as error:
                await self._refused(error, topic, [message])
        self.statistics.published += 1
        if self.history is not None:
            self.history.accepted(topic, message, root_id, parents)
        return message

    async def _refused(self, error: StoreError, topic: str, messages: Sequence[BaseMessage]) -> None:
        """A store has not taken these, but for the first `error.accepted`: return once it has, or raise."""
        raise error

    async def publish_batch(
        self, topic: str, data: Sequence[Any], *, made_from: Sequence[BaseMessage] | None = None
    ) -> list[BaseMessage]:
        """See `PluginContext.publish_batch`."""
        if topic not in self._allowed_topics:
            self._check(topic)
        lineages = self._lineages(data, made_from)
        if len(data) <= AT_ONCE:
            return await self._publish_some(topic, data, lineages, made_from)
        messages: list[BaseMessage] = []
        for at in range(0, len(data), AT_ONCE):
            part = slice(at, at + AT_ONCE)
            origins = made_from[part] if made_from is not None else None
            messages += await self._publish_some(topic, data[part], lineages[part], origins)
            await Turn.of_running_loop().give_if_over()
        return messages

    async def _publish_some(
        self,
        topic: str,
        data: Sequence[Any],
        lineages: Sequence[tuple[Receipt, ...]],
        made_from: Sequence[BaseMessage] | None,
    ) -> list[BaseMessage]:
        in_hand = _origin(message_in_hand.get())
        ids = self.made.ids(made_from if made_from is not None else [in_hand] * len(data), topic, data)
        return await self._send_batch(topic, ids, data, lineages, made_from)

    async def _send_batch(
        self,
        topic: str,
        ids: Sequence[str],
        data: Sequence[Any],
        lineages: Sequence[tuple[Receipt, ...]],
        made_from: Sequence[BaseMessage] | None,
    ) -> list[BaseMessage]:
        outgoing = _outgoing(ids, lineages, made_from) if self._messages.recording else ()
        with self._messages.publish_batch(topic, outgoing) as scope:
            source, version, timestamp = self.plugin_name, self.plugin_version, time.time_ns()
            messages = [
                BaseMessage(
                    id=message_id,
                    timestamp=timestamp,
                    source=source,
                    version=version,
                    data=item,
                    trace_context=carrier,
                    receipts=receipts,
                )
                for message_id, item, receipts, carrier in zip(
                    ids, data, lineages, scope.carriers(), strict=False
                )
            ]
            try:
                try:
                    with self.elsewhere():
                        await self._accept_batch(topic, messages)
                except StoreError as error:
                    await self._refused(error, topic, messages)
            except TransportError as error:
                if error.accepted:
                    self._count_batch(topic, messages[: error.accepted])
                raise
        self._count_batch(topic, messages)
        return messages

    def _count_batch(self, topic: str, accepted: Sequence[BaseMessage]) -> None:
        self.statistics.published += len(accepted)
        if self.history is not None:
            self.history.accepted_batch(topic, accepted)

    def _lineages(
        self, data: Sequence[Any], made_from: Sequence[BaseMessage] | None
    ) -> Sequence[tuple[Receipt, ...]]:
        """The receipts of each."""
        if BaseMessage in map(type, data):
            raise PluginError(
                f"{self.plugin_name} gave publish_batch a message",
                fix="give data, or publish it by `publish`",
            )
        if made_from is None:
            parent = message_in_hand.get()
            return [parent.receipts_for_derived() if parent is not None else ()] * len(data)
        if len(made_from) != len(data):
            raise PluginError(
                f"{self.plugin_name} publishes {len(data)}, made from {len(made_from)} messages",
                fix="name in made_from, for each, the message that it was made from",
            )
        return derived_receipts(made_from)

    def _check(self, topic: str) -> None:
        """Let the topic pass from now on, if it may; a bounded number of them is remembered."""
        check_topic(topic)
        if topic not in self._allowed:
            self.statistics.refused += 1
            raise PublishRefused(
                f"{self.plugin_name} may not publish to {topic!r}",
                where=f"{self.plugin_name} {self.plugin_version}",
                why=f"its publications are {', '.join(self.publications) or 'none'}",
                fix=f'add {topic!r} to "publications" in its manifest.json, and build it again',
            )
        if len(self._allowed_topics) >= _REMEMBERED:
            self._allowed_topics.clear()
        self._allowed_topics.add(topic)

    def check_output(self, topic: str, message: BaseMessage) -> None:
        """Raise `PublishRefused` for what a process of the plugin may not publish in its name."""
        if topic not in self._allowed_topics:
            self._check(topic)
        if message.source != self.plugin_name:
            raise PublishRefused(
                f"{self.plugin_name} may not publish a message of {message.source!r}",
                where=f"{self.plugin_name} {self.plugin_version}",
                why="the source of a message is the plugin that publishes it",
                fix="publish through the plugin's context",
            )

    async def accept(self, topic: str, message: BaseMessage) -> None:
        """Publish a message that was made, and reported, in a process of the plugin's own."""
        if topic not in self._allowed_topics or message.source != self.plugin_name:
            self.check_output(topic, message)
        try:
            with self.elsewhere():
                await self._accept(topic, message)
        except StoreError as error:
            await self._refused(error, topic, [message])
        self.statistics.published += 1
        if self.history is not None:
            self.history.accepted(topic, message, message.root_id, message.parent_ids)

    async def accept_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """`accept` for many, each of which `check_output` has let pass."""
        with self.elsewhere():
            await self._accept_batch(topic, messages)
        self._count_batch(topic, messages)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """The time that the block takes is not the handler's."""
        self.publishing += 1
        try:
            yield
        finally:
            self.publishing -= 1

    def one_by_one(self, messages: Iterable[BaseMessage]) -> Iterator[BaseMessage]:
        """See `PluginContext.one_by_one`."""
        in_hand = message_in_hand.get()
        if not isinstance(in_hand, BatchInHand):
            yield from messages
            return
        try:
            for message in messages:
                in_hand.at = message
                yield message
        finally:
            in_hand.at = None

    async def run_blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """See `PluginContext.run_blocking`."""
        call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
        if self._threads is None:
            return await asyncio.get_running_loop().run_in_executor(None, call)
        with self.elsewhere():
            await self._threads.take()
        return await self._threads.run(call)

    def logger(self) -> logging.Logger:
        """See `PluginContext.logger`."""
        return self.plugin_telemetry.logger()

    def create_span(self, name: str, attributes: Attributes | None = None) -> "AbstractContextManager[Span]":
        """See `PluginContext.create_span`."""
        return self.plugin_telemetry.create_span(name, attributes)

    def record_counter(self, name: str, value: float = 1, attributes: Attributes | None = None) -> None:
        """See `PluginContext.record_counter`."""
        self.plugin_telemetry.record_counter(name, value, attributes)

    def record_gauge(self, name: str, value: float, attributes: Attributes | None = None) -> None:
        """See `PluginContext.record_gauge`."""
        self.plugin_telemetry.record_gauge(name, value, attributes)

    def record_histogram(self, name: str, value: float, attributes: Attributes | None = None) -> None:
        """See `PluginContext.record_histogram`."""
        self.plugin_telemetry.record_histogram(name, value, attributes)


def _origin(parent: BaseMessage | BatchInHand | None) -> BaseMessage | None:
    """The one message that something is made from; None where it is made from none, or from several."""
    return parent.at if isinstance(parent, BatchInHand) else parent


def _outgoing(
    ids: Sequence[str],
    lineages: Sequence[tuple[Receipt, ...]],
    made_from: Sequence[BaseMessage] | None,
) -> list[Outgoing]:
    """The messages about to be published, as telemetry sees them."""
    origins: Sequence[BaseMessage | None] = made_from or [None] * len(ids)
    return [
        Outgoing(message_id, receipts[0].message_id if receipts else message_id, parent_ids(receipts), origin)
        for message_id, receipts, origin in zip(ids, lineages, origins, strict=True)
    ]
