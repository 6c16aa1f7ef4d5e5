"""What attributes take of the memory, where it is so much that counting spans and records is not enough."""

from collections.abc import Mapping
from typing import Any, Final

HEAVY: Final = 8 * 1024
"""Bytes from which on a span or log record is counted by weight too."""
MOST: Final = 64 * 1024 * 1024
"""Bytes that all heavy ones together may take while they wait for one exporter."""
_LIGHT: Final = frozenset({int, float, bool, type(None)})


def weight_of(value: Any) -> int:
    """About how many bytes a value that telemetry keeps takes: texts and bytes, also within others."""
    kind = value.__class__
    if kind in _LIGHT:
        return 0
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, tuple | list):
        return 8 * len(value) + sum(map(weight_of, value))
    return weight_of_all(value) if isinstance(value, Mapping) else 0


def weight_of_all(pairs: Mapping[str, Any] | None) -> int:
    """The same for all values of a mapping."""
    if not pairs:
        return 0
    found = 0
    for value in pairs.values():  # for every span and record: so no call for what most values are
        if value.__class__ is str:
            found += len(value)
        elif value.__class__ not in _LIGHT:
            found += weight_of(value)
    return found
