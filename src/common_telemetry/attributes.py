"""Names of attributes, and what every span, log record and measurement carries."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from common_telemetry.config import Semconv
from common_telemetry.health import Faults

AttributeValue = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]
Attributes = Mapping[str, AttributeValue]

PLUGIN_NAME: Final = "plugin.name"
PLUGIN_VERSION: Final = "plugin.version"
PLUGIN_STATUS: Final = "plugin.status"
MESSAGE_TOPIC: Final = "message.topic"
MESSAGE_ID: Final = "message.id"
ROOT_ID: Final = "echo.message.root_id"
PARENT_IDS: Final = "echo.message.parent_ids"
OUTCOME: Final = "echo.message.outcome"
QUEUE_TIME_MS: Final = "echo.message.queue_time_ms"
ATTEMPT: Final = "echo.delivery.attempt"
REPLAY: Final = "echo.replay"
LATE: Final = "echo.late"
DLQ_REASON: Final = "echo.dlq.reason"
DLQ_TOPIC: Final = "echo.dlq.original_topic"
DLQ_ID: Final = "echo.dlq.original_id"
EXIT_CODE: Final = "echo.plugin.exit_code"
EVENT: Final = "event"
RESULT: Final = "result"
PREVIOUS_STATUS: Final = "plugin.status.previous"
REASON: Final = "reason"
ERROR_TYPE: Final = "error.type"
SYSTEM: Final = "messaging.system"
SYSTEM_NAME: Final = "echo_core"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGING_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
CLIENT_ID: Final = "messaging.client.id"
BATCH_COUNT: Final = "messaging.batch.message_count"

STANDARD: Final = frozenset({PLUGIN_NAME, PLUGIN_VERSION, PLUGIN_STATUS, MESSAGE_TOPIC, MESSAGE_ID})
# Ids have no bound, so a time series must never carry one, under any name we give it.
UNBOUNDED: Final = frozenset({MESSAGE_ID, f"user.{MESSAGE_ID}"})


class Operation(NamedTuple):
    """What a message span stands for, in the words of the messaging conventions."""

    name: str
    type: str
    plugin_role: str  # the attribute that names the plugin in this operation


PUBLISH: Final = Operation("publish", "send", CLIENT_ID)
PROCESS: Final = Operation("process", "process", CONSUMER_GROUP)


class PluginIdentity:
    """Who reports. `attributes` is replaced, never changed, when the status moves on."""

    __slots__ = ("_status", "attributes", "name", "owner", "scope", "version")

    def __init__(self, name: str, version: str, status: str, owner: object) -> None:
        self.name = name
        self.version = version
        self.scope = f"echo.plugin.{name}"
        self.owner = owner
        self.status = status

    @property
    def status(self) -> str:
        """The value of plugin.status from now on."""
        return self._status

    @status.setter
    def status(self, status: str) -> None:
        self._status = status
        self.attributes: dict[str, AttributeValue] = {
            PLUGIN_NAME: self.name,
            PLUGIN_VERSION: self.version,
            PLUGIN_STATUS: status,
        }


def message_attributes(
    operation: Operation,
    plugin: PluginIdentity,
    topic: str,
    message_id: str,
    root_id: str,
    parent_ids: Sequence[str],
    semconv: Semconv,
) -> dict[str, AttributeValue]:
    """All attributes of a publish or process span. An empty id is left out (a batch has none)."""
    found = dict(plugin.attributes)
    found[MESSAGE_TOPIC] = topic
    if message_id:
        found[MESSAGE_ID] = message_id
    if root_id and semconv != "otel":
        found[ROOT_ID] = root_id
    if parent_ids:  # the conventions have no name for it
        found[PARENT_IDS] = tuple(parent_ids)
    if semconv != "echo":
        found |= {
            SYSTEM: SYSTEM_NAME,
            OPERATION_NAME: operation.name,
            OPERATION_TYPE: operation.type,
            DESTINATION: topic,
            operation.plugin_role: plugin.name,
        }
        if message_id:
            found[MESSAGING_ID] = message_id
        if root_id:
            found[CONVERSATION_ID] = root_id
    return found


def merged(standard: Attributes, own: Attributes | None, faults: Faults) -> dict[str, AttributeValue]:
    """`own` and the standard attributes, which win; what clashes is kept as `user.<key>` and reported."""
    if not own:
        return dict(standard)
    if STANDARD.isdisjoint(own):
        return {**own, **standard}
    found: dict[str, AttributeValue] = {}
    for key, value in own.items():
        if key not in STANDARD:
            found[key] = value
        elif standard.get(key) != value:
            found[f"user.{key}"] = value
            faults.report(
                "reserved attribute",
                f"attribute {key!r} is set by telemetry; yours is kept as 'user.{key}'. Use another name.",
                level="WARNING",
            )
    found.update(standard)
    return found
