"""What was seen lately, without remembering everything."""

from collections.abc import Hashable
from typing import Final

_REMEMBERED: Final = 10_000


class Recent:
    """The newest few thousand of the keys that were added."""

    __slots__ = ("_limit", "_new", "_old")

    def __init__(self, limit: int = _REMEMBERED) -> None:
        self._limit = limit
        self._new: set[Hashable] = set()
        self._old: set[Hashable] = set()

    def add(self, key: Hashable) -> None:
        """Remember it."""
        self._new.add(key)
        if len(self._new) >= self._limit:
            self._old, self._new = self._new, set()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._new or key in self._old
