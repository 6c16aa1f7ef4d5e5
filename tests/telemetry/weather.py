"""A TCP proxy between a sender and a receiver, with weather: what it does to each connection that is made."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

_CHUNK: Final = 16_384
Direction = Literal["request", "answer"]


@dataclass(frozen=True)
class Weather:
    """What becomes of a connection; as it is made, a fine day.

    After `cut_after` bytes of `where` it is ended. Each byte of `where` takes `drip_s` seconds.
    `swallow` takes everything and passes nothing on; `deaf` does not even read. `corrupt_at` flips the bits
    of one byte of `where`.
    """

    where: Direction = "request"
    cut_after: int | None = None
    drip_s: float = 0.0
    swallow: bool = False
    deaf: bool = False
    corrupt_at: int | None = None


FINE: Final = Weather()


@dataclass
class Proxy:
    """Passes on to `port`, by the weather of the day."""

    port: int
    weather: Weather = FINE
    connections: int = 0
    _open: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def change(self, weather: Weather) -> None:
        """From now on, and for the connections there are."""
        self.weather = weather
        self.reset()

    def reset(self) -> None:
        """End all connections."""
        connections, self._open = self._open, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                outside, _ = self._listener.accept()
                self.connections += 1
                weather = self.weather
                self._open.append(outside)
                if weather.deaf:
                    continue
                inside = socket.create_connection(("127.0.0.1", self.port))
                self._open.append(inside)
                ways: tuple[tuple[Direction, socket.socket, socket.socket], ...] = (
                    ("request", outside, inside),
                    ("answer", inside, outside),
                )
                for direction, source, drain in ways:
                    arguments = (source, drain, weather if weather.where == direction else FINE)
                    threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, drain: socket.socket, weather: Weather) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1 if weather.drip_s else _CHUNK):
                if weather.drip_s:
                    self._closed.wait(weather.drip_s)
                if weather.cut_after is not None and passed + len(data) >= weather.cut_after:
                    drain.sendall(data[: weather.cut_after - passed])
                    break
                at = weather.corrupt_at
                if at is not None and passed <= at < passed + len(data):
                    data = data[: at - passed] + bytes([data[at - passed] ^ 0xFF]) + data[at - passed + 1 :]
                if not weather.swallow:
                    drain.sendall(data)
                passed += len(data)
        for end in (source, drain):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
