"""Each OTEL_* variable means with both engines what it means for the SDK: seen from outside, row by row.

Which exporters there are is test_environment.py's, the resource and the protocols test_setup.py's; that any
combination of limits and samplers gives the same with both engines is test_traffic.py's.
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.trace import SpanContext

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver
from telemetry.conftest import Start
from telemetry.faulty import Post, faulty
from telemetry.pipeline import Message
from telemetry.sdk import VERSION, since_1_45
from telemetry.test_faults import wait_until
from telemetry.test_setup import run_alone

PARENT: Final = f"00-{'ab' * 16}-{'cd' * 8}-"


@contextmanager
def reporting(engine: Engine, environ: dict[str, str]) -> Iterator[TelemetryContext]:
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine=engine), environ=environ)
    try:
        yield telemetry
    finally:
        telemetry.shutdown(1)


def report(telemetry: TelemetryContext, count: int = 1) -> None:
    """Of each signal something."""
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    for _ in range(count):
        with plugin.create_span("step"):
            pass
    plugin.record_counter("orders")
    plugin.logger().warning("look")


# How requests are sent: variables, in which {backend} is an address, and what requests of a signal show.

Shown = Callable[[Post], object]


def target(post: Post) -> str:
    return post.target


def header(name: str) -> Shown:
    return lambda post: post.headers.get(name)


def unpacked(unpack: Callable[[bytes], bytes]) -> Shown:
    return lambda post: bool(ExportTraceServiceRequest.FromString(unpack(post.body)).resource_spans)


def address(post: Post) -> str:
    """Without a user in it."""
    return post.headers["host"].partition(":")[0]


@dataclass(frozen=True)
class Sent:
    variables: dict[str, str]
    signal: str
    shown: Shown
    expected: object


SENT: Final = [
    Sent({"ENDPOINT": "{backend}"}, "traces", target, "/v1/traces"),
    Sent({"ENDPOINT": "{backend}/"}, "logs", target, "/v1/logs"),
    Sent({"ENDPOINT": "{backend}/base"}, "metrics", target, "/base/v1/metrics"),
    Sent({"TRACES_ENDPOINT": "{backend}/any/path"}, "any/path", target, "/any/path"),
    Sent({"ENDPOINT": "http://127.0.0.1:1", "LOGS_ENDPOINT": "{backend}/logs"}, "logs", target, "/logs"),
    Sent({"HEADERS": "authorization=Bearer%20abc,x-b=2"}, "traces", header("authorization"), "Bearer abc"),
    Sent({"HEADERS": "x-b=1", "TRACES_HEADERS": "x-c=2"}, "traces", header("x-c"), "2"),
    Sent({"HEADERS": "x-b=1", "TRACES_HEADERS": "x-c=2"}, "metrics", header("x-b"), "1"),
    Sent({"ENDPOINT": "{backend_of_me}"}, "traces", header("authorization"), "Basic bWU6cEBzcw=="),
    Sent({"ENDPOINT": "{backend_of_me}"}, "traces", address, "127.0.0.1"),
    Sent({}, "traces", header("content-type"), "application/x-protobuf"),
    Sent({}, "traces", header("content-encoding"), None),
    Sent({"COMPRESSION": "gzip"}, "traces", header("content-encoding"), "gzip"),
    Sent({"COMPRESSION": "gzip"}, "traces", unpacked(gzip.decompress), True),
    Sent({"COMPRESSION": "deflate"}, "traces", unpacked(zlib.decompress), True),
    Sent({"COMPRESSION": "gzip", "TRACES_COMPRESSION": "none"}, "traces", unpacked(bytes), True),
    Sent(
        {"COMPRESSION": "none", "METRICS_COMPRESSION": "gzip"}, "metrics", header("content-encoding"), "gzip"
    ),
]


@pytest.mark.parametrize("row", SENT, ids=lambda row: f"{row.variables}-{row.signal}")
def test_requests_are_sent_as_told(row: Sent, engine: Engine) -> None:
    with faulty() as backend:
        told = (
            {"ENDPOINT": "{backend}", **row.variables}
            if "TRACES_ENDPOINT" not in row.variables
            else row.variables
        )
        environ = {
            f"OTEL_EXPORTER_OTLP_{name}": value.format(
                backend=backend.endpoint,
                backend_of_me=backend.endpoint.replace("http://", "http://me:p%40ss@"),
            )
            for name, value in told.items()
        }
        with reporting(engine, environ) as telemetry:
            report(telemetry)
            telemetry.flush(2)
        shown = [row.shown(post) for post in backend.posts if post.target.endswith(row.signal)]
    assert shown
    assert set(shown) == {row.expected}


@pytest.mark.parametrize("name", ["TIMEOUT", "TRACES_TIMEOUT"])
def test_a_request_takes_no_longer_than_its_timeout(name: str, engine: Engine) -> None:
    with faulty() as backend:
        backend.answers = [backend.hang]
        environ = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{backend.endpoint}/v1/traces",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            f"OTEL_EXPORTER_OTLP_{name}": "0.3",
        }
        with reporting(engine, environ) as telemetry:
            report(telemetry)
            begin = monotonic()
            assert not telemetry.flush(100)
            assert monotonic() - begin < 9  # without that variable it is 10 s
            assert telemetry.health().traces.failed == 1


# When requests are sent.


@pytest.mark.parametrize(
    ("variable", "arrived"),
    [
        ("OTEL_BSP_SCHEDULE_DELAY", lambda receiver: receiver.spans()),
        ("OTEL_BLRP_SCHEDULE_DELAY", lambda receiver: receiver.logs()),
        ("OTEL_METRIC_EXPORT_INTERVAL", lambda receiver: receiver.metrics()),
    ],
    ids=["spans", "logs", "metrics"],
)
def test_what_waits_is_sent_after_the_delay(
    variable: str, arrived: Callable[[OtlpReceiver], Any], start: Start, receiver: OtlpReceiver
) -> None:
    never = ("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BLRP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL")
    report(start(environ={**dict.fromkeys(never, "3600000"), variable: "50"}))
    wait_until(lambda: bool(arrived(receiver)))
    seen = (receiver.spans(), receiver.logs(), receiver.metrics())
    assert sum(map(bool, seen)) == 1


NUMBERS: Final = (
    *("OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
    *("OTEL_BLRP_SCHEDULE_DELAY", "OTEL_BLRP_MAX_QUEUE_SIZE", "OTEL_METRIC_EXPORT_INTERVAL"),
    *("OTEL_EXPORTER_OTLP_TIMEOUT",),
)


@pytest.mark.parametrize("variable", NUMBERS)
def test_what_is_no_number_counts_as_not_set(
    variable: str, engine: Engine, start: Start, receiver: OtlpReceiver
) -> None:
    if engine == "official" and VERSION < (1, 45) and "TIMEOUT" in variable:
        pytest.skip("the SDK's exporter takes anything since 1.45")
    telemetry = start(environ={variable: "soon"})
    report(telemetry)
    assert telemetry.flush()
    assert (len(receiver.spans()), len(receiver.logs()), len(receiver.metrics())) == (1, 1, 1)


def test_an_endless_interval_is_one(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ={"OTEL_METRIC_EXPORT_INTERVAL": "inf"})
    report(telemetry)
    assert telemetry.flush()
    assert receiver.metrics("orders")


@pytest.mark.parametrize("queue", ["BSP", "BLRP"])
def test_a_batch_is_no_larger_than_told(queue: str, start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(
        environ={
            f"OTEL_{queue}_MAX_EXPORT_BATCH_SIZE": "10",
            f"OTEL_{queue}_SCHEDULE_DELAY": "3600000",
            "OTEL_METRICS_EXPORTER": "none",
            f"OTEL_{'LOGS' if queue == 'BSP' else 'TRACES'}_EXPORTER": "none",
        }
    )
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    for _ in range(45):
        with plugin.create_span("step"):
            plugin.logger().warning("look")
    assert telemetry.flush(10)
    assert receiver.requests >= 5
    assert len(receiver.spans()) + len(receiver.logs()) == 45


# What is recorded.


@pytest.mark.parametrize(
    ("sampler", "argument", "expected"),
    [
        # of a root, of the child of a sampled span, of the child of one that is not
        ("always_on", "", (1, 1, 1)),
        ("always_off", "", (0, 0, 0)),
        ("traceidratio", "0", (0, 0, 0)),
        ("traceidratio", "1", (1, 1, 1)),
        ("parentbased_always_on", "", (1, 1, 0)),
        ("parentbased_always_off", "", (0, 1, 0)),
        ("parentbased_traceidratio", "0", (0, 1, 0)),
        ("parentbased_traceidratio", "1.0", (1, 1, 0)),
        ("", "", (1, 1, 0)),
        ("no such sampler", "", (1, 1, 0)),
    ],
)
def test_a_sampler_decides(
    sampler: str, argument: str, expected: tuple[int, ...], start: Start, receiver: OtlpReceiver
) -> None:
    environ = {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}
    telemetry = start(environ={name: value for name, value in environ.items() if value})
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    headers: dict[str, dict[str, str]] = {
        "root": {},
        "sampled": {"traceparent": f"{PARENT}01"},
        "not sampled": {"traceparent": f"{PARENT}00"},
    }
    for name, carrier in headers.items():
        with plugin.messages.process(name, Message(name, trace_context=carrier)):
            pass
    assert telemetry.flush()
    assert tuple(len(receiver.spans(f"process {name}")) for name in headers) == expected


def test_a_ratio_is_about_kept(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ={"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"})
    report(telemetry, 2_000)
    assert telemetry.flush()
    assert 380 < len(receiver.spans("step")) < 620  # six standard deviations


LIMITS: Final[list[tuple[dict[str, str], Callable[[Any], object], object]]] = [
    ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "4"}, lambda span: len(span.attributes), 4),
    ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "4"}, lambda span: len(span.attributes), 4),
    (
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "4", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "5"},
        lambda span: len(span.attributes),
        5,
    ),
    ({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"}, lambda span: span.attributes["long"], "aaa"),
    ({"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"}, lambda span: span.attributes["long"], "aaa"),
    ({"OTEL_SPAN_EVENT_COUNT_LIMIT": "1"}, lambda span: [event.name for event in span.events], ["second"]),
    ({"OTEL_SPAN_LINK_COUNT_LIMIT": "1"}, lambda span: [link.span_id for link in span.links], [f"{2:016x}"]),
    ({"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1"}, lambda span: dict(span.events[0].attributes), {"b": 2}),
    ({"OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "1"}, lambda span: dict(span.links[0].attributes), {"b": 2}),
]


@pytest.mark.parametrize(
    ("environ", "look", "expected"), LIMITS, ids=[str(environ) for environ, _, _ in LIMITS]
)
def test_a_span_keeps_to_the_limits(
    environ: dict[str, str],
    look: Callable[[Any], object],
    expected: object,
    start: Start,
    receiver: OtlpReceiver,
) -> None:
    telemetry = start(environ=environ)
    with telemetry.for_plugin("sink", "1.0.0", "running").create_span("step", {"long": "a" * 10}):
        span = trace.get_current_span()
        for number in (1, 2):
            span.add_event("first" if number == 1 else "second", {"a": 1, "b": 2})
            span.add_link(SpanContext(1, number, is_remote=True), {"a": 1, "b": 2})
        span.set_attributes({"more": 1, "and more": 2, "long": "a" * 10})
    assert telemetry.flush()
    (found,) = receiver.spans("step")
    assert look(found) == expected


@since_1_45
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "2"}, 2),
        ({"OTEL_ATTRIBUTE_COUNT_LIMIT": "2"}, 2),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Log record attributes were dropped")
def test_a_log_record_keeps_to_the_limits(
    environ: dict[str, str], expected: int, start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(environ=environ)
    report(telemetry)
    assert telemetry.flush()
    (record,) = receiver.logs()
    assert len(record.attributes) == expected


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative", ("histogram", "cumulative")),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA", ("histogram", "delta")),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "LowMemory", ("histogram", "delta")),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "base2_exponential_bucket_histogram",
            ("exponential_histogram", "cumulative"),
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "explicit_bucket_histogram",
            ("histogram", "cumulative"),
        ),
    ],
)
def test_metrics_are_aggregated_as_told(
    variable: str, value: str, expected: tuple[str, str], start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(environ={variable: value})
    telemetry.for_plugin("sink", "1.0.0", "running").record_histogram("size", 3)
    assert telemetry.flush()
    (point,) = receiver.metrics("size")
    assert (point.kind, point.temporality) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    # of a measurement in a sampled span, in one that is not, in none
    [("always_on", (1, 1, 1)), ("always_off", (0, 0, 0)), ("trace_based", (1, 0, 0)), ("", (1, 0, 0))],
)
def test_exemplars_are_kept_as_told(
    value: str, expected: tuple[int, ...], start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(environ={"OTEL_METRICS_EXEMPLAR_FILTER": value} if value else {})
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    for name, flags in (("sampled", "01"), ("not sampled", "00")):
        with plugin.messages.process(name, Message(name, trace_context={"traceparent": PARENT + flags})):
            plugin.record_histogram(name.replace(" ", "."), 1)
    plugin.record_histogram("outside", 1)
    assert telemetry.flush()
    points = [receiver.metrics(name)[0] for name in ("sampled", "not.sampled", "outside")]
    assert tuple(len(point.exemplars) for point in points) == expected


PROPAGATING = """
import os
import time
from types import SimpleNamespace
from common_telemetry import TelemetryConfig, TelemetryContext
telemetry = TelemetryContext.from_config(TelemetryConfig(engine=os.environ["ENGINE"]))
plugin = telemetry.for_plugin("sink", "1.0.0", "running")
incoming = {"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "baggage": "user=ada"}
about = {"id": "m1", "root_id": "m1", "parent_ids": (), "timestamp": time.time_ns()}
with plugin.messages.process("t", SimpleNamespace(**about, trace_context=incoming)) as scope:
    continued = scope.trace_id_hex == "ab" * 16
    with plugin.messages.publish("u", "m2", "m1") as scope:
        print(continued, sorted(scope.carrier()))
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "True ['baggage', 'traceparent']"),
        ("tracecontext", "True ['traceparent']"),
        ("baggage", "False ['baggage']"),
        ("none", "False []"),
    ],
)
def test_what_travels_with_messages_is_as_told(value: str, expected: str, engine: Engine) -> None:
    # Read when OpenTelemetry is imported, so in a process of its own.
    ended = run_alone(PROPAGATING, ENGINE=engine, **({"OTEL_PROPAGATORS": value} if value else {}))
    assert (ended.stdout.strip(), ended.stderr) == (expected, "")
