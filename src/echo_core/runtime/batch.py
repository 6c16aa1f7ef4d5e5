"""Handing a plugin many messages at a time.

A batch is one call, one span and one settlement, so that what a message costs is little more than what the
plugin does with it. Whatever fails in a batch is tried again alone, the way of every other message.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Final, TypeAlias

from common_telemetry import ProcessScope
from echo_core.errors import PluginError, TransportClosed
from echo_core.manifest import Manifest
from echo_core.message import REPLAYED, BaseMessage
from echo_core.plugin import Answer, Outcome, Plugin, ProcessingStatus
from echo_core.runtime.context import BatchInHand, HostContext, message_in_hand
from echo_core.runtime.dead_letters import Attempt
from echo_core.runtime.lane import (
    ACKNOWLEDGED,
    RECORDED,
    Failure,
    Lane,
    awaitable,
    ending_of,
    failure_in,
    failure_of,
    handler_of,
)
from echo_core.runtime.message_history.records import FAILED
from echo_core.runtime.raised import shown
from echo_core.runtime.slot import PluginSlot
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery

_NUMBERS: Final = itertools.count(1)
"""Of batches that fail as a whole."""
_ENDS: Final = (Outcome.ACKNOWLEDGED, Outcome.FORWARD, Outcome.FILTERED)
BatchHandler: TypeAlias = Callable[[Sequence[str], Sequence[BaseMessage]], Awaitable[Sequence[Answer]]]


class BatchLane(Lane):
    """A lane that takes up to `delivery.batch_size` messages at a time.

    A message that was delivered before is handled alone: it may be what ended the host the last time. So is
    one that is replayed: it may be there twice, and has a trace of its own.
    """

    def __init__(self, slot: PluginSlot, context: HostContext, *args: Any, **kwargs: Any) -> None:
        super().__init__(slot, context, *args, **kwargs)
        self._size = self._batch
        self._wait_s = self._delivery.batch_wait_ms / 1_000
        self._process_batch = batch_handler_of(slot.plugin, slot.manifest, context)

    async def _work(self) -> None:
        taken, turn, is_dead = self._taken, self._turn, False
        self._in_hand = 0
        while not self._leaving:
            if not taken:
                taken.extend(await self._receive(self._size))
                if self._wait_s and len(taken) < self._size:
                    await self._wait_for_more()
            while taken:
                if is_dead:  # only with something to try: others wait for what becomes of a trial
                    await self._circuit.wait(self)
                is_dead = await self._handle_some()
                if self._abandoned:
                    return
                self._raise_if_cancelled()
                if self._ended > turn.ends:
                    await turn.give()

    def leave(self) -> list[Delivery]:
        self._leaving = True
        not_begun: list[Delivery] = []
        while len(self._taken) > self._in_hand:
            not_begun.append(self._taken.pop())
        if self._task is not None and (self._between_attempts or not self._in_hand):
            self._task.cancel()  # it waits for deliveries, for its turn, or for a next attempt
        return not_begun[::-1]

    async def _wait_for_more(self) -> None:
        """Return when the batch is full, or has waited for as long as it may."""
        taken, until = self._taken, self._clock.monotonic() + self._wait_s
        while len(taken) < self._size and (left := until - self._clock.monotonic()) > 0:
            more = asyncio.ensure_future(self._take_more(self._size - len(taken)))
            timer = asyncio.ensure_future(self._clock.sleep(left))
            try:
                await asyncio.wait((more, timer), return_when=asyncio.FIRST_COMPLETED)
            finally:
                timer.cancel()
                more.cancel()
                await asyncio.wait((more,))
            if more.cancelled() or not more.result():
                return

    async def _take_more(self, limit: int) -> bool:
        """In a task of its own, which may end when nobody waits for it: what it got is in the lane then."""
        try:
            self._taken.extend(await self._receive(limit))
        except TransportClosed:  # which the next `receive` tells again
            return False
        return True

    async def _handle_some(self) -> bool:
        """See what comes first to its end: all that is fresh, or one that is not.

        Returns whether the last was dead-lettered: then the circuit may be open, for what comes next.
        """
        taken = self._taken
        fresh = list(taken)
        if (
            self._tried
            or [delivery.attempt for delivery in fresh].count(1) < len(fresh)
            or True in [REPLAYED in delivery.message.trace_context for delivery in fresh]
        ):
            fresh = list(itertools.takewhile(self._is_fresh, fresh))
        self._in_hand = len(fresh) or 1
        if fresh:
            failed, scope = await self._handle_batch(fresh)
            if self._abandoned:
                return False
            if len(fresh) == len(taken):
                taken.clear()
            else:
                for _ in fresh:
                    taken.popleft()
            is_dead = await self._handle_failed(failed, scope)
        else:
            is_dead = await self._handle(alone=True)
            if self._abandoned:
                return False
        self._in_hand = 0
        return is_dead

    def _is_fresh(self, delivery: Delivery) -> bool:
        return (
            delivery.attempt == 1
            and id(delivery) not in self._tried
            and REPLAYED not in delivery.message.trace_context
        )

    async def _handle_failed(self, failed: Sequence[tuple[Delivery, Failure]], scope: ProcessScope) -> bool:
        """Try each of them again, alone and in order. Returns whether the last was dead-lettered."""
        taken = self._taken
        taken.extendleft(delivery for delivery, _ in reversed(failed))
        self._in_hand = len(failed)
        is_dead = False
        for delivery, failure in failed:
            self._failed_first(delivery.message, failure)
        for delivery, failure in failed:
            if is_dead:
                await self._wait_for_circuit()
            try:
                is_dead = await self._try_again(delivery, failure, scope)
            except asyncio.CancelledError:
                self._statistics.returned += self._in_hand - 1  # the others go back to the queue too
                raise
            if self._abandoned:
                return False
            self._in_hand -= 1
        return is_dead

    async def _try_again(self, delivery: Delivery, failure: Failure, scope: ProcessScope) -> bool:
        """See the first of those taken to its end, alone. Returns whether it was dead-lettered."""
        failures: list[Attempt] = []
        self._was_in_batch = bool(failure.batch)
        try:
            is_over = await self._recover(delivery, scope, failure, 1, failures)
        except asyncio.CancelledError:
            self._goes_back(delivery, 1, failures)
            raise
        if is_over:
            await self._settle(delivery.settle())
            self._settlements.ended(delivery.message, Ending.DEAD_LETTERED)
            if not self._abandoned:
                self._taken.popleft()
            return True
        return not self._abandoned and await self._handle(2, scope, failures, alone=True)

    async def _wait_for_circuit(self) -> None:
        try:
            self._raise_if_cancelled()
            await self._circuit.wait(self)
        except asyncio.CancelledError:
            self._statistics.returned += self._in_hand  # those that failed and wait go back to the queue
            raise

    async def _handle_batch(
        self, deliveries: Sequence[Delivery]
    ) -> tuple[list[tuple[Delivery, Failure]], ProcessScope]:
        """Hand them over, and settle those that ended. Returns the others and why, and the scope of it."""
        messages = [delivery.message for delivery in deliveries]
        topics = [delivery.topic for delivery in deliveries]
        count = len(messages)
        self._statistics.taken += count
        message_in_hand.set(BatchInHand(messages))
        scope = self._messages.batch(topic_of(topics, self._context.subscriptions), messages)
        answers: Sequence[Answer] = ()
        failure: Failure | None = None
        began = self._busy_since = monotonic()
        with scope:
            try:
                answers = await self._process_batch(topics, messages)
                if answers.__class__ is not list or answers.count(ACKNOWLEDGED) != count:
                    check_answers(answers, count)
                    await forward(self._context, answers, messages)
            except asyncio.CancelledError as error:
                try:
                    failure = replace(self._judge_cancellation(error, scope), batch=next(_NUMBERS))
                except asyncio.CancelledError:
                    self._statistics.returned += count  # they go back to the queue
                    raise
            except BaseException as error:  # noqa: BLE001  (plugin code may raise anything)
                failure = replace(failure_of(error), batch=next(_NUMBERS))
                scope.fail(error)
            finally:
                self._busy_since = 0.0
                self._ended = monotonic()
                self._statistics.recent.append(self._ended - began)
                if self._made.counts:
                    self._made.end(*(message.id for message in messages))
            if failure is None:
                ended, endings, failed = self._count(deliveries, answers)
                if failed:
                    scope.fail(f"{len(failed)} of {count} messages failed, the first: {failed[0][1].error}")
            else:
                others = replace(failure, has_waited=True)
                failed = [(delivery, others) for delivery in deliveries]
                ended, endings, failed[0] = [], [], (deliveries[0], failure)
        message_in_hand.set(
            None
        )  # so that they are freed as soon as they are settled, not with the next batch
        if self._history is not None:
            for delivery, why in failed:
                because = why.error_type, why.error
                self._history.failed(delivery, 1, FAILED, began, self._ended, *because, count)
        if ended:
            await self._settle_batch(ended, failed)
            if self._history is not None:
                outcomes = (RECORDED[ending] for ending in endings)
                self._history.done_batch(ended, outcomes, began, self._ended, count)
            if self._settlements.open:
                for delivery, ending in zip(ended, endings, strict=False):
                    self._settlements.ended(delivery.message, ending)
        return failed, scope

    async def _settle_batch(
        self, ended: Sequence[Delivery], failed: Sequence[tuple[Delivery, Failure]]
    ) -> None:
        """Settle those that have ended, which do not go back, whatever happens meanwhile; `failed` do."""
        await self._shake_off()
        try:
            await type(ended[0]).settle_batch(ended)
        except asyncio.CancelledError:
            self._statistics.returned += len(failed)
            for delivery in ended:
                self._taken.remove(delivery)
            raise

    def _count(
        self, deliveries: Sequence[Delivery], answers: Sequence[Answer]
    ) -> tuple[Sequence[Delivery], Iterable[Ending], list[tuple[Delivery, Failure]]]:
        """Count what ended. Returns that and how it did, and what did not end and why."""
        if answers.count(ACKNOWLEDGED) == len(deliveries):
            self._statistics.processed += len(deliveries)
            return deliveries, itertools.repeat(Ending.PROCESSED), []
        ended: list[Delivery] = []
        endings: list[Ending] = []
        failed: list[tuple[Delivery, Failure]] = []
        for delivery, answer in zip(deliveries, answers, strict=True):
            if isinstance(answer, ProcessingStatus) and answer.outcome in _ENDS:
                ended.append(delivery)
                endings.append(ending_of(answer))
            elif isinstance(answer, Exception):
                failed.append((delivery, failure_of(answer)))
            else:
                failed.append((delivery, failure_in(answer, "process_batch")))
        filtered = endings.count(Ending.FILTERED)
        self._statistics.filtered += filtered
        self._statistics.processed += len(ended) - filtered
        return ended, endings, failed


async def forward(context: HostContext, answers: Sequence[Answer], messages: Sequence[BaseMessage]) -> None:
    """Publish what the answers ask for, in order; neighbours that go to one topic together."""
    forwards = [
        (answer, message)
        for answer, message in zip(answers, messages, strict=True)
        if isinstance(answer, ProcessingStatus) and answer.outcome is Outcome.FORWARD
    ]
    for (topic, is_message), group in itertools.groupby(forwards, _destination):
        some = list(group)
        if not is_message:
            made_from = [message for _, message in some]
            await context.publish_batch(topic, [answer.message for answer, _ in some], made_from=made_from)
            continue
        answers_in_turn = (answer for answer, _ in some)
        for _, answer in zip(
            context.one_by_one(message for _, message in some), answers_in_turn, strict=True
        ):
            await context.publish(topic, answer.message)


def topic_of(topics: Sequence[str], subscriptions: Sequence[str]) -> str:
    """What the span of a batch is named after: its topic, or with several the plugin's subscriptions."""
    return topics[0] if topics.count(topics[0]) == len(topics) else ", ".join(subscriptions)


def _destination(forward: tuple[ProcessingStatus, BaseMessage]) -> tuple[str, bool]:
    answer, _ = forward
    return answer.topic, isinstance(answer.message, BaseMessage)


def check_answers(answers: object, count: int) -> None:
    """Raise TypeError unless there is an answer for each message."""
    if not isinstance(answers, list | tuple):
        raise TypeError(f"process_batch returned {shown(answers)}, no list of ProcessingStatus")
    if len(answers) != count:
        raise TypeError(f"process_batch returned {len(answers)} answers for {count} messages")


def check_handlers(slot: PluginSlot, context: HostContext) -> None:
    """Raise `PluginError` if the plugin lacks what its manifest says it has."""
    if slot.open_channel is not None:  # it is looked at in its own process
        return
    handler_of(slot.plugin, context)
    if slot.manifest is not None and slot.manifest.delivery.batch_size > 1:
        batch_handler_of(slot.plugin, slot.manifest, context)


def batch_handler_of(plugin: Plugin | None, manifest: Manifest | None, context: HostContext) -> BatchHandler:
    """The plugin's `process_batch`; raises `PluginError` if it has none."""
    assert plugin is not None
    assert manifest is not None
    if type(plugin).process_batch is Plugin.process_batch:
        raise PluginError(
            f"{type(plugin).__qualname__} has no process_batch",
            why=f"delivery.batch_size of its manifest is {manifest.delivery.batch_size}",
            fix="write one, or take batch_size out of the manifest",
        )
    return awaitable(plugin, context, plugin.process_batch)
