import gzip
import http.client

from benchmarks.receiver import Counts, Receiver, histogram_counts, span_count
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def request_with(shape: list[list[int]]) -> ExportTraceServiceRequest:
    """A request with so many spans in each scope of each resource, with every kind of field around them."""
    request = ExportTraceServiceRequest()
    for scopes in shape:
        resource = request.resource_spans.add(schema_url="https://example.invalid/1")
        resource.resource.attributes.add(key="service.name").value.string_value = "x" * 200
        for spans in scopes:
            scope = resource.scope_spans.add()
            scope.scope.name = "echo.plugin.x"
            for number in range(spans):
                span = scope.spans.add(
                    name="process x", flags=0x101, kind=5, start_time_unix_nano=1 << 60, trace_id=b"\2" * 16
                )
                span.attributes.add(key="n").value.int_value = number
                span.attributes.add(key="f").value.double_value = 0.5
    return request


@given(st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=3))
def test_counting_without_decoding_finds_what_protobuf_finds(shape: list[list[int]]) -> None:
    body = request_with(shape).SerializeToString()
    assert span_count(body) == sum(sum(scopes) for scopes in shape)


def metrics_body(*counts: int) -> bytes:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add()
    histogram = metrics.metrics.add(name="messaging.process.duration").histogram
    for number, count in enumerate(counts):
        point = histogram.data_points.add(count=count)
        point.attributes.add(key="topic").value.string_value = f"topic {number}"
    return request.SerializeToString()


def test_the_latest_count_of_each_series_is_added_up() -> None:
    counts = Counts()
    counts.add("metrics", metrics_body(1, 2))
    counts.add("metrics", metrics_body(10, 20))
    assert counts.report()["measured"] == {"messaging.process.duration": 30}
    assert len(histogram_counts(metrics_body(1, 2))) == 2


def test_the_receiver_counts_what_is_posted_to_it_until_it_is_reset() -> None:
    body = request_with([[3], [1, 2]]).SerializeToString()
    with Receiver() as receiver:
        for packed, headers in ((body, {}), (gzip.compress(body), {"content-encoding": "gzip"})):
            connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)
            connection.request("POST", "/v1/traces", packed, headers)
            assert connection.getresponse().status == 200
            connection.close()
        assert receiver.report()["spans"] == 12
        assert receiver.report()["requests"]["traces"] == 2
        receiver.reset()
        assert receiver.report()["spans"] == 0
