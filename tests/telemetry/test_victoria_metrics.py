"""Metrics in a real store, asked for by PromQL: VictoriaMetrics takes OTLP.

The program is looked for in VICTORIA_METRICS, then as `victoria-metrics` on the PATH; without it these tests
are skipped, in CI too. Debian has it from trixie on (package victoria-metrics; older ones do not take OTLP).
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from support.ports import free_port
from telemetry.conftest import ENGINES
from telemetry.pipeline import ManualClock, Message

PROGRAM = os.environ.get("VICTORIA_METRICS") or shutil.which("victoria-metrics")
pytestmark = pytest.mark.skipif(
    PROGRAM is None,
    reason="victoria-metrics is not on the PATH, and VICTORIA_METRICS does not say where it is",
)
MANY = 3_000


class Store:
    """A running VictoriaMetrics."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def get(self, path: str, **arguments: str) -> bytes:
        url = f"{self.address}{path}?{urllib.parse.urlencode(arguments)}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own store
            body: bytes = answer.read()
            return body

    def query(self, promql: str) -> list[dict[str, Any]]:
        """What is asked for: one entry a series, with its labels and its value."""
        self.get("/internal/force_flush")
        # It answers for whole seconds: ask for the one to come.
        found = json.loads(self.get("/api/v1/query", query=promql, time=str(int(time.time()) + 1)))
        assert found["status"] == "success"
        return [
            {**series["metric"], "value": float(series["value"][1])} for series in found["data"]["result"]
        ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    port = free_port()
    folder = tmp_path_factory.mktemp("victoria-metrics")
    command = [
        str(PROGRAM),
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={folder}",
        "-search.latencyOffset=0s",
        "-loggerLevel=ERROR",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_listening(port, process)
        yield Store(port)
    finally:
        process.terminate()
        process.wait(20)


def _wait_until_listening(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, "victoria-metrics did not start"
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError("victoria-metrics does not listen")


def report(store: Store, engine: Engine, service: str, **environ: str) -> None:
    """A plugin that works 10 ms on each of many messages, and counts, gauges and measures."""
    clock = ManualClock()
    telemetry = TelemetryContext.from_config(
        TelemetryConfig(engine=engine),
        environ={
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{store.address}/opentelemetry/v1/metrics",
            "OTEL_SERVICE_NAME": service,
            **environ,
        },
        clock=clock,
    )
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    for number in range(MANY):
        message = Message(f"m{number}", timestamp=clock.time_ns())
        with plugin.messages.process("orders.raw", message):
            clock.advance(10)
            plugin.record_counter("orders", 2, {"currency": "EUR"})
    plugin.record_gauge("depth", 7)
    for number in range(100):
        plugin.record_histogram("size", number)
    with plugin.lifecycle("health_check"):
        pass
    assert telemetry.shutdown(20), telemetry.health()


def test_a_store_answers_with_what_was_measured(store: Store, engine: Engine) -> None:
    service = f"shop-{engine}"
    report(store, engine, service)

    def ask(name: str, more: str = "") -> list[dict[str, Any]]:
        return store.query(f'{{__name__="{name}", service.name="{service}"{more}}}')

    (handled,) = ask("plugin.message.processing_time_ms_count")  # one series for all messages
    assert (handled["value"], handled["plugin.name"], handled["message.topic"]) == (
        MANY,
        "sink",
        "orders.raw",
    )
    assert (handled["plugin.version"], handled["plugin.status"]) == ("1.0.0", "running")
    assert "message.id" not in handled
    (total,) = ask("plugin.message.processing_time_ms_sum")
    assert total["value"] == pytest.approx(MANY * 10)
    (seconds,) = ask("messaging.process.duration_sum")
    assert seconds["value"] == pytest.approx(MANY / 100)
    (orders,) = ask("orders", ', currency="EUR"')
    assert orders["value"] == MANY * 2
    assert [series["value"] for series in ask("depth")] == [7]
    (checks,) = ask("plugin.lifecycle.events", ', event="health_check", result="ok"')
    assert checks["value"] == 1
    buckets = f'{{__name__="size_bucket", service.name="{service}"}}'
    (p95,) = store.query(f"histogram_quantile(0.95, {buckets})")
    assert 90 <= p95["value"] <= 100
    buckets = buckets.replace("size", "plugin.message.processing_time_ms")
    (median,) = store.query(f"histogram_quantile(0.5, {buckets})")
    assert 5 <= median["value"] <= 10  # the bucket that ends with 10 ms


def test_a_store_takes_exponential_histograms(store: Store, engine: Engine) -> None:
    service = f"exponential-{engine}"
    told = {
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
    }
    report(store, engine, service, **told)
    (count,) = store.query(f'{{__name__="size_count", service.name="{service}"}}')
    assert count["value"] == 100
    (median,) = store.query(
        f'histogram_quantile(0.5, sum by (vmrange) ({{__name__="size_bucket", service.name="{service}"}}))'
    )
    assert 45 <= median["value"] <= 55


def test_both_engines_make_the_same_series(store: Store) -> None:
    series = []
    for engine in ENGINES:
        service = f"same-{engine}"
        report(store, engine, service)
        found = store.query(f'{{service.name="{service}"}}')
        own = ("service.name", "service.instance.id")
        series.append(
            sorted(str(sorted((key, value) for key, value in one.items() if key not in own)) for one in found)
        )
    assert len(series[0]) > 20
    assert series[0] == series[1]
