"""When the fast engine steps back for OpenTelemetry's SDK, signal by signal, and what it never loads."""

import logging
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import View

from common_telemetry import TelemetryConfig, TelemetryConfigError, TelemetryContext
from common_telemetry.config import MessageIdOnMetrics
from common_telemetry.engines.fast.exports import BufferPipeline, MetricPipeline
from common_telemetry.health import Signal
from common_telemetry.pipeline import Pipeline
from common_telemetry.testing import OtlpReceiver
from telemetry.pipeline import run_pipeline
from telemetry.test_setup import run_alone

ALL: set[Signal] = {"traces", "metrics", "logs"}


class Started:
    """Contexts of the fast engine that report to a receiver."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver
        self.made: list[TelemetryContext] = []

    def __call__(
        self, environ: dict[str, str] | None = None, ids: MessageIdOnMetrics = "exemplar", **arguments: Any
    ) -> TelemetryContext:
        telemetry = TelemetryContext.from_config(
            TelemetryConfig(engine="fast", message_id_on_metrics=ids),
            environ=self._receiver.environ(**(environ or {})),
            **arguments,
        )
        self.made.append(telemetry)
        return telemetry


@pytest.fixture
def started(receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "common_telemetry")
    start = Started(receiver)
    yield start
    for telemetry in start.made:
        telemetry.shutdown()


def fast_signals(telemetry: TelemetryContext) -> set[Signal]:
    pipelines: list[Pipeline] = telemetry._pipelines
    return {one.tally.signal for one in pipelines if isinstance(one, BufferPipeline | MetricPipeline)}


def test_otlp_is_the_fast_engines_for_all_signals_and_nothing_is_said(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    assert fast_signals(started()) == ALL
    assert caplog.records == []


CASES: dict[str, tuple[dict[str, Any], set[Signal], str]] = {
    "another exporter": (
        {"environ": {"OTEL_TRACES_EXPORTER": "console"}},
        {"metrics", "logs"},
        "traces, because exporter 'console' takes nothing else",
    ),
    "two exporters": (
        {"environ": {"OTEL_METRICS_EXPORTER": "otlp,otlp"}},
        {"traces", "logs"},
        "metrics, because there is more than one exporter",
    ),
    "views": (
        {"views": [View(instrument_name="x", name="y")]},
        {"traces", "logs"},
        "metrics, because views are the SDK's",
    ),
    "ids on series": (
        {"ids": "attribute"},
        {"traces", "logs"},
        "metrics, because message_id_on_metrics is 'attribute'",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_needs_the_sdk_gets_it_for_its_signal_alone_and_one_line_says_so(
    case: str, started: Started, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    arguments, fast, reason = CASES[case]
    telemetry = started(**arguments)
    assert fast_signals(telemetry) == fast
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert told == [f"telemetry: these go through OpenTelemetry's SDK, at its cost: {reason}"]
    run_pipeline(telemetry)
    assert telemetry.flush()
    assert receiver.metrics("plugin.message.processing_time_ms")
    assert len(receiver.spans()) == (0 if case == "another exporter" else 10)


def test_a_meter_provider_of_the_application_is_left_as_it_is(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    given = MeterProvider(shutdown_on_exit=False)
    telemetry = started(meter_provider=given)
    assert fast_signals(telemetry) == {"traces", "logs"}
    assert "metrics, because the application has made the provider" in caplog.text
    given.shutdown()


def test_credentials_of_a_plugin_of_the_sdk_need_its_exporter(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TelemetryConfigError, match="'mine' not found"):  # by the SDK, which looked for it
        started({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "mine"})
    assert "credentials come from a plugin" in caplog.text


WRONG = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("nonsense", "no URL of a host"),
    "OTEL_METRIC_EXPORT_INTERVAL": (
        "0",
        "INTERVAL=0 is no number of milliseconds above 0",
    ),
    "OTEL_BSP_SCHEDULE_DELAY": ("-1", "DELAY=-1 is no number of milliseconds above 0"),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("nonsense", "nonsense is none of trace_based"),
    "OTEL_EXPORTER_OTLP_CERTIFICATE": ("nonsense", "No such file"),
}


@pytest.mark.parametrize("variable", WRONG)
def test_what_cannot_be_set_up_is_a_fault_that_names_the_exporter(variable: str) -> None:
    value, reason = WRONG[variable]
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:1", variable: value}
    with pytest.raises(TelemetryConfigError, match=reason) as raised:
        TelemetryContext.from_config(TelemetryConfig(engine="fast"), environ=environ)
    assert all("_EXPORTER 'otlp':" in fault for fault in raised.value.faults)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "sometimes"),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "pie"),
    ],
)
def test_a_preference_nobody_knows_is_told_and_the_default_taken(
    variable: str, value: str, started: Started, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = started({variable: value})
    assert f"{value} is unknown" in caplog.text
    run_pipeline(telemetry)
    assert telemetry.flush()
    assert {
        (point.kind, point.temporality) for point in receiver.metrics("plugin.message.processing_time_ms")
    } == {("histogram", "cumulative")}


LIGHT = """
import sys
from common_telemetry import TelemetryConfig, TelemetryContext

telemetry = TelemetryContext.from_config(TelemetryConfig(engine="fast"))
plugin = telemetry.for_plugin("sink", "1.0.0", "running")
with plugin.lifecycle("init"), plugin.create_span("step"):
    plugin.record_counter("orders")
    plugin.logger().warning("look")
assert telemetry.shutdown()
never = ("grpc", "google", "requests", "urllib3")
never += ("opentelemetry.exporter", "opentelemetry.proto", "opentelemetry.sdk.metrics")
print([name for name in sys.modules if name.startswith(never)])
"""


def test_a_process_that_reports_over_http_loads_neither_grpc_nor_protobuf(receiver: OtlpReceiver) -> None:
    ended = run_alone(LIGHT, **receiver.environ())
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")
    assert receiver.spans("step")
    assert receiver.metrics("orders")
    assert receiver.logs()


def test_a_process_that_reports_over_grpc_loads_no_protobuf(receiver: OtlpReceiver) -> None:
    ended = run_alone(LIGHT.replace('"grpc", ', ""), **receiver.environ("grpc"))
    assert (ended.stdout.strip(), ended.stderr) == ("[]", "")
    assert receiver.spans("step")
