"""What operators do to brokers: refuse and let in, kick clients out, fill the disk."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from support.servers import Server, nats_server, rabbitmq_server, redis_server

USER, PASSWORD = "echo", "opensesame"


class Guarded(Protocol):
    """A broker with one user, who can be locked out and let in again."""

    url: str

    def revoke(self) -> None:
        """From now on the password is wrong, and whoever is connected is thrown out."""

    def restore(self) -> None:
        """The password is right again."""


class _Nats:
    def __init__(self, server: Server, config: Path) -> None:
        self.url = f"nats://{USER}:{PASSWORD}@127.0.0.1:{server.port}/"
        self._server = server
        self._config = config

    def _write(self, password: str) -> None:
        self._config.write_text(f"authorization {{ user: {USER}, password: {password} }}")
        self._server.tell(signal.SIGHUP)

    def revoke(self) -> None:
        self._write("another")

    def restore(self) -> None:
        self._write(PASSWORD)


@contextmanager
def guarded_nats() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "server.conf"
        config.write_text(f"authorization {{ user: {USER}, password: {PASSWORD} }}")
        with nats_server("--config", str(config)) as server:
            yield _Nats(server, config)


class _Redis:
    def __init__(self, server: Server) -> None:
        self.url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{server.port}/"
        self._port = server.port
        self.restore()

    def _call(self, *words: str) -> None:
        program = shutil.which("redis-cli") or pytest.skip("no redis-cli here: apt-get install redis-tools")
        subprocess.run([program, "-p", str(self._port), *words], check=True, capture_output=True)

    def revoke(self) -> None:
        self._call("ACL", "DELUSER", USER)

    def restore(self) -> None:
        self._call("ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all")


@contextmanager
def guarded_redis() -> Iterator[Guarded]:
    with redis_server() as server:
        yield _Redis(server)


class RabbitOperator:
    """`rabbitmqctl` for a node of ours."""

    def __init__(self, server: Server) -> None:
        self._environ = dict(server.environ)

    def call(self, *words: str) -> None:
        """Run it; raises where it fails."""
        folder = self._environ["HOME"]
        program = "/usr/lib/rabbitmq/bin/rabbitmqctl"
        subprocess.run(
            [program, *words], check=True, capture_output=True, env=self._environ, cwd=folder, timeout=60
        )


class _Amqp:
    def __init__(self, server: Server) -> None:
        self.url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{server.port}/"
        self._operator = RabbitOperator(server)
        self._operator.call("add_user", USER, PASSWORD)
        self._operator.call("set_permissions", USER, ".*", ".*", ".*")

    def revoke(self) -> None:
        self._operator.call("change_password", USER, "another")
        self._operator.call("close_all_connections", "revoked")

    def restore(self) -> None:
        self._operator.call("change_password", USER, PASSWORD)


@contextmanager
def guarded_amqp() -> Iterator[Guarded]:
    with rabbitmq_server() as server:
        yield _Amqp(server)


GUARDED: dict[str, Callable[[], Any]] = {
    "nats": guarded_nats,
    "redis": guarded_redis,
    "amqp": guarded_amqp,
}
"""Without Kafka: noida-db asks nobody who he is, and other servers are told each in a way of its own."""


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full; needs root."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "tmpfs", folder]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no tmpfs can be mounted here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def fill(disk: Path) -> Path:
    """Take all the room there is; returns what is to be deleted to give it back."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65_536))
    return filler
