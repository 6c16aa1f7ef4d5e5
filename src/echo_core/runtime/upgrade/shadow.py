"""Copies for a version that only watches, and whether it would have said the same."""

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from echo_core.message import BaseMessage
from echo_core.runtime.context import Accept, AcceptBatch, HostContext
from echo_core.runtime.dead_letters import DeadLetter
from echo_core.runtime.lane import Receive
from echo_core.runtime.lanes import Inbox
from echo_core.runtime.message_history.recorder import PluginRecorder
from echo_core.runtime.raised import brief
from echo_core.runtime.upgrade.status import Comparison, Difference
from echo_core.transports.base import Delivery

_WAITING: Final = 1_000
"""Copies that may wait; when the new version is slower than that, messages are not compared, and counted."""
_SHOWN: Final = 100


class _Pair:
    """What the two said of one message."""

    __slots__ = ("ended", "failure", "outputs", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.outputs: tuple[list[tuple[str, Any]], list[tuple[str, Any]]] = ([], [])
        self.ended = [False, False]
        self.failure = ""
        """Why the new one failed at it for good; empty if it did not."""


class Shadow:
    """Between a queue and the version that serves: lets all pass, and copies it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._copies = Inbox(self)
        self._waiting = 0
        self._pairs: dict[str, _Pair] = {}
        self._same = 0
        self._different = 0
        self._not_compared = 0
        self._differences: deque[Difference] = deque(maxlen=_SHOWN)
        self._undo: list[tuple[HostContext, tuple[Accept, AcceptBatch]]] = []
        self._history: PluginRecorder | None = None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        """For the version that serves. As `Subscription.receive`."""
        taken = await self._receive(limit)
        return [self._watched(delivery) for delivery in taken]

    async def copies(self, limit: int) -> Sequence[Delivery]:
        """For the version that watches. As `Subscription.receive`."""
        return await self._copies.receive(limit)

    def taken(self, count: int) -> None:
        """So many copies are taken."""
        self._waiting -= count

    def _watched(self, delivery: Delivery) -> Delivery:
        if isinstance(delivery, _Watched):  # it rested meanwhile
            return delivery
        message = delivery.message
        if self._waiting >= _WAITING:
            self._not_compared += 1
            return _Watched(self, delivery)  # the same kind for all: they may be settled together
        self._pairs[message.id] = _Pair(delivery.topic)
        self._waiting += 1
        self._copies.put(_Copy(self, delivery.topic, message))
        return _Watched(self, delivery)

    def watch(self, old: HostContext, new: HostContext) -> None:
        """Note what both publish; what the new one publishes goes nowhere."""
        for side, context in enumerate((old, new)):
            before = context.use_door(*self._door(side, context))
            self._undo.append((context, before))
        self._history, new.history = new.history, None

    def _door(self, side: int, context: HostContext) -> tuple[Accept, AcceptBatch]:
        accept, accept_batch = context.door

        async def publish(topic: str, message: BaseMessage) -> None:
            self._said(side, topic, message)
            if not side:
                await accept(topic, message)

        async def publish_batch(topic: str, messages: Sequence[BaseMessage]) -> None:
            for message in messages:
                self._said(side, topic, message)
            if not side:
                await accept_batch(topic, messages)

        return publish, publish_batch

    def end(self, resting: deque[Delivery]) -> None:
        """Let both publish as before; what rests in the serving version is plain deliveries again."""
        for context, before in self._undo:
            context.use_door(*before)
        if self._undo:
            self._undo[1][0].history = self._history
        self._undo.clear()
        plain = [each.real if isinstance(each, _Watched) else each for each in resting]
        resting.clear()
        resting.extend(plain)

    def _said(self, side: int, topic: str, message: BaseMessage) -> None:
        pair = next((self._pairs[parent] for parent in message.parent_ids if parent in self._pairs), None)
        if pair is None:
            self._not_compared += side
        else:
            pair.outputs[side].append((topic, message.data))

    def failed(self, letter: DeadLetter) -> None:
        """The new version failed at a copy for good. Called before the copy is settled, in a thread."""
        pair = self._pairs.get(letter.message_id)
        if pair is not None:
            pair.failure = brief(letter.reason)

    def ended(self, side: int, message_id: str) -> None:
        """One of the two is done with the message."""
        pair = self._pairs.get(message_id)
        if pair is None:
            return
        pair.ended[side] = True
        if all(pair.ended):
            del self._pairs[message_id]
            self._compare(message_id, pair)

    def _compare(self, message_id: str, pair: _Pair) -> None:
        old, new = pair.outputs
        if old == new:
            self._same += 1
            return
        self._different += 1
        self._differences.append(
            Difference(
                message_id=message_id,
                topic=pair.topic,
                old=tuple(old),
                new=tuple(new),
                new_failed=pair.failure,
            )
        )

    def comparison(self) -> Comparison:
        """What came of it so far."""
        return Comparison(
            same=self._same,
            different=self._different,
            not_compared=self._not_compared,
            differences=tuple(self._differences),
        )


class _Copy(Delivery, msgspec.Struct, eq=False):
    """Handled for nothing but the comparison."""

    _shadow: Shadow
    topic: str
    message: BaseMessage
    attempt: int = 1

    async def settle(self) -> None:
        self._shadow.ended(1, self.message.id)

    async def retry(self, delay: float = 0.0) -> None:
        """It came to nothing."""


class _Watched(Delivery):
    """The real one."""

    __slots__ = ("_shadow", "attempt", "message", "real", "topic")

    def __init__(self, shadow: Shadow, delivery: Delivery) -> None:
        self.topic = delivery.topic
        self.message = delivery.message
        self.attempt = delivery.attempt
        self._shadow = shadow
        self.real = delivery

    async def settle(self) -> None:
        await self.real.settle()
        self._shadow.ended(0, self.message.id)

    async def retry(self, delay: float = 0.0) -> None:
        await self.real.retry(delay)
