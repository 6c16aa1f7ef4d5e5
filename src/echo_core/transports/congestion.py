"""Which sources should wait, because their messages fill a queue.

A queue names the sources of what fills it when it is half full, long before it makes its publishers wait:
a plugin that waits would hold up all that pass through it, not only the source that sends too much.
"""

import asyncio
from collections.abc import Awaitable, Hashable


class Congestion:
    """Queues and the sources that fill them. A queue is anything hashable; a source is a name."""

    def __init__(self) -> None:
        self._filled_by: dict[Hashable, dict[str, None]] = {}
        self._fills: dict[str, dict[Hashable, None]] = {}
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def begin(self, queue: Hashable, source: str) -> None:
        """The queue is filled by messages of `source`: it should wait. Saying it again changes nothing."""
        self._filled_by.setdefault(queue, {})[source] = None
        self._fills.setdefault(source, {})[queue] = None

    def end(self, queue: Hashable) -> None:
        """The queue has room again: whoever fills no other one may go on."""
        for source in self._filled_by.pop(queue, ()):
            fills = self._fills[source]
            del fills[queue]
            if not fills:
                del self._fills[source]
                for waiter in self._waiting.pop(source, ()):
                    if not waiter.done():
                        waiter.set_result(None)

    def wait(self, source: str) -> Awaitable[None] | None:
        """What `source` should wait for, then ask again; None if it may go on."""
        if source not in self._fills:
            return None
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(source, []).append(waiter)
        return waiter
