"""The messages of one lane on their way through a plugin's process.

What the lane has taken from its queue is sent ahead, so that the process need not wait for it; the lane
awaits the answers one after another, in order, as if it had handled each message itself. After a failure the
process stops until the lane has dealt with it, so a retry keeps its place. What was published comes with the
answer, and is published for real only then: of a message whose handling broke off, nothing is.
"""

import asyncio
from collections import deque
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec

from echo_core.errors import MessageError
from echo_core.message import BaseMessage, encode
from echo_core.plugin import ProcessingStatus
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.relay import RelayedMessages
from echo_core.runtime.isolation.wire import MAX_MESSAGE, Item, Recall, ReceivedResult, Work
from echo_core.runtime.lane import AttemptFailed, Failure
from echo_core.transports.base import Delivery

if TYPE_CHECKING:
    from echo_core.runtime.isolation.incarnation import Crash
    from echo_core.runtime.isolation.keeper import Keeper
    from echo_core.runtime.isolation.session import Session

WINDOW: Final = 256
"""Messages of a lane that may be on their way at a time."""
WINDOW_BYTES: Final = 4 * 1024 * 1024
_TOPIC: Final = attrgetter("topic")
_FRAME: Final = 64
_FRAME_BYTES: Final = 1024 * 1024


class Shipped:
    """One message on its way."""

    __slots__ = ("_channel", "delivery", "result", "seq")

    def __init__(self, channel: "Channel", delivery: Delivery, seq: int) -> None:
        self._channel = channel
        self.delivery = delivery
        self.seq = seq
        self.result: ReceivedResult | None = None

    def arrived(self, result: ReceivedResult) -> None:
        """See `session.Shipment`."""
        self.result = result
        self._channel.look()


class Channel:
    """One lane's way to the process. `taken` is the lane's: the first is what it is at."""

    def __init__(self, keeper: "Keeper", number: int, taken: deque[Delivery]) -> None:
        self.number = number
        self._keeper = keeper
        self._taken = taken
        self.messages = RelayedMessages(keeper.telemetry.messages)
        self._shipped: deque[Shipped] = deque()
        self._epoch = keeper.next_seq()
        self._waiting: asyncio.Future[None] | None = None
        self._suspects: list[Delivery] = []
        """What was in hand when a process died; each is handled alone from then on."""
        self._crashes: dict[int, tuple[Crash, bool]] = {}
        """How the process died over a suspect, by its id, and whether alone; until the lane has heard."""
        self._called_back: dict[int, Delivery] = {}
        """What it was told not to begin, by its number: it may have begun it all the same."""
        self._was_alone = False
        self._careful = 0
        """How many of the next are handled alone, because one of them may end the process afterwards."""
        self._let_go: asyncio.Future[None] | None = None
        """Done when the process has let go of a message that was cancelled."""

    async def handle(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """What a lane calls for each message: its status, once all that it published is accepted.

        Raises `AttemptFailed` for whatever went wrong in the process or with it.
        """
        while True:
            self._judge_crash()
            if not self._shipped or self._shipped[0].delivery is not self._taken[0]:
                await self._ship()
                continue
            first = self._shipped[0]
            if first.result is None:
                await self._wait(first)
                continue
            self._shipped.popleft()
            if self._called_back:  # it is past what came before
                self._called_back = {n: back for n, back in self._called_back.items() if n > first.seq}
            self._careful = max(0, self._careful - 1)
            return await self._conclude(first.result)

    async def _wait(self, first: Shipped) -> None:
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        try:
            await waiting
        except asyncio.CancelledError:
            self._cancel(first)
            raise
        finally:
            self._waiting = None

    def look(self) -> None:
        """Something has changed: let the lane see whether it concerns its message."""
        waiting = self._waiting
        if (
            waiting is not None
            and not waiting.done()
            and (not self._shipped or self._shipped[0].result is not None)
        ):
            waiting.set_result(None)

    async def _ship(self) -> None:
        """Send what the lane has, beginning with the message that it is at."""
        if self._let_go is not None and not self._let_go.done():
            # What comes next must not pay for a handler that will not end.
            with self._keeper.context.elsewhere():
                await asyncio.shield(self._let_go)
        head = self._taken[0]
        alone = bool(self._careful) or self._is_suspect(head)
        wanted = 1 if alone or self._shipped else WINDOW  # what follows a failure in a batch is there already
        session = await self._keeper.room(alone=alone)
        items: list[Item] = []
        size = sent = 0
        for delivery in islice(self._taken, wanted):
            if self._suspects and delivery is not head and self._is_suspect(delivery):
                break
            raw = self._encoded(delivery, must=delivery is head)
            if raw is None or (delivery is not head and sent + len(raw) > WINDOW_BYTES):
                break
            items.append(self._item(session, delivery, raw))
            size += len(raw)
            sent += len(raw)
            if len(items) == _FRAME or size > _FRAME_BYTES:
                session.send(wire.WORK, Work(self.number, self._epoch, items))
                items, size = [], 0
        if items:
            session.send(wire.WORK, Work(self.number, self._epoch, items))
        self._was_alone = alone

    def _item(self, session: "Session", delivery: Delivery, raw: bytes) -> Item:
        seq = self._keeper.next_seq()
        shipped = Shipped(self, delivery, seq)
        attempt, previous = delivery.attempt, ""
        if delivery is self._taken[0]:
            if self.messages.scope is not None:
                attempt, previous = self.messages.scope.attempt, self.messages.scope.previous
            self._shipped.appendleft(shipped)
        else:
            self._shipped.append(shipped)
        session.in_flight[seq] = shipped
        return Item(seq, delivery.topic, attempt, previous, msgspec.Raw(raw))

    def _encoded(self, delivery: Delivery, *, must: bool) -> bytes | None:
        """The message's bytes; if it has none that can be sent, None, or the lane is told when it `must`."""
        try:
            raw = encode(delivery.message)
            if len(raw) > MAX_MESSAGE:
                raise MessageError(
                    f"a message of {len(raw)} bytes is too large for a plugin's own process",
                    why=f"{MAX_MESSAGE} bytes go in",
                )
        except MessageError as error:
            if must:
                raise AttemptFailed(Failure("MessageError", str(error), is_final=True)) from error
            return None
        return raw

    async def _conclude(self, result: ReceivedResult) -> ProcessingStatus:
        failure = result.failure
        if failure is None:
            if result.outputs:
                await self._publish(result.outputs)
            if self._suspects:
                self._suspects = [suspect for suspect in self._suspects if suspect is not self._taken[0]]
            acknowledged = result.outcome == wire.ACKNOWLEDGED
            return ProcessingStatus.ACKNOWLEDGED if acknowledged else ProcessingStatus.FILTERED
        self._recall()
        if self.messages.scope is not None:
            self.messages.scope.was(failure.span)
        raise AttemptFailed(
            Failure(
                failure.error_type,
                failure.text,
                failure.traceback,
                is_final=result.outcome == wire.REFUSED,
                delay=failure.delay,
                batch=failure.batch,
            )
        )

    async def _publish(self, outputs: list[wire.ReceivedOutput]) -> None:
        """Publish all of it, or nothing if one of them may not be published."""
        context = self._keeper.context
        try:
            if len(outputs) == 1:
                await context.accept(outputs[0].topic, outputs[0].message)
                return
            for output in outputs:
                context.check_output(output.topic, output.message)
            for topic, group in groupby(outputs, _TOPIC):
                await context.accept_batch(topic, [output.message for output in group])
        except BaseException:
            self._recall()
            raise

    def _recall(self) -> None:
        """Nothing that was sent ahead is to be handled, until it is sent again."""
        session = self._keeper.session
        while self._shipped and self._shipped[-1].result is None:
            self._call_back(session)
        if session is not None and not session.in_flight:
            self._keeper.tell_emptied()
        self._epoch = self._keeper.next_seq()

    def _cancel(self, first: Shipped) -> None:
        """The lane waits no longer: have the handler cancelled, and the process ended if it will not be."""
        epoch = self._epoch
        is_lost = first not in self._shipped
        self._recall()
        if not is_lost:
            self._let_go = self._keeper.cancel(self.number, epoch, first.seq)

    def leave(self) -> None:
        """What the lane has not begun goes back to where it came from: the process is not to begin it."""
        session = self._keeper.session
        if session is None or len(self._shipped) < 2:
            return
        first = self._shipped[0]
        while len(self._shipped) > 1:
            self._call_back(session)
        session.send(wire.RECALL, Recall(self.number, first.seq))

    def _call_back(self, session: "Session | None") -> None:
        """The last that was sent is not to be handled."""
        shipped = self._shipped.pop()
        self._called_back[shipped.seq] = shipped.delivery
        if session is not None:
            session.in_flight.pop(shipped.seq, None)

    def lost(self, crash: "Crash") -> None:
        """The process has ended. What it had not answered is sent to the next one.

        With nothing in hand it has died of something that it had handled, and had not said so: then
        whoever is not answered is handled alone, and who was alone is to blame.
        """
        in_hand = crash.in_hand.get(self.number, ())
        is_idle = not any(crash.in_hand.values())
        while self._shipped and self._shipped[-1].result is None:
            shipped = self._shipped.pop()
            self._careful += is_idle and not self._was_alone
            if shipped.seq in in_hand or (is_idle and self._was_alone):
                self._suspect(shipped.delivery, crash)
        for seq, delivery in self._called_back.items():
            if seq in in_hand:
                self._suspect(delivery, crash)
        self._called_back.clear()
        self._epoch = self._keeper.next_seq()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _suspect(self, delivery: Delivery, crash: "Crash") -> None:
        self._suspects.append(delivery)
        self._crashes[id(delivery)] = (crash, self._was_alone)

    def _judge_crash(self) -> None:
        """Raise, if the process died over the message that the lane is at."""
        if not self._crashes:
            return
        found = self._crashes.pop(id(self._taken[0]), None)
        if found is None:
            return
        crash, was_alone = found
        scope = self.messages.scope
        attempt = scope.attempt if scope is not None else self._taken[0].attempt
        delivery = self._taken[0]
        self.messages.crash(delivery.topic, delivery.message, crash.exit.code, attempt=attempt)
        is_proven = was_alone and crash.tells_of_the_message
        raise AttemptFailed(Failure("PluginCrashed", str(crash), crash.stacks, is_final=is_proven, delay=0.0))

    def _is_suspect(self, delivery: Delivery) -> bool:
        return any(suspect is delivery for suspect in self._suspects)
