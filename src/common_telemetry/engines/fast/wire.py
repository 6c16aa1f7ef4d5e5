"""OTLP in the protobuf wire format, written without protobuf: the parts all signals have in common.

Sources: https://protobuf.dev/programming-guides/encoding/ for the format, and opentelemetry-proto for the
numbers of the fields (common.proto, resource.proto, and the Export*ServiceRequest messages, where they are
the same for every signal). What is written is what OpenTelemetry's own exporter writes; a test holds it to
that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from struct import Struct
from typing import Any, Final, TypeVar

_Part = TypeVar("_Part", bound=Sized)
Refused = Callable[[str, Exception], None]
"""Told the key of an attribute that cannot be written, and why: no UTF-8, or a number beyond 64 bits."""

# Wire types: the lower three bits of a tag.
VARINT: Final = 0
FIXED64: Final = 1
DELIMITED: Final = 2
FIXED32: Final = 5

fixed32: Final = Struct("<I").pack
fixed64: Final = Struct("<Q").pack
double: Final = Struct("<d").pack

_BYTE: Final = tuple(bytes((number,)) for number in range(256))
_UINT64: Final = (1 << 64) - 1
INT64_MIN: Final = -(1 << 63)
INT64_MAX: Final = (1 << 63) - 1
# What a value or a name may raise on its way into bytes.
UNWRITABLE: Final = (ValueError, TypeError, OverflowError, RecursionError)


def varint(number: int) -> bytes:
    """A number in as few bytes as it needs; a negative one as its 64 bit two's complement, in ten."""
    if 0 <= number < 128:
        return _BYTE[number]
    number &= _UINT64
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def tag(field: int, wire_type: int) -> bytes:
    """What stands before a field: its number and how it is written."""
    return varint(field << 3 | wire_type)


def delimited(tag: bytes, body: bytes) -> bytes:
    """A field of bytes, text, or an embedded message."""
    return tag + varint(len(body)) + body


def text(tag: bytes, value: object) -> bytes:
    """A text field. Never raises: what is no text is written as its text, what UTF-8 has not as `?`."""
    if not isinstance(value, str):
        try:
            value = "" if value is None else str(value)
        except Exception:  # noqa: BLE001 - the class of it may be anything
            value = f"<a {type(value).__name__} without text>"
    return delimited(tag, value.encode("utf-8", "replace"))


def time(value: object) -> bytes:
    """The value of a time field, Unix nanoseconds. Never raises: what is no time becomes 0."""
    try:
        return fixed64(int(value))  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001 - whoever ends a span or adds an event may give anything for a time
        return fixed64(0)


# AnyValue and KeyValue (common.proto).
_STRING: Final = tag(1, DELIMITED)
_BOOL: Final = {False: tag(2, VARINT) + b"\x00", True: tag(2, VARINT) + b"\x01"}
_INT: Final = tag(3, VARINT)
_DOUBLE: Final = tag(4, FIXED64)
_ARRAY: Final = tag(5, DELIMITED)
_MAPPING: Final = tag(6, DELIMITED)
_BYTES: Final = tag(7, DELIMITED)
_ELEMENT: Final = tag(1, DELIMITED)
_KEY: Final = tag(1, DELIMITED)
_VALUE: Final = tag(2, DELIMITED)

_KEYS_KEPT: Final = 4_096
_keys: dict[str, bytes] = {}


def any_value(value: Any) -> bytes:
    """The body of an AnyValue. Raises one of UNWRITABLE for what OTLP has no form for."""
    if isinstance(value, str):
        return delimited(_STRING, value.encode())
    if isinstance(value, bool):
        return _BOOL[value]
    if isinstance(value, int):
        return _INT + varint(_int64(value))
    if isinstance(value, float):
        return _DOUBLE + double(value)
    if value is None:
        return b""
    if isinstance(value, bytes):
        return delimited(_BYTES, value)
    if isinstance(value, Sequence):
        return delimited(_ARRAY, b"".join([delimited(_ELEMENT, any_value(part)) for part in value]))
    if isinstance(value, Mapping):
        pairs = [delimited(_ELEMENT, key_value(str(key), part)) for key, part in value.items()]
        return delimited(_MAPPING, b"".join(pairs))
    raise TypeError(f"OTLP has no form for a {type(value).__name__}")


def key_value(key: str, value: Any) -> bytes:
    """The body of a KeyValue. Raises as `any_value`."""
    body = any_value(value)
    return (_keys.get(key) or _key(key)) + varint(len(body)) + body


def _key(key: str) -> bytes:
    """A KeyValue up to the length of its value; kept, because the same keys come all the time."""
    found = delimited(_KEY, key.encode()) + _VALUE
    if len(_keys) < _KEYS_KEPT:  # beyond, somebody makes keys out of data
        _keys[key] = found
    return found


def _int64(value: int) -> int:
    # Not `in range(...)`: with an int of another class, as enumerations have, that tries them one by one.
    if not INT64_MIN <= value <= INT64_MAX:
        raise OverflowError(f"{value} does not fit into 64 bits")
    return value


def attributes(tag: bytes, pairs: Mapping[str, Any], refused: Refused | None = None) -> bytes:
    """A repeated KeyValue field. What cannot be written is left out, alone, and told to `refused`."""
    found = []
    for key, value in pairs.items():
        try:
            found.append(delimited(tag, key_value(key, value)))
        except UNWRITABLE as error:
            if refused is not None:
                refused(key, error)
    return b"".join(found)


class Origin:
    """What a batch is grouped by: a resource and an instrumentation scope, in bytes.

    One object for each pair: grouping compares objects, not what they stand for.
    """

    __slots__ = ("resource", "scope")

    def __init__(
        self,
        resource: Mapping[str, Any],
        resource_schema_url: str,
        scope_name: str,
        scope_version: str | None,
        scope_schema_url: str | None = None,
        scope_attributes: Mapping[str, Any] | None = None,
    ) -> None:
        # As parts of ResourceSpans and ScopeSpans, or their equals for the other signals: field 1 is what it
        # belongs to, field 2 repeats the content, field 3 is the schema.
        self.resource = (
            delimited(_FIRST, attributes(_FIRST, resource)),
            text(_THIRD, resource_schema_url) if resource_schema_url else b"",
        )
        scope = text(_FIRST, scope_name) if scope_name else b""
        scope += text(_SECOND, scope_version) if scope_version else b""
        scope += attributes(_THIRD, scope_attributes or {})
        self.scope = (delimited(_FIRST, scope), text(_THIRD, scope_schema_url) if scope_schema_url else b"")


_FIRST: Final = tag(1, DELIMITED)
_SECOND: Final = tag(2, DELIMITED)
_THIRD: Final = tag(3, DELIMITED)
ITEM: Final = _SECOND
"""Stands before each span, metric or log record that goes into `request`: `delimited(ITEM, body)`."""


def request(content: Iterable[tuple[Origin, Iterable[bytes]]]) -> bytes:
    """An ExportTraceServiceRequest, ExportMetricsServiceRequest or ExportLogsServiceRequest.

    `content` has, for each origin, its spans, metrics or log records, as fields with the tag `ITEM`.
    """
    return b"".join(request_parts(content))


def request_parts(content: Iterable[tuple[Origin, Iterable[_Part]]]) -> "list[_Part | bytes]":
    """What `request` joins. Of the parts of its content it needs to know no more than how long they are."""
    by_resource: dict[tuple[bytes, bytes], list[_Part | bytes]] = {}
    for origin, items in content:
        scope, scope_schema = origin.scope
        part: list[_Part | bytes] = [scope, *items, scope_schema]
        by_resource.setdefault(origin.resource, []).extend((_before(_SECOND, part), *part))
    parts: list[_Part | bytes] = []
    for (resource, schema), scopes in by_resource.items():
        part = [resource, *scopes, schema]
        parts += (_before(_FIRST, part), *part)
    return parts  # joined once: copying megabytes costs as much as writing them


def _before(tag: bytes, parts: Iterable[Sized]) -> bytes:
    return tag + varint(sum(map(len, parts)))
