"""Which span is current in a context, told without making one that nobody has asked for."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, TraceState

from common_telemetry.engines.fast.identity import ForeignIdentity, Identity, SpanIdentity, span_context_of
from common_telemetry.engines.fast.lazy_context import AnyContext, LazyContext

# Where the API keeps the current span in a context; it does not publish the key, so it is asked to use it.
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


class MessageContext(LazyContext):
    """The context while a message is published or processed. It knows who its span is before there is one."""

    __slots__ = ("flags", "span_id", "trace_id", "trace_state")

    is_remote: ClassVar[bool] = False
    # Set by the constructors of the subclasses, each by itself: calling one here would cost as much again.
    trace_id: bytes
    span_id: bytes
    flags: int
    trace_state: TraceState | None

    @abstractmethod
    def span(self) -> Span:
        """The span, made now if it was not before."""

    @abstractmethod
    def others(self) -> Mapping[str, object]:
        """What else is in the context."""

    def content(self) -> Mapping[str, object]:
        return {**self.others(), SPAN_KEY: self.span()}

    @property
    def span_context(self) -> SpanContext:
        """The identity of the span."""
        return span_context_of(self)


def identity_in(context: AnyContext) -> Identity | None:
    """The current span of `context` if it is one of this engine's."""
    if isinstance(context, MessageContext):
        return context
    span = context.get(SPAN_KEY)
    return span if isinstance(span, SpanIdentity) else None


def parent_in(context: AnyContext) -> Identity | None:
    """The current span of `context`, of whatever engine; None if there is none, or none that is valid."""
    found = identity_in(context)
    if found is not None:
        return found
    span = context.get(SPAN_KEY)
    if span is None or not isinstance(span, Span):
        return None
    foreign = span.get_span_context()
    return ForeignIdentity.of(foreign) if foreign.is_valid else None


def with_span(context: AnyContext, span: Span) -> Context:
    """A copy of `context`, in which `span` is current."""
    others = context.others() if isinstance(context, MessageContext) else context
    return Context({**others, SPAN_KEY: span})
