"""What goes wrong during a soak, again and again: each cycle has the same faults at the same moments."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks.soak.endpoint import Endpoint
from benchmarks.soak.load import Load
from echo_core.errors import PluginInitError
from echo_core.runtime.host import Host
from echo_core.runtime.slot import PluginEvent
from echo_core.runtime.states import PluginState

GUEST: Final = "guest"
FLAKY: Final = "flaky"
_VERSIONS: Final = 4
_PATIENCE_S: Final = 60.0
"""For what must happen sooner or later."""


class Faults:
    """Makes them, and counts them."""

    def __init__(self, host: Host, load: Load, endpoint: Endpoint) -> None:
        self._host = host
        self._load = load
        self._endpoint = endpoint
        self._versions = 0
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        self.done: Counter[str] = Counter()
        host.events(self._watch)

    def _watch(self, event: PluginEvent) -> None:
        if event.name != FLAKY:
            return
        if event.state is PluginState.CIRCUIT_OPEN:
            self._opened.set()
        elif event.previous is PluginState.CIRCUIT_OPEN:
            self._closed.set()

    async def cycle(self, seconds: float) -> None:
        """All of them, once. They take about so long, and longer where the host needs longer."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        steps: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (0.0, self._guest_comes),
            (0.1, self._endpoint_returns),
            (0.2, self._guest_changes),
            (0.3, self._guest_pauses),
            (0.35, self._guest_goes_on),
            (0.4, self._dependency_fails),
            (0.5, self._dependency_returns),
            (0.6, self._change_fails),
            (0.7, self._endpoint_dies),
            (0.8, self._guest_changes),
            (0.9, self._guest_goes),
        )
        for share, step in steps:
            await asyncio.sleep(max(0.0, began + share * seconds - loop.time()))
            async with asyncio.timeout(_PATIENCE_S):
                await step()
            self.done[step.__name__.strip("_").replace("_", " ")] += 1
        await asyncio.sleep(max(0.0, began + seconds - loop.time()))

    async def _guest_comes(self) -> None:
        self._load.visits.begin()
        await self._host.activate(self._load.guest(self._next_version()))

    async def _guest_changes(self) -> None:
        await self._host.activate(self._load.guest(self._next_version()))

    async def _change_fails(self) -> None:
        """The version that runs must go on."""
        try:
            await self._host.activate(self._load.guest(self._next_version(), is_broken=True))
        except PluginInitError:
            return
        raise AssertionError("a version that cannot come up came up")

    async def _guest_pauses(self) -> None:
        await self._host.pause(GUEST)

    async def _guest_goes_on(self) -> None:
        await self._host.resume(GUEST)

    async def _guest_goes(self) -> None:
        await self._host.deactivate(GUEST)

    def _next_version(self) -> int:
        """They come round again: each version has metrics of its own, for as long as the host runs."""
        self._versions += 1
        return self._versions % _VERSIONS

    async def _dependency_fails(self) -> None:
        """Out until the circuit has opened, at least."""
        self._opened.clear()
        self._closed.clear()
        self._load.flaky.is_out = True
        await self._opened.wait()

    async def _dependency_returns(self) -> None:
        self._load.flaky.is_out = False
        await self._closed.wait()

    async def _endpoint_dies(self) -> None:
        self._endpoint.kill()

    async def _endpoint_returns(self) -> None:
        self._endpoint.start()
