"""Attributes, events and links within their limits, by the same rules as OpenTelemetry's SDK.

An attribute set again moves to the end; beyond the limit the oldest goes, and is counted. A value of a kind
that attributes cannot have becomes its text. A test compares every rule with the SDK's `BoundedAttributes`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

# Values that cannot change later and need no look inside. Exactly these classes: a subclass may do anything.
PLAIN: Final = frozenset({str, bool, int, float})
_TEXT: Final = frozenset({str})


_T = TypeVar("_T")


class Event(NamedTuple):
    """Something that happened at one moment of a span."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]
    dropped_attributes: int


class Link(NamedTuple):
    """A reference to another span."""

    trace_id: bytes
    span_id: bytes
    is_remote: bool
    attributes: Mapping[str, Any]
    dropped_attributes: int


def put(found: dict[str, Any], key: Any, value: Any, most: int | None, longest: int | None) -> int:
    """Set one attribute in `found`, which holds `most` at most; how many got lost by it: 0 or 1.

    Texts are cut to `longest` characters. A value that raises when it is looked into is lost as well.
    """
    if most == 0 or not isinstance(key, str) or not key:
        return 1
    if longest is not None or value.__class__ not in PLAIN:
        try:
            value = clean(value, longest)
        except Exception:  # noqa: BLE001 - it may be of a class of the plugin's, and nested without end
            return 1
    lost = 0
    if key in found:
        del found[key]
    elif most is not None and len(found) >= most:
        del found[next(iter(found))]
        lost = 1
    found[key] = value
    return lost


def put_all(found: dict[str, Any], given: Mapping[Any, Any], most: int | None, longest: int | None) -> int:
    """Set many attributes; how many got lost by it. Keys that are no text but have one are taken by it."""
    if most == 0:
        return len(given)
    usable = _usable(given)
    lost = len(given) - len(usable)
    for key, value in usable.items():
        lost += put(found, key, value, most, longest)
    return lost


def bounded(
    given: Mapping[Any, Any] | None, most: int | None, longest: int | None
) -> tuple[dict[str, Any], int]:
    """A copy of `given` that keeps to the limits, and how many attributes that lost."""
    if not given:
        return {}, 0
    if longest is None and (most is None or len(given) <= most) and _is_plain(given):
        return dict(given), 0
    found: dict[str, Any] = {}
    return found, put_all(found, given, most, longest)


def append(found: list[_T], item: _T, most: int | None) -> int:
    """Add one item to `found`, which holds `most` at most; how many got lost by it: 0 or 1."""
    if most is None or len(found) < most:
        found.append(item)
        return 0
    if most:
        del found[0]
        found.append(item)
    return 1


def clean(value: Any, longest: int | None) -> Any:
    """`value` in a form that OTLP has and nobody can change any more; its text where it has none."""
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    if isinstance(value, str):
        return value if longest is None or len(value) <= longest else value[:longest]
    if isinstance(value, Sequence):
        return tuple([clean(part, longest) for part in value])
    if isinstance(value, Mapping):
        return {key: clean(part, longest) for key, part in _usable(value).items()}
    return str(value) if _has_text(value) else None


def _is_plain(given: Mapping[Any, Any]) -> bool:
    # Of sets and maps rather than a loop: this runs for every span.
    return (
        PLAIN.issuperset(map(type, given.values())) and _TEXT.issuperset(map(type, given)) and "" not in given
    )


def _usable(given: Mapping[Any, Any]) -> dict[str, Any]:
    if all(key.__class__ is str and key for key in given):
        return dict(given)
    found = {}
    for key, value in given.items():
        if key and isinstance(key, str):
            found[key] = value
        elif key and _has_text(key):
            found[str(key)] = value
    return found


def _has_text(value: object) -> bool:
    # What only `object` can print is an address, which says nothing and never comes twice.
    kind = type(value)
    return kind.__str__ is not object.__str__ or kind.__repr__ is not object.__repr__
