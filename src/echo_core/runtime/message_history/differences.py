"""How what one message says differs from what another does."""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

MOST: Final = 100
"""Differences that are told; somebody who replaces everything says it with fewer."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One place where two values differ."""

    path: str
    """Keys joined by dots, places in a list in brackets; empty: the whole."""
    kind: str
    """added, removed or changed."""
    before: Any = None
    after: Any = None


def differences(before: Any, after: Any) -> list[Difference]:
    """The places, in order, where JSON-like values differ: at most `MOST`."""
    found: list[Difference] = []
    for difference in _walk("", before, after):
        if len(found) == MOST:
            break
        found.append(difference)
    return found


def _walk(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in dict.fromkeys([*before, *after]):
            place = f"{path}.{key}" if path else str(key)
            if key not in after:
                yield Difference(path=place, kind="removed", before=before[key])
            elif key not in before:
                yield Difference(path=place, kind="added", after=after[key])
            else:
                yield from _walk(place, before[key], after[key])
    elif isinstance(before, list) and isinstance(after, list) and before != after:
        for number in range(max(len(before), len(after))):
            place = f"{path}[{number}]"
            if number >= len(after):
                yield Difference(path=place, kind="removed", before=before[number])
            elif number >= len(before):
                yield Difference(path=place, kind="added", after=after[number])
            else:
                yield from _walk(place, before[number], after[number])
    elif type(before) is not type(after) or before != after:
        yield Difference(path=path, kind="changed", before=before, after=after)
