"""What is written twice: here in Python, and in `primitives.pyx` for who has it compiled.

So are `pile` and `layout`; everything else in this package has one source. These few are here because in C
they take a tenth of the time, and not a part of it as the rest does. They hold no knowledge of telemetry that
is not in their arguments, and the same tests go through both.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import reduce
from operator import add
from random import Random
from typing import Any, Final

from common_telemetry.engine import Clock

_SUFFIX: Final = tuple(f"-{flags:02x}" for flags in range(256))

# Not the generator of the `random` module: a handler that seeds that one would make ids come twice.
_random: Final = Random()  # noqa: S311 - ids must differ, not be secret
_bits: Final = _random.getrandbits
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)  # else parent and child would make the same ids


def new_trace_id() -> bytes:
    """Sixteen random bytes, never all zero."""
    return (_bits(128) or 1).to_bytes(16, "big")


def new_span_id() -> bytes:
    """Eight random bytes, never all zero."""
    return (_bits(64) or 1).to_bytes(8, "big")


def traceparent_of(trace_id: bytes, span_id: bytes, flags: int) -> str:
    """The W3C header (https://www.w3.org/TR/trace-context-2/)."""
    return f"00-{trace_id.hex()}-{span_id.hex()}{_SUFFIX[flags]}"


class Stamps:
    """The times and ids that spans are stamped with."""

    __slots__ = ("perf_counter_ns", "span_id", "time_ns", "traceparent")

    def __init__(self, clock: Clock) -> None:
        self.time_ns = clock.time_ns
        self.perf_counter_ns = clock.perf_counter_ns
        self.span_id = new_span_id
        self.traceparent = traceparent_of


class ContextSlot:
    """A place in the context of the task or thread: `get`, `set` and `reset`, as of a ContextVar."""

    __slots__ = ("get", "reset", "set")

    def __init__(self, variable: Any) -> None:
        """`variable` is a ContextVar, or anything else that has the three."""
        self.get = variable.get
        self.set = variable.set
        self.reset = variable.reset


def count_run(
    bounds: Sequence[float],
    counts: list[int],
    values: Sequence[float],
    total: float,
    low: float,
    high: float,
) -> tuple[float, float, float, dict[int, int]]:
    """Count many values into the buckets between `bounds`.

    Returns how sum, smallest and largest have grown, and of each bucket with something new the index of the
    last value in it. Each value is added to the sum of those before it: floating point numbers know the
    difference.
    """
    ordered = sorted(values)
    filled: set[int] = set()
    at = 0
    while at < len(ordered):
        bucket = bisect_left(bounds, ordered[at])
        upto = bisect_right(ordered, bounds[bucket], at) if bucket < len(bounds) else len(ordered)
        counts[bucket] += upto - at
        filled.add(bucket)
        at = upto
    last: dict[int, int] = {}
    for at in range(len(values) - 1, -1, -1):
        bucket = bisect_left(bounds, values[at])
        if bucket not in last:
            last[bucket] = at
            if len(last) == len(filled):
                break
    return reduce(add, values, total), min(low, ordered[0]), max(high, ordered[-1]), last
