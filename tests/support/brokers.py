"""The brokers that transports are tested on: each started once, the first time that a test wants it."""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from echo_core.message import BaseMessage
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.urls import transport_for
from support.servers import (
    Given,
    Server,
    given,
    given_port,
    given_server,
    kafka_server,
    nats_server,
    rabbitmq_server,
    redis_server,
)

_OURS: Final[dict[str, Callable[[], AbstractContextManager[Server]]]] = {
    "nats": nats_server,
    "redis": redis_server,
    "amqp": rabbitmq_server,
    "kafka": kafka_server,
}
FAULTS: Final[dict[str, Callable[[], AbstractContextManager[Server]]]] = {
    scheme: partial(given_server, scheme) if given(scheme) else ours for scheme, ours in _OURS.items()
}
"""Starts a server for a test alone, which may kill it."""
SCHEMES: Final = tuple(FAULTS)
SHARING: Final[dict[str, dict[str, int]]] = {"kafka": {"partitions": 4}}
"""Options without which one host would get all messages of a queue."""


def kafka_on(folder: Path) -> AbstractContextManager[Server]:
    """A Kafka for a test alone, with its data in the folder."""
    return given_server("kafka", folder) if given("kafka") else kafka_server(folder)


class Brokers:
    """Running servers, by the scheme of their transport."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, Server] = {}
        self._numbers = itertools.count()
        self._run = secrets.token_hex(3)
        """A server that was given may remember earlier runs."""

    def server(self, scheme: str) -> Server:
        """The server, started now if it is not running; where there is none, see `servers.missing`."""
        if scheme not in self._running:
            port = given_port(scheme)
            self._running[scheme] = self._stack.enter_context(Given(port) if port else FAULTS[scheme]())
        return self._running[scheme]

    def prefix(self) -> str:
        """One that no other test has, nor had when the server was used before."""
        return f"test{self._run}{next(self._numbers)}"

    def url(self, scheme: str, **options: object) -> str:
        """A URL with a prefix of its own, so that no test sees another's messages."""
        options = {"prefix": self.prefix(), **options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"{scheme}://127.0.0.1:{self.server(scheme).port}/?{query}"


def open_broker(url: str) -> BrokerTransport:
    """The transport of a broker's URL, not yet open."""
    transport = transport_for(url)
    assert isinstance(transport, BrokerTransport)
    return transport


async def once(url: str, data: object = "data") -> None:
    """Publish a message and handle it."""
    async with transport_for(url) as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.publish("a", BaseMessage(source="test", data=data))
        (delivery,) = await asyncio.wait_for(reader.receive(), 60)
        assert delivery.message.data == data
        await delivery.settle()
