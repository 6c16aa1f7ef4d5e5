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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import pytest

_READY_S: Final = 40.0


def missing(what: str, how: str) -> NoReturn:
    """A server that is not installed: fail in CI, skip elsewhere."""
    message = f"no {what} here: {how}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def program(name: str, how: str, *, first: str = "") -> str:
    """The path of a server's program: in the folder `first`, or beside this Python, or on PATH."""
    beside = str(Path(sys.executable).parent)
    folders = [first, beside, os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(filter(None, folders))) or missing(name, how)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A broker's process, which can be killed and started again on the same port with the same data."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        ready: bytes = b"",
    ) -> None:
        self.port = port
        self._ready = ready
        """What it writes when it is more than a port that answers."""
        self._environ = environ
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it takes connections."""
        with self._log.open("ab") as log:
            begins = log.tell()
            # A group of its own: what the program starts ends with it.
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environ, start_new_session=True
            )
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if _answers(self.port) and self._ready in self._log.read_bytes()[begins:]:
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
            os.killpg(self._process.pid, how)
            self._process.wait()
        while _answers(self.port):  # what the program had started ends a moment later
            time.sleep(0.01)

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


@contextmanager
def rabbitmq_server(*settings: str, tls: bool = False) -> Iterator[Server]:
    """A RabbitMQ node by itself, with lines of rabbitmq.conf; its URL is amqp://127.0.0.1:<port>."""
    # Debian's /usr/sbin/rabbitmq-server insists on its own user; this is what it calls.
    path = program("rabbitmq-server", "apt-get install rabbitmq-server", first="/usr/lib/rabbitmq/bin")
    port, names = free_port(), free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        lines = [f"listeners.{'ssl' if tls else 'tcp'}.1 = 127.0.0.1:{port}", "log.console = true"]
        if tls:
            lines.append("listeners.tcp = none")
        (base / "rabbitmq.conf").write_text("\n".join((*lines, *settings)) + "\n")
        (base / "plugins").write_text("[].\n")
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": folder,
            "RABBITMQ_NODENAME": f"echo{port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq"),
            "RABBITMQ_MNESIA_BASE": str(base / "data"),
            "RABBITMQ_LOG_BASE": str(base / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": str(names),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        # Its own name server: the one that Erlang starts by itself would stay behind.
        epmd = [program("epmd", "apt-get install erlang-base"), "-port", str(names), "-address", "127.0.0.1"]
        with (
            Server(epmd, names, base / "epmd.log"),
            Server([path], port, base / "log", environ=environ, ready=b"startup complete") as server,
        ):
            yield server
