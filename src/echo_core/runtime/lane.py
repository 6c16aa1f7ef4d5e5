"""The path that every message takes: from a delivery to its one end.

A lane is a worker that takes deliveries one after another and awaits the handler directly: no task, timer
or closure a message. A retry waits in its lane, so what shares the lane stays in order.
"""

import asyncio
import contextlib
import inspect
import logging
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, ParamSpec, TypeAlias, TypeVar

from common_telemetry import MessageTelemetry, ProcessScope
from echo_core.errors import MessageError, PluginError, TransportClosed
from echo_core.message import REPLAYED, BaseMessage, encode
from echo_core.plugin import Outcome, Plugin, ProcessingStatus
from echo_core.runtime import stacks
from echo_core.runtime.circuit import Circuit
from echo_core.runtime.clock import Clock
from echo_core.runtime.context import HostContext, message_in_hand
from echo_core.runtime.dead_letters import (
    Attempt,
    DeadLetter,
    DeadLetterError,
    DeadLetterStore,
    replays_of,
)
from echo_core.runtime.message_history.records import DEAD_LETTERED, FAILED, FILTERED, PROCESSED, RETURNED
from echo_core.runtime.raised import brief, is_close, shortened, shown, text_of
from echo_core.runtime.retry import backoff_s
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.slot import Channel, PluginSlot, Tried
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import Statistics
from echo_core.settlement import Ending
from echo_core.transports.base import DONE, Delivery
from echo_core.transports.turn import Turn

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

BATCH: Final = 64
"""Deliveries taken from the queue at a time."""
_DEAF_AFTER_S: Final = 1.0
"""How long after its cancellation a handler may still clean up."""
_MOST_CANCELS: Final = 3
"""A handler that has gone on after so many is taken for lost, in a run that must end."""
ACKNOWLEDGED: Final = ProcessingStatus.ACKNOWLEDGED
_PROCESSED: Final = Ending.PROCESSED
_DEAD_LETTERED: Final = Ending.DEAD_LETTERED
_set_in_hand: Final = message_in_hand.set
RECORDED: Final = {Ending.PROCESSED: PROCESSED, Ending.FILTERED: FILTERED}
"""What the history of messages calls an end that is no failure."""
Receive: TypeAlias = Callable[[int], Awaitable[Sequence[Delivery]]]
Handler: TypeAlias = Callable[[str, BaseMessage], Awaitable[ProcessingStatus]]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not finish the message."""

    error_type: str
    error: str
    traceback: str = ""
    is_final: bool = False
    """Trying again would not mend it."""
    delay: float = 0.0
    """Seconds that the plugin asked to wait."""
    has_waited: bool = False
    """Others have waited for it: messages of the same batch."""
    batch: int = 0
    """A batch that failed as a whole, by a number that no other has; 0: it was this message."""


class AttemptFailed(Exception):
    """Raised by a handler that knows itself how its failure is to be judged."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.error_type}: {failure.error}")
        self.failure = failure


class Lane:
    """One worker of one plugin."""

    def __init__(
        self,
        slot: PluginSlot,
        context: HostContext,
        receive: Receive,
        dead_letters: DeadLetterStore,
        clock: Clock,
        turn: Turn,
        settlements: Settlements,
        circuit: Circuit,
        *,
        number: int = 0,
        batch: int = BATCH,
        is_recorded: bool = True,
    ) -> None:
        assert slot.manifest is not None
        self.slot = slot
        self._is_recorded = is_recorded
        self._history = context.history if is_recorded else None
        self._context = context
        self._made = context.made
        self._receive = receive
        self._batch = batch
        self._dead_letters = dead_letters
        self._clock = clock
        self._turn = turn
        self._settlements = settlements
        self._circuit = circuit
        self._statistics = slot.statistics
        self._messages: MessageTelemetry = slot.telemetry.messages
        self._delivery = slot.manifest.delivery
        self._timeout_s = slot.manifest.timeouts.message_ms / 1_000
        self._taken: deque[Delivery] = deque()
        self._channel: Channel | None = None
        if slot.open_channel is None:
            self._handler = handler_of(slot.plugin, context)
        else:  # it is handled, and reported, in a process of the plugin's own
            self._channel = slot.open_channel(number, self._taken)
            self._handler, self._messages = self._channel.handle, self._channel.messages
        self._ended = 0.0
        self._busy_since = 0.0
        """When the attempt began that goes on now, but for time that is not the plugin's; 0 for none."""
        self._expired = 0.0
        """The `_busy_since` of the attempt that was cancelled at its deadline; 0 for none."""
        self._expired_at = self._cancelled_at = 0.0
        self._cancels = 0
        self._again_s = max(self._timeout_s, _DEAF_AFTER_S)
        """How long after a cancellation at the deadline comes the next, if the handler goes on."""
        self.is_cancelled = False
        """Set by the host before it cancels the lane's task: plugin code that does so ends no lane."""
        self._abandoned = False
        self._leaving = False
        self._between_attempts = False
        """Whether a message waits for its next attempt; who will have the lane end need not wait for that."""
        self._tried = slot.tried
        self._was_in_batch = False
        """Whether the message in hand failed in a batch that failed as a whole, and only there so far."""
        self._failed_batch: tuple[int, BaseMessage | None] = (0, None)
        """The last of those, and the message that stands for it until another one is found to be at fault."""
        self._in_hand = 1
        """How many of those taken are being handled, if there are any."""
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Handle what comes until the subscription is closed and empty, or until `leave`.

        When the host cancels it, it hands back what it cannot end; after `leave` that stays for `abandon`.
        """
        self._task = asyncio.current_task()
        while True:
            try:
                return await self._work()
            except TransportClosed:
                return None
            except asyncio.CancelledError:
                if self._is_told_to_end:
                    await self._hand_back()
                    raise
                self._go_on()

    async def _work(self) -> None:
        taken, turn, is_dead = self._taken, self._turn, False
        self._in_hand = 1
        while not self._leaving:
            if not taken:
                taken.extend(await self._receive(self._batch))
            while taken:
                if is_dead:  # only with something to try: others wait for what becomes of a trial
                    self._in_hand = 0
                    await self._circuit.wait(self)
                    self._in_hand = 1
                is_dead = await self._handle()
                if self._abandoned:
                    return
                self._raise_if_cancelled()
                if self._ended > turn.ends:
                    self._in_hand = 0
                    await turn.give()
                    self._in_hand = 1

    @property
    def _is_told_to_end(self) -> bool:
        """Whether it is the host that has cancelled it."""
        return self.is_cancelled or self._leaving or self._abandoned

    def _raise_if_cancelled(self) -> None:
        """The host has cancelled it while it saw to it that something is ended well."""
        if self.is_cancelled:
            raise asyncio.CancelledError

    def _go_on(self) -> None:
        """It was cancelled by the plugin, or at a deadline that is past: that counts for nothing any more."""
        self._expired = 0.0
        if self._task is not None and not (self.is_cancelled or self._abandoned):
            while self._task.cancelling():
                self._task.uncancel()

    async def _shake_off(self) -> None:
        """Take the cancellation that a handler has left behind: what comes next must not be met by it."""
        if self._task is not None and self._task.cancelling() and not self._is_told_to_end:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
            self._go_on()

    async def _hand_back(self) -> None:
        """Return what was taken and has not ended; the newest first, so that it lies in order again."""
        while self._taken and not self._leaving:
            await self._taken.pop().retry()

    @property
    def holds(self) -> int:
        """How many deliveries it has taken and not ended."""
        return len(self._taken)

    def leave(self) -> list[Delivery]:
        """Take nothing more, and end after the attempt in hand; returns what was taken and not begun."""
        self._leaving = True
        not_begun: list[Delivery] = []
        while len(self._taken) > self._in_hand:
            not_begun.append(self._taken.pop())
        if self._task is not None and (self._between_attempts or not self._taken):
            self._task.cancel()  # it waits for a delivery, or for a next attempt, or its circuit is open
        if self._channel is not None:
            self._channel.leave()
        return not_begun[::-1]

    async def _handle(
        self,
        number: int = 0,
        scope: ProcessScope | None = None,
        failures: list[Attempt] | None = None,
        *,
        alone: bool = False,
    ) -> bool:
        """See one after another of those taken to its end: processed, filtered or dead-lettered, and settled.

        Returns after one that was dead-lettered (True: the circuit may be open, for what comes next), when
        the turn is over, and with `alone` after the first.

        With a `number` that is the next attempt at the first, which is received; the last was in `scope`.
        """
        taken, turn, counts = self._taken, self._turn, self._made.counts
        process, handler = self._messages.process, self._handler
        while True:
            delivery = taken[0]
            topic, message = delivery.topic, delivery.message
            _set_in_hand(message)
            try:
                if not number:
                    number = delivery.attempt
                    self._statistics.taken += 1
                    if self._tried and (tried := self._tried.pop(id(delivery), None)) is not None:
                        failures = tried.attempts
                        number = failures[-1].number + 1
                if number == 1 and REPLAYED not in message.trace_context:
                    scope = process(topic, message)  # by name the others would cost as much as the call
                else:
                    is_replay = REPLAYED in message.trace_context
                    scope = process(topic, message, attempt=number, previous=scope, replay=is_replay)
                began = self._busy_since = monotonic()
                with scope:
                    try:
                        status = await handler(topic, message)
                        if status is ACKNOWLEDGED:
                            self._statistics.processed += 1
                            ended: Ending | Failure = _PROCESSED
                        else:
                            ended = await self._conclude(status, scope)
                    except asyncio.CancelledError as error:
                        ended = self._judge_cancellation(error, scope)
                    except BaseException as error:
                        ended = failure_of(error)
                        scope.fail(error)
                    finally:
                        self._busy_since = 0.0
                        self._ended = now = monotonic()
                        self._statistics.recent.append(now - began)
                        if counts:
                            self._made.end(message.id)
                if ended is not _PROCESSED and isinstance(ended, Failure):
                    if self._history is not None:
                        why = ended.error_type, ended.error
                        self._history.failed(delivery, number, FAILED, began, now, *why)
                    if failures is None:
                        failures = []
                        self._failed_first(message, ended)
                    elif self._was_in_batch:
                        self._failed_alone(message)
                    is_over = await self._recover(delivery, scope, ended, number, failures)
                    if self._abandoned:
                        return False
                    if not is_over:
                        number += 1
                        continue
                    ended = _DEAD_LETTERED
            except asyncio.CancelledError:
                self._goes_back(delivery, number, failures)
                raise
            settling = delivery.settle()
            if settling is not DONE:
                await self._settle(settling)
            if self._history is not None and ended is not _DEAD_LETTERED:
                outcome = PROCESSED if ended is _PROCESSED else RECORDED[ended]
                self._history.done(delivery, number, outcome, began, now)
            if self._settlements.open:
                self._settlements.ended(message, ended)
            if self._abandoned:
                return False
            taken.popleft()
            if ended is _DEAD_LETTERED:
                return True
            if not taken or now > turn.ends or alone:
                return False
            number, scope, failures = 0, None, None

    async def _settle(self, settling: Awaitable[None]) -> None:
        """Await it. The first of those taken has ended, and does not go back, whatever happens meanwhile."""
        await self._shake_off()
        try:
            await settling
        except asyncio.CancelledError:
            self._taken.popleft()
            raise

    def _goes_back(self, delivery: Delivery, number: int, failures: list[Attempt] | None) -> None:
        """It goes back to the queue, in or after this attempt; at rest it is known what failed before."""
        self._statistics.returned += 1
        if failures and self._leaving:
            self._tried[id(delivery)] = Tried(delivery, failures)
        if self._history is not None:
            self._history.done(delivery, number, RETURNED, self._ended, self._ended)

    async def _conclude(self, status: ProcessingStatus, scope: ProcessScope) -> Ending | Failure:
        """What the less common answers mean."""
        outcome = status.outcome if isinstance(status, ProcessingStatus) else None
        if outcome is Outcome.FORWARD:
            await self._context.publish(status.topic, status.message)
        if outcome in (Outcome.ACKNOWLEDGED, Outcome.FORWARD):
            self._statistics.processed += 1
            return Ending.PROCESSED
        if outcome is Outcome.FILTERED:
            self._statistics.filtered += 1
            scope.outcome("filtered")
            return Ending.FILTERED
        failure = failure_in(status)
        scope.fail(failure.error, failure.error_type)
        return failure

    def _judge_cancellation(self, error: asyncio.CancelledError, scope: ProcessScope) -> Failure:
        """Out of time, or cancelled by the plugin itself; raised on when it is the host that cancels."""
        if self.is_cancelled or self._abandoned:
            raise error
        is_late = bool(self._expired) and self._expired == self._busy_since
        self._go_on()
        if is_late:
            timeout = TimeoutError(f"no answer within {self._timeout_s:g} s (timeouts.message_ms)")
            scope.fail(timeout)
            return failure_of(timeout.with_traceback(error.__traceback__))
        scope.fail(error, "CancelledError")
        return failure_of(error)

    def _failed_first(self, message: BaseMessage, failure: Failure) -> None:
        """Count a message whose first attempt failed; once for all, if it was a batch as a whole."""
        self._was_in_batch = bool(failure.batch)
        if self._was_in_batch:
            if failure.batch == self._failed_batch[0]:
                return
            self._failed_batch = failure.batch, message
        self._count_failed(message)

    def _failed_alone(self, message: BaseMessage) -> None:
        """It was one of those that made its batch fail."""
        self._was_in_batch = False
        batch, counted = self._failed_batch
        if counted is not None:
            self._failed_batch = batch, None
            self._statistics.failed_first -= 1
            self.slot.on_failed_first(counted, -1)
        self._count_failed(message)

    def _count_failed(self, message: BaseMessage) -> None:
        self._statistics.failed_first += 1
        self.slot.on_failed_first(message, 1)

    async def _recover(
        self,
        delivery: Delivery,
        scope: ProcessScope,
        failure: Failure,
        number: int,
        failures: list[Attempt],
    ) -> bool:
        """After failed attempt `number`: wait for the next (False), or dead-letter the message (True)."""
        await self._shake_off()
        self._statistics.failed_attempts += 1
        failures.append(
            Attempt(
                number=number,
                time_ns=time.time_ns(),
                error_type=failure.error_type,
                error=failure.error,
                traceback=failure.traceback,
            )
        )
        if failure.is_final:
            self._circuit.judged()
        else:
            self._circuit.failed(self, delivery.message.id, f"{failure.error_type}: {failure.error}")
        if failure.is_final or number >= self._delivery.max_attempts:
            await self._dead_letter(delivery, scope, failures)
            return True
        self._between_attempts = True
        try:
            if self._leaving or self.is_cancelled:
                raise asyncio.CancelledError
            if not failure.has_waited:
                await self._clock.sleep(max(failure.delay, backoff_s(self._delivery, number)))
            await self._circuit.wait(self)
        finally:
            self._between_attempts = False
        return False

    async def _dead_letter(self, delivery: Delivery, scope: ProcessScope, attempts: list[Attempt]) -> None:
        reason = f"{attempts[-1].error_type}: {attempts[-1].error}"
        letter = dead_letter(
            self.slot, delivery, reason=reason, attempts=tuple(attempts), trace_id=scope.trace_id_hex
        )
        topic = f"dead_letters.{self.slot.name}"
        with self._messages.dead_letter(topic, delivery.message, reason, scope):
            await self._keep(letter)
        self._statistics.dead_lettered += 1
        if self._history is not None:
            now, last = monotonic(), attempts[-1]
            why = last.error_type, last.error
            self._history.failed(delivery, last.number, DEAD_LETTERED, now, now, *why)
        # Of a plugin that was given up every message comes here, and its state has said why; of one that is
        # given copies no letter is kept.
        is_news = self._is_recorded and self.slot.state is not PluginState.QUARANTINED
        logger.log(
            logging.WARNING if is_news else logging.DEBUG,
            "%s dead-lettered message %s from %s after %d attempt(s): %s",
            self.slot.name,
            delivery.message.id,
            delivery.topic,
            len(attempts),
            brief(reason),
            extra=self.slot.about,
        )

    async def _keep(self, letter: DeadLetter) -> None:
        """Return once it is on disk. Until then the lane stands: better slow than a message lost.

        What is being written cannot be called back, so a lane that is cancelled meanwhile waits for it: the
        message would come again, and be kept twice.
        """
        number, trouble = 1, ""
        while True:
            writing = asyncio.create_task(asyncio.to_thread(self._dead_letters.add, [letter], once=True))
            try:
                try:
                    await asyncio.shield(writing)
                except asyncio.CancelledError:
                    await asyncio.wait([writing])
                    writing.result()
            except DeadLetterError as error:
                trouble = str(error)
                self.slot.degrade(trouble)
                await self._clock.sleep(backoff_s(self._delivery, number))
                number += 1
            else:
                self.slot.recover(trouble)
                return

    def abandon(self) -> list[Delivery]:
        """Give up a lane that does not end: what it holds is the caller's now, its answer ignored."""
        held = list(self._taken)
        self._taken.clear()
        was_cancelled = self._task is not None and self._task.done() and self._task.cancelled()
        if held and not was_cancelled:  # one that was has taken it back already
            self._statistics.returned += self._in_hand
            self._statistics = Statistics()  # what the handler may still answer is counted nowhere
            self._settlements = Settlements()
            self._history = None
        self._abandoned = True
        return held

    def check(self, now: float, tick: float) -> None:
        """Every `tick` seconds: end a handler that is out of time; waiting to publish does not count."""
        if self._expired and self._expired != self._busy_since:  # it has answered all the same
            self._go_on()
        if not self._busy_since:
            return
        if self._context.publishing:
            if not self._expired:
                self._busy_since += tick
        elif self._expired:
            if now - self._cancelled_at > self._again_s:  # it may have swallowed that, and wait again
                self._cancel(now)
        elif now - self._busy_since > self._timeout_s:
            self._expired, self._expired_at, self._cancels = self._busy_since, now, 0
            self._cancel(now)

    def _cancel(self, now: float) -> None:
        self._cancels += 1
        self._cancelled_at = now
        if self._task is not None:
            self._task.cancel()

    @property
    def is_busy(self) -> bool:
        """Whether the plugin works on something."""
        return bool(self._busy_since)

    def is_deaf(self, now: float) -> bool:
        """Whether its handler was cancelled at its deadline, and goes on."""
        return (
            bool(self._expired)
            and self._expired == self._busy_since
            and now - self._expired_at > _DEAF_AFTER_S
        )

    def is_lost(self, now: float) -> bool:
        """Whether it will never end, by all that can be seen: it, or all threads of its plugin, are deaf."""
        threads = self.slot.threads
        if threads is not None and threads.waiting:
            since = threads.given_up_since
            return since is not None and now - since > _MOST_CANCELS * self._again_s
        return self.is_deaf(now) and self._cancels > _MOST_CANCELS

    def doing(self, now: float) -> str:
        """What it is at, for people."""
        if not self._busy_since or self._task is None:
            return "a message waits for its next attempt" if self._taken else "its lane waits for messages"
        threads = self.slot.threads
        if threads is not None and threads.waiting:
            return f"all of its {threads.count} threads are taken, one of them at {threads.place()}"
        frames = stacks.own_frames(stacks.frames_of_task(self._task))
        at = stacks.place(frames) or (threads.place() if threads is not None else "") or "an unknown place"
        if self.is_deaf(now):
            return f"a handler goes on although it was cancelled after {self._timeout_s:g} s, at {at}"
        if self._context.publishing:
            return f"a handler waits to publish, at {at}"
        return f"a handler has worked for {now - self._busy_since:.0f} s, at {at}"


def dead_letter(
    slot: PluginSlot,
    delivery: Delivery,
    *,
    reason: str,
    attempts: tuple[Attempt, ...] = (),
    trace_id: str = "",
) -> DeadLetter:
    """What is kept of a delivery that ended unfinished."""
    message = delivery.message
    try:
        original = encode(message)
    except MessageError:  # kept in readable form rather than not at all
        original = repr(message).encode()
    return DeadLetter(
        time_ns=time.time_ns(),
        plugin=slot.name,
        version=slot.version,
        topic=delivery.topic,
        message_id=message.id,
        root_id=message.root_id,
        trace_id=trace_id or message.trace_context.get("traceparent", "").partition("-")[2].partition("-")[0],
        reason=reason,
        attempts=attempts,
        original=original,
        config_digest=slot.config_digest,
        replays=replays_of(message),
    )


def handler_of(plugin: Plugin | None, context: HostContext) -> Handler:
    """The plugin's `process_message`, as `awaitable` gives it."""
    assert plugin is not None
    return awaitable(plugin, context, plugin.process_message)


def awaitable(
    plugin: Plugin, context: HostContext, method: Callable[P, Awaitable[R]]
) -> Callable[P, Awaitable[R]]:
    """A method of the plugin, for the loop to call; a plain `def` runs in the plugin's threads.

    Raises `PluginError` for a plain `def` in a class that is not declared as blocking.
    """
    if inspect.iscoroutinefunction(method):
        return method
    if not plugin.blocking:
        raise PluginError(
            f"{method.__qualname__} is a plain def",
            fix=f"write `async def {method.__name__}`, or declare the class with `blocking=True`",
        )
    function: Callable[P, R] = method  # type: ignore[assignment]

    async def in_thread(*args: P.args, **kwargs: P.kwargs) -> R:
        return await context.run_blocking(function, *args, **kwargs)

    return in_thread


def ending_of(status: ProcessingStatus) -> Ending:
    """How a delivery ended that did not fail."""
    return Ending.FILTERED if status.outcome is Outcome.FILTERED else Ending.PROCESSED


def failure_in(answer: object, method: str = "process_message") -> Failure:
    """Why a message did not end, from what the plugin's `method` answered."""
    if isinstance(answer, ProcessingStatus):
        if answer.outcome is Outcome.FAILED:
            return Failure("FAILED", shortened(str(answer.reason)), is_final=True)
        return Failure("RETRY_LATER", "the plugin asked to try again later", delay=answer.delay)
    return Failure("TypeError", f"{method} returned {shown(answer)}, no ProcessingStatus", is_final=True)


def failure_of(error: BaseException) -> Failure:
    """Why a message did not end, from what was raised; raises it on when that was nobody."""
    if isinstance(error, AttemptFailed):
        return error.failure
    if is_close(error):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(stacks.ECHO_CORE)]
    return Failure(
        error_type=type(error).__qualname__,
        error=text_of(error),
        traceback="".join(traceback.format_list(own)).rstrip(),
    )
