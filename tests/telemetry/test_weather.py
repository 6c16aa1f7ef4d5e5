"""Bad weather between sender and receiver: nothing is raised, all is accounted for, and it passes."""

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver
from telemetry.faulty import faulty
from telemetry.test_faults import accounted, handle, wait_until
from telemetry.weather import FINE, Proxy, Weather, proxied

MANY: Final = 1_500
SOON_S: Final = 30.0
"""An end that is told to take a second at most, on a busy machine; left to itself it takes minutes."""
HURRIED: Final = {
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_BSP_SCHEDULE_DELAY": "20",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "500",
    "OTEL_BSP_MAX_QUEUE_SIZE": "1000",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "0.4",
}
BAD: Final = {
    "reset at once": Weather(cut_after=0),
    "cut in the headers": Weather(cut_after=60),
    "cut in the midst of the request": Weather(cut_after=20_000),
    "cut in the midst of the answer": Weather("answer", cut_after=20),
    "no answer at all": Weather("answer", swallow=True),
    "a request that never arrives": Weather(swallow=True),
    "nobody reads": Weather(deaf=True),
    "a slow drip of a request": Weather(drip_s=0.01),
    "a slow drip of an answer": Weather("answer", drip_s=0.02),
    "a request with a wrong byte": Weather(corrupt_at=15),
    "an answer with a wrong byte": Weather("answer", corrupt_at=3),
}


@pytest.fixture
def proxy(protocol: str, receiver: OtlpReceiver) -> Iterator[Proxy]:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    with proxied(urlsplit(endpoint).port or 0) as between:
        yield between


@pytest.mark.parametrize("weather", BAD)
def test_bad_weather_harms_no_handler_and_passes(
    weather: str, engine: Engine, protocol: str, proxy: Proxy, receiver: OtlpReceiver
) -> None:
    proxy.weather = BAD[weather]
    telemetry = TelemetryContext.from_config(
        TelemetryConfig(engine=engine),
        environ={
            **HURRIED,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": proxy.endpoint,
        },
    )
    try:
        handle(telemetry, MANY)
        # An answer that says 200 before it is cut is enough.
        wait_until(lambda: telemetry.health().traces.failed + telemetry.health().traces.exported > 0)
        assert telemetry.health().traces.queued <= 1_000

        proxy.change(FINE)
        made = MANY

        def arrives() -> bool:
            nonlocal made
            handle(telemetry, 1, "later")
            made += 1
            return any(span.attributes["message.id"].startswith("later") for span in receiver.spans())

        wait_until(arrives)
    finally:
        begin = monotonic()
        telemetry.shutdown(1.0)
        assert monotonic() - begin < SOON_S
    health = telemetry.health()
    assert accounted(health.traces) == made
    # More may have arrived than counts as exported: what was taken, but whose acknowledgement was lost.
    assert len(receiver.spans()) >= health.traces.exported > 0
    assert health.faults == {}


def test_shutdown_keeps_its_deadline_in_a_storm(
    engine: Engine, protocol: str, proxy: Proxy, receiver: OtlpReceiver
) -> None:
    proxy.weather = BAD["nobody reads"]
    telemetry = TelemetryContext.from_config(
        TelemetryConfig(engine=engine),
        environ={
            **HURRIED,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_ENDPOINT": proxy.endpoint,
        },
    )
    handle(telemetry, MANY)
    begin = monotonic()
    assert not telemetry.shutdown(1.0)
    assert monotonic() - begin < SOON_S
    assert accounted(telemetry.health().traces) == MANY


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_certificate_nobody_vouches_for_is_sent_nothing_and_told_once(
    protocol: str, engine: Engine, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    with faulty() as backend:
        backend.tls = context
        telemetry = TelemetryContext.from_config(
            TelemetryConfig(engine=engine),
            environ={
                **HURRIED,
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint.replace("http://", "https://"),
            },
        )
        handle(telemetry, 3)
        wait_until(lambda: telemetry.health().traces.failed == 3)
        begin = monotonic()
        telemetry.shutdown(1.0)
        assert monotonic() - begin < SOON_S
        assert backend.posts == []
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.name for record in warnings} == {"common_telemetry"}
    assert telemetry.health().traces.last_error
