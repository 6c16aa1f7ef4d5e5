"""The conversation of a host with one process of a plugin."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from opentelemetry import context as otel_context

from common_telemetry import propagation
from echo_core.errors import EchoCoreError, MessageError, PluginError
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.log_relay import show
from echo_core.runtime.isolation.wire import FROM_PROCESS, Answer, Ask, Failure, FrameReader, ProtocolError
from echo_core.runtime.raised import shortened

logger = logging.getLogger(__name__)


class ProcessLost(PluginError):
    """The plugin's process ended before it answered."""


class Asked(PluginError):
    """What a process was asked to do failed there, with this error."""


class Shipment(Protocol):
    """A message on its way through a process."""

    def arrived(self, result: wire.ReceivedResult) -> None:
        """The process says how it went."""


Accept = Callable[[wire.ReceivedPublication], Any]
"""Publishes the plugin's messages for real: a coroutine function that may refuse."""


class Session(asyncio.Protocol):
    """Frames to and from one process. What it sends is dropped once the session is closed."""

    def __init__(
        self,
        incarnation: int,
        accept: Accept,
        broken: Callable[[str], None],
        emptied: Callable[[], None],
    ) -> None:
        """`broken` is called when the process breaks the protocol or hangs up, `emptied` when all is done."""
        self._emptied = emptied
        self._hung_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._incarnation = incarnation
        self._accept = accept
        self._broken = broken
        self._reader = FrameReader(FROM_PROCESS, incarnation)
        self._transport: asyncio.Transport | None = None
        self._hello: asyncio.Future[wire.Hello] = asyncio.get_running_loop().create_future()
        self._asks: dict[int, asyncio.Future[Any]] = {}
        self._publishing: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self.in_flight: dict[int, Shipment] = {}
        """What the process has and has not answered yet, by its number."""

    @property
    def is_open(self) -> bool:
        """Whether something can still be said."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from it

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for kind, body in self._reader.read(data):
                self._take(kind, body)
        except ProtocolError as error:
            self._broken(f"it broke the protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        if not self._hung_up.done():
            self._hung_up.set_result(None)
        if self._transport is not None:
            self._transport = None
            self._broken("it closed its connection")

    def _take(self, kind: int, body: Any) -> None:
        if kind == wire.RESULTS:
            in_flight = self.in_flight
            for result in body:
                shipment = in_flight.pop(result.seq, None)
                if shipment is not None:
                    shipment.arrived(result)
            if not in_flight:
                self._emptied()
        elif kind == wire.PUBLISH:
            task = asyncio.get_running_loop().create_task(self._publish(body))
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)
        elif kind == wire.ANSWER:
            self._answer(body)
        elif kind == wire.LOG:
            show(body)
        elif kind == wire.HELLO and not self._hello.done():
            self._hello.set_result(body)

    def _answer(self, answer: Answer) -> None:
        asked = self._asks.pop(answer.id, None)
        if asked is None or asked.done():
            return
        if answer.failure is None:
            asked.set_result(answer.value)
        else:
            asked.set_exception(_rebuilt(answer.failure, answer.value))

    async def _publish(self, wanted: wire.ReceivedPublication) -> None:
        try:
            await self._accept(wanted)
        except Exception as error:  # noqa: BLE001  (it is the plugin's to hear, whatever it is)
            failure = Failure(type(error).__qualname__, str(error))
            parts = error_parts(error) if isinstance(error, EchoCoreError) else None
            self.send(wire.ACCEPTED, Answer(wanted.id, parts, failure))
        else:
            self.send(wire.ACCEPTED, Answer(wanted.id))

    def send(self, kind: int, body: object) -> None:
        """Send a frame; raises `ProtocolError` for one that is too large, and does nothing once closed."""
        if self._transport is not None:
            self._transport.write(wire.frame(kind, body, self._incarnation))

    async def heard_all(self, seconds: float) -> None:
        """The process has ended: return when what it had said has been read, at most after `seconds`."""
        await asyncio.wait([self._hung_up], timeout=seconds)

    async def hello(self) -> wire.Hello:
        """Its first words."""
        return await self._hello

    async def ask(self, what: str, detail: Mapping[str, Any] | None = None) -> Any:
        """Have the process do something; its answer. Raises what failed there, or `ProcessLost`."""
        if self._transport is None:
            raise ProcessLost(f"the process is gone, and cannot be asked to {what}")
        self._numbers += 1
        number = self._numbers
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asks[number] = answer
        try:
            try:
                self.send(wire.ASK, Ask(number, what, dict(detail or {})))
            except TypeError as error:
                raise MessageError(f"what belongs to {what!r} cannot be sent", why=str(error)) from error
            return await answer
        finally:
            self._asks.pop(number, None)

    def close(self, reason: str) -> None:
        """Hear nothing more of this process; whoever waits for an answer gets `ProcessLost`. Safe twice."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        for answer in [*self._asks.values(), self._hello]:
            if not answer.done():
                answer.set_exception(ProcessLost(reason))
                answer.exception()  # nobody may be waiting for it
        self._asks.clear()
        self.in_flight.clear()
        for task in self._publishing:
            task.cancel()


def carrier() -> dict[str, str]:
    """Where we are in which trace, to go on from there in the process."""
    headers: dict[str, str] = {}
    propagation.inject(headers, otel_context.get_current())
    return headers


def error_parts(error: EchoCoreError) -> dict[str, str]:
    """One of our errors, to be sent."""
    names = ("what", "where", "why", "fix")
    return {name: shortened(str(getattr(error, name, ""))) for name in names}


def _rebuilt(failure: Failure, value: Any) -> EchoCoreError:
    """The error that was sent, as one of ours: told in the same words."""
    if isinstance(value, dict) and "what" in value:
        return Asked(value["what"], where=value["where"], why=value["why"], fix=value["fix"])
    return Asked(f"{failure.error_type}: {failure.text}".rstrip(": "))
