"""The life of one plugin in the host: load, init, health, shutdown. Its exceptions end here, as states."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from echo_core._version import __version__
from echo_core.errors import EchoCoreError
from echo_core.manifest import Manifest, check_host
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.config import config_digest
from echo_core.runtime.context import HostContext
from echo_core.runtime.daemon import in_daemon_thread
from echo_core.runtime.deadline import Late, answer_within
from echo_core.runtime.dispatch import GRACE_S
from echo_core.runtime.isolation.plugin import RemotePlugin
from echo_core.runtime.leftovers.leftover import told
from echo_core.runtime.leftovers.surroundings import Key, Window
from echo_core.runtime.leftovers.sweep import sweep
from echo_core.runtime.raised import ends_caller, named, place_in, text_of
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.source_context import SourceContext
from echo_core.runtime.states import BROKEN, PluginState
from echo_core.runtime.threads import Threads, thread_count
from echo_core.transports.turn import Turn

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Supervisor:
    """Owns one plugin from its loading to its end."""

    def __init__(
        self,
        slot: PluginSlot,
        manifest: Manifest,
        load: Callable[[], Plugin],
        make_context: Callable[[PluginSlot, Manifest], Awaitable[HostContext]],
    ) -> None:
        self.slot = slot
        self.manifest = manifest
        self._load = load
        self._make_context = make_context
        self.context: HostContext | None = None
        self._source: asyncio.Task[None] | None = None
        self._was_initialised = False
        self._unwell = ""
        self._gave_up = False
        self.fix = ""
        """How to mend what it failed of; empty where the reason does not say. Part of the reason, too."""
        self._changed: dict[Key, tuple[Any, Any]] = {}
        """What appeared in the process while the plugin was loaded and initialised."""

    async def load(self) -> None:
        """Import the plugin and make its context; FAILED with the reason when that does not work."""
        slot = self.slot
        deadline_s = self.manifest.timeouts.init_ms / 1_000
        try:
            with slot.telemetry.lifecycle("load"):
                check_host(self.manifest, host_version=__version__, where=slot.name)
                with self._watching():
                    plugin = await in_daemon_thread(self._make, deadline_s)
                if isinstance(plugin, RemotePlugin):
                    plugin = await self._launch(plugin, deadline_s)
                plugin.name = plugin.name or slot.name
                slot.threads = Threads(slot.name, thread_count(self.manifest, plugin))
                slot.plugin = plugin
                self.context = await self._context_or_end(plugin)
                slot.config_digest = config_digest(self.context.config)
        except TimeoutError:
            self._gave_up = True
            slot.move_to(PluginState.FAILED, f"loading did not end within {deadline_s:g} s")
        except BaseException as error:
            if ends_caller(error):
                raise
            self._note_fix(error)
            slot.move_to(PluginState.FAILED, _reason(error))

    def _note_fix(self, error: BaseException) -> None:
        self.fix = error.fix if isinstance(error, EchoCoreError) else ""

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """What appears in the process within is the plugin's doing."""
        window = Window()
        try:
            with window:
                yield
        finally:
            self._changed |= window.changed

    async def _context_or_end(self, plugin: Plugin) -> HostContext:
        try:
            return await self._make_context(self.slot, self.manifest)
        except BaseException:
            if isinstance(plugin, RemotePlugin):
                await plugin.end()
            raise

    async def _launch(self, plugin: RemotePlugin, seconds: float) -> RemotePlugin:
        """Start the plugin's own process, and import the plugin there."""
        slot = self.slot
        async with asyncio.timeout(seconds):
            launched = await plugin.launch(slot.telemetry, slot)
        slot.open_channel, slot.tell_status = launched.open_channel, launched.tell_status
        return launched

    def _make(self) -> Plugin:
        """Load it; what comes when nobody waits any more is let go at once."""
        plugin = self._load()
        if self._gave_up:
            self.slot.unload()
        return plugin

    async def init(self) -> None:
        """Call `init` under its deadline; RUNNING, or FAILED with the reason."""
        slot, plugin, context = self.slot, self.slot.plugin, self.context
        assert plugin is not None
        assert context is not None
        slot.move_to(PluginState.STARTING, cause="it is loaded")
        self._was_initialised = True
        deadline_s = self.manifest.timeouts.init_ms / 1_000
        try:
            with slot.telemetry.lifecycle("init"), self._watching():
                await self._answer(deadline_s, "init", lambda: plugin.init(context))
        except BaseException as error:
            if ends_caller(error):
                raise
            late = isinstance(error, Late)
            late_answer = f"no answer within {deadline_s:g} s (timeouts.init_ms)"
            reason = late_answer if late else _reason(error) + self._place(error)
            self._note_fix(error)
            slot.move_to(PluginState.FAILED, f"init: {reason}")
        else:
            slot.move_to(PluginState.RUNNING, cause="init has ended")

    async def _answer(self, seconds: float, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """See `answer_within`."""
        return await answer_within(seconds, lambda: self._call(call), name=f"{self.slot.name} {what}")

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call it. With this in the stack the watchdog finds whose code stands still."""
        return await call()

    def _place(self, error: BaseException) -> str:
        """Where in the plugin's package it came from, in brackets; its own process says it itself."""
        place = place_in(self.slot.name, error)
        return f" ({place})" if place else ""

    def start_source(self) -> None:
        """Begin to iterate the source; it ends as FINISHED or FAILED, or by `stop_source`."""
        if isinstance(self.context, SourceContext):
            self.context.run()
        self._source = asyncio.create_task(self._run_source(), name=f"{self.slot.name} source")

    async def source_ended(self) -> None:
        """Return when the source has nothing more to say; at once for a plugin that is none."""
        if self._source is not None:
            await asyncio.wait([self._source])

    async def _run_source(self) -> None:
        slot = self.slot
        assert isinstance(slot.plugin, Source)
        try:
            await slot.plugin.run()
            if isinstance(self.context, SourceContext) and not isinstance(slot.plugin, RemotePlugin):
                self.context.exhausted()
        except BaseException as error:
            if ends_caller(error):
                raise
            with slot.telemetry.lifecycle("produce") as scope:
                scope.fail(_reason(error))
            slot.move_to(PluginState.FAILED, _reason(error) + self._place(error))
        else:
            if slot.is_live:
                slot.move_to(PluginState.FINISHED, cause="it has nothing more to say")

    async def stop_source(self) -> None:
        """Stop iterating. What the source had published is accepted; nothing more comes."""
        if self._source is not None and not self._source.done():
            self._source.cancel()
            await asyncio.wait([self._source], timeout=GRACE_S)

    async def check_health(self) -> None:
        """Ask the plugin; DEGRADED with the reason when it is not well, RUNNING again when it is."""
        slot = self.slot
        plugin = slot.plugin
        if plugin is None or slot.state not in (PluginState.RUNNING, PluginState.DEGRADED):
            return
        deadline_s = self.manifest.timeouts.health_ms / 1_000
        reason = ""
        with slot.telemetry.lifecycle("health_check") as scope:
            try:
                if not await self._answer(deadline_s, "health check", plugin.health_check):
                    reason = "health_check answered False"
            except BaseException as error:
                if ends_caller(error):
                    raise
                late = isinstance(error, Late)
                answer = f"no answer within {deadline_s:g} s (timeouts.health_ms)" if late else _reason(error)
                reason = f"health_check: {answer}"
            if reason:
                scope.fail(reason)
        if reason:
            slot.degrade(reason)
        else:
            slot.recover(self._unwell)
        self._unwell = reason

    async def shut_down(self, seconds: float, cause: str) -> None:
        """Call `shutdown`, for at most `seconds` and at most its own deadline; then let everything go."""
        slot = self.slot
        seconds = min(seconds, self.manifest.timeouts.shutdown_ms / 1_000)
        if self._was_initialised and slot.plugin is not None:
            if slot.state not in (*BROKEN, PluginState.STOPPING):
                slot.move_to(PluginState.STOPPING, cause=cause)
            reason = await self._call_shutdown(seconds)
            if reason and slot.state not in BROKEN:
                slot.move_to(PluginState.FAILED, f"shutdown: {reason}")
        if slot.threads is not None:
            slot.threads.shutdown()
        await Turn.of_running_loop().give()  # many may come here in one round of the loop
        if self.context is not None:
            await self.context.close()
        left = await self._sweep(seconds)
        slot.plugin = self.context = None
        slot.unload()
        slot.threads = None
        if slot.state not in BROKEN:
            slot.move_to(PluginState.STOPPED, left, cause="shutdown has ended")

    async def _sweep(self, seconds: float) -> str:
        """End what the plugin has left behind, and report it; what that was."""
        slot, changed = self.slot, self._changed
        self._changed = {}
        if slot.plugin is None or isinstance(slot.plugin, RemotePlugin):
            return ""
        try:
            left = told(await sweep(slot.plugin, changed, seconds))
        except Exception:
            logger.exception("what %s left behind could not all be found", slot.name)
            return ""
        if left:
            with slot.telemetry.lifecycle("leftovers") as scope:
                scope.fail(left)
            if slot.state in BROKEN:  # then the reason of that stays
                logger.warning("%s %s: %s", slot.name, slot.version, left)
        return left

    async def _call_shutdown(self, seconds: float) -> str:
        """Why it did not go well, or an empty string."""
        plugin = self.slot.plugin
        assert plugin is not None
        try:
            with self.slot.telemetry.lifecycle("shutdown"):
                await self._answer(seconds, "shutdown", plugin.shutdown)
        except BaseException as error:
            if ends_caller(error):
                raise
            late = isinstance(error, Late)
            return f"no answer within {seconds:.3g} s" if late else _reason(error)
        return ""


def _reason(error: BaseException) -> str:
    """An error in a line or two; ours say themselves what they are."""
    return text_of(error) if isinstance(error, EchoCoreError) else named(error)
