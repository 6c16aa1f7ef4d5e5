"""OTEL_* variables, adopted providers, and what is sent where."""

import os
import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from common_telemetry import TelemetryConfig, TelemetryConfigError, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver, ReceivedLog, ReceivedPoint, ReceivedSpan
from telemetry.conftest import Start
from telemetry.pipeline import Message, run_pipeline


def run_alone(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own: API globals can be set once in the life of a process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=kept | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def everything(receiver: OtlpReceiver) -> list[ReceivedSpan | ReceivedPoint | ReceivedLog]:
    return [*receiver.spans(), *receiver.metrics(), *receiver.logs()]


ONE_SPAN = """
from common_telemetry import TelemetryContext
telemetry = TelemetryContext.from_config()
with telemetry.for_plugin("sink", "1.0.0").create_span("step"):
    pass
"""


def test_the_resource_is_as_told(start: Start, protocol: str, receiver: OtlpReceiver) -> None:
    resource = "deployment.environment.name=test,service.name=lost"
    telemetry = start(protocol, environ={"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": resource})
    plugin = telemetry.for_plugin("sink", "1.0.0")
    with plugin.messages.process("orders.raw", Message("m1")):
        plugin.logger().info("look")
    assert telemetry.shutdown()

    received = everything(receiver)
    assert len({type(one) for one in received}) == 3
    for one in received:
        assert one.resource["service.name"] == "shop"
        assert one.resource["deployment.environment.name"] == "test"
        assert one.resource["process.pid"] == os.getpid()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, "echo-core"), ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=from-attributes"}, "from-attributes")],
)
def test_a_service_name_of_the_environment_wins(
    environ: dict[str, str], expected: str, start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(environ=environ)
    run_pipeline(telemetry)
    assert telemetry.flush()
    assert {span.resource["service.name"] for span in receiver.spans()} == {expected}


def test_each_plugin_can_be_a_service_of_its_own(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(config={"service_per_plugin": True, "service_name": "shop"})
    run_pipeline(telemetry)
    telemetry.for_plugin("sink_a", "1.2.3").logger().info("look")
    assert telemetry.shutdown()
    assert len(receiver.spans()) == 10
    assert {span.trace_id for span in receiver.spans()} == {receiver.spans()[0].trace_id}
    assert all(one.resource["service.name"] == one.attributes["plugin.name"] for one in everything(receiver))
    assert all(one.resource["service.namespace"] == "shop" for one in everything(receiver))
    assert {point.resource["service.name"] for point in receiver.metrics("plugin.message.queue_time_ms")} == {
        "validator",
        "transformer",
        "router",
        "sink_a",
        "sink_b",
    }


def test_both_protocols_bring_the_same(engine: Engine, receiver: OtlpReceiver) -> None:
    def arrived(protocol: str) -> list[tuple[object, ...]]:
        receiver.clear()
        telemetry = TelemetryContext.from_config(
            TelemetryConfig(engine=engine), environ=receiver.environ(protocol)
        )
        run_pipeline(telemetry)
        assert telemetry.shutdown()
        volatile = "echo.message.queue_time_ms"
        spans = [
            (span.name, span.kind, {key: value for key, value in span.attributes.items() if key != volatile})
            for span in receiver.spans()
        ]
        points = [(point.name, point.unit, point.attributes, point.count) for point in receiver.metrics()]
        return [*spans, *points]

    assert arrived("grpc") == arrived("http/protobuf") != []


def test_nothing_is_sent_for_an_exporter_of_none(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ={f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")})
    run_pipeline(telemetry)
    assert telemetry.shutdown()
    assert receiver.requests == 0


def test_nothing_is_sent_and_nothing_costs_when_the_sdk_is_disabled(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(environ={"OTEL_SDK_DISABLED": "true"})
    messages = run_pipeline(telemetry)
    assert telemetry.shutdown()
    assert receiver.requests == 0
    assert [message.trace_context for message in messages.values()] == [{}] * 5


def test_without_any_setting_spans_go_to_taps_and_nothing_is_said(
    engine: Engine, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ={})
    tapped: list[str] = []
    telemetry.tap(lambda span: tapped.append(span.name))
    run_pipeline(telemetry)
    assert telemetry.flush()
    assert telemetry.shutdown()
    assert len(tapped) == 10
    assert telemetry.health().pipelines == ()
    assert (capfd.readouterr().err, caplog.records) == ("", [])


def test_the_console_exporter_prints() -> None:
    ended = run_alone(ONE_SPAN, OTEL_TRACES_EXPORTER="console")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert '"name": "step"' in ended.stdout


def test_an_exporter_that_is_not_installed_is_named_with_what_there_is(engine: Engine) -> None:
    with pytest.raises(
        TelemetryConfigError, match=r"OTEL_TRACES_EXPORTER 'zipkin'.*known here: otlp, console"
    ):
        TelemetryContext.from_config(
            TelemetryConfig(engine=engine), environ={"OTEL_TRACES_EXPORTER": "zipkin,console"}
        )


def test_given_providers_are_used_flushed_and_left_running(engine: Engine, receiver: OtlpReceiver) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(spans))
    meter_provider = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = TelemetryContext.from_config(
        TelemetryConfig(engine=engine),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        environ=receiver.environ(),
    )
    run_pipeline(telemetry)
    telemetry.for_plugin("sink_a", "1.0.0").logger().info("look")
    assert telemetry.shutdown()

    assert len(spans.get_finished_spans()) == 10
    assert (receiver.spans(), receiver.metrics()) == ([], [])
    assert [record.body for record in receiver.logs()] == ["look"]  # nobody gave a logger provider
    data = reader.get_metrics_data()
    assert data is not None
    points = [
        point
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    ]
    assert points
    # No view of ours is on that provider, so message ids must not get that far.
    assert not any("message.id" in (point.attributes or {}) for point in points)
    with tracer_provider.get_tracer("after").start_as_current_span("after"):
        pass
    assert spans.get_finished_spans()[-1].name == "after"
    meter_provider.shutdown()
    tracer_provider.shutdown()


ADOPTING = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from common_telemetry import TelemetryContext

exporter, mine = InMemorySpanExporter(), TracerProvider()
mine.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(mine)
telemetry = TelemetryContext.from_config()
with telemetry.for_plugin("sink", "1.0.0").messages.publish("orders.raw", "m1", "m1"):
    pass
telemetry.install_globals()
assert trace.get_tracer_provider() is mine
assert telemetry.shutdown()
with mine.get_tracer("after").start_as_current_span("after"):
    pass
print([span.name for span in exporter.get_finished_spans()])
"""


def test_a_global_provider_of_the_application_is_adopted_not_replaced_not_shut_down() -> None:
    ended = run_alone(ADOPTING)
    assert (ended.stdout.strip(), ended.stderr) == ("['publish orders.raw', 'after']", "")


INSTALLING = """
from opentelemetry import trace
from common_telemetry import TelemetryContext

telemetry = TelemetryContext.from_config()
telemetry.install_globals()
with telemetry.for_plugin("sink", "1.0.0").create_span("step"):
    with trace.get_tracer("a.library").start_as_current_span("query"):
        pass
telemetry.shutdown()
another = TelemetryContext.from_config()
tapped = []
another.tap(tapped.append)
with another.for_plugin("sink", "1.0.0").create_span("later"):
    pass
print([span.name for span in tapped])
"""


def test_installed_globals_bring_the_spans_of_libraries_under_those_of_plugins(
    receiver: OtlpReceiver,
) -> None:
    ended = run_alone(INSTALLING, **receiver.environ())
    # A later context makes providers of its own instead of adopting what an earlier one has shut down.
    assert (ended.stdout.strip(), ended.stderr) == ("['later']", "")
    (step,) = receiver.spans("step")
    (query,) = receiver.spans("query")
    assert (query.parent_span_id, query.scope) == (step.span_id, "a.library")


def test_a_process_that_just_ends_loses_nothing(protocol: str, receiver: OtlpReceiver) -> None:
    ended = run_alone(ONE_SPAN, **receiver.environ(protocol))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [span.name for span in receiver.spans()] == ["step"]


def test_importing_the_package_imports_no_opentelemetry() -> None:
    script = """
import sys, common_telemetry
heavy = [name for name in sys.modules if name.startswith(("opentelemetry", "grpc", "google", "requests"))]
assert heavy == [], heavy
from common_telemetry import TelemetryConfig, TelemetryContext
TelemetryContext.from_config(TelemetryConfig(engine="off")).for_plugin("sink", "1.0.0").record_counter("x")
heavy = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "grpc", "google", "requests"))]
assert heavy == [], heavy
TelemetryContext.from_config(environ={})
heavy = [name for name in sys.modules if name.startswith(("opentelemetry.exporter", "grpc", "requests"))]
assert heavy == [], heavy
"""
    ended = run_alone(script)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_public_name_can_be_imported() -> None:
    import common_telemetry

    for name in common_telemetry.__all__:
        assert getattr(common_telemetry, name) is not None
    assert set(common_telemetry.__all__) == set(common_telemetry._HOME)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        common_telemetry.nonsense  # noqa: B018


def test_a_queue_limit_of_the_environment_is_obeyed_and_what_it_drops_is_counted(
    start: Start, receiver: OtlpReceiver
) -> None:
    receiver.hang()
    telemetry = start(environ={"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4"})
    plugin = telemetry.for_plugin("sink", "1.0.0")
    for _ in range(20):
        with plugin.create_span("step"):
            pass
    assert telemetry.health().traces.dropped == 12
    receiver.accept()
    assert telemetry.shutdown()
    assert len(receiver.spans()) == telemetry.health().traces.exported == 8
