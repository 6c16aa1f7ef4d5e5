"""A transport that has a connection, which may be lost, and is made again until the transport is closed."""

import asyncio
import logging
import secrets
from abc import abstractmethod
from collections.abc import Mapping
from itertools import islice
from math import inf
from time import monotonic
from typing import ClassVar, Final

from echo_core.errors import TransportError
from echo_core.transports.base import Transport
from echo_core.transports.broker.peers import Peers, document_of
from echo_core.transports.broker.recovery import Troubles, backoff, end_task, plain, within
from echo_core.transports.endpoint import Endpoint

logger = logging.getLogger(__name__)

TRANSIENT: Final = (OSError, TimeoutError)
_WANTS: Final = "wants "
"""Begins the id under which a host says what it wants; that of a host has no spaces."""
_HEARD_S: Final = 60.0
"""How long the last word of a host is remembered."""
_LASTING_S: Final = 5.0
"""A connection that is lost sooner was none: the pauses go on growing."""
_MOST_SETBACKS: Final = 6
CONNECT_S: Final = 15.0
"""An attempt to connect, with all that belongs to it, is given up after so long."""


class ConnectedTransport(Transport):
    """Connects, says what is wrong while it is not connected, and connects again."""

    broker: ClassVar[str]
    """Its name, for people."""
    client_errors: ClassVar[tuple[type[Exception], ...]] = ()
    """What the client library raises where the broker cannot be reached, or does not do what was asked."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.may_create = endpoint.switch("create", default=True)
        self.is_connected = False
        self._open = False
        self._unreachable: tuple[type[Exception], ...] = (TransportError, *self.client_errors, *TRANSIENT)
        self._troubles = Troubles(endpoint.public, logger)
        self._reconnecting: asyncio.Task[None] | None = None
        self._connected_at = -inf
        """When a lost connection was made again, by the monotonic clock."""
        self._setbacks = 0
        """Connections in a row that did not last."""
        self._lost_at_once = ""
        """Why the connection is of no use that is being made, or was made a moment ago."""
        self._heard: dict[str, tuple[float, bytes]] = {}
        self._id = secrets.token_hex(6)
        """Of this transport, among those that are connected to the broker."""
        self.peers = Peers()
        self._wants_said = 0.0

    # -- what a broker's own transport adds -----------------------------------------------------------

    @abstractmethod
    async def _connect(self) -> None:
        """Connect, and make what is missing; after a lost connection too, of which nothing may be left then.

        Raises `TransportError`, OSError, TimeoutError or one of `client_errors` when that is not possible.
        """

    @abstractmethod
    async def _disconnect(self) -> None:
        """Let go, whatever state the connection is in."""

    @abstractmethod
    async def _connection_made(self) -> None:
        """There is one again: what stood on the old one is to stand on it."""
        self.is_connected = True
        self._connected_at = monotonic()
        self._troubles.end("connection")

    def _advice(self, error: Exception) -> str:
        """What to do about an error of `_connect`."""
        return self._how_to_connect(plain(error))

    def _how_to_connect(self, why: str) -> str:
        """What to do where there is no connection."""
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return "mend the server's certificate, or let the option ca name the file of who has signed it"
        return "start the server, or mend host.transport"

    # -- connecting -----------------------------------------------------------------------------------

    async def _connect_first(self) -> None:
        """Connect, or raise a `TransportError` that says why not."""
        try:
            await self._connect_for_good()
        except self._unreachable as error:
            await self._disconnect()
            if isinstance(error, TransportError):
                raise
            raise self._unusable(plain(error), self._advice(error)) from None

    @property
    def is_reachable(self) -> bool:
        """Whether nobody is busy making a new connection."""
        return self._reconnecting is None

    async def _connect_for_good(self) -> None:
        """`_connect`, and ConnectionError where that is lost again before anybody works with it."""
        self._lost_at_once = ""
        await within(CONNECT_S, self._connect())
        if self._lost_at_once:
            raise ConnectionError(self._lost_at_once)

    def _cut_off(self, why: str) -> None:
        """The connection is of no more use: begin to make a new one."""
        self._lost_at_once = why
        if self._open and self._reconnecting is None:
            self._connection_lost(why)
            self._reconnecting = asyncio.create_task(
                self._reconnect(), name=f"{self.endpoint.scheme} reconnect"
            )

    def _connection_lost(self, why: str) -> None:
        """There is none at the moment."""
        self.is_connected = False
        if self._open:
            self._troubles.begin("connection", why)

    async def _reconnect(self) -> None:
        is_setback = monotonic() - self._connected_at < _LASTING_S
        self._setbacks = min(self._setbacks + 1, _MOST_SETBACKS) if is_setback else 0
        for delay in islice(backoff(), self._setbacks, None):
            await asyncio.sleep(delay)
            try:
                await self._connect_for_good()
                break
            except self._unreachable as error:
                self._connection_lost(plain(error))
        self._reconnecting = None
        await self._connection_made()

    async def _end_reconnecting(self) -> None:
        task, self._reconnecting = self._reconnecting, None
        await end_task(task)

    # -- hosts ----------------------------------------------------------------------------------------

    def _heard_of(self, announcement: bytes) -> None:
        """Another host, or this one, has said how it is: its id, a line end, and a document."""
        name, _, document = bytes(announcement).partition(b"\n")
        host = name.decode(errors="replace")
        if host.startswith(_WANTS):
            self._heard_wants(host.removeprefix(_WANTS), document)
        else:
            self._heard[host] = (monotonic(), document)

    async def _say_what_is_wanted(self) -> None:
        """Let the hosts that share queues know, in the way in which hosts say how they are."""
        await self.announce(f"{_WANTS}{self._id}", self._wants_document())

    def _heard_wants(self, host: str, document: bytes, ago: float = 0.0) -> None:
        if host != self._id and self.peers.hear(host, document, ago):
            self._wants_said = 0.0  # it wants to hear of us

    def _wants_document(self) -> bytes:
        """What this host wants of its queues."""
        return document_of({})

    async def announced(self) -> Mapping[str, bytes]:
        now = monotonic()
        self._heard = {host: one for host, one in self._heard.items() if now - one[0] < _HEARD_S}
        return {host: document for host, (_, document) in self._heard.items()}

    # -- saying what is wrong -------------------------------------------------------------------------

    def trouble(self) -> str:
        return str(self._troubles)

    def _unusable(self, why: str, fix: str) -> TransportError:
        return TransportError(f"{self.broker} cannot be used", where=self.endpoint.public, why=why, fix=fix)

    def _missing(self, what: str) -> TransportError:
        return TransportError(
            f"{what} is missing",
            where=self.endpoint.public,
            why="create=no says not to make it",
            fix="make it, or leave create=no out",
        )
