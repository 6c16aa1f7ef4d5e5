"""A backend that misbehaves on purpose: it speaks HTTP over a bare socket, one answer after another."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answering = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Post:
    """A request as it came."""

    target: str
    headers: dict[str, str]
    body: bytes


def http_answer(
    status: str = "200 OK", body: bytes = b"", headers: tuple[tuple[str, str], ...] = ()
) -> Answering:
    """A proper HTTP answer."""
    lines = [
        f"HTTP/1.1 {status}",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def raw(data: bytes) -> Answering:
    """These bytes, whatever they mean."""
    return lambda connection: connection.sendall(data)


def raw_and_close(data: bytes) -> Answering:
    """These bytes and the end of the connection."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_RDWR)

    return answer


@dataclass
class FaultyBackend:
    """Answers the first request with the first of `answers`, and every one after the last with the last."""

    answers: list[Answering] = field(default_factory=lambda: [http_answer()])
    posts: list[Post] = field(default_factory=list)
    connections: int = 0
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.released = threading.Event()
        self.arrived = threading.Semaphore(0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def hang(self, connection: socket.socket) -> None:
        """As an answer: none, before the backend is released."""
        self.released.wait()

    def dribble(self, connection: socket.socket) -> None:
        """As an answer: a header that never ends, a byte at a time."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not self.released.wait(0.02):
            connection.sendall(b"x")

    def stall(self, connection: socket.socket) -> None:
        """As an answer: the beginning of one after a while, and nothing more."""
        self.released.wait(0.15)
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        self.released.wait()

    def close(self) -> None:
        self.released.set()
        # On Linux only this wakes a thread that waits in accept.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._open.append(connection)
        with suppress(OSError, ValueError), connection.makefile("rb") as stream:
            while line := stream.readline():
                headers = {}
                while (header := stream.readline().strip()) != b"":
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", "0")))
                self.posts.append(Post(line.split()[1].decode(), headers, body))
                answer = self.answers[min(len(self.posts), len(self.answers)) - 1]
                self.arrived.release()
                answer(connection)


@contextmanager
def faulty(*answers: Answering) -> Iterator[FaultyBackend]:
    """A backend with these answers, closed after the block."""
    backend = FaultyBackend(list(answers) or [http_answer()])
    try:
        yield backend
    finally:
        backend.close()
