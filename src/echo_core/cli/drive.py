"""Drives a host from start to end: its signals, and how it is shown meanwhile."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol, TypeAlias

from echo_core.cli.progress import ABORTING, RUNNING, STOPPING, Progress
from echo_core.errors import EchoCoreError
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot

logger = logging.getLogger(__name__)

Service: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs as long as the host does."""
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LOOK_S: Final = 1.0
"""How often it is looked whether the signals are still the host's."""


class Event(Protocol):
    """A plugin moved to another state."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def state(self) -> PluginState: ...
    @property
    def reason(self) -> str: ...


class Drivable(Protocol):
    """The part of a host that is needed here."""

    async def run(self, *, until_idle: bool = False) -> HostSnapshot:
        """Run to the end; the final numbers."""

    def snapshot(self) -> HostSnapshot:
        """The numbers of this moment."""

    def events(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` at every move."""

    def request_stop(self) -> None:
        """Stop in good order."""

    def abort(self) -> None:
        """Stop at once."""


class Stopper:
    """What SIGINT and SIGTERM do: the first stops in good order, the second at once."""

    def __init__(self, host: Drivable, progress: Progress) -> None:
        self._host = host
        self._progress = progress
        self._signals = 0
        self._taken: dict[int, object] = {}

    @property
    def aborted(self) -> bool:
        """Whether there was a second signal."""
        return self._signals > 1

    def signal(self) -> None:
        """There is a signal."""
        self._signals += 1
        if self._signals == 1:
            self._progress.say(STOPPING)
            self._host.request_stop()
        elif self._signals == 2:
            self._progress.say(ABORTING)
            self._host.abort()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Take the signals from the running loop, and give them back."""
        loop = asyncio.get_running_loop()
        try:
            for number in _SIGNALS:
                self._take(number)
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _take(self, number: int) -> None:
        asyncio.get_running_loop().add_signal_handler(number, self.signal)
        self._taken[number] = signal.getsignal(number)

    async def keep(self) -> None:
        """Take the signals back from plugin code that takes them, until cancelled: it could end no host."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look()

    def look(self) -> None:
        """Take back what is not the host's any more."""
        for number in _SIGNALS:
            if signal.getsignal(number) != self._taken[number]:
                self._take(number)
                logger.warning("%s is the host's; what a plugin set for it is undone", number.name)


async def drive(
    host: Drivable, progress: Progress, *, until_idle: bool, beside: Sequence[Service] = ()
) -> tuple[HostSnapshot, bool]:
    """Run the host to its end and show it; its final numbers, and whether a second signal cut it short.

    What runs `beside` it is cancelled when the host has ended; if it fails, the host runs on, and it is said.
    """
    stopper = Stopper(host, progress)
    host.events(lambda event: progress.moved(event.name, event.version, event.state, event.reason))
    with stopper.installed():
        progress.say(RUNNING)
        tasks = [asyncio.create_task(_show(host, progress), name="progress")]
        tasks += [asyncio.create_task(stopper.keep(), name="signals")]
        tasks += [asyncio.create_task(_attend(service)) for service in beside]
        try:
            return await host.run(until_idle=until_idle), stopper.aborted
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _attend(service: Service) -> None:
    try:
        await service()
    except EchoCoreError as error:
        logger.error("%s", error)
    except Exception:  # a fault of ours; the plugins must not suffer from it
        logger.exception("%r ended; the plugins run on without it", service)


async def _show(host: Drivable, progress: Progress) -> None:
    while True:
        await asyncio.sleep(progress.interval_s)
        progress.show(host.snapshot())
