"""Attributes that must not leave the process do not, whatever they are on, with either engine."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.trace import SpanContext

from common_telemetry import PluginTelemetry, SpanRecord, TelemetryConfig, sdk_redaction
from common_telemetry.config import Engine
from common_telemetry.redaction import Redaction
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver
from telemetry.conftest import Start
from telemetry.pipeline import Message, publish

HIDDEN = "s3cret"


@pytest.fixture
def guarded(engine: Engine) -> Iterator[InMemoryTelemetry]:
    with InMemoryTelemetry(TelemetryConfig(engine=engine, redact=("password", "*id", "*ids"))) as telemetry:
        yield telemetry


@pytest.mark.parametrize(
    ("pattern", "hidden", "kept"),
    [
        ("password", ["password", "Password"], ["passwords", "my.password"]),
        ("*.token", ["a.token", "a.b.TOKEN", ".token"], ["token", "a.tokens"]),
        ("key?", ["key1"], ["key", "key12"]),
        ("[ab]*", ["a", "b.c"], ["c"]),
        ("a.b", ["a.b"], ["aXb"]),
    ],
)
def test_a_pattern_is_a_shape_of_keys(pattern: str, hidden: list[str], kept: list[str]) -> None:
    redaction = Redaction([pattern])
    assert [key for key in hidden + kept if redaction.keeps(key)] == kept


def test_without_patterns_everything_is_kept() -> None:
    assert Redaction(()).of({"password": 1, "": 2}) == {"password": 1, "": 2}


def test_it_reaches_into_attributes_of_attributes() -> None:
    given: dict[str, Any] = {"a": {"password": 1, "b": [{"password": 2, "c": 3}]}, "t": "password"}
    assert Redaction(["password"]).of(given) == {"a": {"b": ({"c": 3},)}, "t": "password"}


def use_everything(plugin: PluginTelemetry) -> None:
    secret: dict[str, Any] = {
        "password": HIDDEN,
        "db.token": HIDDEN,
        "fine": "fine",
        "deep": {"password": HIDDEN, "fine": 1},
    }
    flat = {"password": HIDDEN, "db.token": HIDDEN, "fine": "fine"}
    with plugin.messages.process("orders.raw", Message("m1")):
        plugin.record_counter("orders", 1, flat)
        plugin.record_gauge("depth", 1, secret)
        plugin.record_histogram("size", 1, flat)
        with plugin.create_span("step", secret) as span:
            span.set_attribute("password", HIDDEN)
            span.set_attributes(secret)
            span.add_event("event", secret)
            span.add_link(SpanContext(1, 2, is_remote=False), secret)
        trace.get_current_span().set_attribute("db.token", HIDDEN)
        plugin.logger().warning("look", extra=secret)


def test_no_secret_arrives_on_anything(start: Start, protocol: str, receiver: OtlpReceiver) -> None:
    telemetry = start(
        protocol,
        config={"redact": ["password", "*.token"]},
        environ={"OTEL_RESOURCE_ATTRIBUTES": f"password={HIDDEN},fine=fine"},
    )
    tapped: list[SpanRecord] = []
    telemetry.tap(tapped.append)
    use_everything(telemetry.for_plugin("sink", "1.0.0", "running"))
    assert telemetry.flush()

    everything = repr((receiver.spans(), receiver.metrics(), receiver.logs(), tapped))
    assert HIDDEN not in everything
    assert "password" not in everything
    (step,) = receiver.spans("step")
    assert step.attributes["fine"] == "fine"
    assert step.attributes.get("deep", {"fine": 1}) == {"fine": 1}  # the SDK takes no maps before 1.45
    assert (step.events[0].attributes["fine"], step.links[0].attributes["fine"]) == ("fine", "fine")
    assert step.resource["fine"] == "fine"
    (log,) = receiver.logs()
    assert (log.attributes["fine"], log.attributes.get("deep", {"fine": 1})) == ("fine", {"fine": 1})
    assert {point.attributes["fine"] for point in receiver.metrics() if "fine" in point.attributes} == {
        "fine"
    }
    assert len(receiver.metrics("orders")) == 1


def test_measurements_that_differ_in_a_secret_alone_are_one_series(
    guarded: InMemoryTelemetry,
) -> None:
    plugin = guarded.for_plugin("sink")
    for number in range(3):
        plugin.record_counter("orders", 1, {"password": f"p{number}"})
    assert [point.value for point in guarded.metrics("orders")] == [3]


def test_what_the_sdk_has_dropped_stays_counted() -> None:
    limits = SpanLimits(
        max_attributes=1, max_events=1, max_links=1, max_event_attributes=1, max_link_attributes=1
    )
    provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
    span = provider.get_tracer("t").start_span("step")
    for number in range(3):
        span.set_attribute(f"k{number}", HIDDEN)
        span.add_event(f"e{number}", {"a": 1, "password": HIDDEN})
        span.add_link(SpanContext(1, 2, is_remote=False), {"a": 1, "password": HIDDEN})
    span.end()
    assert isinstance(span, ReadableSpan)
    redacted = sdk_redaction.span(span, Redaction(["password", "k2"]))
    (encoded,) = encode_spans([redacted]).resource_spans[0].scope_spans[0].spans
    counts = (encoded.dropped_attributes_count, encoded.dropped_events_count, encoded.dropped_links_count)
    assert counts == (2, 2, 2)
    assert (encoded.events[0].dropped_attributes_count, encoded.links[0].dropped_attributes_count) == (1, 1)
    assert not encoded.attributes
    assert HIDDEN in repr(span.attributes)  # the span itself goes to others as it is


def test_even_the_id_of_a_message_can_be_kept_back(guarded: InMemoryTelemetry) -> None:
    plugin = guarded.for_plugin("sink")
    with plugin.messages.process("orders.raw", publish(plugin, "orders.raw", "m-secret")):
        plugin.record_counter("orders")
        plugin.logger().warning("look")
    arrived = repr((guarded.spans(), guarded.metrics(), guarded.logs()))
    assert "m-secret" not in arrived
    (span,) = guarded.spans("process orders.raw")
    assert span.attributes["message.topic"] == "orders.raw"
    (point,) = guarded.metrics("plugin.message.processing_time_ms")
    assert point.count == 1
