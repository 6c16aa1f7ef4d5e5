"""Deals one queue out to two versions of a plugin: by key, so that a key stays with one of them."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Final

from echo_core.errors import TransportClosed
from echo_core.runtime.lane import Receive
from echo_core.runtime.lanes import Sorter

OLD, NEW = 0, 1
_PARTS: Final = 10_000
_HELD: Final = 64
"""Messages dealt out and not taken. Few, so that little is under way when the new version turns out bad."""
_BATCH: Final = 16


def part_of(key: str) -> int:
    """Where in 0 … 9,999 a key stands: the same in every process, and other than by what lanes are chosen."""
    return zlib.crc32(b"version:" + key.encode("utf-8", "surrogatepass")) % _PARTS


class Splitter(Sorter):
    """A sorter with two places: the keys of the first `percent` of the parts go to the new version."""

    def __init__(self, receive: Receive, path: str, percent: float, may_go_on: Callable[[], bool]) -> None:
        """`path` is the ordering key's, `id` where there is none. `may_go_on` is asked before each batch."""
        super().__init__(receive, path, 2, _HELD)
        self._new_below = round(percent * _PARTS / 100)
        self._may_go_on = may_go_on

    async def _sort(self) -> None:
        try:
            while True:
                await self._room.wait()
                if not self._may_go_on():
                    await asyncio.Event().wait()  # until it is cancelled: all will go to one version again
                for delivery in await self._receive(_BATCH):
                    part = part_of(self._key_of(delivery.message))
                    self._inboxes[NEW if part < self._new_below else OLD].put(delivery)
                    self._held += 1
                if self._held >= self._limit:
                    self._room.clear()
        except TransportClosed:
            return
