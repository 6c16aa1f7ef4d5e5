"""How a source's message ended, and up to where a source may acknowledge to where its messages come from."""

from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from typing import Generic, TypeVar

from echo_core.errors import PluginError


class Ending(IntEnum):
    """How a message ended, over all plugins that it went through; the greater, the worse."""

    PROCESSED = 0
    """Every plugin has processed it, and what was made from it."""
    ACCEPTED = 1
    """The transport keeps it, and cannot tell this host what becomes of it."""
    FILTERED = 2
    """A plugin let it, or what was made from it, end on purpose; or nobody subscribes to it."""
    SHED = 3
    """A plugin that was too slow gave it up, as its `delivery.when_full` says."""
    DEAD_LETTERED = 4
    """A plugin could not handle it, or what was made from it: there is a dead letter."""
    UNFINISHED = 5
    """The host stopped, and neither finished it nor kept it as a dead letter."""


P = TypeVar("P")


class _Group(Generic[P]):
    """What began at one position, and how much of it has not ended."""

    __slots__ = ("position", "unfinished")

    def __init__(self, position: P) -> None:
        self.position = position
        self.unfinished = 0


class FinishedPrefix(Generic[P]):
    """Up to which position everything has ended, where things begin in order and end in any.

    A source that reads a log keeps one, and moves its offset no further than it says: what a crash
    interrupts is then read again, and nothing is left out.

        prefix.begin(message.id, record.offset)            # in `produce`, in the order of the offsets
        if (offset := prefix.end(message.id)) is not None: # in `settled`
            await self.consumer.commit(offset)

    Several things may share a position; it is finished when all of them have ended, so begin all of them
    before the first can end.
    """

    def __init__(self) -> None:
        self._groups: deque[_Group[P]] = deque()
        self._group_of: dict[Hashable, _Group[P]] = {}

    def begin(self, key: Hashable, position: P) -> None:
        """`key` begins at `position`. Raises `PluginError` for a key that has begun and not ended."""
        if key in self._group_of:
            raise PluginError(
                f"{key!r} has begun already, and not ended", fix="use a message's id as its key"
            )
        if not self._groups or self._groups[-1].position != position:
            self._groups.append(_Group(position))
        group = self._group_of[key] = self._groups[-1]
        group.unfinished += 1

    def end(self, key: Hashable) -> P | None:
        """`key` has ended: the newest position up to which everything has, or None if that did not move.

        A key that never began, or ended before, changes nothing.
        """
        group = self._group_of.pop(key, None)
        if group is None:
            return None
        group.unfinished -= 1
        finished = None
        while self._groups and not self._groups[0].unfinished:
            finished = self._groups.popleft().position
        return finished

    def forget(self, key: Hashable) -> None:
        """`key` has not begun after all: its position is finished with a later one, never by itself."""
        group = self._group_of.pop(key, None)
        if group is not None:
            group.unfinished -= 1
            if not group.unfinished:
                self._groups.remove(group)

    @property
    def unfinished(self) -> int:
        """How much has begun and not ended."""
        return len(self._group_of)
