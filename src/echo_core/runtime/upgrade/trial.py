"""A new version of a plugin beside the one that runs: fed with a part, with copies, or kept warm.

Whatever changes who gets what, first both versions come to rest (each message in hand is ended, or goes
back); then all that was taken and not begun is dealt out anew. So no message is lost or doubled, and a key
changes its version only with nothing of it under way.

A canary is given its first messages with few of them in hand at a time. Otherwise keys that do well would
race on while those that fail wait for their retries, and what it has done said little of what it was given.
"""

import asyncio
import functools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from echo_core.message import BaseMessage, key_of
from echo_core.runtime.activation import lane_lost
from echo_core.runtime.dead_letters import DeadLetter
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.lane import Receive
from echo_core.runtime.lanes import Backlog
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import Statistics
from echo_core.runtime.supervisor import Supervisor
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.shadow import Shadow
from echo_core.runtime.upgrade.splitter import NEW, OLD, Splitter, part_of
from echo_core.runtime.upgrade.status import TrialStatus
from echo_core.runtime.upgrade.verdict import WAY_S, Failures, Tally, why_refused, why_worse
from echo_core.transports.base import Delivery

_EACH: Final = 25
"""Messages that the new version is given between two looks, but for its failures."""
_CAREFUL: Final = 200
"""Messages of each part that a canary is given with few of them in hand at a time …"""
_IN_HAND: Final = 16
"""… so many."""
RETURN_S: Final = 0.5
"""How long a version that is sent back may go on with what it has in hand; then the other one gets it."""
_ASKED_S: Final = 1.0
"""How long the old version is waited for when it is asked to handle what the new one failed at."""
_ASKED_EACH_S: Final = 0.002
_STUCK_S: Final = 2.0
"""With work at hand the new version ends a message in that time, or in three 95th percentiles of the old."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counters at one moment."""

    ended: int = 0
    succeeded: int = 0
    received: int = 0
    failed: int = 0
    published: int = 0
    refused: int = 0

    @classmethod
    def of(cls, numbers: Statistics) -> "_Counts":
        return cls(
            ended=numbers.processed + numbers.filtered + numbers.dead_lettered,
            succeeded=numbers.processed + numbers.filtered,
            received=numbers.received,
            failed=numbers.failed_first,
            published=numbers.published,
            refused=numbers.refused,
        )

    def since(self, numbers: Statistics) -> Tally:
        now = _Counts.of(numbers)
        return Tally(
            ended=now.ended - self.ended,
            succeeded=now.succeeded - self.succeeded,
            received=now.received - self.received,
            failed=now.failed - self.failed,
            published=now.published - self.published,
            refused=now.refused - self.refused,
            times=numbers.recent_times(),
        )


@dataclass(eq=False)
class Trial:
    """One plugin's trial. Who changes it holds the plugin's turn (`Changes`)."""

    old: Supervisor
    new: Supervisor
    plan: Plan
    dispatcher: Dispatcher
    drain_s: float
    on_suspicion: Callable[[], None] = lambda: None
    """Called when there is something to be judged at once."""
    percent: float = 0.0
    began: float = field(default_factory=time.monotonic)
    step_began: float = field(default_factory=time.monotonic)
    looks: int = 0
    shadow: Shadow | None = None
    bad: str = ""
    """Why the new version is to be sent back."""
    is_suspect: bool = False
    """Whether the old version is to be asked about what the new one failed at."""
    is_careful: bool = False
    """Whether few messages are in the new version's hands at a time."""
    _failures: Failures = field(default_factory=Failures)
    _key_of: Callable[[BaseMessage], str] = field(init=False)
    _heard_before: Callable[[BaseMessage, int], None] = field(init=False)
    _examined: int = 0
    """Looks at its failures until it was examined last."""
    _taken_away: int = 0
    """Messages that the new version failed at, and the old one was asked to handle."""
    _step: int = 0
    _looked_at: int = 0
    _progress: tuple[int, float] = (-1, 0.0)
    _old_then: _Counts = _Counts()
    _new_then: _Counts = _Counts()
    _step_then: _Counts = _Counts()

    def __post_init__(self) -> None:
        self._old_then = _Counts.of(self.old.slot.statistics)
        self._new_then = self._step_then = _Counts.of(self.new.slot.statistics)
        self._key_of = key_of(self._path)
        self._heard_before = self.new.slot.on_failed_first
        if self.plan.strategy == "canary":
            self.new.slot.on_failed_first = self._failed_first

    @property
    def _path(self) -> str:
        """What messages are dealt out by."""
        return self.new.manifest.delivery.ordering_key or "id"

    async def begin(self) -> None:
        """Let the new version have its part."""
        await self.deal({"canary": self.plan.percent, "blue-green": 100.0}.get(self.plan.strategy, 0.0))

    async def switch(self) -> None:
        """blue-green: let the other one get all."""
        await self.deal(0.0 if self.percent else 100.0)

    async def deal(self, percent: float, *, new_may_take_s: float | None = None) -> None:
        """Deal the messages out anew: so many percent of the keys go to the new version."""
        await self.rest(new_may_take_s)
        if percent != self.percent:
            self.percent = percent
            self.step_began, self._step_then = time.monotonic(), _Counts.of(self.new.slot.statistics)
        self.is_careful = False
        old = self.old.slot
        if self.plan.strategy == "shadow" and self.shadow is None:
            self._feed_shadow()
        elif percent in (0.0, 100.0):
            serving = self.new if percent else self.old
            self._feed(serving, self.dispatcher.backlog(old))
        else:
            splitter = Splitter(self.dispatcher.backlog(old), self._path, percent, self._may_go_on)
            self._feed(self.old, splitter.receivers[OLD], stage=splitter)
            self.is_careful = self._received_in_step() < _CAREFUL
            in_hand = _IN_HAND if self.is_careful else None
            self._feed(self.new, splitter.receivers[NEW], in_flight=in_hand)

    def _feed(
        self,
        version: Supervisor,
        receive: Receive,
        *,
        stage: Splitter | None = None,
        apart: Callable[[DeadLetter], None] | None = None,
        in_flight: int | None = None,
    ) -> None:
        slot, context = version.slot, version.context
        assert context is not None
        lost = functools.partial(lane_lost, slot)
        self.dispatcher.feed(slot, context, lost, receive, stage=stage, apart=apart, in_flight=in_flight)

    def _received_in_step(self) -> int:
        return self._step_then.since(self.new.slot.statistics).received

    @property
    def has_proved_itself_so_far(self) -> bool:
        """Whether a canary may have in hand as many messages as any plugin from now on."""
        return self.is_careful and self._received_in_step() >= _CAREFUL

    def _feed_shadow(self) -> None:
        assert self.old.context is not None
        assert self.new.context is not None
        self.shadow = Shadow(self.dispatcher.backlog(self.old.slot))
        self.shadow.watch(self.old.context, self.new.context)
        self._feed(self.old, self.shadow.receive)
        self._feed(self.new, self.shadow.copies, apart=self.shadow.failed)

    def let_go(self) -> None:
        """It is over: what the new version does is not looked at any more."""
        self.new.slot.on_failed_first = self._heard_before

    async def rest(self, new_may_take_s: float | None = None) -> None:
        """Bring both to rest; all that is not begun rests in the old one's slot."""
        old, new = self.old.slot, self.new.slot
        seconds = self.drain_s if new_may_take_s is None else new_may_take_s
        await asyncio.gather(self.dispatcher.rest(old, self.drain_s), self.dispatcher.rest(new, seconds))
        if self.shadow is not None:
            new.resting.clear()  # copies
            self.shadow.end(old.resting)
        old.resting.extendleft(reversed(new.resting))
        new.resting.clear()

    def _failed_first(self, message: BaseMessage, count: int) -> None:
        """The new version failed at a message; or it was another message than the one it said last."""
        part = part_of(self._key_of(message))
        if count < 0:
            self._failures.take_back(part)
            return
        self._failures.add(part)
        self.bad = self.bad or why_refused(*self._tallies())
        self._suspect()
        if self.bad or self.is_suspect:
            self.on_suspicion()

    def _suspect(self) -> None:
        """Suspect it, if that is called for, and not by what it was examined for already."""
        if self._failures.looks != self._examined and not self.is_suspect:
            self.is_suspect = self._failures.are_suspect(*self._tallies())

    async def examine(self) -> str:
        """Have the old version handle what the new one failed at; why the new one is to go, or empty.

        Both are at rest then.
        """
        await self.rest(RETURN_S)
        old, new = self.old.slot, self.new.slot
        asked = [delivery for delivery in old.resting if new.tried.pop(id(delivery), None) is not None]
        failed = await self._ask(asked)
        self.is_suspect, self._examined = False, self._failures.looks
        self._taken_away += len(asked)
        parts = [part_of(self._key_of(delivery.message)) for delivery in asked]
        self._failures.asked(parts, [part_of(self._key_of(message)) for message in failed])
        if asked and len(failed) == len(asked):
            return ""
        return self._failures.why_worse(*self._tallies())

    async def _ask(self, asked: Sequence[Delivery]) -> Sequence[BaseMessage]:
        """Have the old version handle these; the messages that it failed at. Those rest again."""
        old, failed = self.old.slot, list[BaseMessage]()
        if not asked:
            return failed
        waiting, known = deque(asked), set(map(id, asked))
        others = [delivery for delivery in old.resting if id(delivery) not in known]
        old.resting.clear()
        old.resting.extend(others)
        then, before = _Counts.of(old.statistics), old.on_failed_first
        old.on_failed_first = lambda message, count: failed.append(message)
        try:
            self._feed(self.old, Backlog(waiting, _nothing_more).receive)
            until = time.monotonic() + _ASKED_S
            while then.since(old.statistics).succeeded + len(failed) < len(asked):
                if time.monotonic() > until:
                    break
                await asyncio.sleep(_ASKED_EACH_S)
            await self.dispatcher.rest(old, self.drain_s)
        finally:
            old.resting.extendleft(reversed(waiting))
            old.on_failed_first = before
        return failed

    def _may_go_on(self) -> bool:
        """Asked by the splitter before each batch: looks at the new version now and then."""
        self._suspect()  # what was no more than chance may be so no longer, the more the old one does well
        if not self.bad and self._tallies()[1].received - self._looked_at >= _EACH:
            self._look()
        return not self.bad and not self.is_suspect

    def _tallies(self) -> tuple[Tally, Tally]:
        numbers = self.old.slot.statistics
        old = replace(self._old_then.since(numbers), refused=numbers.refused)  # it ever was
        new = self._new_then.since(self.new.slot.statistics)
        return old, replace(new, received=new.received + self._taken_away)

    def _look(self) -> None:
        old, new = self._tallies()
        if new.received < self.plan.minimum:
            return
        self._looked_at = new.received
        self.looks += 1
        goes_farther = self.new.slot.has_process and not self.old.slot.has_process
        self.bad = why_worse(old, new, self.looks, way_s=WAY_S if goes_farther else 0.0)

    def judge(self) -> str:
        """Why the new version is to go; empty while it may stay. Cheap: asked many times a second."""
        now = time.monotonic()
        state = self.new.slot.state
        if self.bad:
            return self.bad
        if state is not PluginState.RUNNING and state is not PluginState.PAUSED:
            because = f": {self.new.slot.reason}" if self.new.slot.reason else ""
            self.bad = f"it is {state.value}{because}"
        elif now - self.began > self.plan.timeout_s:
            self.bad = f"nobody finished the upgrade within {self.plan.timeout_s:g} s"
        elif self.plan.strategy == "canary":
            self._may_go_on()
            self.bad = self.bad or self._stuck(now)
        return self.bad

    def _stuck(self, now: float) -> str:
        """Whether it has work, and gets nowhere with it."""
        numbers = self.new.slot.statistics
        moved = numbers.processed + numbers.filtered + numbers.dead_lettered + numbers.failed_attempts
        if moved != self._progress[0] or not self.dispatcher.has_work(self.new.slot):
            self._progress = (moved, now)
            return ""
        p95_ms = self.old.slot.statistics.percentile_ms(0.95) or 0.0
        limit = max(_STUCK_S, 3 * p95_ms / 1_000)
        return f"it has ended no message for {limit:g} s" if now - self._progress[1] > limit else ""

    def next_percent(self) -> float | None:
        """The part to go on to, when this step has stood for long enough; None if it has not."""
        if self.plan.strategy != "canary" or self._step >= len(self.plan.steps):
            return None
        ended = self._step_then.since(self.new.slot.statistics).ended
        if ended < self.plan.step_messages or time.monotonic() - self.step_began < self.plan.step_s:
            return None
        self._step += 1
        return self.plan.steps[self._step - 1]

    def status(self) -> TrialStatus:
        """How far it has come."""
        old, new = self._tallies()
        return TrialStatus(
            name=self.old.slot.name,
            strategy=self.plan.strategy,
            old_version=self.old.slot.version,
            new_version=self.new.slot.version,
            percent=self.percent,
            old_ended=old.ended,
            new_ended=new.ended,
            old_failed=old.failed,
            new_failed=new.failed,
            old_p95_ms=self.old.slot.statistics.percentile_ms(0.95),
            new_p95_ms=self.new.slot.statistics.percentile_ms(0.95),
            seconds=time.monotonic() - self.began,
            looks=self.looks + self._failures.looks,
            comparison=self.shadow.comparison() if self.shadow is not None else None,
        )


async def _nothing_more(limit: int) -> Sequence[Delivery]:
    """There is no more to receive, and no end."""
    await asyncio.Event().wait()
    return ()
