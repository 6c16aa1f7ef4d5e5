"""The one thread that touches the file: whatever has come together meanwhile goes into one transaction.

The event loop puts requests into queues and is told of results by one call a transaction ("group commit":
DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984, section 5).
Queues are emptied settlements first, publications last: so a settlement is never on disk without what was
published before it.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from echo_core.errors import QueueFull, StoreError, TransportError
from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicTrie
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.settings import StoreSettings
from echo_core.transports.sqlite.store import Claimed, Store

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.05
"""How often to look for what other processes have written."""
_GATHER_S: Final = 0.002
"""How long work that nobody waits for may wait for company."""
_RETRY_S: Final = 0.2
"""Pause after a transaction that failed."""
_SWEEP_AFTER: Final = 1_024
"""Settlements after which to look for messages that can go."""
_CLAIMED: Final = 256
"""Deliveries claimed for one reader in one transaction."""
_HELD_BESIDE_OTHERS: Final = 64
"""Deliveries to hold for one reader while other hosts use the store too, so that they get their share."""
_REMEMBERED: Final = 10_000
"""Topics whose subscriptions are known by heart."""

T = TypeVar("T")
Answer: TypeAlias = "asyncio.Future[Any]"


class Handed(Protocol):
    """A delivery that a receiver has got."""

    seq: int
    is_settled: bool


class Reader(Protocol):
    """The event loop's end of a subscription."""

    name: str
    id: int
    """Given by this thread when the reader is attached."""
    capacity: int
    """Deliveries to hold in memory for it; the rest stays on disk."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its patterns."""

    def arrive(self, claimed: Sequence[Claimed]) -> None:
        """Take these: the host holds them from now on."""

    def count(self, on_disk: int) -> None:
        """So many deliveries wait on disk."""

    def returned(self) -> None:
        """A delivery that was delayed has reached the disk."""


class Publication(NamedTuple):
    """A message to be written."""

    topic: str
    body: bytes
    message: BaseMessage
    accepted: "Answer | None"
    """None where nobody waits: what it was made from is settled after it, and comes again if it is lost."""
    subscriber: str | None = None
    """The one subscription that is to get it; None: all that want its topic."""


@dataclass(slots=True, eq=False)
class _Attached:
    """A reader, as this thread knows it."""

    reader: Reader
    held: int = 0
    """Deliveries of the subscription that this host holds, handed out or not."""
    due: int = 0
    """Deliveries on disk that nobody holds and that could be claimed; never 0 while there are some."""
    delayed: int = 0
    told: int = 0
    """What the event loop was told last: how many wait on disk."""


@dataclass(slots=True)
class Outcome:
    """What a transaction did, for the event loop."""

    answers: list[tuple[Answer, Any]] = field(default_factory=list)
    """Futures, and their results."""
    accepted: list[Publication] = field(default_factory=list)
    refused: list[tuple[Answer, TransportError]] = field(default_factory=list)
    arrivals: list[tuple[Reader, list[Claimed]]] = field(default_factory=list)
    """Deliveries that this host holds from now on."""
    returned: list[Reader] = field(default_factory=list)
    """One entry for each delivery that was given back to the disk."""
    on_disk: list[tuple[Reader, int]] = field(default_factory=list)
    """How many deliveries wait on disk for a reader, where that has changed."""
    is_lease_lost: bool = False
    """What this host held is others' now; nothing of it may be handed out any more."""
    broken: TransportError | None = None
    """The store is damaged: nothing works any more."""


class Writer:
    """Owns the connection. Everything public is called by the event loop's thread and returns at once."""

    def __init__(
        self,
        settings: StoreSettings,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[Outcome], None],
        *,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._report = report
        self._time_ns = time_ns
        self._wake = threading.Event()
        self._idle = False
        """Any work wakes the thread."""
        self._gathering = False
        """Only work that somebody waits for wakes it."""
        self._opened: Answer = loop.create_future()
        self._closing: Answer | None = None
        self._publications: deque[Publication] = deque()
        self._readers: deque[tuple[Reader, bool, Answer]] = deque()
        self._settled: deque[tuple[Reader, int]] = deque()
        self._handed: deque[tuple[Reader, Handed]] = deque()
        self._delayed: deque[tuple[Reader, int, float]] = deque()
        self._given_back: deque[tuple[Reader, int]] = deque()
        self._thread = threading.Thread(target=self._run, name="echo-core store", daemon=True)
        # Only the thread touches what follows.
        self._store: Store
        self._connection: sqlite3.Connection
        self._lock: leases.HostLock
        self._host = 0
        self._has_others = False
        self._attached: dict[Reader, _Attached] = {}
        self._current: dict[int, _Attached] = {}
        """Of the readers of one subscription, the one that gets what comes: the newest."""
        self._routes: TopicTrie[int] = TopicTrie()
        self._known_routes: dict[str, tuple[int, ...]] = {}
        self._ids: dict[str, int] = {}
        """Of the subscriptions, by name."""
        self._next_due_ns: int | None = None
        self._delayed_ns = 0
        """When something was last delayed: a clock that shows less was set back since."""
        self._counter = 0
        self._is_stale = False
        self._claims_more = False
        self._unswept = 0
        self._renew_at = 0.0
        self._synchronous = ""
        self._broken: TransportError | None = None
        self._is_failing = False

    # The event loop's side

    async def start(self) -> None:
        """Open the store; raises `StoreError` when that cannot be done."""
        self._thread.start()
        await self._opened

    async def stop(self) -> None:
        """Write what is left, give back what was not settled, and let the file go."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self._wake.set()
        await asyncio.shield(self._closing)

    @property
    def unwritten(self) -> int:
        """Publications that wait for the next transaction."""
        return len(self._publications)

    def publish(self, publication: Publication) -> None:
        """Write a message; its `accepted` is done when it is."""
        self._publications.append(publication)
        if self._idle or self._gathering:
            self._wake.set()

    def publish_batch(self, publications: Sequence[Publication]) -> None:
        """Write several messages, all of them in one transaction."""
        self._publications.extend(publications)
        if self._idle or self._gathering:
            self._wake.set()

    def attach(self, reader: Reader, done: Answer) -> None:
        """Deliver to the reader from now on, and what waits for it."""
        self._readers.append((reader, True, done))
        self._wake.set()

    def detach(self, reader: Reader, done: Answer) -> None:
        """Claim nothing more for the reader; what it holds it may still settle."""
        self._readers.append((reader, False, done))
        self._wake.set()

    def settle(self, reader: Reader, seq: int) -> None:
        """The delivery is done with."""
        self._settled.append((reader, seq))
        if self._idle:
            self._wake.set()

    def settle_batch(self, reader: Reader, seqs: Iterable[int]) -> None:
        """The deliveries are done with."""
        self._settled.extend([(reader, seq) for seq in seqs])
        if self._idle:
            self._wake.set()

    def handed_out(self, reader: Reader, delivery: Handed) -> None:
        """A receiver has this one in hand."""
        self._handed.append((reader, delivery))
        if self._idle:
            self._wake.set()

    def delay(self, reader: Reader, seq: int, seconds: float) -> None:
        """Nobody gets the delivery before so long."""
        self._delayed.append((reader, seq, seconds))
        if self._idle:
            self._wake.set()

    def give_back(self, reader: Reader, seqs: Iterable[int]) -> None:
        """What this host held for a reader that is closed, and did not hand out, is another reader's."""
        self._given_back.extend([(reader, seq) for seq in seqs])

    # The thread's life

    def _run(self) -> None:
        try:
            self._open()
        except TransportError as error:
            self._post(Outcome(refused=[(self._opened, error)]))
            return
        self._post(Outcome(answers=[(self._opened, None)]))
        failed = False
        while self._closing is None or (self._has_work() and not failed):
            if failed:
                self._wake.wait(_RETRY_S)
            else:
                self._sleep()
                self._gather()
            self._wake.clear()
            failed = not self._work()
        self._close()

    def _has_work(self) -> bool:
        return bool(
            self._publications
            or self._settled
            or self._handed
            or self._delayed
            or self._given_back
            or self._readers
            or self._claims_more
        )

    def _sleep(self) -> None:
        """Until somebody wants something, a delayed delivery is due, or it is time to look around."""
        seconds = _POLL_S
        if self._next_due_ns is not None:
            seconds = min(seconds, max(0.0, (self._next_due_ns - self._time_ns()) / 1e9))
        self._idle = True
        if not self._has_work() and self._closing is None:
            self._wake.wait(seconds)
        self._idle = False

    def _gather(self) -> None:
        """Let settlements and marks, for which nobody waits, share a transaction with what comes soon."""
        self._gathering = True
        if self._has_work() and not (self._publications or self._readers or self._claims_more):
            self._wake.clear()
            if not (self._publications or self._readers or self._closing is not None):
                self._wake.wait(_GATHER_S)
        self._gathering = False

    def _post(self, outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._report, outcome)

    def _open(self) -> None:
        path = self._settings.path
        self._connection = schema.connect(path, busy_s=self._settings.busy_s)
        self._store = Store(self._connection)
        try:
            self._connection.execute("PRAGMA journal_size_limit = 67108864")
            self._store.begin()
            self._register()
            self._bury()
            self._learn()
            self._store.commit()
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                self._store.rollback()
            self._connection.close()
            raise schema.failed(path, "opened", error) from error
        self._counter = self._store.change_counter()

    def _close(self) -> None:
        try:
            if self._broken is None:
                self._store.begin()
                self._store.give_all_back(self._host)
                self._store.remove_host(self._host)
                self._store.commit()
        except sqlite3.Error:
            logger.warning(
                "the store could not be left in good order; the next host frees what this one held"
            )
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._store.rollback()
                self._connection.close()
            self._lock.release()
            error = TransportError("the transport was closed before this was written")
            left = [
                (each.accepted, error) for each in _drained(self._publications) if each.accepted is not None
            ]
            self._post(Outcome(answers=[(self._closing, None)] if self._closing else [], refused=left))

    # One transaction

    def _work(self) -> bool:
        """Write all that was asked for; false when it could not be done and should be tried again."""
        settled, handed, delayed = (
            _drained(self._settled),
            _drained(self._handed),
            _drained(self._delayed),
        )
        given_back = _drained(self._given_back)
        readers, publications = _drained(self._readers), _drained(self._publications)
        outcome = Outcome()
        try:
            if self._broken is not None:
                raise self._broken
            is_wanted = bool(
                settled or handed or delayed or given_back or readers or publications or self._claims_more
            )
            if is_wanted or self._should_look():
                self._set_synchronous("normal" if not publications else self._settings.synchronous)
                self._store.begin()
                self._look_around(outcome)
                self._apply_settled(settled)
                self._apply_handed(handed)
                self._apply_delayed(delayed, outcome)
                self._apply_given_back(given_back)
                self._apply_readers(readers, outcome)
                self._mature()
                self._publish(publications, outcome)
                self._claim(outcome)
                self._sweep()
                self._store.commit()
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            self._settled.extendleft(reversed(settled))
            self._handed.extendleft(reversed(handed))
            self._delayed.extendleft(reversed(delayed))
            self._given_back.extendleft(reversed(given_back))
            self._readers.extendleft(reversed(readers))
            self._publications.extendleft(each for each in reversed(publications) if each.accepted is None)
            self._fail(error, [each.accepted for each in publications if each.accepted is not None])
            return False
        self._is_failing = False
        self._tell_counts(outcome)
        if outcome != _NOTHING:
            self._post(outcome)
        return True

    def _fail(self, error: Exception, waiting: list[Answer]) -> None:
        """Nothing of the transaction holds. Publishers are told; the rest is kept, and tried again."""
        with contextlib.suppress(sqlite3.Error):
            self._store.rollback()
        self._is_stale = True
        ours = error if isinstance(error, TransportError) else self._in_our_words(error)
        outcome = Outcome(refused=[(answer, ours) for answer in waiting])
        if self._broken is None and (not isinstance(error, sqlite3.Error) or schema.is_damaged(error)):
            self._broken = outcome.broken = ours
        if self._broken is not None:
            outcome.answers += [(done, None) for _, _, done in _drained(self._readers)]
            for queue in (
                self._settled,
                self._handed,
                self._delayed,
                self._given_back,
                self._publications,
            ):
                queue.clear()
        if not self._is_failing:
            logger.error("%s", ours, exc_info=None if isinstance(error, sqlite3.Error) else error)
        self._is_failing = True
        self._post(outcome)

    def _in_our_words(self, error: Exception) -> StoreError:
        if isinstance(error, sqlite3.Error):
            return schema.failed(self._settings.path, "written", error)
        why = f"{type(error).__name__}: {error}"
        return StoreError("the store's thread failed", where=str(self._settings.path), why=why)

    def _set_synchronous(self, level: str) -> None:
        """Only publications wait for the disk: what else is lost with the machine just comes again."""
        if level != self._synchronous:
            self._store.set_synchronous(level)
            self._synchronous = level

    # Other hosts

    def _should_look(self) -> bool:
        now_ns = self._time_ns()
        is_due = self._next_due_ns is not None and not self._delayed_ns <= now_ns < self._next_due_ns
        return (
            is_due
            or self._is_stale
            or time.monotonic() >= self._renew_at
            or self._store.change_counter() != self._counter
        )

    def _look_around(self, outcome: Outcome) -> None:
        """See what others have done, and show them that this host lives."""
        counter = self._store.change_counter()
        is_changed = counter != self._counter or self._is_stale
        if not is_changed and time.monotonic() < self._renew_at:
            return
        if not self._store.renew(self._host, self._expiry()):
            self._start_again(outcome)
            is_changed = True
        is_changed = self._bury() or is_changed
        if is_changed:
            self._learn()
        self._counter, self._is_stale = counter, False

    def _expiry(self) -> float:
        self._renew_at = time.monotonic() + self._settings.lease_s / 3
        return time.monotonic() + self._settings.lease_s

    def _register(self) -> None:
        """Become one of the store's hosts."""
        self._host = self._store.add_host(os.getpid(), self._expiry())
        self._lock = leases.HostLock(leases.lock_path(self._settings.path, self._host))

    def _start_again(self, outcome: Outcome) -> None:
        """Others have taken this host for dead, and what it held: it is a new one."""
        logger.warning(
            "this host showed no life for %g s, and what it held of the store %s has gone to others",
            self._settings.lease_s,
            self._settings.path,
        )
        self._lock.release()
        self._register()
        outcome.is_lease_lost = True

    def _bury(self) -> bool:
        """Free what dead hosts hold; whether there were any."""
        found_dead = self._has_others = False
        for host, expires in self._store.hosts():
            if host == self._host:
                continue
            is_alive = leases.is_alive(self._settings.path, host)
            if is_alive and time.monotonic() <= expires:
                self._has_others = True
                continue
            found_dead = True
            freed = self._store.give_all_back(host)
            self._store.remove_host(host)
            if not is_alive:
                leases.forget(self._settings.path, host)
            how = "shows no life" if is_alive else "ended without leaving"
            logger.warning("a host of %s %s; what it held is free: %d", self._settings.path, how, freed)
        return found_dead

    def _learn(self) -> None:
        """Read anew what others may have changed: who subscribes to what, and what waits."""
        self._routes = TopicTrie()
        self._known_routes.clear()
        for subscriber in self._store.subscribers():
            self._ids[subscriber.name] = subscriber.id
            for pattern in subscriber.patterns:
                self._routes.add(TopicPattern(pattern), subscriber.id)
        for attached in self._current.values():
            self._count(attached)
        self._next_due_ns = self._store.next_due_ns()

    def _count(self, attached: _Attached) -> None:
        subscription = attached.reader.id
        attached.due = self._store.count_due(subscription)
        attached.delayed = self._store.count_delayed(subscription)
        attached.held = self._store.count_held(subscription, self._host)

    # What was asked for

    def _apply_settled(self, settled: list[tuple[Reader, int]]) -> None:
        by_subscription: dict[int, list[int]] = {}
        for reader, seq in settled:
            by_subscription.setdefault(reader.id, []).append(seq)
        for subscription, seqs in by_subscription.items():
            self._store.settle(subscription, seqs)
            if (current := self._current.get(subscription)) is not None:
                current.held -= len(seqs)
        self._unswept += len(settled)

    def _apply_handed(self, handed: list[tuple[Reader, Handed]]) -> None:
        by_subscription: dict[int, list[int]] = {}
        for reader, delivery in handed:
            if not delivery.is_settled:
                by_subscription.setdefault(reader.id, []).append(delivery.seq)
        for subscription, seqs in by_subscription.items():
            times = Counter(seqs)  # one that was handed back at once may be here again
            while times:
                self._store.handed_out(subscription, list(times))
                times = Counter({seq: count - 1 for seq, count in times.items() if count > 1})

    def _apply_delayed(self, delayed: list[tuple[Reader, int, float]], outcome: Outcome) -> None:
        if not delayed:
            return
        now_ns = self._delayed_ns = self._time_ns()
        for reader, seq, seconds in delayed:
            due_ns = now_ns + int(seconds * 1e9)
            outcome.returned.append(reader)
            if not self._store.delay(reader.id, seq, self._host, now_ns, due_ns):
                continue  # it has gone to another host meanwhile
            self._next_due_ns = min(self._next_due_ns or due_ns, due_ns)
            if (current := self._current.get(reader.id)) is not None:
                current.held -= 1
                current.delayed += 1

    def _apply_given_back(self, given_back: list[tuple[Reader, int]]) -> None:
        by_subscription: dict[int, list[int]] = {}
        for reader, seq in given_back:
            by_subscription.setdefault(reader.id, []).append(seq)
        for subscription, seqs in by_subscription.items():
            self._store.give_back(subscription, self._host, seqs)

    def _apply_readers(self, readers: list[tuple[Reader, bool, Answer]], outcome: Outcome) -> None:
        for reader, comes, done in readers:
            if comes:
                self._attach(reader)
            else:
                self._detach(reader)
            outcome.answers.append((done, None))
        if readers:
            self._learn()

    def _attach(self, reader: Reader) -> None:
        reader.id = self._store.attach(reader.name, reader.texts, self._time_ns())
        self._attached[reader] = self._current[reader.id] = _Attached(reader)

    def _detach(self, reader: Reader) -> None:
        """An earlier reader of the same subscription, if there is one, gets what comes from now on."""
        self._attached.pop(reader, None)
        if reader.id not in self._current or self._current[reader.id].reader is not reader:
            return
        del self._current[reader.id]
        earlier = [each for each in self._attached.values() if each.reader.id == reader.id]
        self._store.attach(reader.name, (earlier[-1].reader if earlier else reader).texts, self._time_ns())
        if earlier:
            self._current[reader.id] = earlier[-1]

    def _mature(self) -> None:
        if self._next_due_ns is None:
            return
        now_ns = self._time_ns()
        matured = self._store.mature(now_ns)
        for subscription in matured:
            if (current := self._current.get(subscription)) is not None:
                current.due += 1
                current.delayed -= 1
        self._next_due_ns = self._store.next_due_ns()

    def _publish(self, publications: list[Publication], outcome: Outcome) -> None:
        if not publications:
            return
        if self._settings.max_bytes and self._store.used_bytes() >= self._settings.max_bytes:
            refusal = self._full()
            outcome.refused += [
                (each.accepted, refusal) for each in publications if each.accepted is not None
            ]
            publications = [each for each in publications if each.accepted is None]
        kept: list[tuple[str, bytes, tuple[int, ...]]] = []
        accepted: list[Publication] = []
        for publication in publications:
            topic = publication.topic
            if publication.subscriber is None:
                routes = self._known_routes.get(topic) or self._find_routes(topic)
            elif publication.subscriber in self._ids:
                routes = (self._ids[publication.subscriber],)
            else:
                assert publication.accepted is not None
                outcome.refused.append((publication.accepted, _no_subscriber(publication.subscriber)))
                continue
            accepted.append(publication)
            if routes or self._settings.retain_s:
                kept.append((topic, publication.body, routes))
        if kept:
            self._add(kept, outcome)
        outcome.accepted = accepted

    def _find_routes(self, topic: str) -> tuple[int, ...]:
        if len(self._known_routes) >= _REMEMBERED:
            self._known_routes.clear()
        found = self._known_routes[topic] = self._routes.match(topic)
        return found

    def _add(self, kept: list[tuple[str, bytes, tuple[int, ...]]], outcome: Outcome) -> None:
        """Messages and deliveries. Who has nothing waiting on disk gets them without a way over it."""
        seq = self._store.add_messages(self._time_ns(), kept)
        by_subscription: dict[int, list[Claimed]] = {}
        for topic, body, routes in kept:
            claimed = Claimed(seq, topic, body, 0)
            for subscription in routes:
                if subscription in by_subscription:
                    by_subscription[subscription].append(claimed)
                else:
                    by_subscription[subscription] = [claimed]
            seq += 1
        rows: list[int | None] = []
        for subscription, messages in by_subscription.items():
            taken = 0
            if (current := self._current.get(subscription)) is not None:
                taken = 0 if current.due else max(0, min(len(messages), self._room(current)))
                current.due += len(messages) - taken
                current.held += taken
                if taken:
                    outcome.arrivals.append((current.reader, messages[:taken]))
            for claimed in messages[:taken]:
                rows += (subscription, claimed.seq, self._host)
            for claimed in messages[taken:]:
                rows += (subscription, claimed.seq, None)
        self._store.add_deliveries(rows)

    def _full(self) -> QueueFull:
        return QueueFull(
            f"the store has reached its {self._settings.max_bytes:,} bytes",
            where=str(self._settings.path),
            why="messages come faster than their subscribers settle them, or a subscriber is away",
            fix="echo-core store stats shows who has not settled what; or raise max_size in host.transport",
        )

    def _room(self, attached: _Attached) -> int:
        capacity = attached.reader.capacity
        return (min(capacity, _HELD_BESIDE_OTHERS) if self._has_others else capacity) - attached.held

    def _claim(self, outcome: Outcome) -> None:
        """Fetch what waits on disk for readers that have room for a good part of what they can hold."""
        self._claims_more = False
        for current in self._current.values():
            room = self._room(current)
            is_worth_it = room * 4 >= current.reader.capacity or (self._has_others and room > 0)
            if not current.due or not is_worth_it:
                continue
            limit = min(room, _CLAIMED)
            claimed, spoilt = self._store.claim(current.reader.id, self._host, limit)
            is_last = len(claimed) + len(spoilt) < limit
            current.due = 0 if is_last else max(1, current.due - len(claimed) - len(spoilt))
            current.held += len(claimed)
            self._claims_more = self._claims_more or (not is_last and room > limit)
            if claimed:
                outcome.arrivals.append((current.reader, claimed))
            for seq in spoilt:
                logger.error(
                    "message %d for %s is damaged and set aside in %s; see: echo-core store check",
                    seq,
                    current.reader.name,
                    self._settings.path,
                )

    def _sweep(self) -> None:
        if self._unswept >= _SWEEP_AFTER or (self._unswept and not self._publications):
            cutoff = self._time_ns() - int(self._settings.retain_s * 1e9)
            if self._settings.retain_s and self._store.used_bytes() > self._settings.retain_bytes:
                cutoff = self._time_ns()
            self._store.sweep(cutoff)
            self._unswept = 0

    def _tell_counts(self, outcome: Outcome) -> None:
        for current in self._current.values():
            on_disk = current.due + current.delayed
            if on_disk != current.told:
                current.told = on_disk
                outcome.on_disk.append((current.reader, on_disk))


_NOTHING: Final = Outcome()


def _no_subscriber(name: str) -> TransportError:
    return TransportError(f"nobody ever subscribed as {name!r}", fix="activate the plugin, and run it once")


def _drained(queue: deque[T]) -> list[T]:
    """All that is in the queue; the other side may go on appending meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]
