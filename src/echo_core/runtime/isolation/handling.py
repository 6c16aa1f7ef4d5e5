"""One lane in a plugin's process: handles what the host sends, in order, and says how it went."""

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from opentelemetry.trace import SpanContext

from common_telemetry import ProcessScope
from echo_core.plugin import Outcome, ProcessingStatus
from echo_core.runtime.context import message_in_hand
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.outputs import Outputs, outputs_in_hand
from echo_core.runtime.isolation.relay import span_of
from echo_core.runtime.isolation.wire import Cancel, Failure, ReceivedItem, ReceivedWork, Result
from echo_core.runtime.lane import failure_of

if TYPE_CHECKING:
    from echo_core.runtime.isolation.worker import Worker

_TURN_S: Final = 0.002
"""How long a lane works before the event loop looks after everything else."""
_SLOW_S: Final = 0.000_5
"""A handler that takes longer has its result sent at once: what is gained by gathering would be lost."""
_GATHER_S: Final = 0.001
"""How long a result may wait for others to go with it."""
_GATHERED: Final = 64
_GATHERED_BYTES: Final = 1024 * 1024
_ACKNOWLEDGED: Final = ProcessingStatus.ACKNOWLEDGED


class Lane:
    """Handles one message after another. `done` sends results to the host."""

    def __init__(self, number: int, worker: "Worker", done: Callable[[list[Result]], None]) -> None:
        self._number = number
        self._worker = worker
        self._done = done
        self._queue: deque[tuple[int, ReceivedItem]] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._over = 0
        """Work of this epoch and of those before is not to be done any more."""
        self._in_hand = 0
        self._cancelled = ""
        self._results: list[Result] = []
        self._size = 0
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"lane {number}")

    def add(self, work: ReceivedWork) -> None:
        """Handle these too, after what is there already."""
        epoch = work.epoch
        if epoch > self._over:
            self._queue.extend((epoch, item) for item in work.items)
            if self._waiting is not None and not self._waiting.done():
                self._waiting.set_result(None)

    def cancel(self, cancel: Cancel) -> None:
        """Stop handling this message; if it has not begun, it will not."""
        self._over = max(self._over, cancel.epoch)
        if self._in_hand == cancel.seq:
            self._cancelled = cancel.reason
            self._task.cancel()
        elif any(item.seq == cancel.seq for _, item in self._queue):
            self._done([Result(cancel.seq, wire.RAISED, [], Failure("CancelledError", "not begun"))])

    def recall(self, seq: int) -> None:
        """Begin nothing that came after this message."""
        self._queue = deque((epoch, item) for epoch, item in self._queue if item.seq <= seq)

    async def stop(self) -> None:
        """Handle nothing more."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        turn_began = monotonic()
        while True:
            while not self._queue:
                self._flush()
                self._waiting = asyncio.get_running_loop().create_future()
                await self._waiting
                turn_began = monotonic()
            epoch, item = self._queue.popleft()
            if epoch <= self._over:
                continue
            began = monotonic()
            result = await self._handle(item)
            ended = monotonic()
            if result.failure is not None:
                self._over = max(self._over, epoch)
            if not self._results:  # should the next handler wait for something, this result does not
                loop.call_later(_GATHER_S, self._flush)
            self._results.append(result)
            if (
                result.failure is not None
                or ended - began > _SLOW_S
                or len(self._results) >= _GATHERED
                or self._size > _GATHERED_BYTES
            ):
                self._flush()
            if ended - turn_began > _TURN_S:
                await asyncio.sleep(0)
                turn_began = monotonic()

    def _flush(self) -> None:
        if self._results:
            results, self._results, self._size = self._results, [], 0
            self._done(results)

    async def _handle(self, item: ReceivedItem) -> Result:
        worker, message, seq = self._worker, item.message, item.seq
        message_in_hand.set(message)
        outputs = Outputs()
        outputs_in_hand.set(outputs)
        self._in_hand = worker.in_hand[self._number] = seq
        previous = PreviousAttempt(item.topic, span_of(item.previous)) if item.previous else None
        scope = worker.messages.process(item.topic, message, attempt=item.attempt, previous=previous)
        outcome, failure = wire.ACKNOWLEDGED, None
        with scope:
            try:
                status = await worker.handler(item.topic, message)
                if status is not _ACKNOWLEDGED:
                    outcome, failure = await self._conclude(status, scope)
            except asyncio.CancelledError as error:
                outcome, failure = wire.RAISED, self._judge_cancellation(error, scope)
            except (Exception, SystemExit) as error:
                outcome, failure = wire.RAISED, _told(error)
                scope.fail(error)
        outputs.is_open = False
        self._in_hand = worker.in_hand[self._number] = 0
        if self._cancelled:  # the handler would not have it, but ended
            self._uncancel()
        if failure is None:
            self._size += outputs.size
            return Result(seq, outcome, outputs)
        return Result(seq, outcome, [], _with_span(failure, scope.traceparent))

    async def _conclude(self, status: ProcessingStatus, scope: ProcessScope) -> tuple[int, Failure | None]:
        """What the less common answers mean."""
        outcome = status.outcome if isinstance(status, ProcessingStatus) else None
        if outcome is Outcome.FORWARD:
            await self._worker.context.publish(status.topic, status.message)
        if outcome in (Outcome.ACKNOWLEDGED, Outcome.FORWARD):
            return wire.ACKNOWLEDGED, None
        if outcome is Outcome.FILTERED:
            scope.outcome("filtered")
            return wire.FILTERED, None
        if outcome is Outcome.RETRY_LATER:
            failure = Failure("RETRY_LATER", "the plugin asked to try again later", delay=status.delay)
            scope.fail(failure.text, failure.error_type)
            return wire.RETRY_LATER, failure
        if outcome is Outcome.FAILED:
            failure = Failure("FAILED", status.reason)
        else:
            failure = Failure("TypeError", f"process_message returned {status!r}, no ProcessingStatus")
        scope.fail(failure.text, failure.error_type)
        return wire.REFUSED, failure

    def _judge_cancellation(self, error: asyncio.CancelledError, scope: ProcessScope) -> Failure:
        """The host has cancelled the handler, or something of the plugin's own was; raised on at a stop."""
        if self._cancelled:
            late = TimeoutError(self._cancelled).with_traceback(error.__traceback__)
            self._uncancel()
            scope.fail(late)
            return _told(late)
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        scope.fail(error, "CancelledError")
        return _told(error)

    def _uncancel(self) -> None:
        self._cancelled = ""
        self._task.uncancel()


class PreviousAttempt(ProcessScope):
    """An attempt that another process, or the host, has reported."""

    __slots__ = ("_span_context", "_topic")

    def __init__(self, topic: str, span: SpanContext) -> None:
        self._topic = topic
        self._span_context = span

    @property
    def topic(self) -> str:
        return self._topic

    @property
    def span_context(self) -> SpanContext:
        return self._span_context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return

    def fail(self, error: BaseException | str, error_type: str | None = None) -> None:
        return

    def outcome(self, name: str) -> None:
        return


def _told(error: BaseException) -> Failure:
    known = failure_of(error)
    return Failure(known.error_type, known.error, known.traceback)


def _with_span(failure: Failure, span: str) -> Failure:
    return Failure(failure.error_type, failure.text, failure.traceback, failure.delay, span)
