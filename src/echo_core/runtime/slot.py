"""One plugin in the host: its instance, its state, its numbers."""

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from common_telemetry import Account, MessageTelemetry, PluginTelemetry
from common_telemetry.attributes import PLUGIN_NAME, PLUGIN_VERSION
from echo_core.manifest import Manifest
from echo_core.message import BaseMessage
from echo_core.plugin import Plugin, ProcessingStatus
from echo_core.roles import Source
from echo_core.runtime.dead_letters import Attempt
from echo_core.runtime.settlement import Followed
from echo_core.runtime.states import BROKEN, FED, LIVE, NEXT, PluginState
from echo_core.runtime.statistics import PluginSnapshot, Statistics
from echo_core.runtime.threads import Threads
from echo_core.transports.base import Delivery, Subscription

logger = logging.getLogger(__name__)


class Channel(Protocol):
    """One lane's way to a plugin's own process."""

    @property
    def messages(self) -> MessageTelemetry:
        """Reports what the process cannot."""

    async def handle(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """As `Plugin.process_message`."""

    def leave(self) -> None:
        """What the lane has not begun goes back to where it came from."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A delivery that rests between two attempts."""

    delivery: Delivery
    attempts: list[Attempt]
    """Those that failed."""


@dataclass(frozen=True, slots=True)
class PluginEvent:
    """A plugin moved from one state to another."""

    name: str
    version: str
    previous: PluginState
    state: PluginState
    reason: str
    """What is wrong; empty for what is in the normal course of things."""
    cause: str
    """What is wrong, or else what made it move."""
    time_ns: int
    """When, since the epoch."""


@dataclass(eq=False)
class PluginSlot:
    """A place in the host for one plugin. Its exceptions end here, as states."""

    name: str
    build_type: str
    manifest: Manifest | None
    """None when not even that could be read."""
    telemetry: PluginTelemetry
    report: Callable[[PluginEvent], None]
    digest: str = ""
    """Which build of the version; empty where there is no library."""
    state: PluginState = PluginState.LOADING
    reason: str = ""
    plugin: Plugin | None = None
    subscription: Subscription | None = None
    kept: deque[Delivery] = field(default_factory=deque)
    """What waits for the lanes of a plugin that sheds messages, which is not slowed by its publishers."""
    resting: deque[Delivery] = field(default_factory=deque)
    """Taken from the subscription and not begun: what the next lanes begin with."""
    tried: dict[int, Tried] = field(default_factory=dict)
    """By the `id` of the delivery: those that rest between two attempts, which go on being counted."""
    followed: Followed | None = None
    """A source that is told how its messages end."""
    threads: Threads | None = None
    open_channel: "Callable[[int, deque[Delivery]], Channel] | None" = None
    """Opens the way of a lane, by its number, to the plugin's own process, if it has one."""
    tell_status: Callable[[str], None] = lambda status: None
    """Tells that process what is on its telemetry from now on."""
    on_failed_first: Callable[[BaseMessage, int], None] = lambda message, count: None
    """Called for each message whose first attempt failed; with -1, it was another one."""
    unload: Callable[[], None] = lambda: None
    config_digest: str = ""
    """SHA-256 of the effective configuration, once that is known."""
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def version(self) -> str:
        """The manifest's, or empty."""
        return self.manifest.version if self.manifest else ""

    @property
    def is_source(self) -> bool:
        """Whether the host iterates it rather than feeding it."""
        return isinstance(self.plugin, Source)

    @property
    def is_live(self) -> bool:
        """Whether it was initialised and not yet shut down."""
        return self.state in LIVE

    @property
    def has_process(self) -> bool:
        """Whether it runs in a process of its own."""
        return self.open_channel is not None

    @property
    def about(self) -> dict[str, str]:
        """For `extra` of a log record: `echo-core logs NAME` shows what concerns the plugin."""
        return {PLUGIN_NAME: self.name, PLUGIN_VERSION: self.version}

    def move_to(self, state: PluginState, reason: str = "", *, cause: str = "") -> None:
        """Take the state, unless it is the same for the same reason; reports the move.

        `reason`: what is wrong, for as long as it has the state. `cause`: what made it move, if nothing is.
        """
        if state is self.state and reason == self.reason:
            return
        if state is not self.state and state not in NEXT[self.state]:
            raise AssertionError(f"{self.name}: {self.state.name} -> {state.name} is not a move")
        cause = reason or cause
        event = PluginEvent(
            name=self.name,
            version=self.version,
            previous=self.state,
            state=state,
            reason=reason,
            cause=cause,
            time_ns=time.time_ns(),
        )
        self.state = state
        self.reason = reason
        self.telemetry.state_changed(state.value, reason, cause=cause, failed=state in BROKEN)
        self.tell_status(state.value)
        log = logger.warning if reason else logger.info
        because = f": {cause}" if cause else ""
        log("%s %s is %s%s", self.name, self.version, state.value, because, extra=self.about)
        self.report(event)

    def degrade(self, reason: str) -> None:
        """It still runs, with a problem; without effect on one that does not run."""
        if self.state in (PluginState.RUNNING, PluginState.DEGRADED):
            self.move_to(PluginState.DEGRADED, reason)

    def recover(self, reason: str) -> None:
        """The problem told by `degrade` or `back_off` is over; without effect if there is another by now."""
        if self.state in (PluginState.DEGRADED, PluginState.BACKOFF) and self.reason == reason:
            self.move_to(PluginState.RUNNING, cause="it is well again")

    def hold(self, reason: str) -> None:
        """Its messages wait, because it fails; without effect on one that is given none anyway."""
        if self.state in FED:
            self.move_to(PluginState.CIRCUIT_OPEN, reason)

    def resume(self, state: PluginState) -> None:
        """What made it take this state is over; without effect if it has taken another one since."""
        if self.state is state:
            self.move_to(PluginState.RUNNING, cause="it gets on again")

    def back_off(self, reason: str) -> None:
        """Its process has died and will be started again; without effect on one that does not run."""
        if self.state in FED or self.state is PluginState.BACKOFF:
            self.move_to(PluginState.BACKOFF, reason)

    def quarantine(self, reason: str) -> None:
        """It will not run again by itself; what comes for it is dead-lettered."""
        if self.is_live and self.state is not PluginState.FINISHED:
            self.move_to(PluginState.QUARANTINED, reason)

    def queued(self) -> int:
        """Messages that wait for it."""
        waiting = self.subscription.statistics().waiting if self.subscription else 0
        return waiting + len(self.resting) + len(self.kept)

    def account(self) -> Account:
        """The numbers of this moment for telemetry; safe from any thread."""
        subscription = self.subscription
        account = self.statistics.account()
        if subscription is None:
            return account
        queue = subscription.statistics()
        # What is counted as ended a moment before it is settled is in neither.
        return account._replace(waiting=max(0, queue.waiting + queue.unsettled - account.in_hand))

    def snapshot(self) -> PluginSnapshot:
        """The numbers of this moment."""
        numbers = self.statistics
        ended = numbers.processed + numbers.filtered + numbers.dead_lettered
        return PluginSnapshot(
            name=self.name,
            version=self.version,
            build_type=self.build_type,
            plugin_type=self.manifest.plugin_type if self.manifest else "",
            state=self.state,
            reason=self.reason,
            subscriptions=self.manifest.subscriptions if self.manifest else (),
            publications=self.manifest.publications if self.manifest else (),
            digest=self.digest,
            received=numbers.received,
            processed=numbers.processed,
            filtered=numbers.filtered,
            dead_lettered=numbers.dead_lettered,
            failed_attempts=numbers.failed_attempts,
            failed_first=numbers.failed_first,
            published=numbers.published,
            shed=dict(numbers.shed),
            queue=self.queued(),
            in_hand=numbers.received - ended,
            p95_ms=numbers.percentile_ms(0.95),
        )
