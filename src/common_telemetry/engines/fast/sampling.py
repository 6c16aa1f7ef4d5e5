"""Which spans are recorded: as the SDK's sampler says, asked only where its answer is not known already."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

ByTraceId = Callable[[bytes], bool]
# What ParentBased asks for a span with a parent. The SDK has no public way to see it; where a version of it
# has other names, the sampler is simply asked.
_DELEGATES: Final = {
    "_remote_parent_sampled": ALWAYS_ON,
    "_remote_parent_not_sampled": ALWAYS_OFF,
    "_local_parent_sampled": ALWAYS_ON,
    "_local_parent_not_sampled": ALWAYS_OFF,
}


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The answers of a sampler that looks at nothing but the parent and the trace id, and changes nothing.

    `follows_parent`: a span with a parent is sampled if the parent is. `of_trace` decides on all others.
    """

    follows_parent: bool
    of_trace: ByTraceId

    @property
    def always(self) -> bool:
        """Whether each new trace is sampled."""
        return self.of_trace is _every

    @classmethod
    def of(cls, sampler: Sampler) -> Self | None:
        """The shortcut for `sampler`; None if it has to be asked, with everything, for every span."""
        follows_parent = type(sampler) in (ParentBased, ParentBasedTraceIdRatio)
        if follows_parent and any(
            getattr(sampler, name, None) is not one for name, one in _DELEGATES.items()
        ):
            return None
        of_trace = _of_trace(getattr(sampler, "_root", None) if follows_parent else sampler)
        return None if of_trace is None else cls(follows_parent, of_trace)


def _of_trace(sampler: object) -> ByTraceId | None:
    if sampler is ALWAYS_ON:
        return _every
    if sampler is ALWAYS_OFF:
        return lambda trace_id: False
    if type(sampler) is TraceIdRatioBased:  # exactly: a class derived from it may decide by anything
        bound = sampler.bound
        return lambda trace_id: int.from_bytes(trace_id[8:], "big") < bound
    return None


def _every(trace_id: bytes) -> bool:
    return True
