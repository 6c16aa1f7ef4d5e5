"""Metrics over a real OTLP receiver: few series, exact counts, message ids on exemplars only."""

import logging
from http import HTTPStatus
from typing import Any

import pytest
from opentelemetry.sdk.metrics.view import View

from common_telemetry import PluginTelemetry, TelemetryContext
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver, ReceivedPoint
from telemetry.conftest import Start
from telemetry.pipeline import ManualClock, Message, publish

MANY = 5_000
PROCESSING_TIME = "plugin.message.processing_time_ms"
PLUGIN = {"plugin.name": "sink", "plugin.version": "1.0.0", "plugin.status": "running"}


def process(plugin: PluginTelemetry, count: int, prefix: str = "m") -> None:
    for number in range(count):
        with plugin.messages.process("orders.raw", Message(f"{prefix}{number}")):
            pass


def sink(telemetry: TelemetryContext) -> PluginTelemetry:
    return telemetry.for_plugin("sink", "1.0.0", "running")


def test_five_thousand_messages_are_one_series_with_their_ids_on_exemplars(
    start: Start, protocol: str, receiver: OtlpReceiver
) -> None:
    telemetry = start(protocol)
    process(sink(telemetry), MANY)
    assert telemetry.flush(20)

    spans = {span.attributes["message.id"]: span for span in receiver.spans("process orders.raw")}
    assert len(spans) == MANY
    for name in (PROCESSING_TIME, "messaging.process.duration", "plugin.message.queue_time_ms"):
        (point,) = receiver.metrics(name)
        assert point.count == MANY
        assert not {"message.id", "otel.metric.overflow"} & point.attributes.keys()
        assert point.exemplars
        for exemplar in point.exemplars:
            span = spans[exemplar.attributes["message.id"]]
            assert (exemplar.trace_id, exemplar.span_id) == (span.trace_id, span.span_id)


def test_unsampled_messages_are_counted_without_spans_or_exemplars(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(
        environ={"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    )
    process(sink(telemetry), MANY)
    assert telemetry.flush(20)

    assert receiver.spans() == []
    (point,) = receiver.metrics(PROCESSING_TIME)
    assert (point.count, point.exemplars) == (MANY, ())


def test_delta_exports_add_up(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ={"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"})
    plugin = sink(telemetry)
    process(plugin, MANY // 2, "a")
    assert telemetry.flush(20)
    process(plugin, MANY // 2, "b")
    assert telemetry.flush(20)

    points = receiver.metrics(PROCESSING_TIME)
    assert [point.temporality for point in points] == ["delta", "delta"]
    assert sum(point.count for point in points) == MANY


def test_exponential_histograms_can_be_asked_for(start: Start, receiver: OtlpReceiver) -> None:
    variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    telemetry = start(environ={variable: "base2_exponential_bucket_histogram"})
    process(sink(telemetry), 500)
    assert telemetry.flush()

    (point,) = receiver.metrics(PROCESSING_TIME)
    assert (point.kind, point.count) == ("exponential_histogram", 500)


def test_processing_and_queue_time_are_measured_in_their_units(start: Start, receiver: OtlpReceiver) -> None:
    clock = ManualClock()
    telemetry = start(clock=clock)
    plugin = sink(telemetry)
    message = Message("m1", timestamp=clock.time_ns())
    clock.advance(30)
    with plugin.messages.process("orders.raw", message):
        clock.advance(20)
    assert telemetry.flush()

    (milliseconds,) = receiver.metrics(PROCESSING_TIME)
    assert (milliseconds.unit, milliseconds.sum) == ("ms", 20)
    assert milliseconds.attributes == {**PLUGIN, "message.topic": "orders.raw"}
    (seconds,) = receiver.metrics("messaging.process.duration")
    assert (seconds.unit, seconds.sum) == ("s", 0.02)
    assert seconds.attributes == {
        **PLUGIN,
        "messaging.system": "echo_core",
        "messaging.operation.name": "process",
        "messaging.destination.name": "orders.raw",
        "messaging.consumer.group.name": "sink",
    }
    (queue,) = receiver.metrics("plugin.message.queue_time_ms")
    assert (queue.unit, queue.sum) == ("ms", 30)
    (span,) = receiver.spans()
    assert span.attributes["echo.message.queue_time_ms"] == 30
    assert span.end_ns - span.start_ns == 20_000_000


def test_a_retry_counts_as_processing_but_not_as_time_in_the_queue(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.messages.process("orders.raw", Message("m1")) as first:
        first.fail("not yet")
    with plugin.messages.process("orders.raw", Message("m1"), attempt=2, previous=first):
        pass
    assert sum(point.count for point in memory.metrics(PROCESSING_TIME)) == 2
    assert sum(point.count for point in memory.metrics("plugin.message.queue_time_ms")) == 1


def test_a_clock_that_ran_ahead_gives_no_negative_queue_time(memory: InMemoryTelemetry) -> None:
    message = Message("m1", timestamp=ManualClock().time_ns() + 10**12)
    with memory.for_plugin("sink").messages.process("orders.raw", message):
        pass
    (point,) = memory.metrics("plugin.message.queue_time_ms")
    assert point.sum == 0


def test_init_and_shutdown_are_measured_without_a_message(start: Start, receiver: OtlpReceiver) -> None:
    clock = ManualClock()
    telemetry = start(clock=clock)
    plugin = telemetry.for_plugin("sink", "1.0.0")
    with plugin.lifecycle("init"):
        clock.advance(20)
    plugin.status = "stopping"
    with plugin.lifecycle("shutdown"):
        clock.advance(10)
    assert telemetry.flush()

    for event, milliseconds, status in (("init", 20, "starting"), ("shutdown", 10, "stopping")):
        (point,) = receiver.metrics(f"plugin.{event}.duration_ms")
        assert (point.kind, point.unit, point.count, point.sum) == ("histogram", "ms", 1, milliseconds)
        assert point.attributes == {**PLUGIN, "plugin.status": status}


def test_health_checks_are_counted_by_result(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start()
    plugin = sink(telemetry)
    for _ in range(2):
        with plugin.lifecycle("health_check"):
            pass
    with plugin.lifecycle("health_check") as check:
        check.fail("the disk is full")
    assert telemetry.flush()

    points = receiver.metrics("plugin.lifecycle.events")
    assert all(point.monotonic and point.kind == "sum" for point in points)
    counts = {point.attributes["result"]: point.value for point in points}
    assert counts == {"ok": 2, "failure": 1}
    assert all(point.attributes.items() >= {**PLUGIN, "event": "health_check"}.items() for point in points)
    assert [span.status for span in receiver.spans("plugin.health_check")] == ["unset", "unset", "error"]
    records = receiver.logs("plugin.lifecycle.health_check")
    assert [record.severity for record in records] == ["INFO", "INFO", "ERROR"]


def test_an_exception_in_init_passes_through_as_a_failure(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with pytest.raises(RuntimeError), plugin.lifecycle("init"):
        raise RuntimeError("no licence")
    (span,) = memory.spans("plugin.init")
    assert (span.status, span.attributes["error.type"]) == ("error", "RuntimeError")
    (point,) = memory.metrics("plugin.lifecycle.events")
    assert (point.attributes["event"], point.attributes["result"]) == ("init", "failure")
    assert [point.count for point in memory.metrics("plugin.init.duration_ms")] == [1]


def test_what_a_plugin_records_has_the_standard_attributes(
    start: Start, protocol: str, receiver: OtlpReceiver
) -> None:
    telemetry = start(protocol)
    plugin = sink(telemetry)

    def record() -> None:
        plugin.record_counter("orders", 2, {"k": "a"})
        plugin.record_gauge("depth", 7, {"k": "a"})
        plugin.record_histogram("size", 3.5, {"k": "a"})

    record()
    with plugin.messages.process("orders.raw", Message("m1")):
        record()
        record()
    assert telemetry.flush()

    def inside_and_outside(name: str) -> tuple[ReceivedPoint, ReceivedPoint]:
        points = receiver.metrics(name)
        assert len(points) == 2
        (outside,) = (point for point in points if point.attributes == {**PLUGIN, "k": "a"})
        (inside,) = (
            point
            for point in points
            if point.attributes == {**PLUGIN, "k": "a", "message.topic": "orders.raw"}
        )
        return inside, outside

    assert [point.value for point in inside_and_outside("orders")] == [4, 2]
    assert [point.value for point in inside_and_outside("depth")] == [7, 7]
    assert [(point.kind, point.count, point.sum) for point in inside_and_outside("size")] == [
        ("histogram", 2, 7.0),
        ("histogram", 1, 3.5),
    ]
    inside, _ = inside_and_outside("orders")
    assert {exemplar.attributes["message.id"] for exemplar in inside.exemplars} == {"m1"}
    assert inside.scope == "echo.plugin.sink"


def test_an_id_given_by_the_author_makes_no_series_either(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    for number in range(10):
        with plugin.messages.process("orders.raw", Message(f"m{number}")):
            plugin.record_counter("same", 1, {"message.id": f"m{number}"})
            plugin.record_counter("other", 1, {"message.id": f"x{number}"})
    assert [point.value for point in memory.metrics("same")] == [10]
    assert [point.value for point in memory.metrics("other")] == [10]


@pytest.mark.parametrize("name", ["things", "Things"])
def test_a_name_used_for_two_kinds_is_refused_and_seen(
    name: str, memory: InMemoryTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = memory.for_plugin("sink")
    plugin.record_counter("things", 1)
    plugin.record_gauge(name, 5)
    plugin.record_gauge(name, 6)

    (point,) = memory.metrics("things")
    assert (point.kind, point.value) == ("sum", 1)
    assert memory.context.health().faults == {"instrument conflict": 2}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"{name!r} is already a counter" in record.getMessage()
    assert "'sink'" in record.getMessage()


def test_a_name_that_telemetry_measures_itself_is_refused(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").record_histogram(PROCESSING_TIME, 1)
    assert memory.metrics() == []
    assert memory.context.health().faults == {"instrument conflict": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, "3", None])
def test_a_value_that_is_no_finite_number_is_refused(value: Any, memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    plugin.record_counter("a", value)
    plugin.record_gauge("b", value)
    plugin.record_histogram("c", value)
    assert memory.metrics() == []
    assert memory.context.health().faults == {"value": 3}


def test_an_int_that_otlp_has_no_form_for_is_a_floating_point_number_and_harms_no_other(
    memory: InMemoryTelemetry,
) -> None:
    plugin = memory.for_plugin("sink")
    for _ in range(2):
        plugin.record_gauge("a", 2**63)
        plugin.record_gauge("b", 10**400)
        plugin.record_gauge("c", HTTPStatus.OK)
    assert {point.name: point.value for point in memory.metrics()} == {"a": 2.0**63, "c": 200}
    assert memory.context.health().faults == {"value": 2}


def test_names_made_of_data_do_not_fill_the_memory(
    memory: InMemoryTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = memory.for_plugin("sink")
    for number in range(1_500):
        plugin.record_counter(f"order.{number}")
    assert len(memory.metrics()) == 1_000
    assert memory.context.health().faults == {"too many instruments": 500}
    (record,) = caplog.records
    assert "use attributes" in record.getMessage()


def test_a_text_of_any_length_on_a_measurement_is_cut(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    for length in (4_096, 4_097, 5_000):
        for _ in range(2):
            plugin.record_counter("orders", 1, {"k": "x" * length})
    (point,) = memory.metrics("orders")
    assert (point.value, len(point.attributes["k"])) == (6, 4_096)
    assert memory.context.health().faults == {"attribute": 4}


def test_a_counter_does_not_go_down(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    plugin.record_counter("things", 3)
    plugin.record_counter("things", -1)
    assert [point.value for point in memory.metrics("things")] == [3]
    assert memory.context.health().faults == {"value": 1}


@pytest.mark.parametrize("name", ["", "1st", "with space", "ü"])
def test_a_name_opentelemetry_does_not_allow_never_raises(name: str, memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").record_counter(name)
    assert memory.metrics() == []
    assert memory.context.health().faults == {"measurement": 1}


def test_message_ids_can_be_left_out_altogether(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(config={"message_id_on_metrics": "off"})
    process(sink(telemetry), 3)
    assert telemetry.flush()
    (point,) = receiver.metrics(PROCESSING_TIME)
    assert [dict(exemplar.attributes) for exemplar in point.exemplars] == [{}] * len(point.exemplars)
    assert point.exemplars


def test_message_ids_as_attributes_are_loudly_warned_of(
    start: Start, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry = start(config={"message_id_on_metrics": "attribute"})
    process(sink(telemetry), 3)
    assert telemetry.flush()
    assert {point.attributes["message.id"] for point in receiver.metrics(PROCESSING_TIME)} == {
        "m0",
        "m1",
        "m2",
    }
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_view_of_the_application_is_the_only_stream_and_keeps_ids_off_series(
    start: Start, receiver: OtlpReceiver
) -> None:
    view = View(instrument_name=PROCESSING_TIME, name="renamed")
    telemetry = start(views=[view])
    process(sink(telemetry), 3)
    assert telemetry.flush()
    assert receiver.metrics(PROCESSING_TIME) == []
    (point,) = receiver.metrics("renamed")
    assert (point.count, "message.id" in point.attributes) == (3, False)
    assert [one.count for one in receiver.metrics("messaging.process.duration")] == [3]


def test_a_view_that_lists_attributes_keeps_its_list(start: Start, receiver: OtlpReceiver) -> None:
    view = View(instrument_name="orders", attribute_keys={"k", "message.id"})
    telemetry = start(views=[view])
    plugin = sink(telemetry)
    with plugin.messages.process("orders.raw", Message("m1")):
        plugin.record_counter("orders", 1, {"k": "a", "other": "b"})
    assert telemetry.flush()
    (point,) = receiver.metrics("orders")
    assert point.attributes == {"k": "a"}


def test_a_measurement_in_a_published_messages_block_belongs_to_the_message_in_hand(
    memory: InMemoryTelemetry,
) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.messages.process("orders.raw", Message("m1")):
        publish(plugin, "orders.valid", "m2")
        plugin.record_counter("orders")
    (point,) = memory.metrics("orders")
    assert point.attributes["message.topic"] == "orders.raw"
