"""`atexit` for one scope: its callbacks are called when the plugin goes, not when the process ends."""

import atexit
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger(__name__)


class Exits:
    """The callbacks that were registered. What is left of them is called when the process ends."""

    def __init__(self) -> None:
        self._callbacks: list[partial[Any]] = []

    @property
    def waiting(self) -> int:
        """How many there are."""
        return len(self._callbacks)

    def register(self, function: F, /, *arguments: Any, **named: Any) -> F:
        """`atexit.register`."""
        if not self._callbacks:
            atexit.register(self.call)
        self._callbacks.append(partial(function, *arguments, **named))
        return function

    def unregister(self, function: Callable[..., Any], /) -> None:
        """`atexit.unregister`."""
        self._callbacks = [callback for callback in self._callbacks if callback.func != function]

    def forget(self) -> None:
        """Call none of them, not even when the process ends."""
        self._callbacks.clear()
        atexit.unregister(self.call)

    def call(self) -> list[Callable[..., Any]]:
        """Call them, the last one first, and forget them; what was called. Their errors are logged."""
        called = []
        while self._callbacks:
            callback = self._callbacks.pop()
            called.append(callback.func)
            try:
                callback()
            except Exception:
                logger.exception("a callback that was registered with atexit failed")
        atexit.unregister(self.call)
        return called
