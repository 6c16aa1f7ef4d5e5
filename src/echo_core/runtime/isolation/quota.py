"""So much a second, and no more: what a process says must not take its host's time."""

from time import monotonic
from typing import Final

A_SECOND: Final = 100


class Quota:
    """Admits `A_SECOND` things in each second, and counts the others."""

    def __init__(self) -> None:
        self._second = 0.0
        self._admitted = 0
        self._dropped = 0

    def admits(self) -> bool:
        """Whether one more is within it."""
        now = monotonic()
        if now - self._second >= 1.0:
            self._second, self._admitted = now, 0
        if self._admitted < A_SECOND:
            self._admitted += 1
            return True
        self._dropped += 1
        return False

    def take_dropped(self) -> int:
        """How many it did not admit since the last time."""
        dropped, self._dropped = self._dropped, 0
        return dropped
