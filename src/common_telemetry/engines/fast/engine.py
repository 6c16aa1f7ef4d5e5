"""The engine that makes spans in slots and OTLP by itself, where the providers let it."""

from collections.abc import Callable

from common_telemetry.attributes import MESSAGE_ID, Attributes
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Binder, BoundRecorder
from common_telemetry.engines.fast.measuring import meters_on
from common_telemetry.engines.fast.messages import FastMessages
from common_telemetry.engines.fast.meter import FastMeter
from common_telemetry.engines.fast.tracer import FastTracer
from common_telemetry.engines.official import Bound, OfficialEngine
from common_telemetry.messages import MessageTelemetry


class FastEngine(OfficialEngine):
    """Message spans the short way, on tracers that know it; everything else as the official engine."""

    def _messages(self, bound: Bound) -> MessageTelemetry:
        if isinstance(bound.tracer, FastTracer):
            return FastMessages(bound, bound.tracer, meters_on(bound.meter))
        return super()._messages(bound)

    def _binder(self, bound: Bound) -> Binder | None:
        meter = bound.meter
        if not isinstance(meter, FastMeter):
            return None
        with_ids = bound.config.message_id_on_metrics == "exemplar"

        def binder(metric: Metric) -> Callable[[Attributes], BoundRecorder]:
            instrument = meter.instrument(metric)

            def bind(attributes: Attributes) -> BoundRecorder:
                series = instrument.bind(attributes)

                def record(value: float, message_id: str) -> None:
                    left_out = {MESSAGE_ID: message_id} if message_id and with_ids else {}
                    series.record(value, instrument.sample(None, left_out))

                return record

            return bind

        return binder
