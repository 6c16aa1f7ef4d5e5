"""End-to-end settlement: follows a source's message, and all that is made from it, to the last end.

A message and its descendants share the id of the first of them, `root_id`. For each root there is a count of
deliveries that have not ended; the transport adds to it what it accepts, the lanes take away what ends. Only
sources that override `settled` are followed; where there are none nothing is counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from echo_core.message import BaseMessage
from echo_core.runtime.raised import ends_caller, named
from echo_core.runtime.source_progress import Progress
from echo_core.settlement import Ending

logger = logging.getLogger(__name__)

_GRACE_S: Final = 1.0
"""How long a call that is cancelled may take to end before it is left behind."""

Tell: TypeAlias = Callable[[BaseMessage, Ending], Awaitable[None]]


class Followed:
    """A source whose messages are followed to their ends, and what it has not been told yet."""

    def __init__(
        self,
        name: str,
        tell: Tell | None,
        limit: int,
        timeout_s: float,
        *,
        degrade: Callable[[str], None],
        recover: Callable[[str], None],
    ) -> None:
        self.name: Final = name
        self._tell = tell
        self.limit: Final = limit
        self._timeout_s = timeout_s
        self._degrade = degrade
        self._recover = recover
        self._trouble = ""
        self._ended: deque[tuple[BaseMessage, Ending]] = deque()
        self._outstanding = 0
        self._changed: asyncio.Future[None] | None = None
        self._teller: asyncio.Task[None] | None = None
        self.progress: Progress | None = None
        """How far it has come, where it keeps that."""

    @property
    def is_told(self) -> bool:
        """Whether it wants to know how each message ended."""
        return self._tell is not None

    async def begin(self, count: int = 1) -> None:
        """So many more messages are on their way, at once; waits until they are no more than `limit`."""
        while self._outstanding and self._outstanding + count > self.limit:
            await self._change()
        self._outstanding += count

    def give_up(self) -> None:
        """A message that had begun was not accepted; there is nothing to tell."""
        self._outstanding -= 1
        self._has_changed()

    def end(self, message: BaseMessage, ending: Ending) -> None:
        """The message has ended; the source will be told in its turn, if it wants to be."""
        if self.progress is not None:
            self.progress.end(message.id, ending)
        if self._tell is None:
            self._outstanding -= 1
        else:
            self._ended.append((message, ending))
        self._has_changed()

    def start(self) -> None:
        """Begin to tell the source of each end, one after another; once."""
        if self._tell is None or self._teller is not None:
            return
        self._teller = asyncio.create_task(self._run(self._tell), name=f"{self.name} settled")

    async def stop(self) -> None:
        """Tell it no more. A call that will not be cancelled is left behind."""
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.wait([self._teller], timeout=_GRACE_S)

    async def _run(self, tell: Tell) -> None:
        """Until cancelled. The source's exceptions end here."""
        while True:
            while not self._ended:
                await self._change()
            message, ending = self._ended.popleft()
            trouble = await self._call(tell, message, ending)
            if trouble:
                logger.error("%s could not settle message %s: %s", self.name, message.id, trouble)
                self._degrade(trouble)
            elif self._trouble:
                self._recover(self._trouble)
            self._trouble = trouble
            self._outstanding -= 1
            self._has_changed()

    async def _call(self, tell: Tell, message: BaseMessage, ending: Ending) -> str:
        """Why it did not go well, or an empty string."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                await tell(message, ending)
        except BaseException as error:
            if ends_caller(error):
                raise
            if isinstance(error, TimeoutError) and deadline.expired():
                return f"settled: no answer within {self._timeout_s:g} s (timeouts.message_ms)"
            return f"settled: {named(error)}"
        return ""

    async def wait_until_told(self) -> None:
        """Return when the source has been told of all that it published."""
        while self._outstanding:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def _has_changed(self) -> None:
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None


class _Flight:
    """A root and its descendants."""

    __slots__ = ("deliveries", "messages", "pending", "worst")

    def __init__(self) -> None:
        self.messages: list[tuple[Followed, BaseMessage]] = []
        self.deliveries: dict[str, int] = {}
        """By message id, of those that the transport has reported; others end here too, and do not count."""
        self.pending = 0
        """Deliveries that have not ended, and publications of the source that have not returned."""
        self.worst: Ending | None = None


class Settlements:
    """All that is followed in one host."""

    def __init__(self) -> None:
        self.open: Final[dict[str, _Flight]] = {}
        """By root id. Ask whether it is empty before calling anything here: it mostly is."""
        self._followed: dict[str, Followed] = {}

    def follow(self, followed: Followed) -> None:
        """Follow the messages of this source."""
        self._followed[followed.name] = followed

    def unfollow(self, followed: Followed) -> None:
        """Follow what the source publishes no longer; it may have a successor of its name by now."""
        if self._followed.get(followed.name) is followed:
            del self._followed[followed.name]

    def depart(self, root_id: str) -> None:
        """The source begins to publish a message: its flight is not over before `departed`."""
        self.open.setdefault(root_id, _Flight()).pending += 1

    def departed(
        self, root_id: str, message_id: str, followed: Followed, message: BaseMessage | None
    ) -> None:
        """`publish` has returned the message, or raised (None); it may have been accepted all the same."""
        flight = self.open.get(root_id)
        if flight is None:  # the host has stopped meanwhile
            return
        if not any(known.id == message_id for _, known in flight.messages):
            if message is None:
                followed.give_up()
            else:  # by a transport that does not report what it accepts
                flight.messages.append((followed, message))
                flight.worst = _worse(flight.worst, Ending.ACCEPTED)
        self._one_less(root_id, flight)

    def accepted(self, message: BaseMessage, count: int) -> None:
        """The transport has accepted it for `count` subscriptions: its `on_accept`."""
        flight = self.open.get(message.root_id)
        if flight is None:
            return
        flight.pending += count
        if count:
            flight.deliveries[message.id] = flight.deliveries.get(message.id, 0) + count
        followed = self._followed.get(message.source)
        if followed is not None:
            flight.messages.append((followed, message))

    def ended(self, message: BaseMessage, ending: Ending) -> None:
        """One delivery of the message has ended."""
        flight = self.open.get(message.root_id)
        if flight is not None and (left := flight.deliveries.get(message.id)):
            if left == 1:
                del flight.deliveries[message.id]
            else:
                flight.deliveries[message.id] = left - 1
            flight.worst = _worse(flight.worst, ending)
            self._one_less(message.root_id, flight)

    def _one_less(self, root_id: str, flight: _Flight) -> None:
        flight.pending -= 1
        if not flight.pending:
            del self.open[root_id]
            self._report(flight, Ending.FILTERED if flight.worst is None else flight.worst)

    @staticmethod
    def _report(flight: _Flight, ending: Ending) -> None:
        for followed, message in flight.messages:
            followed.end(message, ending)

    def abandon(self) -> None:
        """The host stops, and nothing more will end: what is still open is unfinished."""
        while self.open:
            self._report(self.open.popitem()[1], Ending.UNFINISHED)


def _worse(one: Ending | None, other: Ending) -> Ending:
    return other if one is None or other > one else one
