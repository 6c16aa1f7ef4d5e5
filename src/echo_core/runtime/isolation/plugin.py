"""A plugin in a process of its own, as the host sees it: a plugin like any other."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from common_telemetry import PluginTelemetry
from echo_core.errors import PluginError
from echo_core.message import BaseMessage
from echo_core.plugin import Plugin, PluginContext, ProcessingStatus
from echo_core.roles import Source
from echo_core.runtime.context import HostContext
from echo_core.runtime.isolation.channel import Channel
from echo_core.runtime.isolation.keeper import Keeper, Spec
from echo_core.runtime.isolation.session import ProcessLost
from echo_core.runtime.lane import AttemptFailed
from echo_core.runtime.slot import PluginSlot
from echo_core.settlement import Ending
from echo_core.transports.base import Delivery


class RemotePlugin(Plugin):
    """Hands everything to the plugin in its process, which is started by `launch`, or else by `init`."""

    def __init__(self, spec: Spec, keeper: Keeper | None = None) -> None:
        self.name = spec.manifest.name
        self.keeper = keeper or Keeper(spec)
        self._is_launched = keeper is not None
        self._taken: deque[Delivery] = deque()
        self._direct: Channel | None = None

    async def launch(self, telemetry: PluginTelemetry, slot: PluginSlot | None = None) -> "RemotePlugin":
        """Start the process and import the plugin there; the plugin that it turned out to be.

        Raises `PluginLoadError`, or whatever the import raised, when that does not work.
        """
        loaded = await self.keeper.launch(telemetry, slot)
        self._is_launched = True
        self.name = loaded.name
        if not loaded.is_source:
            return self
        kind = FollowedRemoteSource if loaded.is_told_of_settlement else RemoteSource
        return self if type(self) is kind else kind(self.keeper.spec, self.keeper)

    async def init(self, context: PluginContext) -> None:
        if not isinstance(context, HostContext):
            raise PluginError(f"{self.name} runs in a process of its own, and needs a host's context")
        await super().init(context)
        if not self._is_launched:
            await self.launch(context.plugin_telemetry)
        await self.keeper.init(context)

    @property
    def open_channel(self) -> Callable[[int, deque[Delivery]], Channel]:
        """Opens the way of a lane, by its number, which keeps its messages in the deque."""
        return self.keeper.open_channel

    @property
    def tell_status(self) -> Callable[[str], None]:
        """Sets `plugin.status` on what the process reports."""
        return self.keeper.tell_status

    async def end(self) -> None:
        """End a process that was launched and is not to be initialised."""
        await self.keeper.end()

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Handle one message that comes from no lane."""
        if self._direct is None:
            lanes = self.keeper.spec.manifest.delivery.lanes  # their channels have the numbers below
            self._direct = self.keeper.open_channel(lanes, self._taken)
        self._taken.append(_Given(topic, message, 1))
        try:
            return await self._direct.handle(topic, message)
        finally:
            self._taken.popleft()

    async def health_check(self) -> bool:
        answer: Any = await self.keeper.ask("health")
        return answer  # type: ignore[no-any-return]  # whatever it is, it is judged where every other is

    async def shutdown(self) -> None:
        await self.keeper.stop()


class RemoteSource(RemotePlugin, Source):
    """A source in a process of its own. If that dies, `produce` is called again in the next one."""

    async def produce(self) -> AsyncIterator[Any]:
        """Nothing here: the process iterates the plugin's own."""
        return
        yield

    async def run(self) -> None:
        """See `Source.run`."""
        while not self.keeper.has_given_up:
            try:
                session = await self.keeper.until_ready()
            except AttemptFailed:  # the plugin's state says why
                return
            try:
                await self.keeper.run_source(session)
                return
            except ProcessLost:
                if self.keeper.is_stopping:
                    return
            except asyncio.CancelledError:
                if session.is_open:
                    await session.ask("stop")
                raise


class FollowedRemoteSource(RemoteSource):
    """A source in a process of its own that is told how its messages end."""

    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        """See `Source.settled`."""
        await self.keeper.tell_settled(message, ending)


class _Given(Delivery, msgspec.Struct, eq=False):
    """A message that was handed over directly: nobody has to hear how it ended."""

    topic: str
    message: BaseMessage
    attempt: int

    async def settle(self) -> None:
        return

    async def retry(self, delay: float = 0.0) -> None:
        return
