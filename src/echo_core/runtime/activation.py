"""Plugins that come and go while the host runs. What runs serves until what takes its place is ready."""

import logging
from collections.abc import Callable

from echo_core.errors import ChangeRefused, EchoCoreError, PluginInitError, TransportError
from echo_core.runtime.batch import check_handlers
from echo_core.runtime.dead_letters import DeadLetterError
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.offer import Offer
from echo_core.runtime.roster import Roster
from echo_core.runtime.settings import HostSettings
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.states import BROKEN, FED, PluginState
from echo_core.runtime.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Activation:
    """Brings single plugins up and down. For each plugin, one of these at a time."""

    def __init__(
        self,
        roster: Roster,
        dispatcher: Dispatcher,
        settings: HostSettings,
        supervise: Callable[[Offer], Supervisor],
    ) -> None:
        self._roster = roster
        self._dispatcher = dispatcher
        self._settings = settings
        self._supervise = supervise

    async def activate(self, offer: Offer, *, drain_s: float | None = None) -> None:
        """Run the plugin; one of the same name serves until this one is ready, and is then drained.

        For at most `drain_s`, the host's `drain_timeout_s` unless said.

        Raises `PluginInitError` when it does not come up. Then the old one serves on; where there was
        none, the new one stays as FAILED, with its reason.
        """
        old = self._roster.named(offer.manifest.name)
        if old is None or not old.is_live:
            if old is not None:
                await self.take_down(old, f"{offer.manifest.version} takes its place")
            await self._bring_up(offer)
        else:
            await self._replace(old, offer, self._settings.drain_timeout_s if drain_s is None else drain_s)

    def serving(self, name: str) -> Supervisor:
        """The plugin, if it is fed; raises `NotFound`, or `ChangeRefused`."""
        slot = self.known(name)
        if slot.state not in FED:
            raise _unfit(slot, "upgraded", f"echo-core status {name}")
        return self._supervisor(slot)

    async def prepare(self, offer: Offer) -> Supervisor:
        """Bring the plugin up beside one of its name, and feed it nothing; raises `PluginInitError`."""
        new = self._supervise(offer)
        try:
            with new.slot.telemetry.lifecycle("upgrade"):
                await self._get_ready(new)
        except PluginInitError:
            new.slot.move_to(PluginState.STOPPED, cause="it did not come up")
            self._roster.remove(new.slot)
            raise
        return new

    async def deactivate(self, name: str) -> None:
        """Drain the plugin and take it down; raises `NotFound` if there is none of that name.

        What it cannot handle within `drain_timeout_s` is kept as dead letters, unless the transport keeps it.
        """
        await self.take_down(self.known(name), "it is deactivated")

    async def pause(self, name: str) -> None:
        """Let the plugin's messages wait, or a source's publications; returns when nothing is in hand."""
        slot = self.known(name)
        if slot.state is PluginState.PAUSED:
            return
        if slot.state not in FED:
            raise _unfit(slot, "paused", f"echo-core status {name}")
        slot.move_to(PluginState.PAUSED, "by an operator")
        supervisor = self._supervisor(slot)
        if supervisor.context is not None and slot.is_source:
            supervisor.context.hold()
        await self._dispatcher.rest(slot, self._settings.drain_timeout_s)

    async def resume(self, name: str) -> None:
        """Go on where the plugin was paused."""
        slot = self.known(name)
        if slot.state in FED:
            return
        if slot.state is not PluginState.PAUSED:
            raise _unfit(slot, "resumed", f"echo-core status {name}")
        slot.move_to(PluginState.RUNNING, cause="by an operator")
        supervisor = self._supervisor(slot)
        if supervisor.context is not None:
            supervisor.context.release()
        self.feed(supervisor)

    async def _bring_up(self, offer: Offer) -> None:
        supervisor = self._supervise(offer)
        await self._get_ready(supervisor)
        self._dispatcher.collect(supervisor.slot)
        self.feed(supervisor)
        await self._dispatcher.until_collecting()
        self._start_source(supervisor)

    async def _get_ready(self, supervisor: Supervisor) -> None:
        """Load, init, and ask for its health; raises `PluginInitError` unless it is RUNNING then."""
        slot = supervisor.slot
        await supervisor.load()
        if slot.state is PluginState.LOADING:
            await supervisor.init()
        if slot.is_live:
            await supervisor.check_health()
        if slot.state is PluginState.RUNNING and supervisor.context is not None:
            try:
                check_handlers(slot, supervisor.context)
            except EchoCoreError as error:
                supervisor.fix = error.fix
                slot.move_to(PluginState.FAILED, str(error))
        if slot.state is not PluginState.RUNNING:
            if slot.state is not PluginState.FAILED:
                slot.move_to(PluginState.FAILED, f"not well after its start: {slot.reason}")
            await supervisor.shut_down(supervisor.manifest.timeouts.shutdown_ms / 1_000, "it did not come up")
            raise PluginInitError(
                f"{slot.name} {slot.version} did not come up",
                why=slot.reason.removesuffix(f"; fix: {supervisor.fix}"),
                fix=supervisor.fix or f"mend it, and build it again: echo-core build {slot.name}",
            )

    async def _replace(self, old: PluginSlot, offer: Offer, drain_s: float) -> None:
        """Put another version in the place of one that runs: nothing is lost, and order holds."""
        new = await self.prepare(offer)
        was_paused = old.state is PluginState.PAUSED
        await self._flip(self._supervisor(old), new, drain_s)
        if was_paused:
            new.slot.move_to(PluginState.PAUSED, old.reason)
        else:
            self.feed(new)
        self._start_source(new)
        await self.end(old, f"{new.slot.version} takes its place")

    async def _flip(self, old: Supervisor, new: Supervisor, drain_s: float) -> None:
        """From here on the new one gets what the old one has not begun, and all that comes."""
        await old.stop_source()
        if _fed_alike(old, new):
            await self._dispatcher.rest(old.slot, drain_s)
            self._dispatcher.hand_over(old.slot, new.slot)
        else:
            await self._dispatcher.succeed(old.slot, new.slot)
            await self._dispatcher.finish(old.slot, drain_s)
            # Before the new one begins: two versions with one key's messages in hand would break its order.
            await self.withdraw(old.slot, f"{new.slot.version} took its place before it could handle it")

    async def take_down(self, slot: PluginSlot, cause: str) -> None:
        """Drain it, shut it down, and let it go."""
        supervisor = self._roster.supervisor(slot)
        if supervisor is not None:
            await supervisor.stop_source()
            if slot.state is not PluginState.PAUSED:
                await self._dispatcher.finish(slot, self._settings.drain_timeout_s)
        await self.end(slot, cause)

    async def end(self, slot: PluginSlot, cause: str) -> None:
        """Shut it down, and let it go; what it has not handled is kept."""
        supervisor = self._roster.supervisor(slot)
        if supervisor is not None:
            await self._dispatcher.unfollow(slot, self._settings.drain_timeout_s)
            await self._dispatcher.turn.give()  # here and below: many may come here in one round of the loop
            await self.withdraw(slot, "it was deactivated before the plugin could handle it")
            await supervisor.shut_down(supervisor.manifest.timeouts.shutdown_ms / 1_000, cause)
        if slot.state in BROKEN:
            slot.move_to(PluginState.STOPPED, cause=cause)
        slot.subscription = None
        self._roster.remove(slot)

    async def withdraw(self, slot: PluginSlot, reason: str) -> None:
        """Give the plugin nothing more, and keep what it has not handled."""
        try:
            left = await self._dispatcher.withdraw(slot, reason)
        except DeadLetterError:
            logger.exception("what %s had not handled could not be kept", slot.name, extra=slot.about)
            return
        if left:
            logger.warning("%d message(s) for %s are left: %s", left, slot.name, reason, extra=slot.about)

    async def open(self, supervisor: Supervisor) -> None:
        """At the host's start: feed a plugin that came up, keep what was published to one that did not."""
        slot = supervisor.slot
        if slot.is_live:
            try:
                self.feed(supervisor)
            except EchoCoreError as error:
                slot.move_to(PluginState.FAILED, str(error))
        if not slot.is_live:
            await self.withdraw(slot, f"{slot.name} did not start: {slot.reason}")

    def feed(self, supervisor: Supervisor) -> None:
        """Open its lanes."""
        slot, context = supervisor.slot, supervisor.context
        assert context is not None
        self._dispatcher.feed(slot, context, lambda error: lane_lost(slot, error))

    def _start_source(self, supervisor: Supervisor) -> None:
        if supervisor.slot.is_source:
            self._dispatcher.follow(supervisor.slot)
            if supervisor.slot.state is PluginState.PAUSED and supervisor.context is not None:
                supervisor.context.hold()
            supervisor.start_source()

    def known(self, name: str) -> PluginSlot:
        """The plugin, whatever its state; raises `NotFound`."""
        slot = self._roster.named(name)
        if slot is None:
            raise self._roster.missing(name)
        return slot

    def _supervisor(self, slot: PluginSlot) -> Supervisor:
        supervisor = self._roster.supervisor(slot)
        assert supervisor is not None
        return supervisor


def _fed_alike(old: Supervisor, new: Supervisor) -> bool:
    """Whether the new version can go on with the old one's queue."""
    before, after = old.manifest, new.manifest
    limits = before.delivery.queue_limit == after.delivery.queue_limit
    return limits and set(before.subscriptions) == set(after.subscriptions)


def lane_lost(slot: PluginSlot, error: BaseException) -> None:
    """A lane ended by an error that is not a plugin's: say so, rather than let the queue stand still."""
    is_told = isinstance(error, TransportError)  # it says itself what is wrong, and where
    logger.error(
        "a lane of %s ended by an error of the host: %s",
        *(slot.name, error if is_told else type(error).__name__),
        exc_info=None if is_told else error,
        extra=slot.about,
    )
    if slot.is_live:
        slot.move_to(PluginState.FAILED, f"the host failed it: {type(error).__name__}: {error}")


def _unfit(slot: PluginSlot, what: str, fix: str) -> ChangeRefused:
    because = f": {slot.reason}" if slot.reason else ""
    return ChangeRefused(
        f"{slot.name} cannot be {what}",
        where=f"{slot.name} {slot.version}",
        why=f"it is {slot.state.value}{because}",
        fix=fix,
    )
