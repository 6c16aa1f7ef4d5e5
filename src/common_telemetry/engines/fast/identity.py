"""Who a span is: ids in the bytes OTLP has them in, and a SpanContext only once somebody asks for it."""

from typing import ClassVar, Final, Protocol, Self

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from common_telemetry.engines.fast.primitives import traceparent_of

SAMPLED: Final = 0x01
RANDOM: Final = 0x02  # the trace id is random: https://www.w3.org/TR/trace-context-2/#random-trace-id-flag
_FLAGS: Final = tuple(TraceFlags(flags) for flags in range(256))


class Identity(Protocol):
    """What a span has to be known by to be the parent of another."""

    @property
    def trace_id(self) -> bytes:
        """Sixteen bytes."""

    @property
    def span_id(self) -> bytes:
        """Eight bytes."""

    @property
    def flags(self) -> int:
        """W3C trace flags."""

    @property
    def trace_state(self) -> TraceState | None:
        """None where there is none."""

    @property
    def is_remote(self) -> bool:
        """Whether it came in headers."""


def span_context_of(span: Identity) -> SpanContext:
    """The same in the API's form."""
    return SpanContext(
        int.from_bytes(span.trace_id, "big"),
        int.from_bytes(span.span_id, "big"),
        is_remote=span.is_remote,
        trace_flags=_FLAGS[span.flags],
        trace_state=span.trace_state,
    )


class SpanIdentity:
    """What every span of this engine is, recorded or not. `trace_state` is None where there is none."""

    __slots__ = ("_known", "flags", "span_id", "trace_id", "trace_state")

    is_remote: ClassVar[bool] = False
    # Set by the constructors of the subclasses, each by itself: calling one here would cost as much again.
    trace_id: bytes
    span_id: bytes
    flags: int
    trace_state: TraceState | None
    _known: SpanContext | None

    def get_span_context(self) -> SpanContext:
        """Part of opentelemetry.trace.Span."""
        if self._known is None:
            self._known = span_context_of(self)
        return self._known

    def __repr__(self) -> str:
        return f"{type(self).__name__}({traceparent_of(self.trace_id, self.span_id, self.flags)})"


class ForeignIdentity(SpanIdentity):
    """A span that is not of this engine: from another process, or made by somebody else in this one."""

    __slots__ = ("is_remote",)

    def __init__(
        self, trace_id: bytes, span_id: bytes, flags: int, trace_state: TraceState | None, is_remote: bool
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.trace_state = trace_state
        self.is_remote = is_remote  # type: ignore[misc] # a constant only for spans of ours
        self._known = None

    @classmethod
    def of(cls, context: SpanContext) -> Self:
        """The same span in the form of this engine."""
        return cls(
            context.trace_id.to_bytes(16, "big"),
            context.span_id.to_bytes(8, "big"),
            context.trace_flags & 0xFF,
            context.trace_state or None,
            context.is_remote,
        )
