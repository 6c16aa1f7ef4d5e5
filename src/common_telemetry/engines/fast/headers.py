"""The W3C headers of a message, read and written without propagators where those would do no more."""

import re
from collections.abc import Mapping
from typing import Final

from opentelemetry import baggage, propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common_telemetry.engines.fast.identity import ForeignIdentity
from common_telemetry.engines.fast.layout import MessageIds

TRACEPARENT: Final = "traceparent"
# Further headers mean trace state, baggage, or what is not of W3C: all for the propagators to read.
ALONE: Final = 1
# The form every sender of today has. What else the standard allows is rare, and also for the propagators.
_USUAL: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_FLAGS: Final = {f"{flags:02x}": flags for flags in range(256)}
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16

# Where the API keeps baggage in a context; it does not publish the key, so it is asked to use it.
(BAGGAGE_KEY,) = baggage.set_baggage("key", "value", Context())

# Where the API keeps the propagator in force. It is not public; where it is not there, `propagate` is asked.
_KEPT: Final = "_HTTP_TEXT_FORMAT"
_propagate: Final = vars(propagate)
_seen: TextMapPropagator | None = None
_seen_is_w3c = False


def are_w3c() -> bool:
    """Whether the propagators in force (OTEL_PROPAGATORS) are W3C's trace context, and baggage at most."""
    global _seen, _seen_is_w3c  # noqa: PLW0603 - remembered, because it is asked for every message
    known = _propagate
    propagator = known.get(_KEPT)
    if propagator is _seen and propagator is not None:
        return _seen_is_w3c
    propagator = propagate.get_global_textmap()
    if propagator is not _seen:
        parts = getattr(propagator, "_propagators", None) if type(propagator) is CompositePropagator else None
        kinds = {type(part) for part in parts or ()}
        _seen_is_w3c = TraceContextTextMapPropagator in kinds and kinds <= {
            TraceContextTextMapPropagator,
            W3CBaggagePropagator,
        }
        _seen = propagator
    return _seen_is_w3c


class PublishedHeaders(dict):  # type: ignore[type-arg] # as it is compiled
    """The headers of a message that was published in this process, and what they say, so that nobody parses.

    As a mapping it is nothing special, so a transport that writes messages down writes just the headers.
    """

    __slots__ = ("flags", "ids", "span_id", "trace_id")

    # Set by who makes it, and then never again.
    ids: MessageIds
    """Of the message that they are the headers of."""
    trace_id: bytes
    span_id: bytes
    """Of the span it was published by."""
    flags: int


def parent_of(carrier: Mapping[str, str]) -> ForeignIdentity | None:
    """The span a message was published by, if its headers are the usual ones; else None: ask a propagator."""
    header = carrier.get(TRACEPARENT) if len(carrier) == ALONE else None
    if header.__class__ is not str or header is None or not _USUAL(header):
        return None
    trace_id, span_id = header[3:35], header[36:52]
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return ForeignIdentity(bytes.fromhex(trace_id), bytes.fromhex(span_id), _FLAGS[header[53:]], None, True)
