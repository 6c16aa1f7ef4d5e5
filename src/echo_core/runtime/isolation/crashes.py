"""When a process that died is started again, and when no more.

Full jitter: a random time below a bound that doubles with every crash. The first crash after a good while is
followed by a start at once; a process that dies over and over is left alone, until somebody looks at it.
"""

import random
from collections import deque
from collections.abc import Callable
from typing import Final

_BASE_S: Final = 0.25
_LONGEST_S: Final = 30.0
_STEADY_S: Final = 60.0
_WINDOW_S: Final = 120.0
ALLOWED: Final = 5
"""Crashes within two minutes that are followed by another start."""


class CrashRecord:
    """The crashes of one plugin's processes."""

    def __init__(self, random_below: Callable[[float], float] | None = None) -> None:
        self._random_below = random_below or (lambda high: random.uniform(0.0, high))  # noqa: S311  (no secret)
        self._crashes: deque[float] = deque(maxlen=ALLOWED + 1)
        self._ready_since: float | None = None
        self._in_a_row = 0

    def ready(self, now: float) -> None:
        """A process is ready to work."""
        self._ready_since = now

    def crashed(self, now: float) -> float | None:
        """Seconds to wait before the next start; None: there is to be no next one."""
        steady = self._ready_since is not None and now - self._ready_since >= _STEADY_S
        self._in_a_row = 1 if steady else self._in_a_row + 1
        self._ready_since = None
        self._crashes.append(now)
        recent = [crash for crash in self._crashes if now - crash <= _WINDOW_S]
        if len(recent) > ALLOWED:
            return None
        if self._in_a_row == 1:
            return 0.0
        exponent = min(self._in_a_row - 2, 16)
        return self._random_below(min(_LONGEST_S, _BASE_S * 2**exponent))
