"""The engine that makes spans in slots and OTLP by itself, where the tracer provider lets it."""

from common_telemetry.engines.fast.measuring import bind_through
from common_telemetry.engines.fast.messages import FastMessages
from common_telemetry.engines.fast.tracer import FastTracer
from common_telemetry.engines.official import Bound, OfficialEngine
from common_telemetry.messages import MessageTelemetry


class FastEngine(OfficialEngine):
    """Message spans the short way, on tracers that know it; everything else as the official engine."""

    def _messages(self, bound: Bound) -> MessageTelemetry:
        if isinstance(bound.tracer, FastTracer):
            return FastMessages(bound, bound.tracer, bind_through(bound.recorder))
        return super()._messages(bound)
