"""Feeds plugins: opens their lanes, holds their deadlines, and accounts for what is left when they stop."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from echo_core.errors import TransportClosed
from echo_core.manifest import Delivery as DeliverySettings
from echo_core.runtime import stacks
from echo_core.runtime.batch import BatchLane
from echo_core.runtime.circuit import Circuit
from echo_core.runtime.clock import Clock
from echo_core.runtime.context import HostContext
from echo_core.runtime.dead_letters import DeadLetter, DeadLetterStore
from echo_core.runtime.lane import BATCH, Lane, Receive, dead_letter
from echo_core.runtime.lanes import Backlog, Sorter
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.message_history.records import DEAD_LETTERED
from echo_core.runtime.progress import Progress
from echo_core.runtime.settings import HostSettings
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.shedding import Shedder
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.watchdog import Blocked, Watchdog
from echo_core.settlement import Ending
from echo_core.transports.base import Bounds, Delivery, Subscription, Transport
from echo_core.transports.turn import Turn

GRACE_S: Final = 1.0
"""How long what was cancelled may take to end before it is left behind."""
_BLAMED_S: Final = 60.0
"""How long a plugin that has blocked the event loop is DEGRADED."""
_HERE: Final = str(Path(__file__).parent)
_TICK_S: Final = 0.05
"""How often handlers are held against their deadlines."""
_COLLECTING_S: Final = 5.0
"""How long sources wait for the queues of this host to be made."""
KEPT_AT_ONCE: Final = 1_024
"""Messages that become dead letters before others have a turn, where a plugin leaves many; some 2 ms."""
_LOOKED_AT: Final = 50
"""Plugins that are asked at each tick whether they get on; where there are more, each has its turn."""


@dataclass(slots=True)
class _Feeding:
    """What feeds one plugin: a task for each lane, and one for each stage before the lanes."""

    lanes: Sequence[Lane]
    workers: Sequence[asyncio.Task[None]]
    stages: Sequence[tuple[Sorter | Shedder, asyncio.Task[None]]] = ()
    """In the order in which messages go through them; their tasks are among the workers."""
    circuit: Circuit | None = None
    progress: Progress | None = None

    def cancel(self) -> None:
        """End all of it now."""
        for lane in self.lanes:
            lane.is_cancelled = True
        for worker in self.workers:
            worker.cancel()


class _Nowhere(DeadLetterStore):
    """For copies: what becomes of them is nobody's loss. `hear` is called with each, in a thread."""

    def __init__(self, hear: Callable[[DeadLetter], None]) -> None:
        super().__init__(Path(os.devnull))
        self._hear = hear

    def add(self, letters: Sequence[DeadLetter], *, once: bool = False) -> None:
        """Let them go."""
        for letter in letters:
            self._hear(letter)


class Dispatcher:
    """The lanes of all plugins of one host."""

    def __init__(
        self,
        transport: Transport,
        dead_letters: DeadLetterStore,
        clock: Clock,
        history: Recorder | None = None,
    ) -> None:
        self._transport = transport
        self._history = history
        self._dead_letters = dead_letters
        self._clock = clock
        self.settlements = Settlements()
        self.bounds = Bounds()
        """What the transport was told to keep within; the lanes keep within it too."""
        self._collecting: set[PluginSlot] = set()
        self.blocked_after_s = HostSettings().blocked_after_s
        self.stalled_after_s = HostSettings().stalled_after_s
        self.must_end = False
        """Whether the run is to end by itself, and so nothing may hold messages for ever."""
        self.give_up: Callable[[PluginSlot, str], None] = lambda slot, reason: None
        """Called in such a run, once, for a plugin whose handler does not let itself be ended, and why."""
        self._blockers: dict[PluginSlot, tuple[str, float]] = {}
        self._feeding: dict[PluginSlot, _Feeding] = {}
        self._ticks = 0

    @property
    def turn(self) -> Turn:
        """How the lanes share the event loop with all else."""
        return Turn.of_running_loop()

    def collect(self, slot: PluginSlot) -> None:
        """Subscribe the plugin: messages wait for it from now on."""
        assert slot.manifest is not None
        self._collecting.add(slot)
        if slot.manifest.subscriptions:
            slot.subscription = self._transport.subscribe(
                slot.name, slot.manifest.subscriptions, queue_limit=slot.manifest.delivery.queue_limit
            )
            if self._history is not None:
                self._history.subscribed(slot.subscription, slot.name, slot.manifest.subscriptions)

    async def until_collecting(self) -> None:
        """Return when messages wait for all that were subscribed, whoever publishes them.

        After a few seconds in any case: one queue that cannot be made must not hold up the others.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_COLLECTING_S):
                await self._transport.wait_until_collecting()

    def follow(self, slot: PluginSlot) -> None:
        """Follow the messages of a source that wants to know how they end; without effect on others."""
        if slot.followed is not None:
            self.settlements.follow(slot.followed)
            self._transport.on_accept = self.settlements.accepted
            slot.followed.start()

    async def unfollow(self, slot: PluginSlot, seconds: float) -> None:
        """Tell the source of all that it published, for at most `seconds`, and of nothing more."""
        if slot.followed is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await slot.followed.wait_until_told()
            await slot.followed.stop()
            self.settlements.unfollow(slot.followed)

    def feed(
        self,
        slot: PluginSlot,
        context: HostContext,
        lost: Callable[[BaseException], None],
        receive: Receive | None = None,
        *,
        stage: Sorter | None = None,
        apart: Callable[[DeadLetter], None] | None = None,
        in_flight: int | None = None,
    ) -> None:
        """Open the plugin's lanes on its subscription, after what rests from before; or on `receive` alone.

        `stage` is what fills `receive`, and lives as long as the lanes. `lost` hears of an error of ours that
        ended one of them. `apart`: what they get are copies, of which nothing is kept; it hears of those
        that failed for good. `in_flight`: how many are taken and not ended, at most, if that is less than
        the manifest's `delivery.max_in_flight`.
        """
        assert slot.manifest is not None
        is_on_trial = receive is not None
        if receive is None:
            if slot.subscription is None:
                return
            receive = self.backlog(slot) if slot.resting else slot.subscription.receive
        settlements = Settlements() if apart else self.settlements
        dead_letters = _Nowhere(apart) if apart else self._dead_letters
        delivery = slot.manifest.delivery
        limit = self._limit(delivery.queue_limit)
        stages: list[tuple[Sorter | Shedder, asyncio.Task[None]]] = []
        if stage is not None:
            stages.append((stage, asyncio.create_task(stage.run(), name=f"{slot.name} splitter")))
        if delivery.when_full != "wait":
            oldest = delivery.when_full == "shed_oldest"
            history = None if apart else context.history
            shedder = Shedder(slot, receive, settlements, limit=limit, oldest=oldest, history=history)
            receive, limit = shedder.receive, delivery.lanes
            stages.append((shedder, asyncio.create_task(shedder.run(), name=f"{slot.name} shedder")))
        # Half of what may be in flight waits in front of the lanes, where there is a sorter.
        is_sorted = delivery.lanes > 1 and bool(delivery.ordering_key) and delivery.max_in_flight > 1
        in_flight = min(in_flight or delivery.max_in_flight, delivery.max_in_flight)
        most = in_flight // 2 if is_sorted else in_flight
        count = min(delivery.lanes, most)
        receivers: Sequence[Receive] = [receive] * count
        if is_sorted:
            sorter = Sorter(receive, delivery.ordering_key, count, min(limit, in_flight - most))
            receivers = sorter.receivers
            stages.append((sorter, asyncio.create_task(sorter.run(), name=f"{slot.name} sorter")))
        batch = min(_taken_at_a_time(delivery, limit), most // count)
        in_batches = delivery.batch_size > 1 and slot.open_channel is None
        kind = BatchLane if in_batches else Lane
        circuit = Circuit(slot, self._clock, must_end=self.must_end, is_judged=is_on_trial)
        lanes = [
            kind(
                slot,
                context,
                receive,
                dead_letters,
                self._clock,
                self.turn,
                settlements,
                circuit,
                number=number,
                batch=min(delivery.batch_size, most // count) if in_batches else batch,
                is_recorded=not apart,
            )
            for number, receive in enumerate(receivers)
        ]
        workers = [task for _, task in stages]
        for number, lane in enumerate(lanes):
            workers.append(asyncio.create_task(lane.run(), name=f"{slot.name} lane {number}"))
        for worker in workers:
            worker.add_done_callback(lambda task: _report(task, lost))
        progress = Progress(slot, lanes, self.stalled_after_s, self._clock.monotonic())
        self._feeding[slot] = _Feeding(lanes, workers, stages, circuit, progress)

    def backlog(self, slot: PluginSlot) -> Receive:
        """What rests in the slot, then its subscription; what is not taken stays where it is."""
        assert slot.subscription is not None
        return Backlog(slot.resting, slot.subscription.receive).receive

    def has_work(self, slot: PluginSlot) -> bool:
        """Whether its lanes have messages that they have not ended."""
        feeding = self._feeding.get(slot)
        return feeding is not None and any(lane.holds for lane in feeding.lanes)

    def _limit(self, asked: int) -> int:
        """How many messages may wait between subscription and lanes: `asked`, or less with many plugins.

        It is half of what a subscription's own queue may hold, and what the lanes of a sorter take at most.
        """
        return max(1, min(asked, self.bounds.messages // (8 * max(1, len(self._collecting)))))

    async def rest(self, slot: PluginSlot, seconds: float) -> None:
        """Close the plugin's lanes: the attempt in hand is ended, all else rests until it is fed again.

        So does a message between two attempts: the next is made as soon as it is fed again.

        After `seconds` also what is in hand is cancelled, and rests.
        """
        feeding = self._feeding.get(slot)
        if feeding is None:
            return
        not_begun = [delivery for lane in feeding.lanes for delivery in lane.leave()]
        for stage, task in reversed(feeding.stages):  # what is nearer to the lanes is older
            not_begun += stage.leave()
            task.cancel()
        slot.resting.extendleft(reversed(not_begun))
        _, late = await asyncio.wait(feeding.workers, timeout=seconds)
        if late:
            feeding.cancel()
            await asyncio.wait(late, timeout=GRACE_S)
        self._feeding.pop(slot, None)
        in_hand = [delivery for lane in feeding.lanes for delivery in lane.abandon()]
        slot.resting.extendleft(reversed(in_hand))

    def hand_over(self, old: PluginSlot, new: PluginSlot) -> None:
        """Give the queue of a plugin that rests to another one, with what rests."""
        new.subscription, old.subscription = old.subscription, None
        new.resting.extend(old.resting)
        old.resting.clear()

    async def succeed(self, old: PluginSlot, new: PluginSlot) -> None:
        """From one moment on, collect for the new plugin and no longer for the old one."""
        if old.subscription is not None:
            await self._close(old.subscription)
        self.collect(new)

    async def _close(self, subscription: Subscription) -> None:
        """Nothing more comes for it."""
        await subscription.close()
        if self._history is not None:
            self._history.unsubscribed(subscription)

    async def finish(self, slot: PluginSlot, seconds: float | None = None) -> None:
        """Take nothing new for the plugin, and return when all that it has is ended, or after `seconds`."""
        if slot.subscription is not None:
            await self._close(slot.subscription)
        feeding = self._feeding.get(slot)
        if feeding is not None:  # unlike gather, wait leaves them alone when it is cancelled
            await asyncio.wait(feeding.workers, timeout=seconds)

    async def withdraw(self, slot: PluginSlot, reason: str) -> int:
        """End the lanes now. What they had not ended is kept as dead letters, unless the transport keeps it.

        Returns how many messages were left. A handler that will not be cancelled is left behind.
        """
        self._collecting.discard(slot)
        await self.rest(slot, 0.0)
        left = list(slot.resting)
        slot.resting.clear()
        if slot.subscription is not None:
            await self._close(slot.subscription)
            left += await _remaining(slot.subscription)
        lost: list[Delivery] = []
        for delivery in reversed(left):
            if slot.subscription is not None and self._transport.keeps(delivery):
                await delivery.retry()
            else:
                lost.append(delivery)
        await self._dead_letter(slot, lost[::-1], reason)
        return len(left)

    async def _dead_letter(self, slot: PluginSlot, left: Sequence[Delivery], reason: str) -> None:
        """Keep what nobody else keeps; so many at a time that the loop can look after others."""
        slot.statistics.taken += len(left)  # unfinished, if they cannot even be kept
        for at in range(0, len(left), KEPT_AT_ONCE):
            await self._dead_letter_some(slot, left[at : at + KEPT_AT_ONCE], reason)

    async def _dead_letter_some(self, slot: PluginSlot, left: Sequence[Delivery], reason: str) -> None:
        tried = {key: tuple(each.attempts) for key, each in slot.tried.items()}
        letters = [
            dead_letter(slot, delivery, reason=reason, attempts=tried.get(id(delivery), ()))
            for delivery in left
        ]
        writing = asyncio.create_task(asyncio.to_thread(self._dead_letters.add, letters))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # it cannot be called back: what follows must follow
            await asyncio.wait([writing])
            writing.result()
        slot.statistics.dead_lettered += len(left)
        for delivery in left:
            await delivery.settle()
            self.settlements.ended(delivery.message, Ending.DEAD_LETTERED)
        if self._history is not None:
            history, now = self._history.of(slot.name, slot.version), time.monotonic()
            for delivery in left:
                history.failed(delivery, delivery.attempt, DEAD_LETTERED, now, now, "", reason)

    def let_go(self) -> None:
        """The host is at its end: whoever cancels a lane that is left, ends it."""
        for feeding in self._feeding.values():
            for lane in feeding.lanes:
                lane.is_cancelled = True

    async def watch(self) -> None:
        """Hold the deadlines of all handlers, and see what stands still, until cancelled."""
        watchdog = Watchdog(self.blocked_after_s, self._owner_of)
        watchdog.start()
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                # Calls, so that nothing here holds a lane while it sleeps.
                self._blame(watchdog.beat(), time.monotonic())
                self._check(time.monotonic())
        finally:
            watchdog.stop()

    def _check(self, now: float) -> None:
        feedings = list(self._feeding.values())
        for feeding in feedings:
            for lane in feeding.lanes:
                lane.check(now, _TICK_S)
            if feeding.circuit is not None and feeding.circuit.is_open:
                feeding.circuit.look()
        if self.must_end:
            self._look_for_lost(now)
        self._ticks += 1
        parts = 1 + len(feedings) // _LOOKED_AT
        for feeding in feedings[self._ticks % parts :: parts]:
            if feeding.progress is not None:
                feeding.progress.look(self._clock.monotonic())

    def _look_for_lost(self, now: float) -> None:
        for slot, feeding in list(self._feeding.items()):
            lost = next((lane for lane in feeding.lanes if lane.is_lost(now)), None)
            if lost is not None and slot.is_live:
                self.give_up(slot, lost.doing(now))

    def _owner_of(self, frames: Sequence[FrameType]) -> PluginSlot | None:
        """The plugin that a stack of the loop's thread belongs to, by where it began, or by its code."""
        for frame in frames:
            if frame.f_code.co_filename.startswith(_HERE):
                slot = getattr(frame.f_locals.get("self"), "slot", None)
                if isinstance(slot, PluginSlot):
                    return slot
        packages = {type(slot.plugin).__module__.partition(".")[0]: slot for slot in list(self._feeding)}
        for frame in reversed(stacks.own_frames(frames)):
            slot = packages.get(frame.f_globals.get("__name__", "").partition(".")[0])
            if slot is not None:
                return slot
        return None

    def _blame(self, blocked: Blocked | None, now: float) -> None:
        """The plugin that blocked the loop is DEGRADED, until it has not done so for a while."""
        if blocked is not None and blocked.owner is not None:
            reason = f"it blocked the event loop for {blocked.seconds:.1f} s, at {blocked.place}"
            blocked.owner.degrade(reason)
            self._blockers[blocked.owner] = (reason, now + _BLAMED_S)
        for slot, (reason, until) in list(self._blockers.items()):
            if now > until:
                slot.recover(reason)
                del self._blockers[slot]


async def _remaining(subscription: Subscription) -> list[Delivery]:
    """Everything that still waits in a closed subscription."""
    left: list[Delivery] = []
    while subscription.statistics().waiting:
        try:
            left.extend(await subscription.receive(BATCH))
        except TransportClosed:
            break
    return left


def _taken_at_a_time(delivery: DeliverySettings, limit: int) -> int:
    """How many deliveries a lane takes from its queue at a time."""
    if delivery.when_full != "wait":
        return 1  # what a lane has taken can be shed no more
    if delivery.lanes == 1:
        return BATCH
    # Lanes that share one queue take one message, so that none sits on what another could do.
    return max(1, min(BATCH, limit // delivery.lanes)) if delivery.ordering_key else 1


def _report(task: asyncio.Task[None], lost: Callable[[BaseException], None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        lost(error)
