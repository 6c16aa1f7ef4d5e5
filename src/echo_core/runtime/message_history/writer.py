"""Writes what a `Recorder` has taken: the work of its thread.

Whatever goes wrong is said once, and tried again.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from echo_core.runtime.message_history.store import Block, HistoryError, HistoryStore, Subscribed, is_useless
from echo_core.runtime.settings import HistorySettings
from echo_core.transports.sqlite.leases import HostLock, forget, is_alive, lock_path

logger = logging.getLogger(__name__)

_PRUNE_PARTS: Final = 16
"""The oldest are pruned each time that so large a part of what there may be is written."""
_PRUNE_S: Final = 60.0
_BEGUN_NS: Final = 60_000_000_000
"""A host that began so long ago has its lock, or is dead."""
_SAY_S: Final = 60.0
"""How often it is said that records are dropped."""


class Writer:
    """One host's part of the file."""

    def __init__(
        self,
        store: HistoryStore,
        settings: HistorySettings,
        next_block: Callable[[], Block | None],
        stays: Sequence[str],
    ) -> None:
        self.errands: Final[deque[Callable[[], None]]] = deque()
        """Things to be done in the file, in order."""
        self._store = store
        self._next_block = next_block
        self._stays = stays
        self._host = 0
        self._lock: HostLock | None = None
        self._subscriptions: dict[object, tuple[int, Subscribed]] = {}
        self._block: Block | None = None
        self._trouble = ""
        self._said_at = -_SAY_S
        self._max_bytes = settings.max_size_mb * 1024 * 1024
        self._retain_ns = int(settings.retain_s * 1e9)
        self._since_pruned = 0
        self._pruned_at = time.monotonic()

    def write(self) -> None:
        """Write all that waits, as far as that is possible now."""
        try:
            self._write()
        except HistoryError as error:
            if not self._trouble:
                logger.warning("%s; records wait, and are dropped when there are too many", error)
            self._trouble = str(error)
            if is_useless(error.__cause__):
                self._begin_anew(error)
        except Exception:
            logger.exception("the message history cannot be written")
            self._block = None
        else:
            if self._trouble:
                logger.warning("the message history is written again")
            self._trouble = ""

    def _write(self) -> None:
        while self.errands:
            self.errands[0]()
            self.errands.popleft()
        while True:
            if self._block is None:
                self._block = self._next_block()
            if self._block is None:
                break
            self._block = msgspec.structs.replace(self._block, host=self._number())
            self._say_dropped(self._block.dropped)
            self._since_pruned += self._store.add(self._block)
            self._block = None
            self._prune()
        self._prune()

    def _say_dropped(self, count: int) -> None:
        """Now and then; how many it were is in the file."""
        if count and time.monotonic() - self._said_at > _SAY_S:
            self._said_at = time.monotonic()
            logger.warning("records of the message history are dropped: the disk does not keep up")

    def _prune(self) -> None:
        now = time.monotonic()
        if self._since_pruned > self._max_bytes // _PRUNE_PARTS or now - self._pruned_at > _PRUNE_S:
            before = time.time_ns() - self._retain_ns
            if self._host:
                self._store.prune(before_ns=before, max_bytes=self._max_bytes)
                self._store.shrink()
            self._since_pruned, self._pruned_at = 0, now

    def _number(self) -> int:
        """The host's own; registered when there is something to write for the first time."""
        if not self._host:
            self._store.check()
            host = self._store.register(pid=os.getpid(), stays=self._stays)
            self._lock = HostLock(lock_path(self._store.path, host))
            self._host = host
            self._forget_the_dead()
        return self._host

    def _forget_the_dead(self) -> None:
        """Remove the locks of hosts that were killed; one that has just begun may not have its own yet."""
        for host in self._store.hosts().values():
            is_old = host.started_ns < time.time_ns() - _BEGUN_NS
            if is_old and host.ended_ns is None and not is_alive(self._store.path, host.id):
                forget(self._store.path, host.id)

    def subscribe(self, key: object, wish: Subscribed) -> None:
        """Write it down."""
        host = self._number()
        number = self._store.subscribe(msgspec.structs.replace(wish, host=host))
        self._subscriptions[key] = number, wish

    def unsubscribe(self, key: object, until_ns: int) -> None:
        """Write down that it is over."""
        if key in self._subscriptions:
            self._store.unsubscribe(self._subscriptions[key][0], until_ns)
            del self._subscriptions[key]

    def end(self) -> None:
        """Say that nothing more will come."""
        with suppress(HistoryError):
            if self._host:
                now = time.time_ns()
                for key in list(self._subscriptions):
                    self.unsubscribe(key, now)
                self._store.end(self._host, now)
        self._let_go()
        self._store.close()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
        self._host, self._lock = 0, None

    def _begin_anew(self, why: HistoryError) -> None:
        """The file is of no use: keep it for who wants to look, and begin another one."""
        with suppress(HistoryError):
            self._let_go()
            aside = self._store.set_aside()
            where = f"the old one is now {aside}" if aside is not None else "the old one is there no more"
            logger.warning("a new message history begins, %s: %s", where, why.why)
            wishes = list(self._subscriptions.items())
            self._subscriptions.clear()
            for key, (_, wish) in wishes:
                self.errands.append(functools.partial(self.subscribe, key, wish))
