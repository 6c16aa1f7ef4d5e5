"""The protobuf wire format, held to what OpenTelemetry's own encoder makes of the same values."""

import logging
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._internal import _encode_attributes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from common_telemetry.engines.fast import wire
from telemetry.sdk import since_1_45

ATTRIBUTE = wire.tag(9, wire.DELIMITED)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),  # also those that do not fit into 64 bits
    st.sampled_from(HTTPStatus),  # an int of another class
    st.floats(),
    st.text(st.characters()),  # surrogates included
    st.binary(),
)
values = st.recursive(
    scalars,
    lambda parts: st.one_of(st.lists(parts).map(tuple), st.dictionaries(st.text(), parts)),
    max_leaves=10,
)


@pytest.fixture(autouse=True, scope="module")
def quiet_encoder() -> Iterator[None]:
    """OpenTelemetry's encoder logs each value it refuses."""
    logging.getLogger("opentelemetry.exporter.otlp.proto.common").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("opentelemetry.exporter.otlp.proto.common").setLevel(logging.NOTSET)


@since_1_45
@given(st.dictionaries(st.text(st.characters()), values, max_size=5))
def test_attributes_are_those_of_the_official_encoder_and_those_it_refuses_are_refused(
    pairs: dict[str, Any],
) -> None:
    refused: dict[str, Exception] = {}
    span = Span.FromString(wire.attributes(ATTRIBUTE, pairs, refused.__setitem__))
    expected = _encode_attributes(pairs)
    # Compared as bytes, because a NaN is not equal to itself.
    assert [pair.SerializeToString() for pair in span.attributes] == [
        pair.SerializeToString() for pair in expected
    ]
    assert refused.keys() == pairs.keys() - {pair.key for pair in expected}


@given(st.integers(min_value=-(1 << 63), max_value=(1 << 64) - 1))
def test_a_varint_is_that_of_protobuf(number: int) -> None:
    if number < 1 << 63:
        assert AnyValue.FromString(b"\x18" + wire.varint(number)).int_value == number
    else:
        expected = AnyValue(int_value=number - (1 << 64)).SerializeToString()
        assert b"\x18" + wire.varint(number) == expected


def test_text_without_utf8_loses_only_what_has_none() -> None:
    assert Span.FromString(wire.text(wire.tag(5, wire.DELIMITED), "a\ud800b")).name == "a?b"


def test_keys_made_of_data_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_keys", {})
    for number in range(wire._KEYS_KEPT + 100):
        key = f"key {number}"
        assert KeyValue.FromString(wire.key_value(key, 1)).key == key
    assert len(wire._keys) == wire._KEYS_KEPT


def test_a_request_groups_by_resource_then_scope() -> None:
    def item(name: str) -> bytes:
        return wire.delimited(wire.ITEM, wire.text(wire.tag(5, wire.DELIMITED), name))

    here, there = {"service.name": "here"}, {"service.name": "there", "process.pid": 17}
    body = wire.request(
        [
            (wire.Origin(here, "", "a", "1", "", {"k": 1}), [item("one"), item("two")]),
            (wire.Origin(there, "", "a", "1"), [item("three")]),
            (wire.Origin(here, "", "b", None, "https://schema/2"), [item("four")]),
        ]
    )
    first, second = ExportTraceServiceRequest.FromString(body).resource_spans
    assert [pair.value.string_value for pair in first.resource.attributes] == ["here"]
    assert [[span.name for span in part.spans] for part in first.scope_spans] == [["one", "two"], ["four"]]
    assert [(part.scope.name, part.scope.version, part.schema_url) for part in first.scope_spans] == [
        ("a", "1", ""),
        ("b", "", "https://schema/2"),
    ]
    assert first.scope_spans[0].scope.attributes[0].key == "k"
    assert [part.spans[0].name for part in second.scope_spans] == ["three"]
