"""Which hosts share a transport, and how they are: each says so every other second, and hears the others."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from echo_core._version import __version__
from echo_core.errors import NoHost, TransportError
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot
from echo_core.topics import TopicPattern
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for, without_secrets

logger = logging.getLogger(__name__)

INTERVAL_S: Final = 2.0
SILENT_S: Final = 6.5
"""A host that has not been heard for so long is taken for dead: three announcements are missing."""
_REMEMBERED_S: Final = 600.0
"""How long a silent host is shown."""
_LARGEST: Final = 512 * 1024
"""Bytes of an announcement; what is larger goes without the plugins."""
_FAILURES: Final = (TransportError, OSError, TimeoutError)


class PluginCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of a plugin of its."""

    name: str
    version: str
    state: PluginState
    reason: str = ""
    subscriptions: tuple[str, ...] = ()
    processed: int = 0
    dead_lettered: int = 0
    queue: int = 0
    in_hand: int = 0


class HostCard(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of itself."""

    id: str
    """Another one for each run."""
    machine: str
    pid: int
    version: str = __version__
    uptime_s: float = 0.0
    trouble: str = ""
    local: tuple[str, ...] = ()
    """Patterns of topics that stay in its process."""
    plugins: tuple[PluginCard, ...] = ()
    leaving: bool = False

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.machine}:{self.pid}"


class SeenHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host, and how long ago it was heard."""

    host: HostCard
    heard_s: float
    silent: bool
    """It is dead, or cut off: what it held is given to others after the transport's lease."""


class Neighbours:
    """The hosts that were heard, by this process's own clock: those of others may be wrong."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._cards: dict[str, tuple[float, HostCard]] = {}
        self._silent: set[str] = set()

    def hear(self, documents: Mapping[str, bytes]) -> None:
        """What the transport knows of all hosts now; a document that has not changed is an old one."""
        now = self._monotonic()
        for host_id, document in documents.items():
            try:
                card = msgspec.json.decode(document, type=HostCard)
            except msgspec.MsgspecError:  # of another version of Echo Core, or cut off in the middle
                continue
            known = self._cards.get(host_id)
            if card.leaving:
                self._cards.pop(host_id, None)
                self._silent.discard(host_id)
            elif known is None or known[1].uptime_s != card.uptime_s:
                self._cards[host_id] = (now, card)
                if host_id in self._silent:
                    self._silent.discard(host_id)
                    logger.warning("host %s is heard again", card.name)
        for host_id, (heard, card) in list(self._cards.items()):
            if now - heard > _REMEMBERED_S:
                del self._cards[host_id]
                self._silent.discard(host_id)
            elif now - heard > SILENT_S and host_id not in self._silent:
                self._silent.add(host_id)
                logger.warning(
                    "host %s has been silent for %.0f s: it is dead, or cut off", card.name, now - heard
                )

    def seen(self) -> list[SeenHost]:
        """All of them, those that are well first."""
        now = self._monotonic()
        seen = [
            SeenHost(host=card, heard_s=now - heard, silent=now - heard > SILENT_S)
            for heard, card in self._cards.values()
        ]
        return sorted(seen, key=lambda one: (one.silent, one.host.machine, one.host.pid))


class Presence:
    """Says how this host is, and knows how the others are."""

    def __init__(
        self,
        transport: Transport,
        snapshot: Callable[[], HostSnapshot],
        local: Sequence[str] = (),
    ) -> None:
        self._transport = transport
        self._snapshot = snapshot
        self._local = tuple(local)
        self._id = secrets.token_hex(6)
        self._machine = socket.gethostname()
        self._neighbours = Neighbours()
        self._warned: set[str] = set()

    def hosts(self) -> list[SeenHost]:
        """Itself first, then the others; itself alone where the transport cannot tell."""
        own = SeenHost(host=self._card(), heard_s=0.0, silent=False)
        return [own, *(one for one in self._neighbours.seen() if one.host.id != self._id)]

    async def watch(self) -> None:
        """Until cancelled; says good-bye then. Ends at once where the transport tells of nobody."""
        if not self._transport.capabilities.presence:
            return
        task = asyncio.current_task()
        assert task is not None
        try:
            while not task.cancelling():  # a client may make a lost connection of its being cancelled
                await self._once()
                if not task.cancelling():
                    await asyncio.sleep(INTERVAL_S)
        finally:
            await self._announce(msgspec.structs.replace(self._card(), leaving=True, plugins=()))

    async def _once(self) -> None:
        await self._announce(self._card())
        try:
            self._neighbours.hear(await self._transport.announced())
        except _FAILURES as error:
            logger.debug("the other hosts are not heard: %s", error)
        self._check_local()

    async def _announce(self, card: HostCard) -> None:
        document = msgspec.json.encode(card)
        if len(document) > _LARGEST:
            document = msgspec.json.encode(msgspec.structs.replace(card, plugins=()))
        try:
            await self._transport.announce(self._id, document)
        except _FAILURES as error:
            logger.debug("this host is not heard: %s", error)

    def _card(self) -> HostCard:
        snapshot = self._snapshot()
        return HostCard(
            id=self._id,
            machine=self._machine,
            pid=os.getpid(),
            uptime_s=round(snapshot.uptime_s, 3),
            trouble=self._transport.trouble(),
            local=self._local,
            plugins=tuple(
                PluginCard(
                    name=plugin.name,
                    version=plugin.version,
                    state=plugin.state,
                    reason=plugin.reason,
                    subscriptions=plugin.subscriptions,
                    processed=plugin.processed,
                    dead_lettered=plugin.dead_lettered,
                    queue=plugin.queue,
                    in_hand=plugin.in_hand,
                )
                for plugin in snapshot.plugins
            ),
        )

    def _check_local(self) -> None:
        """Say once of each plugin elsewhere that it waits in vain for what stays here."""
        for reason in self.unheard():
            if reason not in self._warned:
                self._warned.add(reason)
                logger.warning("%s", reason)

    def unheard(self) -> list[str]:
        """Plugins of other hosts that wait for topics which are local here, and that do not run here."""
        if not self._local:
            return []
        local = [TopicPattern(pattern) for pattern in self._local]
        here = {plugin.name for plugin in self._snapshot().plugins}
        found: list[str] = []
        for seen in self.hosts()[1:]:
            for plugin in seen.host.plugins:
                deaf = [
                    pattern
                    for pattern in plugin.subscriptions
                    if any(one.covers(TopicPattern(pattern)) for one in local)
                ]
                if deaf and plugin.name not in here:
                    found.append(
                        f"{plugin.name} on host {seen.host.name} subscribes to {', '.join(deaf)},"
                        " which is local here (host.local): it hears nothing from this host"
                    )
        return found


def listen(url: str, folder: Path) -> list[SeenHost]:
    """The hosts that are heard on that transport, by a process that is none; takes 3 seconds.

    Raises `TransportError` where it cannot be opened, and `NoHost` where nobody is heard.
    """
    hosts = asyncio.run(_listen(transport_for(url, folder), INTERVAL_S + 1))
    if not hosts:
        raise NoHost(
            "no host is heard",
            where=without_secrets(url),
            why="none runs on this transport, or it does not tell of them",
            fix="echo-core run",
        )
    return hosts


async def _listen(transport: Transport, seconds: float) -> list[SeenHost]:
    neighbours = Neighbours()
    if transport.capabilities.presence:
        until = time.monotonic() + seconds
        async with transport:
            while time.monotonic() < until:
                await asyncio.sleep(0.25)
                neighbours.hear(await transport.announced())
    return neighbours.seen()
