"""Real servers for contestants, those of the tests: on free loopback ports, as long as the context lasts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks import ROOT

SCHEMES: Final = ("nats", "redis", "amqp", "kafka")


def variable(scheme: str) -> str:
    """Where contestants read the URL of such a server."""
    return f"{scheme.upper()}_URL"


@contextmanager
def running(schemes: Sequence[str] = SCHEMES) -> Iterator[None]:
    """Their URLs stand in the environment, unless one does already; where there is no server, none does."""
    sys.path.append(str(ROOT / "tests"))
    import pytest

    from support import servers

    begin: Mapping[str, Callable[[], AbstractContextManager[servers.Server]]] = {
        "nats": servers.nats_server,
        "redis": servers.redis_server,
        "amqp": servers.rabbitmq_server,
        "kafka": servers.kafka_server,
    }
    with ExitStack() as stack:
        for scheme in schemes:
            if variable(scheme) in os.environ:
                continue
            try:
                server = stack.enter_context(begin[scheme]())
            except (pytest.skip.Exception, pytest.fail.Exception):
                continue
            os.environ[variable(scheme)] = f"{scheme}://127.0.0.1:{server.port}"
            stack.callback(os.environ.pop, variable(scheme), None)
        yield


def nats_version() -> str:
    """What `nats-server --version` says; empty where there is none."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which("nats-server", path=beside) or shutil.which("nats-server")
    if program is None:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition(" ")[2].strip().removeprefix("v")
