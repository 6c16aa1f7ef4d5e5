"""OpenTelemetry's metrics API over the fast engine, beside the SDK's own."""

import logging
from collections.abc import Generator, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from common_telemetry.engines.fast.meter import FastMeterProvider
from common_telemetry.engines.fast.metrics import MetricOptions, Metrics, Temporality
from common_telemetry.engines.fast.origins import origin_of
from common_telemetry.health import Faults
from telemetry.sdk import since_1_45
from telemetry.test_fast_metrics import TEMPORALITIES, normal
from telemetry.test_setup import run_alone

RESOURCE = Resource({"service.name": "shop"})
DELTA = AggregationTemporality.DELTA


class Both:
    """The same provider twice."""

    def __init__(self, temporality: Temporality = "cumulative") -> None:
        preferred: dict[type, AggregationTemporality] = {}
        if temporality != "cumulative":
            preferred = {Counter: DELTA, Histogram: DELTA}
        if temporality == "delta":
            preferred[ObservableCounter] = DELTA
        self._reader = InMemoryMetricReader(preferred)
        self.sdk = SdkMeterProvider([self._reader], resource=RESOURCE, shutdown_on_exit=False)
        self.faults = Faults()
        self._metrics = Metrics(MetricOptions(temporality))
        self.fast = FastMeterProvider(self._metrics, lambda scope: origin_of(RESOURCE, scope), self.faults)

    @property
    def providers(self) -> tuple[MeterProvider, MeterProvider]:
        return self.sdk, self.fast

    def assert_equal(self) -> ExportMetricsServiceRequest:
        data = self._reader.get_metrics_data()
        official = encode_metrics(data) if data is not None else ExportMetricsServiceRequest()
        collected = self._metrics.collect()
        mine = ExportMetricsServiceRequest.FromString(collected[0] if collected else b"")
        kept = ExportMetricsServiceRequest()
        kept.CopyFrom(mine)
        assert normal(mine, "trace_based") == normal(official, "trace_based")
        return kept


def names(request: ExportMetricsServiceRequest) -> list[str]:
    return [
        metric.name
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    ]


@since_1_45
def test_every_synchronous_instrument_is_the_sdks() -> None:
    both = Both()
    for provider in both.providers:
        meter = provider.get_meter("library", "1.0", "https://schema", {"k": 1})
        meter.create_counter("Counter", "1", "What it counts.").add(2, {"a": "b"})
        meter.create_up_down_counter("up.down").add(-2)
        meter.create_gauge("gauge").set(-1.5)
        meter.create_histogram("histogram", explicit_bucket_boundaries_advisory=[1, 2]).record(1.5)
        meter.create_histogram("default").record(7)
        meter.create_counter("never.used")
    request = both.assert_equal()
    assert sorted(names(request)) == ["counter", "default", "gauge", "histogram", "up.down"]
    both.assert_equal()


observed = st.lists(
    st.lists(
        st.tuples(st.integers(0, 100) | st.floats(0, 100), st.sampled_from(["a", "b", None])), max_size=4
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TEMPORALITIES), observed)
def test_whatever_callbacks_observe_is_what_the_sdk_makes_of_it(
    temporality: Temporality, rounds: list[list[tuple[float, str | None]]]
) -> None:
    both = Both(temporality)
    now: list[tuple[float, str | None]] = []

    def callback(options: CallbackOptions) -> Iterable[Observation]:
        assert options.timeout_millis > 0
        return [Observation(value, {"k": key} if key else None) for value, key in now]

    for provider in both.providers:
        meter = provider.get_meter("library")
        meter.create_observable_counter("counter", [callback])
        meter.create_observable_up_down_counter("up.down", [callback], "x", "Things.")
        meter.create_observable_gauge("gauge", [callback, callback])
    for now in rounds:  # noqa: B007 - the callback reads it
        both.assert_equal()


def test_a_generator_can_be_a_callback() -> None:
    both = Both()

    def counting() -> Generator[Iterable[Observation], CallbackOptions, None]:
        yield ()
        for number in range(1, 3):
            yield [Observation(number)]

    for provider in both.providers:
        provider.get_meter("library").create_observable_counter("counter", [counting()])
    for _ in range(4):  # longer than it lasts
        both.assert_equal()


def test_a_callback_that_fails_is_a_fault_and_takes_no_other_with_it() -> None:
    both = Both()

    def broken(options: CallbackOptions) -> Iterable[Observation]:
        raise RuntimeError("no sensor")

    def fine(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(float("nan")), Observation(1)]

    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    for provider in both.providers:
        provider.get_meter("library").create_observable_gauge("gauge", [broken, fine])
    both.assert_equal()
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
    assert both.faults.counts() == {"callback": 1}


def make_and_add(meter: Meter, name: str) -> None:
    meter.create_counter(name, "1").add(1)


def test_the_same_instrument_asked_for_twice_is_one() -> None:
    both = Both()
    for provider in both.providers:
        make_and_add(provider.get_meter("library"), "things")
        make_and_add(provider.get_meter("library"), "Things")
        make_and_add(provider.get_meter("other"), "things")
    assert names(both.assert_equal()) == ["things", "things"]


@since_1_45
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1])
def test_a_value_that_is_not_allowed_is_logged_and_not_recorded(
    value: float, caplog: pytest.LogCaptureFixture
) -> None:
    both = Both()
    for provider in both.providers:
        meter = provider.get_meter("library")
        meter.create_counter("counter").add(value)
        meter.create_histogram("histogram").record(value)
    assert names(both.assert_equal()) == []
    assert len(caplog.records) == 4


@since_1_45
@pytest.mark.parametrize("attributes", [{"k": object()}, {1: "no text"}, {"": 1}, {"k": {1: 2}}])
def test_attributes_opentelemetry_has_no_form_for_become_what_the_sdk_makes_of_them(attributes: Any) -> None:
    both = Both()
    for provider in both.providers:
        for _ in range(2):
            provider.get_meter("library").create_counter("counter").add(1, attributes)
    assert names(both.assert_equal()) == ["counter"]


@pytest.mark.parametrize(("value", "attributes"), [("1", None), (None, None), (1, ["no mapping"]), (1, 7)])
def test_what_cannot_be_recorded_is_a_fault_and_raises_nothing(value: Any, attributes: Any) -> None:
    both = Both()
    both.fast.get_meter("library").create_counter("counter").add(value, attributes)
    assert both.faults.counts() == {"measurement": 1}


@pytest.mark.parametrize("name", ["", "1st", "with space", "x" * 256])
def test_a_name_that_is_not_allowed_is_refused_as_by_the_sdk(name: str) -> None:
    for provider in Both().providers:
        with pytest.raises(Exception, match=r"instrument|Expected ASCII"):
            provider.get_meter("library").create_counter(name)


LIBRARY = """
from opentelemetry import metrics
from common_telemetry import TelemetryConfig, TelemetryContext

telemetry = TelemetryContext.from_config(TelemetryConfig(engine="fast"))
early = metrics.get_meter("a.library").create_counter("early")
telemetry.install_globals()
plugin = telemetry.for_plugin("sink", "1.0.0")
with plugin.create_span("step"):
    early.add(1)
    metrics.get_meter("a.library").create_histogram("query.time").record(3)
assert metrics.get_meter_provider().force_flush()
telemetry.shutdown()
"""


def test_installed_globals_bring_the_measurements_of_libraries(receiver: Any) -> None:
    ended = run_alone(LIBRARY, **receiver.environ(OTEL_METRICS_EXEMPLAR_FILTER="trace_based"))
    assert (ended.returncode, ended.stderr) == (0, "")
    (step,) = receiver.spans("step")
    (query, *_) = receiver.metrics("query.time")
    assert (query.scope, query.count, query.exemplars[0].span_id) == ("a.library", 1, step.span_id)
    assert receiver.metrics("early")[0].value == 1
