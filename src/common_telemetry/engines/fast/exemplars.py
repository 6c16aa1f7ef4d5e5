"""Measurements kept beside the aggregate, each with its span and the attributes its series does not have."""

import math
from collections.abc import Mapping
from random import Random
from time import time_ns
from typing import Any, Final, Literal

from opentelemetry.context import Context, get_current
from opentelemetry.trace import INVALID_SPAN, Span

from common_telemetry.engines.fast.current_span import SPAN_KEY, identity_in
from common_telemetry.engines.fast.identity import SAMPLED

ExemplarFilter = Literal["trace_based", "always_on", "always_off"]
EXEMPLAR_FILTERS: Final[tuple[ExemplarFilter, ...]] = ("trace_based", "always_on", "always_off")

Sample = tuple[int, bytes | None, bytes | None, Mapping[str, Any] | None]
"""When, in which trace and span, and the attributes that are not on the series.

Bare tuples, because one is made for every measurement in a sampled span.
"""
Exemplar = tuple[float, Sample]

_random: Final = Random()  # noqa: S311 - chooses examples, keeps no secret


def sample(
    mode: ExemplarFilter, context: Context | None, left_out: Mapping[str, Any] | None
) -> Sample | None:
    """What makes a measurement in `context`, or in the current one, an exemplar; None if it may not be one.

    The three modes are those of the OpenTelemetry specification (metrics SDK, "ExemplarFilter").
    """
    if mode == "always_off":
        return None
    # As in the SDK, an empty context is as good as none.
    context = context or get_current()
    ours = identity_in(context)
    if ours is not None:  # nothing has to be made only to be taken apart again
        if mode == "trace_based" and not ours.flags & SAMPLED:
            return None
        return time_ns(), ours.trace_id, ours.span_id, left_out
    span = context.get(SPAN_KEY)
    if not isinstance(span, Span) or span is INVALID_SPAN:
        return None if mode == "trace_based" else (time_ns(), None, None, left_out)
    found = span.get_span_context()
    if mode == "trace_based" and not found.trace_flags & SAMPLED:
        return None
    return time_ns(), found.trace_id.to_bytes(16, "big"), found.span_id.to_bytes(8, "big"), left_out


class Reservoir:
    """`size` exemplars, chosen so that every measurement offered is kept with the same probability.

    Draws how many to pass over instead of drawing for each one (Li, "Reservoir-Sampling Algorithms of Time
    Complexity O(n(1+log(N/n)))", algorithm L), so that most offers cost a comparison.
    """

    __slots__ = ("_kept", "_next", "_seen", "_size", "_weight")

    _kept: list[Exemplar]
    _next: int
    _seen: int

    def __init__(self, size: int) -> None:
        self._size = size
        self._clear()

    def offer(self, value: float, sample: Sample) -> None:
        """Keep this one, or not."""
        self._seen = seen = self._seen + 1
        if seen <= self._size:
            self._kept.append((value, sample))
            if seen == self._size:
                self._skip()
        elif seen == self._next:
            self._kept[int(_random.random() * self._size)] = (value, sample)
            self._skip()

    def take(self) -> list[Exemplar]:
        """Those kept, and begin anew."""
        kept = self._kept
        self._clear()
        return kept

    def _clear(self) -> None:
        self._kept = []
        self._seen = 0
        self._next = 0
        self._weight = 1.0

    def _skip(self) -> None:
        # 1 - random() is never 0, which has no logarithm.
        self._weight *= math.exp(math.log(1 - _random.random()) / self._size)
        passed_over = math.log(1 - _random.random()) / math.log1p(-self._weight) if self._weight < 1 else 0
        self._next = self._seen + int(passed_over) + 1
