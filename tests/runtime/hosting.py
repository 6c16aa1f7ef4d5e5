"""Plugins and a host for tests: small, and nothing in them is replaced by a mock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import BaseMessage, Plugin, ProcessingStatus, Source
from echo_core.manifest import Manifest, parse
from echo_core.runtime.checkpoints import CheckpointStore
from echo_core.runtime.clock import Clock
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.offer import Offer
from echo_core.runtime.settings import HostSettings, Settings
from echo_core.runtime.slot import PluginEvent
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport

FAST_RETRIES = {
    "backoff_ms": 1,
    "backoff_max_ms": 1,
    "max_attempts": 3,
    "circuit_open_ms": 1,
    "circuit_open_max_ms": 1,
}


def manifest(name: str, *, hears: tuple[str, ...] = (), says: tuple[str, ...] = (), **more: Any) -> Manifest:
    """A manifest without faults, with retries that do not hold a test up."""
    document = {
        "name": name,
        "version": "1.2.3",
        "description": "for a test",
        "entry_point": "create_plugin",
        "subscriptions": list(hears),
        "publications": list(says),
        "delivery": FAST_RETRIES | more.pop("delivery", {}),
        **more,
    }
    return parse(msgspec.json.encode(document))


class Numbers(Source):
    """Yields 0, 1, 2 … or what it is given."""

    def __init__(self, items: Any = 10) -> None:
        self.items = range(items) if isinstance(items, int) else items

    async def produce(self) -> AsyncIterator[Any]:
        for item in self.items:
            yield item


class Endless(Source):
    """Yields until it is stopped."""

    async def produce(self) -> AsyncIterator[Any]:
        number = 0
        while True:
            yield number
            number += 1
            await asyncio.sleep(0)


class Handler(Plugin):
    """Calls a function for each message and remembers what it saw."""

    def __init__(self, handle: Callable[[BaseMessage], Any] | None = None) -> None:
        self.handle = handle
        self.seen: list[BaseMessage] = []
        self.calls: list[str] = []

    @property
    def data(self) -> list[Any]:
        return [message.data for message in self.seen]

    async def init(self, context: Any) -> None:
        await super().init(context)
        self.calls.append("init")

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        self.seen.append(message)
        answer = self.handle(message) if self.handle else None
        if asyncio.iscoroutine(answer):
            answer = await answer
        return ProcessingStatus.ACKNOWLEDGED if answer is None else answer

    async def shutdown(self) -> None:
        self.calls.append("shutdown")


class World:
    """A host with everything around it within reach of a test."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock | None = None,
        otel: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        message_history: Recorder | None = None,
        **settings: Any,
    ) -> None:
        self.transport = transport or MemoryTransport()
        self.telemetry = TelemetryContext.from_config(TelemetryConfig(), environ=otel or {})
        self.dead_letters = DeadLetterStore(folder / "dead_letters.sqlite")
        self.checkpoints = CheckpointStore(folder / "checkpoints.sqlite")
        self.events: list[PluginEvent] = []
        self.host = Host(
            settings=Settings(host=HostSettings(**settings)),
            transport=self.transport,
            telemetry=self.telemetry,
            dead_letters=self.dead_letters,
            checkpoints=self.checkpoints,
            message_history=message_history,
            clock=clock,
            environ={},
        )
        self.host.events(self.events.append)
        WORLDS.append(self)

    def add(self, plugin: Plugin, of: Manifest) -> None:
        self.host.add(of, lambda: plugin)

    async def published(self, count: int) -> None:
        """Return when so many messages have been published: on a busy machine sources take turns too."""
        while sum(plugin.published for plugin in self.host.snapshot().plugins) < count:
            await asyncio.sleep(0.001)

    async def run(self, *, until_idle: bool = True) -> dict[str, PluginSnapshot]:
        """Run to the end; the final numbers by plugin, which always add up."""
        final = await self.host.run(until_idle=until_idle)
        self.telemetry.shutdown()
        for numbers in final.plugins:
            ended = numbers.processed + numbers.filtered + numbers.dead_lettered
            assert numbers.received == ended + numbers.in_hand
        return {numbers.name: numbers for numbers in final.plugins}


WORLDS: list[World] = []
"""Those of the current test; its fixture closes them."""


@asynccontextmanager
async def running(world: World) -> AsyncIterator[Host]:
    """The world's host, started; stopped in good order at the end of the block."""
    run = asyncio.create_task(world.run(until_idle=False))
    started = asyncio.create_task(world.host.started())
    await asyncio.wait([run, started], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield world.host
    finally:
        world.host.request_stop()
        await run
        started.cancel()


def offer(plugin: Plugin | Callable[[], Plugin], of: Manifest, **more: Any) -> Offer:
    """A plugin to bring to a host that runs."""
    return Offer(manifest=of, load=plugin if callable(plugin) else lambda: plugin, **more)
