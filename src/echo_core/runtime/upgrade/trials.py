"""All trials of one host: how they begin, and how each ends: by a verdict, an operator, or its deadline."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from common_telemetry.attributes import PLUGIN_NAME
from echo_core.errors import BadRequest, ChangeRefused, EchoCoreError, HostStopping
from echo_core.runtime.activation import Activation
from echo_core.runtime.changes import Changes
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.offer import Offer
from echo_core.runtime.states import PluginState
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.status import TrialStatus
from echo_core.runtime.upgrade.trial import RETURN_S, Trial

logger = logging.getLogger(__name__)

_LOOK_S: Final = 0.05
_PROMOTE: Final = 100.0


class Trials:
    """At most one for each plugin. What changes one is called in the plugin's turn (`Changes`)."""

    def __init__(
        self, activation: Activation, dispatcher: Dispatcher, changes: Changes, drain_s: float
    ) -> None:
        self._activation = activation
        self._dispatcher = dispatcher
        self._changes = changes
        self._drain_s = drain_s
        self._trials: dict[str, Trial] = {}
        self._outcomes: dict[str, str] = {}
        self._suspicion = asyncio.Event()
        self.on_ended: Callable[[str, bool], None] = lambda name, is_promoted: None
        """Called with the plugin's name when its trial has ended, but for one that ends with the host."""

    def status(self, name: str) -> TrialStatus | None:
        """How far the plugin's trial has come; None if there is none."""
        trial = self._trials.get(name)
        return trial.status() if trial else None

    def under_way(self) -> list[TrialStatus]:
        """All there are at this moment."""
        return [trial.status() for trial in self._trials.values()]

    def forget(self, name: str) -> None:
        """Another change of the plugin has come since its last trial."""
        self._outcomes.pop(name, None)

    def outcome(self, name: str) -> str:
        """How the plugin's last trial ended, as a sentence; empty if there was none."""
        return self._outcomes.get(name, "")

    def recall(self, name: str, version: str) -> None:
        """An earlier host had this version of the plugin on trial when it ended."""
        self._outcomes[name] = f"the host ended before the trial of {version} did, so the old version has all"
        logger.warning("%s: %s", name, self._outcomes[name], extra={PLUGIN_NAME: name})

    def check_none(self, name: str) -> None:
        """Raise `ChangeRefused` while a trial of the plugin is under way."""
        if name in self._trials:
            raise ChangeRefused(
                f"an upgrade of {name} is under way",
                fix=f"echo-core upgrade {name} --finish, or --abort; then try again",
            )

    async def begin(self, offer: Offer, plan: Plan) -> None:
        """Put the new version beside the one that runs.

        Raises `PluginInitError` when it does not come up, `ChangeRefused` where a trial makes no sense.
        """
        name = offer.manifest.name
        old = self._activation.serving(name)
        if old.slot.is_source:
            raise ChangeRefused(
                f"{name} is a source", why="it gets no messages", fix="use --strategy graceful"
            )
        if set(offer.manifest.subscriptions) != set(old.manifest.subscriptions):
            raise ChangeRefused(
                f"{name} {offer.manifest.version} hears other topics than {old.manifest.version}",
                fix="use --strategy graceful",
            )
        new = await self._activation.prepare(offer)
        trial = Trial(old, new, plan, self._dispatcher, self._drain_s, self._suspicion.set)
        self._trials[name] = trial
        await trial.begin()

    async def deal(self, name: str, percent: float) -> None:
        """Give the new version another part; 100 gives it all, and keeps the old one ready."""
        if not 0 < percent <= _PROMOTE:
            raise BadRequest(f"{percent:g} is no part", fix="give a number above 0 and up to 100")
        await self._known(name).deal(percent)

    async def switch(self, name: str) -> None:
        """Let the other version have all; both stay ready."""
        await self._known(name).switch()

    async def promote(self, name: str) -> None:
        """Promote the new version; the old one goes."""
        trial = self._known(name)
        await trial.rest()
        trial.let_go()
        self._dispatcher.hand_over(trial.old.slot, trial.new.slot)
        del self._trials[name]
        self._outcomes[name] = f"{trial.new.slot.version} was promoted"
        self._activation.feed(trial.new)
        await self._activation.end(trial.old.slot, f"{trial.new.slot.version} was promoted")
        self.on_ended(name, True)

    async def send_back(self, name: str, why: str = "") -> None:
        """Give all to the old version again; the new one goes. `why`: what it did wrong, if anything."""
        trial = self._known(name)
        if why:
            slot = trial.new.slot
            logger.warning("%s %s is sent back: %s", name, slot.version, why, extra=slot.about)
        await trial.deal(0.0, new_may_take_s=RETURN_S)
        if trial.new.slot.is_live:
            trial.new.slot.move_to(PluginState.STOPPING, why, cause="it was sent back by an operator")
        del self._trials[name]
        self._outcomes[name] = f"{trial.new.slot.version} was sent back: {why or 'by an operator'}"
        self.on_ended(name, False)
        await self._activation.end(trial.new.slot, "it was sent back")

    def _known(self, name: str) -> Trial:
        trial = self._trials.get(name)
        if trial is None:
            raise ChangeRefused(f"no upgrade of {name} is under way", why=self.outcome(name))
        return trial

    async def watch(self) -> None:
        """Judge every trial, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._suspicion.wait()
            self._suspicion.clear()
            for name, trial in list(self._trials.items()):
                with contextlib.suppress(HostStopping):
                    await self._look_after(name, trial)

    async def _look_after(self, name: str, trial: Trial) -> None:
        why = trial.judge()
        try:
            if why:
                await self._changes.make(name, self._if_still(name, trial, None, why))
            elif trial.is_suspect:
                await self._changes.make(name, self._examine(name, trial))
            elif trial.has_proved_itself_so_far:
                await self._changes.make(name, self._if_still(name, trial, trial.percent, ""))
            elif (percent := trial.next_percent()) is not None:
                await self._changes.make(name, self._if_still(name, trial, percent, ""))
        except EchoCoreError as error:
            if isinstance(error, HostStopping):
                raise
            logger.error("the upgrade of %s: %s", name, error, extra=trial.new.slot.about)

    async def _examine(self, name: str, trial: Trial) -> None:
        if self._trials.get(name) is not trial:
            return
        why = await trial.examine()
        if why:
            await self.send_back(name, why)
        else:
            await trial.deal(trial.percent)

    async def _if_still(self, name: str, trial: Trial, percent: float | None, why: str) -> None:
        if self._trials.get(name) is not trial:
            return
        if percent is None:
            await self.send_back(name, why)
        elif percent >= _PROMOTE:
            await self.promote(name)
        else:
            await trial.deal(percent)

    async def end(self) -> None:
        """The host stops: the old versions have all again, and what is under way is theirs to end."""
        for trial in self._trials.values():
            await trial.deal(0.0, new_may_take_s=RETURN_S)
        self._trials.clear()
