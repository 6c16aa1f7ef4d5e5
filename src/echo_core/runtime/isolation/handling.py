"""One lane in a plugin's process: handles what the host sends, in order, and says how it went."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import msgspec
from opentelemetry.trace import SpanContext

from common_telemetry import ProcessScope
from echo_core.message import REPLAYED, BaseMessage
from echo_core.plugin import Answer, Outcome, ProcessingStatus
from echo_core.runtime import lane
from echo_core.runtime.batch import check_answers, forward, topic_of
from echo_core.runtime.context import BatchInHand, message_in_hand
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.outputs import Outputs, outputs_in_hand
from echo_core.runtime.isolation.relay import span_of
from echo_core.runtime.isolation.wire import Cancel, Failure, Output, ReceivedItem, ReceivedWork, Result
from echo_core.runtime.lane import failure_in, failure_of

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
            if self._worker.batch_size > 1 and _is_fresh(item):
                results = await self._handle_batch([item, *self._others(epoch)])
            else:
                results = [await self._handle(item)]
            ended = monotonic()
            has_failed = any(result.failure is not None for result in results)
            if has_failed:
                self._over = max(self._over, epoch)
            if not self._results:  # should the next handler wait for something, this result does not
                loop.call_later(_GATHER_S, self._flush)
            self._results += results
            if (
                has_failed
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

    def _others(self, epoch: int) -> Iterator[ReceivedItem]:
        """What may go into a batch with a message of that epoch, which was just taken."""
        queue = self._queue
        for _ in range(self._worker.batch_size - 1):
            if not queue or queue[0][0] != epoch or not _is_fresh(queue[0][1]):
                return
            yield queue.popleft()[1]

    def _begin(self, first: int, last: int) -> Outputs:
        """From here on these messages are in hand: what is published is theirs, a crash is over them."""
        outputs = Outputs()
        outputs_in_hand.set(outputs)
        page = self._worker.page
        page.last[self._number] = last
        self._in_hand = page.first[self._number] = first
        return outputs

    def _end(self, outputs: Outputs, *messages: BaseMessage) -> None:
        outputs.is_open = False
        if self._worker.context.made.counts:
            self._worker.context.made.end(*(message.id for message in messages))
        self._in_hand = self._worker.page.first[self._number] = 0
        if self._cancelled:  # the handler would not have it, but ended
            self._uncancel()

    async def _handle_batch(self, items: Sequence[ReceivedItem]) -> list[Result]:
        """As `BatchLane` does. What was published for all goes with the first that has ended."""
        worker = self._worker
        messages = [item.message for item in items]
        topics = [item.topic for item in items]
        message_in_hand.set(BatchInHand(messages))
        outputs = self._begin(items[0].seq, items[-1].seq)
        topic = topic_of(topics, worker.context.subscriptions)
        scope = worker.messages.batch(topic, messages)
        answers: Sequence[Answer] = ()
        failure: Failure | None = None
        with scope:
            try:
                answers = await worker.batch_handler(topics, messages)
                check_answers(answers, len(items))
                await forward(worker.context, answers, messages)
            except asyncio.CancelledError as error:
                failure = self._judge_cancellation(error, scope)
            except BaseException as error:
                failure = _told(error)
                scope.fail(error)
            if failure is not None:
                failure = msgspec.structs.replace(failure, batch=items[0].seq)
            judged = [(wire.RAISED, failure)] * len(items) if failure else list(map(_judged, answers))
            failed = [told for _, told in judged if told is not None]
            if failed and failure is None:
                scope.fail(f"{len(failed)} of {len(items)} messages failed, the first: {failed[0].text}")
        self._end(outputs, *messages)
        self._size += outputs.size
        span = scope.traceparent if failed else ""
        results: list[Result] = []
        rest: list[Output] = outputs
        for item, (outcome, told) in zip(items, judged, strict=True):
            if told is None:
                results.append(Result(item.seq, outcome, rest))
                rest = []
            else:
                results.append(Result(item.seq, outcome, [], _with_span(told, span)))
        return results

    async def _handle(self, item: ReceivedItem) -> Result:
        worker, message, seq = self._worker, item.message, item.seq
        message_in_hand.set(message)
        outputs = self._begin(seq, seq)
        previous = PreviousAttempt(item.topic, span_of(item.previous)) if item.previous else None
        is_replay = REPLAYED in message.trace_context
        scope = worker.messages.process(
            item.topic, message, attempt=item.attempt, previous=previous, replay=is_replay
        )
        outcome, failure = wire.ACKNOWLEDGED, None
        with scope:
            try:
                status = await worker.handler(item.topic, message)
                if status is not _ACKNOWLEDGED:
                    outcome, failure = await self._conclude(status, scope)
            except asyncio.CancelledError as error:
                outcome, failure = wire.RAISED, self._judge_cancellation(error, scope)
            except BaseException as error:
                outcome, failure = wire.RAISED, _told(error)
                scope.fail(error)
        self._end(outputs, message)
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
        known = failure_in(status)
        scope.fail(known.error, known.error_type)
        return (wire.REFUSED if known.is_final else wire.RETRY_LATER), _as_failure(known)

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


def _is_fresh(item: ReceivedItem) -> bool:
    """Whether it may be handled with others: as `BatchLane` says."""
    return item.attempt == 1 and REPLAYED not in item.message.trace_context


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
    return _as_failure(failure_of(error))


def _as_failure(known: "lane.Failure") -> Failure:
    return Failure(known.error_type, known.error, known.traceback, known.delay)


def _judged(answer: Answer) -> tuple[int, Failure | None]:
    """What the answer for one message of a batch means."""
    if isinstance(answer, ProcessingStatus):
        if answer.outcome is Outcome.FILTERED:
            return wire.FILTERED, None
        if answer.outcome in (Outcome.ACKNOWLEDGED, Outcome.FORWARD):
            return wire.ACKNOWLEDGED, None
    if isinstance(answer, Exception):
        return wire.RAISED, _told(answer)
    known = failure_in(answer, "process_batch")
    return (wire.REFUSED if known.is_final else wire.RETRY_LATER), _as_failure(known)


def _with_span(failure: Failure, span: str) -> Failure:
    return msgspec.structs.replace(failure, span=span)
