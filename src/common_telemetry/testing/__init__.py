"""A real OTLP receiver and an in-memory telemetry, for tests of whatever reports telemetry.

with OtlpReceiver() as receiver:
    telemetry = TelemetryContext.from_config(environ=receiver.environ())
    ...
    assert telemetry.shutdown()
    assert [span.name for span in receiver.spans()] == ["publish orders.raw"]
"""

from common_telemetry.testing.memory import InMemoryTelemetry
from common_telemetry.testing.received import Exemplar, ReceivedLog, ReceivedPoint, ReceivedSpan
from common_telemetry.testing.receiver import OtlpReceiver
from common_telemetry.testing.store import Received

__all__ = [
    "Exemplar",
    "InMemoryTelemetry",
    "OtlpReceiver",
    "Received",
    "ReceivedLog",
    "ReceivedPoint",
    "ReceivedSpan",
]
