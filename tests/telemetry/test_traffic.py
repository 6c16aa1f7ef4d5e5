"""Random traffic through a whole telemetry context, sent to a receiver: both engines send the same.

`python -m pytest tests/telemetry/test_traffic.py --hypothesis-seed=...` repeats a run; TRAFFIC_EXAMPLES says
how many kinds of traffic are tried (60 if nothing does).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any, Final

import pytest
from google.protobuf.message import Message as ProtoMessage
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver
from common_telemetry.testing.store import Request
from telemetry.pipeline import ManualClock
from telemetry.sdk import since_1_45
from telemetry.traffic import Traffic, quiet

_ORDER: Final = [ExportTraceServiceRequest, ExportLogsServiceRequest, ExportMetricsServiceRequest]
# One request a signal and flush, so that what arrives does not depend on how the machine is doing.
ALL_AT_ONCE: Final = {
    f"OTEL_{queue}_{variable}": value
    for queue in ("BSP", "BLRP")
    for variable, value in (
        ("SCHEDULE_DELAY", "3600000"),
        ("MAX_QUEUE_SIZE", "60000"),
        ("MAX_EXPORT_BATCH_SIZE", "60000"),
    )
} | {"OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
SETTINGS: Final = {
    "semconv": ("both", "both", "echo", "otel"),
    "links": ("always", "always", "needed"),
    "message_id_on_metrics": ("exemplar", "exemplar", "off"),
    "service_per_plugin": (False, False, False, True),
    "redact": ((), (), ("password", "a.*"), ("message.id",)),
}
VARIABLES: Final = {
    "OTEL_TRACES_SAMPLER": (
        *("always_on", "always_off", "traceidratio", "parentbased_traceidratio"),
        *("parentbased_always_on", "parentbased_always_off"),
    ),
    "OTEL_TRACES_SAMPLER_ARG": ("0", "1", "1"),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("0", "3", "63", "64", "200"),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("1", "100"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("0", "2", "1000"),
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("1", "500"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("0", "1", "64"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("0", "1", "64"),
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": ("0", "1"),
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": ("0", "1"),
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": ("1", "5"),
    "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("1", "50"),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("always_on", "always_off", "trace_based"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("cumulative", "delta", "lowmemory"),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
        "explicit_bucket_histogram",
        "base2_exponential_bucket_histogram",
    ),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("gzip",),
    "OTEL_RESOURCE_ATTRIBUTES": ("service.name=shop,deployment.environment=test,password=s3", "k=%20v"),
    "OTEL_SERVICE_NAME": ("till",),
}


class Keeping(OtlpReceiver):
    """Keeps the requests as they came."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Request] = []

    def add(self, request: Request) -> None:
        self.kept.append(request)


@pytest.fixture(scope="module")
def keeping() -> Iterator[Keeping]:
    with Keeping() as receiver:
        yield receiver


def chosen(random: Random, choices: dict[str, Any], share: float) -> dict[str, Any]:
    return {name: random.choice(values) for name, values in choices.items() if random.random() < share}


class Arrived:
    """What one engine made of one seed, in a form that can be compared; as text, in which a NaN is a NaN."""

    def __init__(self, engine: Engine, seed: int, receiver: Keeping) -> None:
        random = Random(seed)
        config = TelemetryConfig(engine=engine, **chosen(random, SETTINGS, 0.5))
        environ = {
            **receiver.environ(random.choice(("http/protobuf", "http/protobuf", "grpc"))),
            **chosen(random, VARIABLES, random.choice((0, 0, 0.1, 0.3))),
            **ALL_AT_ONCE,
        }
        clock = ManualClock()
        telemetry = TelemetryContext.from_config(config, environ=environ, clock=clock)
        providers: Any = telemetry._providers
        traffic = Traffic(telemetry, providers.tracer, providers.meter, clock, seed)
        rounds = []
        try:
            for _ in range(2):
                receiver.kept = []
                traffic.run(12)
                assert telemetry.flush(20), telemetry.health()
                rounds.append(receiver.kept)
        finally:
            telemetry.shutdown(5)
        self.did = traffic.did
        self.health = _health(telemetry)
        self._numbers: dict[str, str] = {}
        self.carriers = [self._headers(carrier) for carrier in traffic.carriers]
        self.sent = [self._lines(requests) for requests in rounds]

    def _number(self, identifier: str) -> str:
        """Ids are random: the first that is seen is 1, the second 2."""
        return self._numbers.setdefault(identifier, f"id {len(self._numbers)}") if identifier else ""

    def _known(self, identifier: str) -> str:
        """Metrics come in no order, so that what is seen first there says nothing."""
        return self._numbers.get(identifier, "of a span that is not there")

    def _headers(self, carrier: Any) -> list[str]:
        found = dict(carrier)
        version, trace_id, span_id, flags = found.pop("traceparent").split("-")
        ids = (self._number(trace_id), self._number(span_id))
        return [version, *ids, flags, *(f"{key}: {value}" for key, value in sorted(found.items()))]

    def _lines(self, requests: list[Request]) -> list[str]:
        lines: list[str] = []
        measured: list[str] = []
        for request in sorted(requests, key=_signal):
            if isinstance(request, ExportMetricsServiceRequest):
                measured += self._metrics(request)
            else:
                self._walk(request, lines, "")
        return lines + sorted(measured)

    def _metrics(self, request: ExportMetricsServiceRequest) -> Iterator[str]:
        for group in request.resource_metrics:
            for part in group.scope_metrics:
                for metric in part.metrics:
                    data = getattr(metric, metric.WhichOneof("data") or "sum")
                    points = sorted(data.data_points, key=lambda point: _as_text(point.attributes))
                    del data.data_points[:]
                    for point in points:
                        if not point.DESCRIPTOR.name.startswith("Histogram"):
                            del point.exemplars[:]  # which they are, and whether there are any, is by chance
                        for exemplar in point.exemplars:
                            exemplar.filtered_attributes.sort(key=str)
                        lines: list[str] = []
                        for about in (group.resource, part.scope, metric, point):
                            self._walk(about, lines, "", number=self._known)
                        yield " ".join(lines)

    def _walk(
        self,
        message: ProtoMessage,
        lines: list[str],
        indent: str,
        *,
        number: Callable[[str], str] | None = None,
    ) -> None:
        number = number or self._number
        if isinstance(message, KeyValue):
            lines.append(f"{indent}{message.key} = {_value(message)}")
            return
        for field, value in message.ListFields():
            for one in _each(value):
                if isinstance(one, ProtoMessage):
                    lines.append(f"{indent}{field.name}:")
                    self._walk(one, lines, f"{indent}  ", number=number)
                elif field.name.endswith("_id"):
                    lines.append(f"{indent}{field.name}: {number(one.hex())}")
                elif not field.name.endswith("_unix_nano"):
                    lines.append(f"{indent}{field.name}: {one!r}")


def _each(value: Any) -> Iterable[Any]:
    return [value] if isinstance(value, ProtoMessage | str | bytes | int | float) else value


def _as_text(pairs: Iterable[KeyValue]) -> str:
    return " ".join(sorted(str(pair) for pair in pairs))


def _value(pair: KeyValue) -> str:
    if pair.key in ("service.instance.id", "exception.stacktrace"):
        return "..."
    return str(pair.value).replace("\n", " ")


def _signal(request: Request) -> int:
    # They are sent side by side, in any order.
    return _ORDER.index(type(request))


def _health(telemetry: TelemetryContext) -> dict[str, Any]:
    health = telemetry.health()
    # What OTLP has no form for is told by the fast engine here, by the SDK's exporter in a log line.
    faults = {reason: count for reason, count in health.faults.items() if reason != "attribute"}
    counts = {
        signal: (getattr(health, signal).exported, getattr(health, signal).failed)
        for signal in ("traces", "metrics", "logs")
    }
    return {**faults, **counts}


@since_1_45
@settings(max_examples=int(os.environ.get("TRAFFIC_EXAMPLES", "60")))
@given(st.integers(0, 2**40))
def test_the_same_traffic_arrives_the_same_by_both_engines(keeping: Keeping, seed: int) -> None:
    with quiet():
        official, fast = (Arrived(engine, seed, keeping) for engine in ("official", "fast"))
    assert fast.did == official.did
    assert fast.carriers == official.carriers
    assert fast.health == official.health
    assert fast.sent == official.sent
