"""Data points and metrics in the protobuf wire format.

Source of the field numbers: opentelemetry-proto, metrics.proto. A test compares what is written with what
OpenTelemetry's own exporter writes.
"""

import math
from collections.abc import Iterable, Sequence
from struct import pack
from typing import Final

from common_telemetry.engines.fast.exemplars import Exemplar
from common_telemetry.engines.fast.wire import (
    DELIMITED,
    FIXED64,
    INT64_MAX,
    INT64_MIN,
    ITEM,
    VARINT,
    attributes,
    delimited,
    double,
    fixed64,
    tag,
    text,
    varint,
)

DELTA: Final = 1
CUMULATIVE: Final = 2

# NumberDataPoint
NUMBER_ATTRIBUTES: Final = tag(7, DELIMITED)
_NUMBER_START: Final = tag(2, FIXED64)
_NUMBER_TIME: Final = tag(3, FIXED64)
_NUMBER_DOUBLE: Final = tag(4, FIXED64)
_NUMBER_EXEMPLAR: Final = tag(5, DELIMITED)
_NUMBER_INT: Final = tag(6, FIXED64)

# HistogramDataPoint
HISTOGRAM_ATTRIBUTES: Final = tag(9, DELIMITED)
_HISTOGRAM_START: Final = tag(2, FIXED64)
_HISTOGRAM_TIME: Final = tag(3, FIXED64)
_HISTOGRAM_COUNT: Final = tag(4, FIXED64)
_HISTOGRAM_SUM: Final = tag(5, FIXED64)
_HISTOGRAM_COUNTS: Final = tag(6, DELIMITED)
_HISTOGRAM_BOUNDS: Final = tag(7, DELIMITED)
_HISTOGRAM_EXEMPLAR: Final = tag(8, DELIMITED)
_HISTOGRAM_MIN: Final = tag(11, FIXED64)
_HISTOGRAM_MAX: Final = tag(12, FIXED64)

# ExponentialHistogramDataPoint
EXPONENTIAL_ATTRIBUTES: Final = tag(1, DELIMITED)
_EXPONENTIAL_START: Final = tag(2, FIXED64)
_EXPONENTIAL_TIME: Final = tag(3, FIXED64)
_EXPONENTIAL_COUNT: Final = tag(4, FIXED64)
_EXPONENTIAL_SUM: Final = tag(5, FIXED64)
_EXPONENTIAL_SCALE: Final = tag(6, VARINT)
_EXPONENTIAL_ZEROS: Final = tag(7, FIXED64)
_EXPONENTIAL_POSITIVE: Final = tag(8, DELIMITED)
_EXPONENTIAL_NEGATIVE: Final = tag(9, DELIMITED)
_EXPONENTIAL_EXEMPLAR: Final = tag(11, DELIMITED)
_EXPONENTIAL_MIN: Final = tag(12, FIXED64)
_EXPONENTIAL_MAX: Final = tag(13, FIXED64)
_BUCKETS_OFFSET: Final = tag(1, VARINT)
_BUCKETS_COUNTS: Final = tag(2, DELIMITED)

# Exemplar
_EXEMPLAR_TIME: Final = tag(2, FIXED64)
_EXEMPLAR_DOUBLE: Final = tag(3, FIXED64)
_EXEMPLAR_SPAN: Final = tag(4, DELIMITED)
_EXEMPLAR_TRACE: Final = tag(5, DELIMITED)
_EXEMPLAR_INT: Final = tag(6, FIXED64)
_EXEMPLAR_ATTRIBUTES: Final = tag(7, DELIMITED)

# Metric, and Sum, Gauge, Histogram and ExponentialHistogram, which are alike
_NAME: Final = tag(1, DELIMITED)
_DESCRIPTION: Final = tag(2, DELIMITED)
_UNIT: Final = tag(3, DELIMITED)
GAUGE: Final = tag(5, DELIMITED)
SUM: Final = tag(7, DELIMITED)
HISTOGRAM: Final = tag(9, DELIMITED)
EXPONENTIAL: Final = tag(10, DELIMITED)
_POINT: Final = tag(1, DELIMITED)
_TEMPORALITY: Final = tag(2, VARINT)
_MONOTONIC: Final = tag(3, VARINT) + b"\x01"


def header(name: str, description: str, unit: str) -> bytes:
    """What stands in a Metric before its data; the same in every export."""
    return text(_NAME, name) + text(_DESCRIPTION, description) + text(_UNIT, unit)


def metric(
    header: bytes, data: bytes, points: Iterable[bytes], temporality: int | None, *, monotonic: bool
) -> bytes:
    """A Metric as a part of a request; `data` is one of GAUGE, SUM, HISTOGRAM, EXPONENTIAL."""
    body = [delimited(_POINT, point) for point in points]
    if temporality is not None:
        body.append(_TEMPORALITY + varint(temporality))
    if monotonic:
        body.append(_MONOTONIC)
    return delimited(ITEM, header + delimited(data, b"".join(body)))


def number_point(
    attributes: bytes, start_ns: int | None, now_ns: int, value: float, exemplars: Sequence[Exemplar]
) -> bytes:
    """A NumberDataPoint; a gauge has no start."""
    start = b"" if start_ns is None else _NUMBER_START + fixed64(start_ns)
    number = _number(_NUMBER_INT, _NUMBER_DOUBLE, value)
    examples = _exemplars(_NUMBER_EXEMPLAR, exemplars)
    return b"".join((attributes, start, _NUMBER_TIME, fixed64(now_ns), number, examples))


def histogram_point(
    attributes: bytes,
    start_ns: int,
    now_ns: int,
    counts: Sequence[int],
    total: float,
    low: float,
    high: float,
    bounds: bytes,
    exemplars: Sequence[Exemplar],
) -> bytes:
    """A HistogramDataPoint; `bounds` by `explicit_bounds`."""
    return b"".join(
        (
            attributes,
            *(_HISTOGRAM_START, fixed64(start_ns), _HISTOGRAM_TIME, fixed64(now_ns)),
            *(_HISTOGRAM_COUNT, fixed64(sum(counts)), _HISTOGRAM_SUM, _double(total)),
            delimited(_HISTOGRAM_COUNTS, pack(f"<{len(counts)}Q", *counts)),
            bounds,
            _exemplars(_HISTOGRAM_EXEMPLAR, exemplars),
            *(_HISTOGRAM_MIN, _double(low), _HISTOGRAM_MAX, _double(high)),
        )
    )


def explicit_bounds(bounds: Sequence[float]) -> bytes:
    """The bounds of a histogram's buckets, which stay the same."""
    return delimited(_HISTOGRAM_BOUNDS, pack(f"<{len(bounds)}d", *bounds))


def exponential_point(
    attributes: bytes,
    start_ns: int,
    now_ns: int,
    count: int,
    total: float,
    low: float,
    high: float,
    scale: int,
    zero_count: int,
    offset: int,
    counts: Sequence[int],
    exemplars: Sequence[Exemplar],
) -> bytes:
    """An ExponentialHistogramDataPoint, without negative values, which no histogram takes."""
    return b"".join(
        (
            attributes,
            *(_EXPONENTIAL_START, fixed64(start_ns), _EXPONENTIAL_TIME, fixed64(now_ns)),
            *(_EXPONENTIAL_COUNT, fixed64(count), _EXPONENTIAL_SUM, _double(total)),
            *(_EXPONENTIAL_SCALE, _signed(scale), _EXPONENTIAL_ZEROS, fixed64(zero_count)),
            delimited(_EXPONENTIAL_POSITIVE, _buckets(offset, counts)),
            delimited(_EXPONENTIAL_NEGATIVE, _buckets(0, (0,))),
            _exemplars(_EXPONENTIAL_EXEMPLAR, exemplars),
            *(_EXPONENTIAL_MIN, _double(low), _EXPONENTIAL_MAX, _double(high)),
        )
    )


def _buckets(offset: int, counts: Sequence[int]) -> bytes:
    packed = b"".join([varint(count) for count in counts])
    return _BUCKETS_OFFSET + _signed(offset) + delimited(_BUCKETS_COUNTS, packed)


def _signed(number: int) -> bytes:
    """A sint32: zigzag, so that small negative numbers stay short."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def _exemplars(tag: bytes, kept: Sequence[Exemplar]) -> bytes:
    return b"".join([delimited(tag, _exemplar(exemplar)) for exemplar in kept]) if kept else b""


def _exemplar(exemplar: Exemplar) -> bytes:
    value, (time_ns, trace_id, span_id, left_out) = exemplar
    body = _EXEMPLAR_TIME + fixed64(time_ns) + _number(_EXEMPLAR_INT, _EXEMPLAR_DOUBLE, value)
    if trace_id is not None and span_id is not None:
        body += delimited(_EXEMPLAR_SPAN, span_id) + delimited(_EXEMPLAR_TRACE, trace_id)
    return body + attributes(_EXEMPLAR_ATTRIBUTES, left_out) if left_out else body


def _number(tag_of_int: bytes, tag_of_double: bytes, value: float) -> bytes:
    if isinstance(value, int) and INT64_MIN <= value <= INT64_MAX:
        return tag_of_int + pack("<q", value)
    return tag_of_double + _double(value)


def _double(value: float) -> bytes:
    try:
        return double(float(value))
    except OverflowError:  # a sum of ints, which know no bounds: as large as a sum of floats would be
        return double(math.inf if value > 0 else -math.inf)
