"""Real brokers for tests, each on a free port of 127.0.0.1 and gone with its context."""

import importlib.util
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

from support.ports import free_port

_READY_S: Final = 90.0


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
        lacks: frozenset[str] = frozenset(),
    ) -> None:
        self.port = port
        self.lacks = lacks
        """What this server does not do as the one that it stands for does."""
        self._ready = ready
        """What it writes when it is more than a port that answers."""
        self._environ = environ
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it takes connections; where it does not, nothing of it is left."""
        try:
            self._start()
        except BaseException:
            self._kill_group(signal.SIGKILL)
            raise

    def _start(self) -> None:
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

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """As the kernel does it when memory runs out."""
        self._end(signal.SIGKILL)

    @property
    def said(self) -> str:
        """Its log."""
        return self._log.read_text(errors="replace")

    def tell(self, number: signal.Signals) -> None:
        """Send it to the program."""
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def environ(self) -> Mapping[str, str]:
        """That of the program."""
        return self._environ or {}

    def _kill_group(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, how)
            self._process.wait()

    def _end(self, how: signal.Signals) -> None:
        self._kill_group(how)
        while _answers(self.port):  # what the program had started ends a moment later
            time.sleep(0.01)

    def needs(self, *abilities: str) -> None:
        """Skip the test where the server lacks one of them."""
        for ability in abilities:
            if ability in self.lacks:
                pytest.skip(
                    f"{Path(self._command[0]).name}, which stands for the real server, does not {ability}"
                )

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


class Given(Server):
    """A server on this machine that somebody else runs: it is used, and left alone."""

    def __init__(self, port: int) -> None:
        super().__init__([], port, Path())

    def start(self) -> None:
        if not _answers(self.port):
            raise RuntimeError(f"nobody listens on port {self.port}")

    def _end(self, how: signal.Signals) -> None:
        pass


def given(scheme: str) -> str:
    """What ECHO_CORE_TEST_<SCHEME> says: the tests of that transport use this server instead of their own.

    Either an address on this machine, `127.0.0.1:9092`, for the tests that need no server of their own; or
    the command that starts one, with `{port}` and `{folder}`, which the tests may kill and start again.
    """
    return os.environ.get(f"ECHO_CORE_TEST_{scheme.upper()}", "")


def given_port(scheme: str) -> int | None:
    """The port of the server that was given, if one is running."""
    address = given(scheme)
    if not address or "{port}" in address:
        return None
    host, _, port = address.rpartition(":")
    if host not in ("127.0.0.1", "localhost") or not port.isdigit():
        pytest.fail(f"{address!r} is no address on this machine: write 127.0.0.1:PORT")
    return int(port)


@contextmanager
def given_server(scheme: str, data: Path | None = None) -> Iterator[Server]:
    """A server of its own for a test, from the command that was given."""
    if given_port(scheme):
        pytest.skip("the server that was given is not ours to kill: give a command with {port} and {folder}")
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [part.format(port=port, folder=data or folder) for part in shlex.split(given(scheme))]
        with Server(command, port, Path(folder) / "log") as server:
            yield server


MOVE_PARTITIONS: Final = "take commits while it hands out a group's partitions anew"
END_SESSIONS: Final = "give up members of a group that fall silent"
REFUSE_WHEN_FULL: Final = "refuse what its disk has no room for"
SURVIVE_A_KILL: Final = "keep what it has confirmed when it is killed, or even told to stop"


@contextmanager
def kafka_server(data: Path | None = None) -> Iterator[Server]:
    """A noida-db, which speaks Kafka and keeps its data in files when it ends; kafka://127.0.0.1:<port>."""
    path = program("noida-db", "make setup", first=_folder_of("noida_db"))
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [path, "start", "--only", "kafka", "--kafka-port", str(port)]
        command += ["--data-dir", str(data or folder)]
        lacks = frozenset({MOVE_PARTITIONS, END_SESSIONS, REFUSE_WHEN_FULL, SURVIVE_A_KILL})
        with Server(command, port, Path(folder) / "log", lacks=lacks) as server:
            yield server


def _folder_of(package: str) -> str:
    """Where a package that only carries a program is installed; empty where it is not."""
    found = importlib.util.find_spec(package)
    return str(Path(found.origin).parent) if found and found.origin else ""


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
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
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
