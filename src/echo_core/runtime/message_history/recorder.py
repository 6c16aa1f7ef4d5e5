"""Takes records while messages are handled, and writes them from a thread of its own.

Whoever handles messages only appends to a queue. The thread empties it a few times a second. When the disk
cannot keep up the queue is full, and what comes then is dropped and counted: no message ever waits for this.
"""

import functools
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

from echo_core.errors import MessageError
from echo_core.message import BaseMessage, decode, encode, parent_ids
from echo_core.runtime.message_history.masking import Masks
from echo_core.runtime.message_history.records import (
    Accepted,
    Done,
    Kept,
    Records,
)
from echo_core.runtime.message_history.store import Block, HistoryStore, Subscribed
from echo_core.runtime.message_history.writer import Writer
from echo_core.runtime.settings import HistorySettings
from echo_core.transports.base import Delivery

QUEUE_LIMIT: Final = 100_000
"""Records that may wait to be written."""
PAYLOADS_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of messages that may wait to be written."""
BLOCK: Final = 512
"""Records written together: few enough that the interpreter is not kept from the messages."""
_BLOCK_BYTES: Final = 1024 * 1024
_INTERVAL_S: Final = 0.25
_ERROR_LENGTH: Final = 2_000
_TRACEPARENT: Final = "traceparent"
_CLOSE_S: Final = 5.0


Item: TypeAlias = Literal["record", "payload"]
"""What can be dropped."""
Tell: TypeAlias = Callable[[str, Item, int], None]
"""Told now and then, by a thread, how many more were dropped of which plugin."""


class Recorder:
    """Of one process. Start it before the first message; `close` writes what is left."""

    def __init__(
        self,
        path: Path,
        settings: HistorySettings,
        *,
        stays: Sequence[str],
        interval_s: float = _INTERVAL_S,
        queue_limit: int = QUEUE_LIMIT,
        payloads_limit: int = PAYLOADS_LIMIT,
        tell_dropped: Tell | None = None,
    ) -> None:
        """`stays` are patterns of the topics whose messages end with this process."""
        self.path = path
        self.settings = settings
        self.masks = Masks(settings.mask)
        self.accepted: Final[list[Accepted]] = []
        self.done: Final[list[Done]] = []
        self.queue_limit = queue_limit
        self.since_ns = time.time_ns()
        self._payloads_limit = payloads_limit
        self._dropped: dict[tuple[str, Item], int] = {}
        """What found its queue full, by plugin."""
        self._told: dict[tuple[str, Item], int] = {}
        """How many of them `_tell_dropped` has told."""
        self._tell_dropped = tell_dropped
        self._written_dropped = 0
        """How many of them a block has told."""
        self.known: Final[set[str]] = set()
        """Plugins that have been recorded here: where they publish, their messages are."""
        self._payloads: deque[tuple[str, bytes]] = deque()
        self._came = self._went = 0
        """Bytes of payloads; each is counted by one thread."""
        self._writer = Writer(HistoryStore(path), settings, self._next_block, stays)
        self._interval_s = interval_s
        self._nudge = threading.Event()
        self._served = threading.Condition()
        self._rounds = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="message history", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def of(self, name: str, version: str) -> "PluginRecorder":
        """What records for one version of a plugin."""
        self.known.add(name)
        return PluginRecorder(self, name, version)

    def subscribed(self, key: object, plugin: str, patterns: Sequence[str]) -> None:
        """From now on messages on these topics are for the plugin, until `unsubscribed` of the same key."""
        now = time.time_ns()
        wish = Subscribed(host=0, plugin=plugin, patterns=tuple(patterns), since_ns=now, until_ns=None)
        self._writer.errands.append(functools.partial(self._writer.subscribe, key, wish))

    def unsubscribed(self, key: object) -> None:
        """They are no longer."""
        self._writer.errands.append(functools.partial(self._writer.unsubscribe, key, time.time_ns()))

    @property
    def dropped(self) -> int:
        """Records that found the queue full."""
        return sum(count for (_, item), count in list(self._dropped.items()) if item == "record")

    def drop(self, plugin: str, item: Item, count: int = 1) -> None:
        """Count what a plugin has done for which there is no room."""
        self._dropped[plugin, item] = self._dropped.get((plugin, item), 0) + count

    def keep(self, message: BaseMessage, plugin: str) -> None:
        """Keep the message of the plugin whole, if it is not too large and there is room."""
        try:
            raw = encode(message)
        except MessageError:
            return
        if len(raw) > self.settings.max_payload_bytes:
            return
        if self._came - self._went < self._payloads_limit:
            self._came += len(raw)
            self._payloads.append((message.id, raw))
        else:
            self.drop(plugin, "payload")

    def keep_some(self, message: BaseMessage, root_id: str, plugin: str) -> None:
        """Keep the message if all are kept, or all that are made from this root."""
        settings = self.settings
        if settings.payloads == "all" or zlib.crc32(root_id.encode()) < settings.payload_sample * 2**32:
            self.keep(message, plugin)

    def _next_block(self) -> Block | None:
        """The oldest that wait to be written; None when nothing does."""
        waiting = self._payloads
        # One slice and one del: whoever appends meanwhile does so behind them.
        accepted, done = self.accepted[:BLOCK], self.done[:BLOCK]
        del self.accepted[: len(accepted)], self.done[: len(done)]
        payloads: dict[str, Kept] = {}
        size = 0
        while waiting and size < _BLOCK_BYTES:
            message_id, raw = waiting.popleft()
            size += len(raw)
            self._went += len(raw)
            payloads[message_id] = self._kept(raw)
        if not (accepted or done or payloads):
            return None
        now = time.time_ns()
        total = self.dropped
        dropped, self._written_dropped = total - self._written_dropped, total
        return Block(
            host=0,
            first_ns=min([record.timestamp for record in accepted], default=now),
            last_ns=now,
            clock_ns=now - time.monotonic_ns(),
            dropped=dropped,
            records=Records(accepted, done),
            payloads=payloads,
        )

    def _kept(self, raw: bytes) -> Kept:
        if not self.masks:
            return Kept(raw)
        message, masked = self.masks.masked(decode(raw))
        return Kept(encode(message), tuple(masked)) if masked else Kept(raw)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Return when all that was recorded is on disk; False if it is not by then."""
        return self._round(timeout_s) and self._round(timeout_s)  # one may have begun before

    def _round(self, timeout_s: float) -> bool:
        with self._served:
            wanted = self._rounds + 1
            self._nudge.set()
            return self._served.wait_for(lambda: self._rounds >= wanted, timeout_s)

    def close(self) -> None:
        """Write what is left, and end. A disk that does not answer is not waited for."""
        self._closing = True
        self._nudge.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while True:
            self._nudge.wait(self._interval_s)
            self._nudge.clear()
            is_last = self._closing
            self._writer.write()
            self._measure_dropped()
            with self._served:
                self._rounds += 1
                self._served.notify_all()
            if is_last:
                self._writer.end()
                return

    def _measure_dropped(self) -> None:
        if self._tell_dropped is not None:
            for (plugin, item), count in list(self._dropped.items()):
                if more := count - self._told.get((plugin, item), 0):
                    self._tell_dropped(plugin, item, more)
                self._told[plugin, item] = count


class PluginRecorder:
    """Records for one version of a plugin. Everything here happens while messages are handled."""

    __slots__ = (
        "_accepted",
        "_done",
        "_keeps",
        "_keeps_failures",
        "_known",
        "_limit",
        "_name",
        "_recorder",
        "_since_ns",
        "_version",
    )

    def __init__(self, recorder: Recorder, name: str, version: str) -> None:
        self._recorder = recorder
        self._accepted = recorder.accepted
        self._done = recorder.done
        self._limit = recorder.queue_limit
        self._known = recorder.known
        self._since_ns = recorder.since_ns
        self._name = name
        self._version = version
        payloads = recorder.settings.payloads
        self._keeps = payloads in ("sample", "all")
        self._keeps_failures = payloads in ("sample", "failures")

    def accepted(
        self,
        topic: str,
        message: BaseMessage,
        root_id: str,
        parents: tuple[str, ...],
        only: str = "",
        is_replay: bool = False,
    ) -> None:
        """The transport has accepted the message. `only` and `is_replay` as in `Accepted`."""
        if len(self._accepted) < self._limit:
            self._accepted.append(
                Accepted(
                    message.id,
                    root_id,
                    topic,
                    message.timestamp,
                    message.source,
                    message.version,
                    parents,
                    message.trace_context.get(_TRACEPARENT, "")[3:35],
                    only,
                    is_replay,
                )
            )
        else:
            self._recorder.drop(self._name, "record")
        if self._keeps:
            self._recorder.keep_some(message, root_id, self._name)

    def accepted_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        """`accepted` for many."""
        for message in messages:
            receipts = message.receipts
            root_id = receipts[0].message_id if receipts else message.id
            self.accepted(topic, message, root_id, parent_ids(receipts))

    def done(
        self, delivery: Delivery, attempt: int, outcome: int, began: float, ended: float, batch: int = 0
    ) -> None:
        """The plugin made an attempt that did not fail, or is done with the message otherwise."""
        message = delivery.message
        if message.source not in self._known or message.timestamp < self._since_ns:
            self._arrived(delivery)
        if len(self._done) < self._limit:
            self._done.append(
                Done(message.id, self._name, self._version, attempt, outcome, began, ended, batch)
            )
        else:
            self._recorder.drop(self._name, "record")

    def done_batch(
        self,
        deliveries: Sequence[Delivery],
        outcomes: Iterable[int],
        began: float,
        ended: float,
        batch: int,
    ) -> None:
        """`done` for messages of one batch, at their first attempt."""
        known, since_ns, name, version = self._known, self._since_ns, self._name, self._version
        messages = [delivery.message for delivery in deliveries]
        for delivery, message in zip(deliveries, messages, strict=True):
            if message.source not in known or message.timestamp < since_ns:
                self._arrived(delivery)
        if len(self._done) < self._limit:
            self._done += [
                Done(message.id, name, version, 1, outcome, began, ended, batch)
                for message, outcome in zip(messages, outcomes, strict=False)
            ]
        else:
            self._recorder.drop(self._name, "record", len(messages))

    def failed(
        self,
        delivery: Delivery,
        attempt: int,
        outcome: int,
        began: float,
        ended: float,
        error_type: str,
        error: str,
        batch: int = 0,
    ) -> None:
        """The plugin made an attempt that failed, or the message became a dead letter."""
        message, recorder = delivery.message, self._recorder
        self._arrived(delivery)
        if self._keeps_failures:
            recorder.keep(message, self._name)
        if len(self._done) < self._limit:
            error = recorder.masks.masked_text(error, message)[:_ERROR_LENGTH]
            self._done.append(
                Done(
                    message.id,
                    self._name,
                    self._version,
                    attempt,
                    outcome,
                    began,
                    ended,
                    batch,
                    error_type,
                    error,
                )
            )
        else:
            recorder.drop(self._name, "record")

    def _arrived(self, delivery: Delivery) -> None:
        """Where the message came from, if another process, which may be dead, had to record that."""
        message = delivery.message
        if message.source not in self._known or message.timestamp < self._since_ns:
            self.accepted(delivery.topic, message, message.root_id, message.parent_ids)
