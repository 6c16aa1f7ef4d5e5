"""The life of one plugin in the host: load, init, health, shutdown. Its exceptions end here, as states."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from echo_core._version import __version__
from echo_core.errors import EchoCoreError, PluginLoadError
from echo_core.manifest import Manifest, check_host
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.config import config_digest
from echo_core.runtime.context import HostContext
from echo_core.runtime.dispatch import GRACE_S
from echo_core.runtime.isolation.plugin import RemotePlugin
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.states import BROKEN, PluginState
from echo_core.runtime.threads import Threads, thread_count

T = TypeVar("T")


class Supervisor:
    """Owns one plugin from its loading to its end."""

    def __init__(
        self,
        slot: PluginSlot,
        manifest: Manifest,
        load: Callable[[], Plugin],
        make_context: Callable[[PluginSlot, Manifest], HostContext],
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

    async def load(self) -> None:
        """Import the plugin and make its context; FAILED with the reason when that does not work."""
        slot = self.slot
        deadline_s = self.manifest.timeouts.init_ms / 1_000
        try:
            with slot.telemetry.lifecycle("load"):
                check_host(self.manifest, host_version=__version__, where=slot.name)
                plugin = await _in_daemon_thread(self._make, deadline_s)
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
        except (Exception, SystemExit) as error:
            slot.move_to(PluginState.FAILED, _reason(error))

    async def _context_or_end(self, plugin: Plugin) -> HostContext:
        try:
            return self._make_context(self.slot, self.manifest)
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
        slot.move_to(PluginState.STARTING)
        self._was_initialised = True
        deadline_s = self.manifest.timeouts.init_ms / 1_000
        try:
            with slot.telemetry.lifecycle("init"):
                async with asyncio.timeout(deadline_s) as deadline:
                    await plugin.init(context)
        except (Exception, SystemExit) as error:
            late = isinstance(error, TimeoutError) and deadline.expired()
            reason = f"no answer within {deadline_s:g} s (timeouts.init_ms)" if late else _reason(error)
            slot.move_to(PluginState.FAILED, f"init: {reason}")
        else:
            slot.move_to(PluginState.RUNNING)

    def start_source(self) -> None:
        """Begin to iterate the source; it ends as FINISHED or FAILED, or by `stop_source`."""
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
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            slot.move_to(PluginState.FAILED, _reason(error))
        except (Exception, SystemExit) as error:
            with slot.telemetry.lifecycle("produce") as scope:
                scope.fail(_reason(error))
            slot.move_to(PluginState.FAILED, _reason(error))
        else:
            if slot.is_live:
                slot.move_to(PluginState.FINISHED)

    async def stop_source(self) -> None:
        """Stop iterating. What the source had published is accepted; nothing more comes."""
        if self._source is not None and not self._source.done():
            self._source.cancel()
            await asyncio.wait([self._source], timeout=GRACE_S)

    async def check_health(self) -> None:
        """Ask the plugin; DEGRADED with the reason when it is not well, RUNNING again when it is."""
        slot = self.slot
        if slot.plugin is None or slot.state not in (PluginState.RUNNING, PluginState.DEGRADED):
            return
        deadline_s = self.manifest.timeouts.health_ms / 1_000
        reason = ""
        with slot.telemetry.lifecycle("health_check") as scope:
            try:
                async with asyncio.timeout(deadline_s) as deadline:
                    if not await slot.plugin.health_check():
                        reason = "health_check answered False"
            except (Exception, SystemExit) as error:
                late = isinstance(error, TimeoutError) and deadline.expired()
                answer = f"no answer within {deadline_s:g} s (timeouts.health_ms)" if late else _reason(error)
                reason = f"health_check: {answer}"
            if reason:
                scope.fail(reason)
        if reason:
            slot.degrade(reason)
        else:
            slot.recover(self._unwell)
        self._unwell = reason

    async def shut_down(self, seconds: float) -> None:
        """Call `shutdown`, for at most `seconds` and at most its own deadline; then let everything go."""
        slot = self.slot
        if self._was_initialised and slot.plugin is not None:
            if slot.state not in (*BROKEN, PluginState.STOPPING):
                slot.move_to(PluginState.STOPPING)
            reason = await self._call_shutdown(min(seconds, self.manifest.timeouts.shutdown_ms / 1_000))
            if reason and slot.state not in BROKEN:
                slot.move_to(PluginState.FAILED, f"shutdown: {reason}")
        if slot.threads is not None:
            slot.threads.shutdown()
        slot.plugin = self.context = None
        slot.unload()
        slot.threads = None
        if slot.state not in BROKEN:
            slot.move_to(PluginState.STOPPED)

    async def _call_shutdown(self, seconds: float) -> str:
        """Why it did not go well, or an empty string."""
        assert self.slot.plugin is not None
        try:
            with self.slot.telemetry.lifecycle("shutdown"):
                async with asyncio.timeout(seconds) as deadline:
                    await self.slot.plugin.shutdown()
        except (Exception, SystemExit) as error:
            late = isinstance(error, TimeoutError) and deadline.expired()
            return f"no answer within {seconds:.3g} s" if late else _reason(error)
        return ""


def _reason(error: BaseException) -> str:
    """An error in a line or two; ours say themselves what they are."""
    return str(error) if isinstance(error, EchoCoreError) else f"{type(error).__name__}: {error}".rstrip(": ")


async def _in_daemon_thread(function: Callable[[], T], seconds: float) -> T:
    """Call it in a thread that cannot keep the process alive; raises TimeoutError when it takes longer."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def call() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as raised:
            error = raised if isinstance(raised, Exception) else PluginLoadError(_reason(raised))
        with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=call, name="echo-core load", daemon=True).start()
    async with asyncio.timeout(seconds):
        return await answer
