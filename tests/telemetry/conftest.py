import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver

# Every check runs on each of these; the OTLP that arrives must not depend on which.
ENGINES: tuple[Engine, ...] = ("official", "fast")
PROTOCOLS = ("http/protobuf", "grpc")

Start = Callable[..., TelemetryContext]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    chosen: Engine = request.param
    return chosen


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as listening:
        yield listening


@pytest.fixture
def start(engine: Engine, receiver: OtlpReceiver) -> Iterator[Start]:
    """Make a telemetry context that reports to the receiver; all are shut down after the test."""
    started: list[TelemetryContext] = []

    def start(
        protocol: str = "http/protobuf",
        config: dict[str, Any] | None = None,
        environ: dict[str, str] | None = None,
        **arguments: Any,
    ) -> TelemetryContext:
        telemetry = TelemetryContext.from_config(
            TelemetryConfig(engine=engine, **{"shutdown_timeout_s": 20.0, **(config or {})}),
            environ=receiver.environ(protocol, **(environ or {})),
            **arguments,
        )
        started.append(telemetry)
        return telemetry

    yield start
    receiver.accept()
    for telemetry in started:
        telemetry.shutdown()


@pytest.fixture
def memory(engine: Engine) -> Iterator[InMemoryTelemetry]:
    with InMemoryTelemetry(TelemetryConfig(engine=engine)) as telemetry:
        yield telemetry


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    keys = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(folder / "key.pem")]
    made = [openssl, "req", "-x509", *keys, *subject, "-days", "2", "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    return folder
