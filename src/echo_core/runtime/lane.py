"""The path that every message takes: from a delivery to its one end.

A lane is a worker that takes deliveries one after another and awaits the handler directly: no task, timer
or closure a message. A retry waits in its lane, so what shares the lane stays in order.
"""

import asyncio
import inspect
import logging
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, ParamSpec, TypeAlias, TypeVar

from common_telemetry import MessageTelemetry, ProcessScope
from echo_core.errors import MessageError, PluginError, TransportClosed
from echo_core.message import BaseMessage, encode
from echo_core.plugin import Outcome, Plugin, ProcessingStatus
from echo_core.runtime import stacks
from echo_core.runtime.circuit import Circuit
from echo_core.runtime.clock import Clock
from echo_core.runtime.context import HostContext, message_in_hand
from echo_core.runtime.dead_letters import (
    REPLAYED,
    Attempt,
    DeadLetter,
    DeadLetterError,
    DeadLetterStore,
    replays_of,
)
from echo_core.runtime.retry import backoff_s
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.slot import Channel, PluginSlot
from echo_core.runtime.statistics import Statistics
from echo_core.runtime.turn import Turn
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

BATCH: Final = 64
"""Deliveries taken from the queue at a time."""
_DEAF_AFTER_S: Final = 1.0
"""How long after its cancellation a handler may still clean up."""
WAITED_S: Final = 0.000_1
"""A pause longer than this between two batches was a wait, in which others had their turn."""
ACKNOWLEDGED: Final = ProcessingStatus.ACKNOWLEDGED
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
    ) -> None:
        assert slot.manifest is not None
        self.slot = slot
        self._context = context
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
        self._busy_since = 0.0
        self._ended = 0.0
        self._expired = 0.0
        """The `_busy_since` of the attempt that was cancelled at its deadline; 0 for none."""
        self._expired_at = 0.0
        self._abandoned = False
        self._leaving = False
        self._in_hand = 1
        """How many of those taken are being handled, if there are any."""
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Handle what comes until the subscription is closed and empty, or until `leave`.

        When it is cancelled it hands back what it cannot end; after `leave` that stays for `abandon`.
        """
        self._task = asyncio.current_task()
        taken, turn = self._taken, self._turn
        turn_ends = turn.begin()
        try:
            while not self._leaving:
                taken.extend(await self._receive(self._batch))
                if monotonic() - self._ended > WAITED_S:
                    turn_ends = turn.begin()
                while taken:
                    await self._handle(taken[0])
                    if self._abandoned:
                        return
                    taken.popleft()
                    if self._ended > turn_ends:
                        turn_ends = await turn.give()
        except TransportClosed:
            return
        except asyncio.CancelledError:
            await self._hand_back()
            raise

    async def _hand_back(self) -> None:
        """Return what was taken and has not ended; the newest first, so that it lies in order again."""
        while self._taken and not self._leaving:
            await self._taken.pop().retry()

    @property
    def holds(self) -> int:
        """How many deliveries it has taken and not ended."""
        return len(self._taken)

    def leave(self) -> list[Delivery]:
        """Take nothing more, and end after the message in hand; returns what was taken and not begun."""
        self._leaving = True
        not_begun: list[Delivery] = []
        while len(self._taken) > 1:
            not_begun.append(self._taken.pop())
        if not self._taken and self._task is not None:
            self._task.cancel()  # it waits for a delivery
        if self._channel is not None:
            self._channel.leave()
        return not_begun[::-1]

    async def _handle(
        self, delivery: Delivery, failure: Failure | None = None, scope: ProcessScope | None = None
    ) -> None:
        """See one delivery to its end: processed, filtered or dead-lettered, and only then settled.

        With a `failure` it has been received already, and an attempt failed in the block of `scope`.
        """
        topic, message = delivery.topic, delivery.message
        message_in_hand.set(message)
        failures: list[Attempt] | None = None  # most messages never need the list
        number = delivery.attempt
        if failure is None:
            self._statistics.received += 1
        try:
            if failure is not None and scope is not None:
                failures = []
                if await self._recover(delivery, scope, failure, number, failures):
                    await delivery.settle()
                    self._settlements.ended(message, Ending.DEAD_LETTERED)
                    return
                number += 1
            while True:
                scope = self._messages.process(
                    topic, message, attempt=number, previous=scope, replay=REPLAYED in message.trace_context
                )
                began = self._busy_since = monotonic()
                with scope:
                    try:
                        status = await self._handler(topic, message)
                        if status is ACKNOWLEDGED:
                            self._statistics.processed += 1
                            failure = None
                        else:
                            failure = await self._conclude(status, scope)
                    except asyncio.CancelledError as error:
                        failure = self._judge_cancellation(error, scope)
                    except (Exception, SystemExit) as error:
                        failure = failure_of(error)
                        scope.fail(error)
                    finally:
                        self._busy_since = 0.0
                        self._ended = monotonic()
                        self._statistics.took(self._ended - began)
                if failure is None:
                    break
                failures = [] if failures is None else failures
                if await self._recover(delivery, scope, failure, number, failures):
                    break
                number += 1
            await delivery.settle()
            if self._settlements.open:
                self._settlements.ended(message, Ending.DEAD_LETTERED if failure else ending_of(status))
        except asyncio.CancelledError:
            self._statistics.received -= 1  # it goes back to the queue
            raise

    async def _conclude(self, status: ProcessingStatus, scope: ProcessScope) -> Failure | None:
        """What the less common answers mean."""
        outcome = status.outcome if isinstance(status, ProcessingStatus) else None
        if outcome is Outcome.FORWARD:
            await self._context.publish(status.topic, status.message)
        if outcome in (Outcome.ACKNOWLEDGED, Outcome.FORWARD):
            self._statistics.processed += 1
            return None
        if outcome is Outcome.FILTERED:
            self._statistics.filtered += 1
            scope.outcome("filtered")
            return None
        failure = failure_in(status)
        scope.fail(failure.error, failure.error_type)
        return failure

    def _judge_cancellation(self, error: asyncio.CancelledError, scope: ProcessScope) -> Failure:
        """Out of time, or something of the plugin's own was cancelled; raised on when the host stops."""
        task = asyncio.current_task()
        assert task is not None
        if self._expired and self._expired != self._busy_since:
            self._forgive()
        if self._expired:
            self._forgive()
            timeout = TimeoutError(f"no answer within {self._timeout_s:g} s (timeouts.message_ms)")
            scope.fail(timeout)
            return failure_of(timeout.with_traceback(error.__traceback__))
        if task.cancelling():
            raise error
        scope.fail(error, "CancelledError")
        return failure_of(error)

    async def _recover(
        self,
        delivery: Delivery,
        scope: ProcessScope,
        failure: Failure,
        number: int,
        failures: list[Attempt],
    ) -> bool:
        """After failed attempt `number`: wait for the next (False), or dead-letter the message (True)."""
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
            await self._circuit.wait(self)
            return True
        if not failure.has_waited:
            await self._clock.sleep(max(failure.delay, backoff_s(self._delivery, number)))
        await self._circuit.wait(self)
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
        logger.warning(
            "%s dead-lettered message %s from %s after %d attempt(s): %s",
            self.slot.name,
            delivery.message.id,
            delivery.topic,
            len(attempts),
            reason,
        )

    async def _keep(self, letter: DeadLetter) -> None:
        """Return once it is on disk. Until then the lane stands: better slow than a message lost."""
        number, trouble = 1, ""
        while True:
            try:
                await asyncio.to_thread(self._dead_letters.add, [letter])
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
            self._statistics.received -= self._in_hand
            self._statistics = Statistics()  # what the handler may still answer is counted nowhere
            self._settlements = Settlements()
        self._abandoned = True
        return held

    def check(self, now: float, tick: float) -> None:
        """Every `tick` seconds: end a handler that is out of time; waiting to publish does not count."""
        if self._expired and self._expired != self._busy_since:
            self._forgive()
        if not self._busy_since or self._expired:
            return
        if self._context.publishing:
            self._busy_since += tick
        elif now - self._busy_since > self._timeout_s and self._task is not None:
            self._expired, self._expired_at = self._busy_since, now
            self._task.cancel()

    def _forgive(self) -> None:
        """A handler that was cancelled has answered all the same: that counts for nothing any more."""
        self._expired = 0.0
        if self._task is not None:
            self._task.uncancel()

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
            return Failure("FAILED", answer.reason, is_final=True)
        return Failure("RETRY_LATER", "the plugin asked to try again later", delay=answer.delay)
    return Failure("TypeError", f"{method} returned {answer!r}, no ProcessingStatus", is_final=True)


def failure_of(error: BaseException) -> Failure:
    """Why a message did not end, from what was raised."""
    if isinstance(error, AttemptFailed):
        return error.failure
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_HERE)]
    return Failure(
        error_type=type(error).__qualname__,
        error=str(error),
        traceback="".join(traceback.format_list(own)).rstrip(),
    )


_HERE: Final = str(Path(__file__).parents[1])
"""Frames of Echo Core's own say nothing to a plugin's author."""
