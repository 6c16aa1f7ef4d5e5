"""Every metric recorded without a plugin asking for it. The table in docs/telemetry.md is held to it."""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "up_down_counter", "gauge", "histogram"]

# Python handles most messages in well under 5 ms, the first bound of OpenTelemetry's default buckets.
MESSAGE_MS: Final = (
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    25,
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    30_000,
)
LIFECYCLE_MS: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)
# The advice of the OpenTelemetry messaging conventions for durations in seconds.
DURATION_S: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument: its unit is UCUM, its attributes are those every measurement carries."""

    name: str
    kind: Kind
    unit: str = ""
    description: str = ""
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] | None = None


_PLUGIN: Final = ("plugin.name", "plugin.version", "plugin.status")

INIT_DURATION: Final = Metric(
    "plugin.init.duration_ms", "histogram", "ms", "How long a plugin's init took.", _PLUGIN, LIFECYCLE_MS
)
SHUTDOWN_DURATION: Final = Metric(
    "plugin.shutdown.duration_ms",
    "histogram",
    "ms",
    "How long a plugin's shutdown took.",
    _PLUGIN,
    LIFECYCLE_MS,
)
LIFECYCLE_EVENTS: Final = Metric(
    "plugin.lifecycle.events",
    "counter",
    "{event}",
    "Lifecycle events of a plugin, by result.",
    (*_PLUGIN, "event", "result"),
)
PROCESSING_TIME: Final = Metric(
    "plugin.message.processing_time_ms",
    "histogram",
    "ms",
    "How long a plugin worked on a message, one measurement an attempt.",
    (*_PLUGIN, "message.topic"),
    MESSAGE_MS,
)
PROCESS_DURATION: Final = Metric(
    "messaging.process.duration",
    "histogram",
    "s",
    "The same in seconds, by the OpenTelemetry messaging conventions.",
    (
        *_PLUGIN,
        "messaging.system",
        "messaging.operation.name",
        "messaging.destination.name",
        "messaging.consumer.group.name",
    ),
    DURATION_S,
)
QUEUE_TIME: Final = Metric(
    "plugin.message.queue_time_ms",
    "histogram",
    "ms",
    "How long a message waited between its publication and the first attempt at it.",
    (*_PLUGIN, "message.topic"),
    MESSAGE_MS,
)
# What became of messages, read from the host's books before an export. A total outlives the states of a
# plugin, so plugin.status is not on it.
_ACCOUNT: Final = ("plugin.name", "plugin.version")
ENDED: Final = Metric(
    "plugin.message.ended",
    "counter",
    "{message}",
    "Messages that ended for a plugin: processed, filtered, dead_lettered or shed.",
    (*_ACCOUNT, "echo.message.outcome"),
)
RETURNED: Final = Metric(
    "plugin.message.returned",
    "counter",
    "{message}",
    "Messages that went back to a plugin's queue without an end: it was stopped, paused or changed.",
    _ACCOUNT,
)
IN_HAND: Final = Metric(
    "plugin.message.in_hand",
    "up_down_counter",
    "{message}",
    "Messages that a plugin has consumed, and neither ended nor returned.",
    _ACCOUNT,
)
WAITING: Final = Metric(
    "plugin.message.waiting",
    "up_down_counter",
    "{message}",
    "Messages that were published for a plugin, and that it has not consumed.",
    _ACCOUNT,
)
CONSUMED: Final = Metric(
    "plugin.message.consumed",
    "counter",
    "{message}",
    "Messages handed to a plugin, once for all attempts; again if it was returned in between.",
    _ACCOUNT,
)
CONSUMED_MESSAGES: Final = Metric(
    "messaging.client.consumed.messages",
    "counter",
    "{message}",
    "The same, by the OpenTelemetry messaging conventions.",
    (*_ACCOUNT, "messaging.system", "messaging.operation.name", "messaging.consumer.group.name"),
)
PUBLISHED: Final = Metric(
    "plugin.message.published",
    "counter",
    "{message}",
    "Messages that a plugin published, each once, however many subscribe to it.",
    _ACCOUNT,
)
SENT_MESSAGES: Final = Metric(
    "messaging.client.sent.messages",
    "counter",
    "{message}",
    "The same, by the OpenTelemetry messaging conventions.",
    (*_ACCOUNT, "messaging.system", "messaging.operation.name", "messaging.client.id"),
)
SHED: Final = Metric(
    "plugin.message.shed",
    "counter",
    "{message}",
    "Messages that a plugin gave up rather than slow those that send them. Absent while there are none.",
    (*_PLUGIN, "message.topic", "reason"),
)
DEAD_LETTER_COUNT: Final = Metric(
    "plugin.dead_letter.count",
    "gauge",
    "{message}",
    "Dead letters of a plugin that are kept, whether it runs or not.",
    ("plugin.name",),
)
DEAD_LETTER_AGE: Final = Metric(
    "plugin.dead_letter.age",
    "gauge",
    "s",
    "How long the oldest dead letter of a plugin has been kept; 0 where there is none.",
    ("plugin.name",),
)
HISTORY_DROPPED: Final = Metric(
    "plugin.history.dropped",
    "counter",
    "{item}",
    "What a plugin did that is not in the message history, because more came than was written: records, and "
    "messages that were to be kept whole (payloads). Absent while there is nothing.",
    ("plugin.name", "history.item"),
)
LOST: Final = Metric(
    "telemetry.lost",
    "counter",
    "{item}",
    "Spans, data points and log records that did not reach the backend. Absent while there are none.",
    ("telemetry.signal", "telemetry.exporter", "telemetry.reason"),
)

CATALOGUE: Final = (
    INIT_DURATION,
    SHUTDOWN_DURATION,
    LIFECYCLE_EVENTS,
    PROCESSING_TIME,
    PROCESS_DURATION,
    QUEUE_TIME,
    ENDED,
    RETURNED,
    IN_HAND,
    WAITING,
    CONSUMED,
    CONSUMED_MESSAGES,
    PUBLISHED,
    SENT_MESSAGES,
    SHED,
    DEAD_LETTER_COUNT,
    DEAD_LETTER_AGE,
    HISTORY_DROPPED,
    LOST,
)
