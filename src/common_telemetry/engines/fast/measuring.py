"""How message scopes measure: on instruments that know their attributes already."""

from collections.abc import Callable
from typing import Final

from opentelemetry.context import Context

from common_telemetry.attributes import MESSAGE_ID, Attributes
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Recorder

BoundRecorder = Callable[[float, str, Context], None]
"""Takes a value, the id of the message ("" for none) and the context, for exemplars."""

Bind = Callable[[Metric, Attributes], BoundRecorder]
"""Gives the recorder of one series: an instrument with all attributes of a measurement but the message id."""


def bind_through(recorder: Callable[[Metric], Recorder]) -> Bind:
    """Bound recorders over instruments that take their attributes each time."""

    def bind(metric: Metric, attributes: Attributes) -> BoundRecorder:
        record: Final = recorder(metric)

        def record_bound(value: float, message_id: str, context: Context) -> None:
            record(value, {**attributes, MESSAGE_ID: message_id} if message_id else attributes, context)

        return record_bound

    return bind
