"""The SDK's spans, log records and metrics without the attributes that must not leave the process.

Copies are made, because the same objects go to other exporters too. The counts of dropped attributes, events
and links stay, which is why it is the SDK's own containers that are filled.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link

from common_telemetry.redaction import Redaction


def span(given: ReadableSpan, redaction: Redaction) -> ReadableSpan:
    """The same span; nothing else of it than attributes is taken away."""

    def part(of: ReadableSpan | Event | Link) -> BoundedAttributes:
        return _attributes(of.attributes, of.dropped_attributes, redaction)

    made = copy(given)
    made._attributes = part(given)
    events = [Event(event.name, part(event), event.timestamp) for event in given.events]
    made._events = _list(events, given.dropped_events)
    made._links = _list([Link(link.context, part(link)) for link in given.links], given.dropped_links)
    return made


def log_record(given: ReadableLogRecord, redaction: Redaction) -> ReadableLogRecord:
    """The same record; of its body the parts that have such a key are taken out too."""
    record = copy(given.log_record)
    record.attributes = _attributes(record.attributes, given.dropped_attributes, redaction)
    record.body = redaction.of_value(record.body)
    return replace(given, log_record=record)


def metrics(given: MetricsData, redaction: Redaction) -> MetricsData:
    """The same metrics with redacted exemplars; views have kept whole attributes off the series already."""
    for resource in given.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    _redact(point, redaction)
    return given


def _redact(point: Any, redaction: Redaction) -> None:
    exemplars = [
        replace(one, filtered_attributes=redaction.of(one.filtered_attributes or {}))
        for one in getattr(point, "exemplars", ())
    ]
    # Frozen, but made for this export alone.
    object.__setattr__(point, "exemplars", exemplars)
    object.__setattr__(point, "attributes", redaction.of(point.attributes or {}))


def _attributes(given: Mapping[str, Any] | None, dropped: int, redaction: Redaction) -> BoundedAttributes:
    made = BoundedAttributes(attributes=redaction.of(given or {}))
    made.dropped = dropped
    return made


def _list(items: list[Any], dropped: int) -> Any:
    made = BoundedList.from_seq(None, items)
    made.dropped = dropped
    return made
