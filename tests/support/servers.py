"""Real brokers for tests, each on a free port of 127.0.0.1 and gone with its context."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import pytest

_READY_S: Final = 20.0


def missing(what: str, how: str) -> NoReturn:
    """A server that is not installed: fail in CI, skip elsewhere."""
    message = f"no {what} here: {how}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def program(name: str, how: str) -> str:
    """The path of a server's program: the one installed beside this Python, or the one on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(
        name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    return found or missing(name, how)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A broker's process, which can be killed and started again on the same port with the same data."""

    def __init__(self, command: Sequence[str], port: int, log: Path) -> None:
        self.port = port
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it takes connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError(f"{self._command[0]} did not start:\n{self._log.read_text(errors='replace')}")

    def kill(self) -> None:
        """As the kernel does it when memory runs out."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator does it."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


@contextmanager
def nats_server(*more: str) -> Iterator[Server]:
    """A nats-server with JetStream; its URL is nats://127.0.0.1:<port>."""
    path = program("nats-server", "make setup")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [path, "--addr", "127.0.0.1", "--port", str(port), "-js", "-sd", folder, *more]
        with Server(command, port, Path(folder) / "log") as server:
            yield server


@contextmanager
def redis_server(*more: str, tls: bool = False) -> Iterator[Server]:
    """A redis-server that keeps what it has on disk; its URL is redis://127.0.0.1:<port>."""
    path = program("redis-server", "apt-get install redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        listens = "--tls-port" if tls else "--port"
        command = [path, "--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes", "--save", ""]
        with Server([*command, *more, listens, str(port)], port, Path(folder) / "log") as server:
            yield server


def certificates(folder: Path) -> None:
    """An authority, and a certificate of 127.0.0.1 that it has signed."""
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
            " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
