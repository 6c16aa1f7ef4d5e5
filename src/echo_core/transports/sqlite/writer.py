"""The one thread that touches the file: whatever has come together meanwhile goes into one transaction.

The event loop collects what is asked for in one of its turns, hands it over as a whole, and is told of
results by one call a transaction ("group commit": DeWitt et al., "Implementation Techniques for Main Memory
Database Systems", SIGMOD 1984, section 5). So a settlement is never on disk without what was published
before it.
"""

import asyncio
import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from echo_core.errors import QueueFull, StoreError, TransportError
from echo_core.message import BaseMessage
from echo_core.topics import TopicPattern, TopicTrie
from echo_core.transports.sqlite import leases, schema
from echo_core.transports.sqlite.blocks import Block, Kind, Row, cut, pack
from echo_core.transports.sqlite.settings import StoreSettings
from echo_core.transports.sqlite.store import Arrival, Store
from echo_core.write_ahead import OpenFiles, in_use

logger = logging.getLogger(__name__)

_POLL_S: Final = 0.05
"""How often to look for what other processes have written."""
_GATHER_S: Final = 0.002
"""How long work that nobody waits for may wait for company."""
_RETRY_S: Final = 0.2
"""Pause after a transaction that failed."""
_SWEEP_AFTER: Final = 1_024
"""Settlements after which to look for messages that can go, unless there is time for it before."""
_CLAIMED: Final = 256
"""Deliveries claimed for one reader in one transaction."""
_HELD_BESIDE_OTHERS: Final = 64
"""Deliveries to hold for one reader while other hosts use the store too, so that they get their share."""
_REMEMBERED: Final = 10_000
"""Topics whose subscriptions are known by heart."""

Answer: TypeAlias = "asyncio.Future[Any]"


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

    def arrive(self, arrival: Arrival) -> None:
        """Take these: the host holds them from now on."""

    def count(self, on_disk: int) -> None:
        """So many deliveries wait on disk."""

    def returned(self) -> None:
        """A delivery that was delayed has reached the disk."""


Publication: TypeAlias = tuple[str, bytes, BaseMessage]
"""A message to be written: its topic, it as bytes, and it."""


class Redelivery(NamedTuple):
    """A message to be written for one subscription alone."""

    subscriber: str
    topic: str
    body: bytes
    message: BaseMessage
    accepted: "Answer"


class Turn:
    """What the event loop asks for in one of its turns, or in several."""

    __slots__ = (
        "answers",
        "awaited",
        "delayed",
        "given_back",
        "handed",
        "readers",
        "redeliveries",
        "settled",
        "unawaited",
    )

    def __init__(self) -> None:
        self.settled: dict[Reader, list[int]] = {}
        self.handed: dict[Reader, list[int]] = {}
        self.delayed: list[tuple[Reader, int, float]] = []
        self.given_back: dict[Reader, list[int]] = {}
        self.readers: list[tuple[Reader, bool, Answer]] = []
        self.unawaited: list[Publication] = []
        """Nobody waits for these: what they were made from is settled after them, and comes again if they are
        lost."""
        self.awaited: list[Publication] = []
        self.redeliveries: list[Redelivery] = []
        self.answers: list[Answer] = []
        """Done when `awaited` is written."""

    @property
    def publishes(self) -> bool:
        """Whether there are messages to be written."""
        return bool(self.awaited or self.unawaited or self.redeliveries)

    @property
    def is_waited_for(self) -> bool:
        """Whether it should be written at once."""
        return self.publishes or bool(self.readers)

    def extend(self, later: "Turn") -> None:
        """Ask for what a later turn does as well."""
        for mine, others in (
            (self.settled, later.settled),
            (self.handed, later.handed),
            (self.given_back, later.given_back),
        ):
            for reader, seqs in others.items():
                mine.setdefault(reader, []).extend(seqs)
        self.delayed += later.delayed
        self.readers += later.readers
        self.unawaited += later.unawaited
        self.awaited += later.awaited
        self.redeliveries += later.redeliveries
        self.answers += later.answers

    def awaiting(self) -> list[Answer]:
        """Who waits for something to be written."""
        return [*self.answers, *(each.accepted for each in self.redeliveries)]

    def drop_awaited(self) -> None:
        """Ask no longer for what somebody waits for: he is told that it was refused."""
        self.awaited, self.answers, self.redeliveries = [], [], []


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

    answers: list[Answer] = field(default_factory=list)
    """They are done."""
    awaited: Sequence[Publication] = ()
    """Accepted."""
    unawaited: int = 0
    """So many are accepted that nobody waited for."""
    ended: int = 0
    """So many publications are accepted or refused."""
    redelivered: list[Redelivery] = field(default_factory=list)
    refused: list[tuple[Answer, TransportError]] = field(default_factory=list)
    arrivals: list[tuple[Reader, Arrival]] = field(default_factory=list)
    """Deliveries that this host holds from now on."""
    returned: list[Reader] = field(default_factory=list)
    """One entry for each delivery that was given back to the disk."""
    on_disk: list[tuple[Reader, int]] = field(default_factory=list)
    """How many deliveries wait on disk for a reader, where that has changed."""
    is_lease_lost: bool = False
    """What this host held is others' now; nothing of it may be handed out any more."""
    broken: TransportError | None = None
    """The store is damaged: nothing works any more."""


class Bell:
    """What one thread rings to wake another one that waits; rung twice, it is still heard once.

    A `threading.Event` makes a lock for each wait and takes three others in turn: most of handing over.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Let whoever waits go on, or who waits next; by one thread only."""
        if self._silence.locked():
            self._silence.release()

    def wait(self, seconds: float) -> bool:
        """Return when it is rung, or was since it was last heard, or after so many seconds; whether so."""
        return self._silence.acquire(timeout=seconds)

    def hush(self) -> None:
        """What was rung until now is heard."""
        self._silence.acquire(blocking=False)


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
        self._bell = Bell()
        self._idle = False
        """Any work wakes the thread."""
        self._gathering = False
        """Only work that somebody waits for wakes it."""
        self._opened: Answer = loop.create_future()
        self._closing: Answer | None = None
        self.turn: Turn | None = None
        """What is asked for in this turn of the event loop, if anything is."""
        self._turns: deque[Turn] = deque()
        """Handed over."""
        self._is_waited_for = False
        """Whether one of them should be written at once."""
        self.announcement = b""
        """What other hosts are to hear of this one; written when the thread next looks around."""
        self._announced = b""
        self._thread = threading.Thread(target=self._run, name="echo-core store", daemon=True)
        # Only the thread touches what follows.
        self._store: Store
        self._connection: sqlite3.Connection
        self._files: OpenFiles
        self._look_at = 0.0
        """When to see whether they are still there."""
        self._held = contextlib.ExitStack()
        """That it is in use."""
        self._lock: leases.HostLock | None = None
        self._host = 0
        self._has_others = False
        self._attached: dict[Reader, _Attached] = {}
        self._current: dict[int, _Attached] = {}
        """Of the readers of one subscription, the one that gets what comes: the newest."""
        self._routes: TopicTrie[int] = TopicTrie()
        self._kinds: dict[str, Kind] = {}
        """By topic."""
        self._last_seq = 0
        """The highest that was ever given."""
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
        self.trouble = ""
        """Why the last transaction could not be written; empty when it was. For any thread."""
        self._is_failing = False

    # The event loop's side

    async def start(self) -> None:
        """Open the store; raises `StoreError` when that cannot be done."""
        self._thread.start()
        await self._opened

    async def stop(self) -> None:
        """Write what is left, give back what was not settled, and let the file go."""
        if self._closing is None:
            self._hand_over()
            self._closing = self._loop.create_future()
            self._bell.ring()
        await asyncio.shield(self._closing)

    def begin_turn(self) -> Turn:
        """What this turn of the event loop asks for: add to it, and at its end it is handed over."""
        if self.turn is None:
            self.turn = Turn()
            self._loop.call_soon(self._hand_over)
        return self.turn

    def _hand_over(self) -> None:
        turn, self.turn = self.turn, None
        if turn is None:  # handed over already
            return
        is_waited_for = turn.is_waited_for
        self._turns.append(turn)
        if is_waited_for:
            self._is_waited_for = True
        if self._idle or (self._gathering and is_waited_for):
            self._bell.ring()

    # The thread's life

    def _run(self) -> None:
        try:
            self._open()
        except TransportError as error:
            self._post(Outcome(refused=[(self._opened, error)]))
            return
        self._post(Outcome(answers=[self._opened]))
        failed = False
        while self._closing is None or (self._has_work() and not failed):
            if failed:
                self._bell.wait(_RETRY_S)
            else:
                self._sleep()
                self._gather()
            self._bell.hush()
            failed = not self._work()
        self._close()

    def _has_work(self) -> bool:
        return bool(self._turns or self._claims_more)

    def _sleep(self) -> None:
        """Until somebody wants something, a delayed delivery is due, or it is time to look around."""
        seconds = _POLL_S
        if self._next_due_ns is not None:
            seconds = min(seconds, max(0.0, (self._next_due_ns - self._time_ns()) / 1e9))
        self._idle = True
        if not self._has_work() and self._closing is None:
            self._bell.wait(seconds)
        self._idle = False

    def _gather(self) -> None:
        """Let settlements and marks, for which nobody waits, share a transaction with what comes soon."""
        self._gathering = True
        if self._turns and not (self._is_waited_for or self._claims_more):
            self._bell.hush()
            if not self._is_waited_for and self._closing is None:
                self._bell.wait(_GATHER_S)
        self._gathering = False

    def _collect(self) -> Turn | None:
        """All that was handed over; the event loop may go on handing over meanwhile."""
        self._is_waited_for = False
        turn = None
        for _ in range(len(self._turns)):
            if turn is None:
                turn = self._turns.popleft()
            else:
                turn.extend(self._turns.popleft())
        return turn

    def _post(self, outcome: Outcome) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._report, outcome)

    def _open(self) -> None:
        path = self._settings.path
        self._hold()
        try:
            self._connection = schema.connect(path, busy_s=self._settings.busy_s)
        except BaseException:
            self._held.close()
            raise
        self._store = Store(self._connection)
        try:
            self._connection.execute("PRAGMA journal_size_limit = 67108864")
            self._store.begin()
            self._register()
            self._bury()
            self._store.free_unowned()
            self._learn()
            self._store.commit()
        except Exception as error:  # whatever it is, somebody waits for an answer
            with contextlib.suppress(sqlite3.Error):
                self._store.rollback()
            self._connection.close()
            self._release()
            self._held.close()
            raise schema.failed(path, "opened", error) from error
        self._counter = self._store.change_counter()
        self._files = OpenFiles(path)

    def _hold(self) -> None:
        """Keep the store from being repaired or compacted, from before it is opened until it is closed."""
        path = self._settings.path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(in_use(path, wait_s=self._settings.busy_s))
        except BlockingIOError:
            raise StoreError(
                "the store is being changed",
                where=str(path),
                why="echo-core store repair, compact or forget has it",
                fix="wait until that has ended, and start again",
            ) from None
        except OSError as error:
            raise schema.failed(path, "opened", error) from error

    def _close(self) -> None:
        try:
            if self._broken is None:
                self._store.begin()
                self._store.give_all_back(self._host)
                self._store.remove_host(self._host)
                self._store.commit()
                self.trouble = ""
        except sqlite3.Error:
            logger.warning(
                "the store could not be left in good order; the next host frees what this one held"
            )
        finally:
            with contextlib.suppress(sqlite3.Error):
                self._store.rollback()
                self._connection.close()
            self._release()
            self._held.close()
            error = TransportError("the transport was closed before this was written")
            left = self._collect()
            refused = [(answer, error) for answer in left.awaiting()] if left is not None else []
            self._post(Outcome(answers=[self._closing] if self._closing else [], refused=refused))

    # One transaction

    def _work(self) -> bool:
        """Write all that was asked for; false when it could not be done and should be tried again."""
        turn = self._collect()
        outcome = Outcome()
        try:
            if self._broken is not None:
                raise self._broken
            self._see_files()
            if turn is not None or self._claims_more or self._should_look():
                is_publishing = turn is not None and turn.publishes
                self._set_synchronous(self._settings.synchronous if is_publishing else "normal")
                self._store.begin()
                self._look_around(outcome)
                if turn is not None:
                    self._apply(turn, outcome)
                self._mature()
                if turn is not None:
                    self._publish(turn, outcome)
                self._claim(outcome)
                self._sweep(has_time=not is_publishing)
                self._store.commit()
                self.trouble = ""
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
            self._fail(error, turn)
            return False
        self._is_failing = False
        self._tell_counts(outcome)
        if outcome != _NOTHING:
            self._post(outcome)
        return True

    def _fail(self, error: Exception, turn: Turn | None) -> None:
        """Nothing of the transaction holds. Publishers are told; the rest is kept, and tried again."""
        with contextlib.suppress(sqlite3.Error):
            self._store.rollback()
        self._is_stale = True
        ours = error if isinstance(error, TransportError) else self._in_our_words(error)
        outcome = Outcome()
        if turn is not None:
            outcome.refused = [(answer, ours) for answer in turn.awaiting()]
            outcome.ended = len(turn.awaited)
            turn.drop_awaited()
        if self._broken is None and (not isinstance(error, sqlite3.Error) or schema.is_damaged(error)):
            self._broken = outcome.broken = ours
        if turn is not None and self._broken is None:
            self._turns.appendleft(turn)
        elif turn is not None:
            outcome.answers += [done for _, _, done in turn.readers]
        self.trouble = f"{ours.what}: {ours.why}" if ours.why else ours.what
        if not self._is_failing:
            logger.error(
                "%s", ours, exc_info=None if ours is error or isinstance(error, sqlite3.Error) else error
            )
        self._is_failing = True
        self._post(outcome)

    def _see_files(self) -> None:
        """Raise `StoreError` where the store is no longer what lies at its path; looks now and then."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _POLL_S
        if moved := self._files.moved():
            self._connection.close()  # moves a log that was removed into the store, if others do not use it
            raise StoreError(
                "the store was removed or replaced while this host used it",
                where=str(self._settings.path),
                why=f"{moved} is gone, or another file",
                fix="stop every host that uses it, put the files back if you have them, and start again",
            )

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
            or self._unswept > 0
            or self._is_stale
            or time.monotonic() >= self._renew_at
            or self._store.change_counter() != self._counter
        )

    def _look_around(self, outcome: Outcome) -> None:
        """See what others have done, and show them that this host lives."""
        if self.announcement is not self._announced:
            self._announced = self.announcement
            if self._lock is not None:
                self._lock.say(self._announced)
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
        self._release()
        self._host = self._store.add_host(os.getpid(), self._expiry())
        self._lock = leases.HostLock(leases.lock_path(self._settings.path, self._host))

    def _release(self) -> None:
        """Give up the proof that this host lives."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _start_again(self, outcome: Outcome) -> None:
        """Others have taken this host for dead, and what it held: it is a new one."""
        logger.warning(
            "this host showed no life for %g s, and what it held of the store %s has gone to others",
            self._settings.lease_s,
            self._settings.path,
        )
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
        self._kinds.clear()
        self._last_seq = self._store.last_seq()
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

    def _apply(self, turn: Turn, outcome: Outcome) -> None:
        """All but what is published."""
        settled = _by_subscription(turn.settled)
        self._apply_settled(settled)
        self._apply_handed(turn.handed, settled)
        self._apply_delayed(turn.delayed, outcome)
        for subscription, seqs in _by_subscription(turn.given_back).items():
            self._store.give_back(subscription, self._host, seqs)
        self._apply_readers(turn.readers, outcome)

    def _apply_settled(self, settled: Mapping[int, list[int]]) -> None:
        for subscription, seqs in settled.items():
            self._store.settle(subscription, seqs)
            self._unswept += len(seqs)
            if (current := self._current.get(subscription)) is not None:
                current.held -= len(seqs)

    def _apply_handed(self, handed: Mapping[Reader, list[int]], settled: Mapping[int, list[int]]) -> None:
        for subscription, seqs in _by_subscription(handed).items():
            left = set(seqs).difference(settled.get(subscription, ()))
            times = Counter([seq for seq in seqs if seq in left]) if left else None
            while times:  # one that was handed back at once may be here again
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

    def _apply_readers(self, readers: list[tuple[Reader, bool, Answer]], outcome: Outcome) -> None:
        for reader, comes, done in readers:
            if comes:
                self._attach(reader)
            else:
                self._detach(reader)
            outcome.answers.append(done)
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
        for subscription, count in self._store.mature(now_ns):
            if (current := self._current.get(subscription)) is not None:
                current.due += count
                current.delayed -= count
        self._next_due_ns = self._store.next_due_ns()

    def _publish(self, turn: Turn, outcome: Outcome) -> None:
        if not turn.publishes:
            return
        awaited, redeliveries = turn.awaited, turn.redeliveries
        if self._settings.max_bytes and self._store.used_bytes() >= self._settings.max_bytes:
            refusal = self._full()
            outcome.refused += [(answer, refusal) for answer in turn.awaiting()]
            awaited, redeliveries = [], []
        else:
            outcome.answers += turn.answers
        outcome.awaited, outcome.unawaited = awaited, len(turn.unawaited)
        outcome.ended = len(turn.awaited) + len(turn.unawaited)
        publications = turn.unawaited + awaited if turn.unawaited else awaited
        kinds = self._kinds_of([topic for topic, _, _ in publications])
        bodies = [body for _, body, _ in publications]
        for redelivery in redeliveries:
            if redelivery.subscriber not in self._ids:
                outcome.refused.append((redelivery.accepted, _no_subscriber(redelivery.subscriber)))
                continue
            kinds.append(Kind(redelivery.topic, (self._ids[redelivery.subscriber],)))
            bodies.append(redelivery.body)
            outcome.redelivered.append(redelivery)
        if not self._settings.retain_s and not all(kind.subscriptions for kind in set(kinds)):
            wanted = [at for at, kind in enumerate(kinds) if kind.subscriptions]
            kinds, bodies = [kinds[at] for at in wanted], [bodies[at] for at in wanted]
        if kinds:
            self._add(kinds, bodies, outcome)

    def _kinds_of(self, topics: list[str]) -> list[Kind]:
        if len(self._kinds) >= _REMEMBERED:
            self._kinds.clear()
        different = set(topics)
        for topic in different.difference(self._kinds):
            self._kinds[topic] = Kind(topic, self._routes.match(topic))
        if len(different) == 1:
            return [self._kinds[topics[0]]] * len(topics)
        return [self._kinds[topic] for topic in topics]

    def _add(self, kinds: list[Kind], bodies: list[bytes], outcome: Outcome) -> None:
        """Messages and deliveries. Who has nothing waiting on disk gets them without a way over it."""
        now_ns = self._time_ns()
        packed: list[tuple[Block, Row]] = []
        rows: list[int | None] = []
        for start, end in cut(bodies):
            some = kinds[start:end], bodies[start:end]
            block, row = pack(self._last_seq + 1, now_ns, *some)
            packed.append((block, row))
            self._last_seq = block.last
            for subscription in block.subscriptions():
                members = block.members(subscription)
                taken = self._take(subscription, members, block, some, outcome)
                for part, host in ((members[:taken], self._host), (members[taken:], None)):
                    if part:
                        rows += (subscription, part[0], part[-1], len(part), host)
        self._store.add_blocks(packed)
        self._store.add_deliveries(rows)

    def _take(
        self,
        subscription: int,
        members: Sequence[int],
        block: Block,
        written: tuple[list[Kind], list[bytes]],
        outcome: Outcome,
    ) -> int:
        """Hold as many of a new block's messages as there is room for; how many."""
        current = self._current.get(subscription)
        if current is None:
            return 0
        taken = 0 if current.due else max(0, min(len(members), self._room(current)))
        current.due += len(members) - taken
        current.held += taken
        if taken:
            kinds, bodies = written
            seqs = members[:taken]
            if len(block.kinds) == 1:
                arrival = Arrival(seqs, [kinds[0].topic] * taken, bodies[:taken])
            else:
                at = [seq - block.first for seq in seqs]
                arrival = Arrival(seqs, [kinds[each].topic for each in at], [bodies[each] for each in at])
            outcome.arrivals.append((current.reader, arrival))
        return taken

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
            arrivals, spoilt, is_more = self._store.claim(current.reader.id, self._host, limit)
            claimed = sum(len(arrival.seqs) for arrival in arrivals)
            current.due = max(1, current.due - claimed - len(spoilt)) if is_more else 0
            current.held += claimed
            self._claims_more = self._claims_more or (is_more and room > limit)
            outcome.arrivals += [(current.reader, arrival) for arrival in arrivals]
            for seq in spoilt:
                logger.error(
                    "message %d for %s is damaged and set aside in %s; see: echo-core store check",
                    seq,
                    current.reader.name,
                    self._settings.path,
                )

    def _sweep(self, *, has_time: bool) -> None:
        if self._unswept >= _SWEEP_AFTER or (self._unswept and has_time):
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


def _by_subscription(seqs: Mapping[Reader, list[int]]) -> dict[int, list[int]]:
    """By the readers' subscriptions, of which several readers may have the same one."""
    found: dict[int, list[int]] = {}
    for reader, some in seqs.items():
        if reader.id in found:
            found[reader.id] = found[reader.id] + some
        else:
            found[reader.id] = some
    return found
