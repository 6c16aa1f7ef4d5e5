"""A TCP proxy between a transport and its broker, to cut, stall and slow their connection."""

import asyncio
import contextlib
import struct
from types import TracebackType
from typing import Self


class Proxy:
    """Listens on a free port of `address` and passes on to `target`. Lives in the test's event loop."""

    def __init__(self, target: int, address: str = "127.0.0.1") -> None:
        self.port = 0
        self._address = address
        self.delay_s = 0.0
        """How long each piece of data is held up, in either direction."""
        self.connections = 0
        """Made so far."""
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._near: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        """Of the writers, those to whoever has connected to us, with those to the other side."""
        self._orphans: set[asyncio.StreamWriter] = set()
        self._swallowing = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self._address, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        self._flowing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self, *, refuse: bool = False) -> None:
        """End every connection now, with what is on its way; with `refuse`, new ones too until `mend`."""
        self._refusing = refuse
        for writer in self._writers:
            _end(writer)

    def cut_near(self) -> None:
        """End every connection on this side; the other side is not told, and goes on talking to nobody."""
        for near, far in self._near.items():
            self._orphans |= {near, far}
            _end(near)
        self._near.clear()

    def swallow(self) -> None:
        """Lose all that comes from the other side, and say nothing about it, until `mend`."""
        self._swallowing = True

    def stall(self) -> None:
        """Let nothing through, and say nothing about it, until `mend`."""
        self._flowing.clear()

    def mend(self) -> None:
        """Let everything through again."""
        self._refusing = self._swallowing = False
        self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._refusing:
            _end(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _end(writer)
            return
        self._writers |= {writer, far_writer}
        self._near[writer] = far_writer
        for source, sink, told in ((reader, far_writer, False), (far_reader, writer, True)):
            task = asyncio.create_task(self._pass_on(source, sink, told))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: bool) -> None:
        kept = b""
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if told and (self._swallowing or writer in self._orphans):
                    continue
                if told:
                    data, kept = self._with_our_address(kept + data)
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()
        if writer not in self._orphans:
            _end(writer)
            self._writers.discard(writer)
            self._near.pop(writer, None)

    def _with_our_address(self, data: bytes) -> tuple[bytes, bytes]:
        """Kafka tells clients where to connect: to us, they hear. And what belongs to the next data."""
        for host in (b"127.0.0.1", b"localhost"):
            theirs, ours = (host + struct.pack(">i", port) for port in (self._target, self.port))
            data = data.replace(theirs, ours)
            for length in range(len(theirs) - 1, len(host) // 2, -1):
                if data.endswith(theirs[:length]):
                    return data[:-length], data[-length:]
        return data, b""


def _end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    writer.close()  # it is aborted already; but a writer warns when nobody has closed it
