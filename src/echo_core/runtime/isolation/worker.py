"""What runs in a plugin's process: loads the plugin, and does what the host asks for."""

import asyncio
import contextlib
import functools
import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

from common_telemetry import (
    MessageTelemetry,
    PluginTelemetry,
    TelemetryConfig,
    TelemetryContext,
    set_global_telemetry,
)
from echo_core.errors import EchoCoreError, LibraryError, PluginError, TransportClosed, TransportError
from echo_core.manifest import API_VERSION, Manifest
from echo_core.message import decode
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.batch import BatchHandler, batch_handler_of
from echo_core.runtime.context import HostContext
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.handling import Lane
from echo_core.runtime.isolation.log_relay import ToHost
from echo_core.runtime.isolation.outputs import ProcessTransport
from echo_core.runtime.isolation.page import Page
from echo_core.runtime.isolation.session import error_parts
from echo_core.runtime.isolation.wire import FROM_HOST, Answer, Failure, FrameReader, ProtocolError, Result
from echo_core.runtime.lane import Handler, handler_of
from echo_core.runtime.libraries.library import read_library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import load
from echo_core.runtime.raised import place_in, text_of
from echo_core.runtime.source_context import StatefulContext
from echo_core.runtime.source_state import SourceState
from echo_core.runtime.threads import Threads, thread_count
from echo_core.settlement import Ending

_BEAT_S: Final = 0.1
_FLUSH_S: Final = 1.5
"""How long telemetry may take to be delivered when the process leaves."""
_HOST_GONE: Final = 70
_BAD_FRAME: Final = 72
_EMPTY: Final[MappingProxyType[str, Any]] = MappingProxyType({})


class Worker(asyncio.Protocol):
    """The plugin's side of the conversation."""

    context: HostContext
    handler: Handler
    batch_handler: BatchHandler
    batch_size: int
    messages: MessageTelemetry

    def __init__(self, page: Page, incarnation: int) -> None:
        self.page = page
        self._incarnation = incarnation
        self._reader = FrameReader(FROM_HOST, incarnation)
        self._transport: asyncio.Transport | None = None
        self._lanes: dict[int, Lane] = {}
        self._numbers = 0
        self._publications: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None
        self._manifest: Manifest
        self._name = ""
        """The plugin's, once it is loaded."""
        self._plugin: Plugin
        self._telemetry: TelemetryContext
        self._plugin_telemetry: PluginTelemetry
        self._status = "starting"
        self._loop: asyncio.AbstractEventLoop
        self._left = asyncio.Event()
        self._deeds: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "prepare": self._prepare,
            "load": self._load,
            "init": self._init,
            "run": self._run_source,
            "stop": self._stop_source,
            "settled": self._settled,
            "health": self._check_health,
            "shutdown": self._shut_down,
            "leave": self._leave,
        }

    # Frames

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from it
        self._loop = asyncio.get_running_loop()
        python = ".".join(map(str, sys.version_info[:3]))
        self.send(wire.HELLO, wire.Hello(os.getpid(), API_VERSION, python))

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._reader.read(data):
                self._take(kind, body)
        except ProtocolError as error:
            print(f"the host broke the protocol: {error}", file=sys.stderr)
            os._exit(_BAD_FRAME)

    def connection_lost(self, error: Exception | None) -> None:
        os._exit(_HOST_GONE)

    def _take(self, kind: int, body: Any) -> None:
        if kind == wire.WORK:
            lane = self._lanes.get(body.lane)
            if lane is None:
                lane = self._lanes[body.lane] = Lane(body.lane, self, self._send_results)
            lane.add(body)
        elif kind == wire.CANCEL:
            if body.lane in self._lanes:
                self._lanes[body.lane].cancel(body)
        elif kind == wire.RECALL:
            if body.lane in self._lanes:
                self._lanes[body.lane].recall(body.seq)
        elif kind == wire.ACCEPTED:
            self._accepted(body)
        elif kind == wire.STATUS:
            self._status = body
            self._plugin_telemetry.status = body
        elif kind == wire.ASK:
            task = asyncio.get_running_loop().create_task(self._answer(body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def send(self, kind: int, body: object) -> None:
        """Send a frame."""
        if self._transport is not None:
            self._transport.write(wire.frame(kind, body, self._incarnation))

    def _send_results(self, results: list[Result]) -> None:
        try:
            self.send(wire.RESULTS, results)
        except ProtocolError:  # together they are too large for a frame; each alone is not
            for result in results:
                self.send(wire.RESULTS, [result])

    def _send_log(self, record: wire.LogRecord) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self.send, wire.LOG, record)

    async def _answer(self, ask: wire.Ask) -> None:
        try:
            value = await self._deeds[ask.what](ask.detail)
        except BaseException as error:
            place = place_in(self._name, error)
            if isinstance(error, EchoCoreError):
                parts = error_parts(error)
                parts["where"] = parts["where"] or place
                self.send(wire.ANSWER, Answer(ask.id, parts, Failure("EchoCoreError", text_of(error))))
                return
            text = f"{text_of(error)} ({place})" if place else text_of(error)
            self.send(wire.ANSWER, Answer(ask.id, None, Failure(type(error).__qualname__, text)))
        else:
            self.send(wire.ANSWER, Answer(ask.id, value))

    # Publishing outside of a message

    async def _publish(self, topic: str, messages: list[msgspec.Raw]) -> None:
        self._numbers += 1
        number = self._numbers
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._publications[number] = accepted
        try:
            self.send(wire.PUBLISH, wire.Publication(number, topic, messages, self.context.position()))
            await accepted
        finally:
            self._publications.pop(number, None)

    def _accepted(self, answer: Answer) -> None:
        accepted = self._publications.get(answer.id)
        if accepted is None or accepted.done():
            return
        if answer.failure is None:
            accepted.set_result(None)
            return
        kind = TransportClosed if answer.failure.error_type == "TransportClosed" else TransportError
        parts = answer.value if isinstance(answer.value, dict) else {"what": answer.failure.text}
        accepted.set_exception(kind(**parts))

    # What the host asks for

    async def _prepare(self, detail: Mapping[str, Any]) -> None:
        """What can be done before there is a plugin: a spare process waits with this behind it."""
        self._telemetry = TelemetryContext.from_config(TelemetryConfig.from_mapping(detail["telemetry"]))
        gc.collect()
        gc.freeze()  # what was imported stays; the collector need not look at it again and again

    async def _load(self, detail: Mapping[str, Any]) -> dict[str, Any]:
        library = read_library(Path(detail["library"]))
        if library.digest != detail["digest"]:
            raise LibraryError(
                f"{library.name} {library.version} is not the library that was activated",
                where=str(library.path),
                why="it was built again meanwhile",
                fix=f"echo-core activate {library.name} {library.build_type}, and restart the host",
            )
        self._manifest = library.manifest
        ToHost(self._send_log)
        set_global_telemetry(self._telemetry)
        self._telemetry.install_globals()
        self._plugin_telemetry = self._telemetry.for_plugin(library.name, library.version, self._status)
        self._plugin = load(library, Store(Path(detail["state"]))).plugin
        plugin, self._name = self._plugin, library.name
        return {
            "name": plugin.name,
            "is_source": isinstance(plugin, Source),
            "is_told_of_settlement": isinstance(plugin, Source) and plugin.is_told_of_settlement(),
        }

    async def _init(self, detail: Mapping[str, Any]) -> None:
        manifest, plugin = self._manifest, self._plugin
        self._plugin_telemetry.status = self._status = detail["status"]
        threads = Threads(manifest.name, thread_count(manifest, plugin))
        kind: Callable[..., HostContext] = HostContext
        if isinstance(plugin, Source):
            state = SourceState(manifest.name, detail["generation"], detail["state"])
            kind = functools.partial(StatefulContext, state=state)
        self.context = kind(
            manifest,
            MappingProxyType(detail["config"]),
            ProcessTransport(self._publish),
            self._plugin_telemetry,
            telemetry=self._telemetry,
            threads=threads,
        )
        self.messages = self._plugin_telemetry.messages
        self.handler = handler_of(plugin, self.context)
        self.batch_size = manifest.delivery.batch_size
        if self.batch_size > 1:
            self.batch_handler = batch_handler_of(plugin, manifest, self.context)
        with self._plugin_telemetry.lifecycle_elsewhere(detail["carrier"]):
            await plugin.init(self.context)
        gc.collect()
        gc.freeze()

    async def _run_source(self, detail: Mapping[str, Any]) -> bytes | None:
        if not isinstance(self._plugin, Source):
            raise PluginError(f"{self._plugin.name} is no source")
        self.context.restore(detail["state"])
        self._running = asyncio.get_running_loop().create_task(self._plugin.run(), name="source")
        await self._running
        return self.context.position()

    async def _stop_source(self, detail: Mapping[str, Any]) -> None:
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _settled(self, detail: Mapping[str, Any]) -> None:
        if isinstance(self._plugin, Source):
            await self._plugin.tell(decode(detail["message"]), Ending(detail["ending"]))

    async def _check_health(self, detail: Mapping[str, Any]) -> bool:
        with self._plugin_telemetry.lifecycle_elsewhere(detail["carrier"]):
            return bool(await self._plugin.health_check())

    async def _shut_down(self, detail: Mapping[str, Any]) -> None:
        for lane in self._lanes.values():
            await lane.stop()
        with self._plugin_telemetry.lifecycle_elsewhere(detail["carrier"]):
            await self._plugin.shutdown()

    async def _leave(self, detail: Mapping[str, Any]) -> None:
        self._left.set()

    # Life

    async def live(self, connection: socket.socket) -> None:
        """Until the host says that it is enough."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connection)
        while not self._left.is_set():
            self.page.beat_loop()
            self._tell_unsent()
            try:
                async with asyncio.timeout(_BEAT_S):
                    await self._left.wait()
            except TimeoutError:
                continue

    def _tell_unsent(self) -> None:
        if hasattr(self, "_telemetry"):
            health = self._telemetry.health()
            self.page.unsent = health.traces.queued, health.logs.queued

    def end_telemetry(self) -> None:
        """Deliver what is left of it."""
        if hasattr(self, "_telemetry"):
            self._telemetry.shutdown(_FLUSH_S)


def watch_host(fd: int, page: Page, parent: int) -> None:
    """Beat as long as the host lives, and end with it: in a thread, because the loop may be blocked."""
    poll = select.poll()
    poll.register(fd, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
    while not poll.poll(_BEAT_S * 1_000) and os.getppid() == parent:
        page.beat_thread()
    os._exit(_HOST_GONE)


def main(given: Mapping[str, Any]) -> None:
    """Be the process of a plugin, from the end of `bootstrap` on."""
    page = Page(given["page"], given["lanes"])
    os.close(given["page"])
    connection = socket.socket(fileno=given["socket"])
    connection.setblocking(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(
        target=watch_host, args=(os.dup(connection.fileno()), page, given["parent"]), daemon=True
    ).start()
    with asyncio.Runner() as runner:
        worker = Worker(page, given["incarnation"])
        runner.run(worker.live(connection))
        worker.end_telemetry()
        # Threads of the plugin's that do not end must not keep the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
