"""The fast engine's metrics against those of the SDK: the same measurements must make the same protobuf."""

import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint, HistogramDataPoint
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common_telemetry import TelemetryConfig
from common_telemetry.attributes import UNBOUNDED
from common_telemetry.engines.fast import metrics as fast_metrics
from common_telemetry.engines.fast.exemplars import EXEMPLAR_FILTERS, ExemplarFilter, Reservoir
from common_telemetry.engines.fast.metrics import InstrumentKind, MetricOptions, Metrics, Temporality
from common_telemetry.engines.fast.wire import Origin
from common_telemetry.redaction import Redaction
from common_telemetry.testing import InMemoryTelemetry
from common_telemetry.views import keeping
from telemetry.pipeline import Message
from telemetry.sdk import since_1_45

RESOURCE: Mapping[str, Any] = {"service.name": "shop", "n": 3}
TEMPORALITIES: tuple[Temporality, ...] = ("cumulative", "delta", "lowmemory")
KINDS: tuple[InstrumentKind, ...] = ("counter", "up_down_counter", "gauge", "histogram")
DELTA = AggregationTemporality.DELTA
FILTERS: dict[str, Callable[[], Any]] = {
    "trace_based": TraceBasedExemplarFilter,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}
# Zeros alone, and then very large or small values: the SDK cannot export such a histogram any more.
SDK_FAULT = "Incorrect merge scale"


@dataclass(frozen=True)
class Measurement:
    """One call. `instrument` is the number of one, `span` 0 for none, odd for a sampled one."""

    instrument: int
    value: float
    attributes: Mapping[str, Any] | None
    span: int = 0

    @property
    def context(self) -> Context:
        if not self.span:
            return Context()
        flags = TraceFlags(self.span % 2)
        span = SpanContext(self.span + 2**100, self.span + 2**50, is_remote=False, trace_flags=flags)
        return trace.set_span_in_context(NonRecordingSpan(span), Context())


class Official:
    """The measurements through the SDK."""

    def __init__(
        self,
        kinds: Sequence[InstrumentKind],
        temporality: Temporality,
        exponential: bool,
        exemplars: ExemplarFilter,
    ) -> None:
        preferred: dict[type, AggregationTemporality] = {}
        if temporality != "cumulative":
            preferred = {Counter: DELTA, Histogram: DELTA}
        if temporality == "delta":
            preferred[ObservableCounter] = DELTA
        aggregation: dict[type, Aggregation] = {}
        if exponential:
            aggregation = {Histogram: ExponentialBucketHistogramAggregation()}
        self._reader = InMemoryMetricReader(preferred, aggregation)
        self._provider = MeterProvider(
            [self._reader],
            resource=Resource(dict(RESOURCE), "https://schema/1"),
            views=keeping(lambda key: key not in UNBOUNDED),
            exemplar_filter=FILTERS[exemplars](),
            shutdown_on_exit=False,
        )
        meter = self._provider.get_meter("scope", "1.0", "https://schema/2", {"a": 1})
        make: dict[str, Any] = {
            "counter": lambda name: meter.create_counter(name, "{x}", "Things.").add,
            "up_down_counter": lambda name: meter.create_up_down_counter(name, "{x}", "Things.").add,
            "gauge": lambda name: meter.create_gauge(name, "{x}", "Things.").set,
            "histogram": lambda name: (
                meter.create_histogram(
                    name, "{x}", "Things.", explicit_bucket_boundaries_advisory=bounds_of(name)
                ).record
            ),
        }
        self._record = [make[kind](f"M{number}") for number, kind in enumerate(kinds)]

    def record(self, measurement: Measurement) -> None:
        record = self._record[measurement.instrument]
        record(measurement.value, measurement.attributes, measurement.context)

    def collect(self) -> ExportMetricsServiceRequest:
        data = self._reader.get_metrics_data()
        return encode_metrics(data) if data is not None else ExportMetricsServiceRequest()


class Fast:
    """The same through the fast engine."""

    def __init__(
        self,
        kinds: Sequence[InstrumentKind],
        temporality: Temporality,
        exponential: bool,
        exemplars: ExemplarFilter,
    ) -> None:
        self.metrics = Metrics(MetricOptions(temporality, exponential, exemplars))
        scope = self.metrics.scope(origin)
        self.instruments = [
            scope.instrument(f"M{number}", kind, "{x}", "Things.", bounds_of(f"M{number}"))
            for number, kind in enumerate(kinds)
        ]

    def record(self, measurement: Measurement) -> None:
        instrument = self.instruments[measurement.instrument]
        instrument.record(measurement.value, measurement.attributes, measurement.context)

    def collect(self) -> ExportMetricsServiceRequest:
        collected = self.metrics.collect()
        return ExportMetricsServiceRequest.FromString(collected[0] if collected else b"")


def origin() -> Origin:
    return Origin(RESOURCE, "https://schema/1", "scope", "1.0", "https://schema/2", {"a": 1})


def bounds_of(name: str) -> list[float] | None:
    return [0.5, 1, 2.5, 1_000] if name.endswith("0") else None


def normal(request: ExportMetricsServiceRequest, exemplars: ExemplarFilter) -> list[tuple[str, list[str]]]:
    """What must be equal: everything but times, orders, and which measurement a reservoir chose by chance."""
    found = []
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                assert kind is not None
                points = [normal_point(point, kind, exemplars) for point in getattr(metric, kind).data_points]
                del getattr(metric, kind).data_points[:]
                found.append((str(metric), sorted(points)))
            del scope.metrics[:]
    return [*sorted(found), (str(request), [])]


def normal_point(point: Any, kind: str, exemplars: ExemplarFilter) -> str:
    assert point.time_unix_nano > 0
    assert (getattr(point, "start_time_unix_nano", 0) > 0) == (kind != "gauge")
    point.time_unix_nano = point.start_time_unix_nano = 0
    for exemplar in point.exemplars:
        assert exemplar.time_unix_nano > 0
        exemplar.time_unix_nano = 0
        exemplar.filtered_attributes.sort(key=lambda pair: pair.key)
        if kind != "histogram":  # chosen by chance
            exemplar.Clear()
        if exemplars == "always_on":  # the SDK leaves the ids of an earlier one on one without a span
            exemplar.trace_id = exemplar.span_id = b""
    point.attributes.sort(key=lambda pair: pair.key)
    return str(point)


scalars = st.one_of(
    st.text(max_size=4),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.0, 1.0, -1.0, 0.5]),
    st.none(),
    st.binary(max_size=2),
)
values = st.one_of(
    scalars, st.lists(scalars, max_size=2), st.dictionaries(st.text(max_size=2), scalars, max_size=2)
)
keys = st.one_of(
    st.sampled_from(["a", "b", "message.id", "user.message.id", "message.topic"]), st.text(max_size=3)
)
attributes = st.none() | st.dictionaries(keys, values, max_size=3)
numbers = st.one_of(
    st.integers(0, 2_000),
    st.floats(0, 2_000),
    st.sampled_from([0, 0.5, 1, 2.5, 1_000, 1e-300, 5e-324, 1e300, 2**40, 0.25]),
)
measurements = st.builds(Measurement, st.integers(0, 3), numbers, attributes, st.integers(0, 5))
rounds = st.lists(st.lists(measurements, max_size=12), min_size=1, max_size=3)


@since_1_45
@settings(max_examples=150, deadline=None)
@given(
    st.permutations(KINDS),
    st.sampled_from(TEMPORALITIES),
    st.booleans(),
    st.sampled_from(EXEMPLAR_FILTERS),
    rounds,
)
def test_any_measurements_make_the_protobuf_the_sdk_makes(
    kinds: list[InstrumentKind],
    temporality: Temporality,
    exponential: bool,
    exemplars: ExemplarFilter,
    rounds: list[list[Measurement]],
) -> None:
    engines = (
        Official(kinds, temporality, exponential, exemplars),
        Fast(kinds, temporality, exponential, exemplars),
    )
    for measured in rounds:
        for measurement in measured:
            for engine in engines:
                engine.record(measurement)
        fast = normal(engines[1].collect(), exemplars)
        try:
            official = engines[0].collect()
        except Exception as error:  # noqa: BLE001 - see below
            assert str(error) == SDK_FAULT  # noqa: PT017
            return
        assert fast == normal(official, exemplars)


@since_1_45
@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(TEMPORALITIES),
    st.lists(
        st.lists(
            st.floats(0, allow_infinity=False) | st.integers(-40, 40).map(lambda exponent: 2.0**exponent),
            max_size=40,
        ),
        min_size=1,
        max_size=4,
    ),
)
@example("cumulative", [[0.0], [1e10], [1e-10]])
@example("cumulative", [[1.0], [1.0] * 3, [1.5, 1.6]])
def test_exponential_histograms_of_any_range_are_the_sdks(
    temporality: Temporality, rounds: list[list[float]]
) -> None:
    engines = (
        Official(["histogram"], temporality, True, "always_off"),
        Fast(["histogram"], temporality, True, "always_off"),
    )
    for measured in rounds:
        for value in measured:
            for engine in engines:
                engine.record(Measurement(0, value, None))
        fast = engines[1].collect()
        try:
            official = engines[0].collect()
        except Exception as error:  # noqa: BLE001 - the SDK raises a bare Exception
            assert str(error) == SDK_FAULT  # noqa: PT017
            assert fast.resource_metrics
            return
        assert normal(fast, "always_off") == normal(official, "always_off")


def fast(**options: Any) -> tuple[Metrics, fast_metrics.Scope]:
    metrics = Metrics(MetricOptions(**options))
    return metrics, metrics.scope(origin)


def points(metrics: Metrics) -> list[Any]:
    collected = metrics.collect()
    if collected is None:
        return []
    request = ExportMetricsServiceRequest.FromString(collected[0])
    found = [
        point
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in getattr(metric, metric.WhichOneof("data") or "").data_points
    ]
    assert len(found) == collected[1]
    return found


def test_nothing_recorded_is_nothing_exported() -> None:
    metrics, scope = fast()
    scope.instrument("a", "counter").bind({"k": 1})
    assert metrics.collect() is None


def test_a_bound_series_and_its_attributes_are_one_series() -> None:
    metrics, scope = fast()
    counter = scope.instrument("a", "counter")
    bound, again = counter.bind({"k": 1, "message.id": "m1"}), counter.bind({"k": 1})
    bound.record(1)
    again.record(2)
    counter.record(3, {"k": 1})
    counter.bind({"k": 1}).record(4)
    (point,) = points(metrics)
    assert point.as_int == 10


def test_attributes_that_are_equal_but_of_different_types_are_different_series() -> None:
    metrics, scope = fast()
    counter = scope.instrument("a", "counter")
    for value in (1, 1.0, True, (1,), (True,), "1"):
        for _ in range(2):
            counter.record(1, {"k": value})
    assert [point.as_int for point in points(metrics)] == [2] * 6


@since_1_45
@pytest.mark.parametrize("temporality", TEMPORALITIES)
def test_attribute_sets_beyond_the_limit_share_one_series(temporality: Temporality) -> None:
    many = fast_metrics.SERIES_LIMIT + 50
    engines = [engine(["counter"], temporality, False, "trace_based") for engine in (Official, Fast)]
    for number in range(many):
        for engine in engines:
            engine.record(Measurement(0, 1, {"k": number, "message.id": "m"}, span=1))
    official, mine = (normal(engine.collect(), "trace_based") for engine in engines)
    assert mine == official
    assert isinstance(engines[1], Fast)
    (instrument,) = engines[1].instruments
    assert len(instrument._recent) <= fast_metrics.SERIES_LIMIT
    for engine in engines:  # what came first in the next export has a place again where it starts anew
        engine.record(Measurement(0, 1, {"k": "later"}))
    official, mine = (normal(engine.collect(), "trace_based") for engine in engines)
    assert mine == official


def test_the_exemplar_of_the_shared_series_keeps_what_the_series_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_metrics, "SERIES_LIMIT", 1)
    metrics, scope = fast()
    counter = scope.instrument("a", "counter")
    counter.record(1, {"k": 1})
    counter.record(1, {"k": 2, "message.id": "m2"}, Measurement(0, 0, None, span=1).context)
    _, overflow = points(metrics)
    assert [pair.key for pair in overflow.attributes] == ["otel.metric.overflow"]
    (exemplar,) = overflow.exemplars
    assert {pair.key for pair in exemplar.filtered_attributes} == {"k", "message.id"}


def test_a_bound_series_that_was_idle_for_an_export_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_metrics, "SERIES_LIMIT", 1)
    metrics, scope = fast(temporality="delta")
    counter = scope.instrument("a", "counter")
    one, other = counter.bind({"k": 1}), counter.bind({"k": 2})
    one.record(1)
    assert [point.as_int for point in points(metrics)] == [1]
    assert points(metrics) == []
    counter.record(5, {"k": 2})  # takes the only place, by itself
    other.record(6)
    one.record(7)
    assert sorted(point.as_int for point in points(metrics)) == [7, 11]


@pytest.mark.parametrize("temporality", TEMPORALITIES)
def test_a_bound_series_has_the_scale_of_one_that_is_found_each_time(temporality: Temporality) -> None:
    found = []
    for is_bound in (True, False):
        metrics = Metrics(MetricOptions(temporality, exponential=True))
        instrument = metrics.scope(origin).instrument("a", "histogram")
        bound = instrument.bind({"k": 1})
        scales = []
        for values in ((5.01, 23), (711,), (711, 712)):
            for value in values:
                if is_bound:
                    bound.record(value)
                else:
                    instrument.record(value, {"k": 1})
            (point,) = points(metrics)
            scales.append((point.scale, point.positive.offset))
        found.append(scales)
    assert found[0] == found[1]


def test_start_times_follow_the_temporality(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000, 2_000, 10))
    monkeypatch.setattr(fast_metrics, "time_ns", lambda: next(clock))

    def spans_of_time(temporality: Temporality) -> list[tuple[int, int]]:
        metrics, scope = fast(temporality=temporality)
        counter = scope.instrument("a", "counter")
        found = []
        for _ in range(3):
            counter.record(1)
            found += [(point.start_time_unix_nano, point.time_unix_nano) for point in points(metrics)]
        return found

    (first, one), (second, two), (third, three) = spans_of_time("cumulative")
    assert first == second == third < one < two < three
    (first, one), (second, two), (third, three) = spans_of_time("delta")
    assert first < one == second < two == third < three


@pytest.mark.parametrize("filtered", EXEMPLAR_FILTERS)
def test_exemplars_are_kept_as_the_filter_says(filtered: ExemplarFilter) -> None:
    metrics, scope = fast(exemplars=filtered)
    histogram = scope.instrument("a", "histogram", bounds=[1, 2, 3])
    for value, span in ((0.5, 0), (1.5, 1), (2.5, 2)):  # no span, a sampled one, one that is not
        histogram.record(value, {"message.id": f"m{value}"}, Measurement(0, 0, None, span).context)
    (point,) = points(metrics)
    kept = {
        exemplar.as_double: int.from_bytes(exemplar.span_id, "big") % 2**50 for exemplar in point.exemplars
    }
    expected: dict[ExemplarFilter, dict[float, int]] = {
        "trace_based": {1.5: 1},
        "always_on": {0.5: 0, 1.5: 1, 2.5: 2},
        "always_off": {},
    }
    assert kept == expected[filtered]


def test_a_bucket_keeps_its_last_exemplar_and_gives_it_away_once() -> None:
    metrics, scope = fast(exemplars="always_on")
    histogram = scope.instrument("a", "histogram", bounds=[10])
    for value in (1, 2, 11, 12):
        histogram.record(value)
    assert [exemplar.as_int for exemplar in points(metrics)[0].exemplars] == [2, 12]
    assert list(points(metrics)[0].exemplars) == []


def test_a_reservoir_keeps_every_offer_with_the_same_probability() -> None:
    offered, rounds = 40, 4_000
    kept = [0] * offered
    for _ in range(rounds):
        reservoir = Reservoir(4)
        for number in range(offered):
            reservoir.offer(number, (0, None, None, None))
        chosen = [int(value) for value, _ in reservoir.take()]
        assert len(set(chosen)) == 4
        for number in chosen:
            kept[number] += 1
    expected = rounds * 4 / offered
    deviation = math.sqrt(expected)
    assert all(abs(count - expected) < 6 * deviation for count in kept), kept


def test_what_must_not_leave_the_process_is_on_no_series_and_no_exemplar() -> None:
    metrics, scope = fast(redaction=Redaction(("password", "message.id")), exemplars="always_on")
    counter = scope.instrument("a", "counter")
    for number in range(3):
        counter.record(1, {"password": f"p{number}", "k": 1, "message.id": "m1"})
    counter.bind({"password": "p9", "k": 1}).record(1)
    (point,) = points(metrics)
    assert point.as_int == 4
    assert [pair.key for pair in point.attributes] == ["k"]
    assert [list(exemplar.filtered_attributes) for exemplar in point.exemplars] == [[]]


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**300])
def test_a_sum_too_large_for_64_bits_is_exported_as_a_floating_point_number(value: int) -> None:
    metrics, scope = fast()
    scope.instrument("a", "up_down_counter").record(value)
    (point,) = points(metrics)
    assert point.as_double == float(value)


def test_sums_beyond_every_floating_point_number_are_infinite() -> None:
    metrics, scope = fast()
    down_counter, histogram = scope.instrument("a", "up_down_counter"), scope.instrument("b", "histogram")
    for _ in range(20):
        down_counter.record(-(10**308))
        histogram.record(10**308)
    down, up = points(metrics)
    assert (down.as_double, up.sum) == (-math.inf, math.inf)


def test_a_number_of_an_enumeration_is_a_number() -> None:
    metrics, scope = fast()
    scope.instrument("a", "gauge").record(HTTPStatus.OK, {"k": HTTPStatus.OK})
    (point,) = points(metrics)
    assert point.as_int == point.attributes[0].value.int_value == 200


@pytest.mark.parametrize("bounds", [[1, 1], [2, 1], [math.inf], [math.nan]])
def test_senseless_bounds_are_refused(bounds: list[float]) -> None:
    with pytest.raises(ValueError, match="no bounds"):
        fast()[1].instrument("a", "histogram", bounds=bounds)


def test_threads_lose_nothing() -> None:
    metrics, scope = fast(temporality="delta")
    counter, histogram = scope.instrument("a", "counter"), scope.instrument("b", "histogram")
    bound = counter.bind({"k": 0})
    total, each, workers = 0, 3_000, 4

    def work() -> None:
        for number in range(each):
            bound.record(1)
            counter.record(1, {"k": number % 7})
            histogram.record(number)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            total += sum(
                getattr(point, "as_int", 0) or getattr(point, "count", 0) for point in points(metrics)
            )
    finally:
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    total += sum(getattr(point, "as_int", 0) or getattr(point, "count", 0) for point in points(metrics))
    assert total == 3 * each * workers


def test_a_signal_handler_may_record_while_a_thread_records() -> None:
    metrics, scope = fast()
    series = scope.instrument("a", "counter").bind({})
    with metrics.lock:  # what the interrupted code holds
        series.record(1)
    assert points(metrics)[0].as_int == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_begins_at_zero_though_another_thread_held_the_lock() -> None:
    metrics, scope = fast()
    bound = scope.instrument("a", "counter").bind({"k": 1})
    bound.record(5)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with metrics.lock:
                pass

    thread = threading.Thread(target=busy)
    thread.start()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            bound.record(1)
            os.write(writing, str([point.as_int for point in points(metrics)]).encode())
        finally:
            os._exit(0)
    stop.set()
    thread.join()
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"[1]"
    os.close(reading)
    os.close(writing)
    assert [point.as_int for point in points(metrics)] == [5]


# --- runs

values_of_a_run = st.lists(
    st.one_of(st.floats(0, 40_000), st.sampled_from([0.0, 0.05, 0.1, 5.0, 10_000.0, 30_000.0, 1e300])),
    max_size=80,
)


@given(
    runs=st.lists(st.lists(st.tuples(values_of_a_run, st.booleans()), max_size=3), max_size=3),
    exponential=st.booleans(),
    delta=st.booleans(),
)
def test_a_run_leaves_a_series_as_if_its_values_had_come_one_by_one(
    runs: list[list[tuple[list[float], bool]]], exponential: bool, delta: bool
) -> None:
    options = MetricOptions("delta" if delta else "cumulative", exponential)
    together, one_by_one = (
        Metrics(options)
        .scope(lambda: Origin({}, "", "runs", ""))
        .instrument("took", "histogram", bounds=(0.05, 0.1, 5, 10_000))
        .bind({})
        for _ in range(2)
    )
    for collection in runs:
        for values, sampled in collection:
            samples = [
                (at, b"t" * 16, b"s" * 8, {"at": at}) if sampled or at % 3 else None
                for at in range(len(values))
            ]
            together.add_run(values, samples.__getitem__ if any(samples) else None)
            for value, sample in zip(values, samples, strict=True):
                one_by_one.add(value, sample)
        one_by_one.start_ns = together.start_ns
        assert seen(together.point(7, delta=delta), exponential) == seen(
            one_by_one.point(7, delta=delta), exponential
        )


def seen(point: bytes, exponential: bool) -> object:
    """A data point; of exponential ones, whose exemplars are drawn by lot, without those."""
    if not exponential:
        return HistogramDataPoint.FromString(point)
    found = ExponentialHistogramDataPoint.FromString(point)
    found.ClearField("exemplars")
    return found


def test_what_is_noted_is_there_at_the_next_collection_whoever_measured_it() -> None:
    with InMemoryTelemetry(TelemetryConfig(engine="fast")) as telemetry:
        plugin = telemetry.for_plugin("sink")

        def handle() -> None:
            for number in range(1_000):
                with plugin.messages.process("t", Message(f"m{number}")) as scope:
                    if number % 10 == 0:
                        scope.fail("broken", "Broken")

        threads = [threading.Thread(target=handle) for _ in range(4)]
        for thread in threads:
            thread.start()
        counts = [sum(point.count for point in telemetry.metrics("plugin.message.processing_time_ms"))]
        for thread in threads:
            thread.join()
        counts.append(sum(point.count for point in telemetry.metrics("plugin.message.processing_time_ms")))
        assert counts[0] <= counts[1] == 4_000
        assert sum(point.count for point in telemetry.metrics("plugin.message.queue_time_ms")) == 4_000
