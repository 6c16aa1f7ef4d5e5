"""A new version of a plugin beside the one that runs: fed with a part, with copies, or kept warm.

Whatever changes who gets what, first both versions come to rest (each message in hand is ended, or goes
back); then all that was taken and not begun is dealt out anew. So no message is lost or doubled, and a key
changes its version only with nothing of it under way.
"""

import asyncio
import functools
import time
from dataclasses import dataclass, field
from typing import Final

from echo_core.runtime.activation import lane_lost
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.lane import Receive
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import Statistics
from echo_core.runtime.supervisor import Supervisor
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.shadow import Shadow
from echo_core.runtime.upgrade.splitter import NEW, OLD, Splitter
from echo_core.runtime.upgrade.status import TrialStatus
from echo_core.runtime.upgrade.verdict import Tally, why_worse

_EACH: Final = 25
"""Attempts of the new version between two looks."""
_STUCK_S: Final = 2.0
"""With work at hand the new version ends a message in that time, or in three 95th percentiles of the old."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counters at one moment."""

    ended: int = 0
    succeeded: int = 0
    failed: int = 0
    published: int = 0
    refused: int = 0

    @classmethod
    def of(cls, numbers: Statistics) -> "_Counts":
        return cls(
            ended=numbers.processed + numbers.filtered + numbers.dead_lettered,
            succeeded=numbers.processed + numbers.filtered,
            failed=numbers.failed_attempts,
            published=numbers.published,
            refused=numbers.refused,
        )

    def since(self, numbers: Statistics) -> Tally:
        now = _Counts.of(numbers)
        return Tally(
            ended=now.ended - self.ended,
            succeeded=now.succeeded - self.succeeded,
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
    percent: float = 0.0
    began: float = field(default_factory=time.monotonic)
    step_began: float = field(default_factory=time.monotonic)
    looks: int = 0
    shadow: Shadow | None = None
    bad: str = ""
    """Why the new version is to be sent back."""
    _step: int = 0
    _looked_at: int = 0
    _progress: tuple[int, float] = (-1, 0.0)
    _old_then: _Counts = _Counts()
    _new_then: _Counts = _Counts()
    _step_then: _Counts = _Counts()

    def __post_init__(self) -> None:
        self._old_then = _Counts.of(self.old.slot.statistics)
        self._new_then = self._step_then = _Counts.of(self.new.slot.statistics)

    async def begin(self) -> None:
        """Let the new version have its part."""
        await self.deal({"canary": self.plan.percent, "blue_green": 100.0}.get(self.plan.strategy, 0.0))

    async def switch(self) -> None:
        """blue_green: let the other one get all."""
        await self.deal(0.0 if self.percent else 100.0)

    async def deal(self, percent: float, *, new_may_take_s: float | None = None) -> None:
        """Deal the messages out anew: so many percent of the keys go to the new version."""
        await self.rest(new_may_take_s)
        self.percent = percent
        self.step_began, self._step_then = time.monotonic(), _Counts.of(self.new.slot.statistics)
        old = self.old.slot
        if self.plan.strategy == "shadow" and self.shadow is None:
            self._feed_shadow()
        elif percent in (0.0, 100.0):
            serving = self.new if percent else self.old
            self._feed(serving, self.dispatcher.backlog(old))
        else:
            path = self.new.manifest.delivery.ordering_key or "id"
            splitter = Splitter(self.dispatcher.backlog(old), path, percent, self._may_go_on)
            self._feed(self.old, splitter.receivers[OLD], stage=splitter)
            self._feed(self.new, splitter.receivers[NEW])

    def _feed(
        self, version: Supervisor, receive: Receive, *, stage: Splitter | None = None, apart: bool = False
    ) -> None:
        slot, context = version.slot, version.context
        assert context is not None
        lost = functools.partial(lane_lost, slot)
        self.dispatcher.feed(slot, context, lost, receive, stage=stage, apart=apart)

    def _feed_shadow(self) -> None:
        assert self.old.context is not None
        assert self.new.context is not None
        self.shadow = Shadow(self.dispatcher.backlog(self.old.slot))
        self.shadow.watch(self.old.context, self.new.context)
        self._feed(self.old, self.shadow.receive)
        self._feed(self.new, self.shadow.copies, apart=True)

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

    def _may_go_on(self) -> bool:
        """Asked by the splitter before each batch: looks at the new version now and then."""
        if not self.bad and self._tallies()[1].attempts - self._looked_at >= _EACH:
            self._look()
        return not self.bad

    def _tallies(self) -> tuple[Tally, Tally]:
        return (
            self._old_then.since(self.old.slot.statistics),
            self._new_then.since(self.new.slot.statistics),
        )

    def _look(self) -> None:
        old, new = self._tallies()
        if new.attempts < self.plan.minimum:
            return
        self._looked_at = new.attempts
        self.looks += 1
        self.bad = why_worse(old, new, self.looks)

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
        new = self._tallies()[1]
        moved = new.ended + new.failed
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
            seconds=time.monotonic() - self.began,
            looks=self.looks,
            comparison=self.shadow.comparison() if self.shadow is not None else None,
        )
