"""The OpenTelemetry context while a plugin works, and how it travels in a message."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

from opentelemetry import baggage, context, propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext

from common_telemetry.attributes import MESSAGE_ID, MESSAGE_TOPIC, AttributeValue, PluginIdentity

_BAGGAGE: Final = "baggage"
CURRENT_KEY: Final = context.create_key("common_telemetry.current")


@dataclass(slots=True)  # never changed, but freezing it would make every message dearer
class Current:
    """Who works on what. Travels with the OpenTelemetry context, so into tasks and asyncio.to_thread too."""

    plugin: PluginIdentity
    topic: str = ""
    message_id: str = ""
    lifecycle: bool = False  # in init, shutdown or a health check, which are never parents of messages
    baggage: Mapping[str, object] | None = None  # as it came, with its header
    baggage_header: str = ""

    def message_attributes(self) -> dict[str, AttributeValue]:
        """message.topic and message.id; without the id in a batch; empty outside a message."""
        found: dict[str, AttributeValue] = {}
        if self.topic:
            found[MESSAGE_TOPIC] = self.topic
        if self.message_id:
            found[MESSAGE_ID] = self.message_id
        return found


def current(at: Context | None = None) -> Current | None:
    """What is being worked on in the current context, or in `at`."""
    found = context.get_value(CURRENT_KEY, at)
    return found if isinstance(found, Current) else None


def with_current(value: Current, at: Context) -> Context:
    """`at`, with `value` as what is being worked on."""
    return context.set_value(CURRENT_KEY, value, at)


def with_span(span: Span, at: Context) -> Context:
    """`at`, with `span` as the current span."""
    return trace.set_span_in_context(span, at)


def span_context(at: Context) -> SpanContext:
    """The current span of `at`; its `is_valid` is False if there is none."""
    return trace.get_current_span(at).get_span_context()


def extract(carrier: Mapping[str, str]) -> Context:
    """The context a message brings, and nothing of the context around. Malformed headers count as absent."""
    if not carrier:
        return Context()
    try:
        return propagate.extract(carrier, context=Context())
    except Exception:  # noqa: BLE001 - a propagator of OTEL_PROPAGATORS may raise on what strangers send
        return Context()


def inject(carrier: MutableMapping[str, str], at: Context) -> None:
    """Write the context `at` into `carrier` by the configured propagators.

    Baggage that nobody changed leaves exactly as it came: OpenTelemetry's own propagator would re-encode it,
    and loses the properties of its members on the way (https://www.w3.org/TR/baggage/).
    """
    propagate.inject(carrier, context=at)
    working = current(at)
    if working and working.baggage_header and _BAGGAGE in carrier and baggage.get_all(at) == working.baggage:
        carrier[_BAGGAGE] = working.baggage_header


def received_baggage(carrier: Mapping[str, str], at: Context) -> tuple[Mapping[str, object], str]:
    """What `inject` needs to know to pass baggage on unchanged: its entries, and the header they came in."""
    return baggage.get_all(at), carrier.get(_BAGGAGE, "")


def trace_id(span: SpanContext) -> str:
    """32 hex digits, or "" if there is no trace."""
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


def traceparent(span: SpanContext) -> str:
    """The W3C header of a span (https://www.w3.org/TR/trace-context-2/), or "" if there is none."""
    if not span.is_valid:
        return ""
    ids = f"{trace.format_trace_id(span.trace_id)}-{trace.format_span_id(span.span_id)}"
    return f"00-{ids}-{span.trace_flags:02x}"
