"""The engine that makes spans in slots and OTLP by itself, where the providers let it."""

from collections.abc import Callable
from time import time_ns

from opentelemetry.context import Context

from common_telemetry.attributes import MESSAGE_ID, Attributes
from common_telemetry.catalogue import Metric
from common_telemetry.engine import Binder, BoundRecorder
from common_telemetry.engines.fast.current_span import identity_in
from common_telemetry.engines.fast.exemplars import Sample
from common_telemetry.engines.fast.identity import SAMPLED
from common_telemetry.engines.fast.measuring import meters_on
from common_telemetry.engines.fast.messages import FastMessages
from common_telemetry.engines.fast.meter import FastMeter
from common_telemetry.engines.fast.metrics import Instrument
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
            return lambda attributes: _recorder(instrument, attributes, with_ids=with_ids)

        return binder

    def _tracer_raises(self, bound: Bound) -> bool:
        return not isinstance(bound.tracer, FastTracer)


def _recorder(instrument: Instrument, attributes: Attributes, *, with_ids: bool) -> BoundRecorder:
    series = instrument.bind(attributes)
    lock, add = series.lock, series.add
    # What nearly everybody has: then it is seen at a glance whether a measurement may be an exemplar.
    is_usual = instrument.exemplars == "trace_based" and not instrument.redaction.is_active

    def record(value: float, message_id: str, context: Context) -> None:
        left_out = {MESSAGE_ID: message_id} if message_id and with_ids else {}
        span = identity_in(context) if is_usual else None
        if span is not None:
            sample: Sample | None = None
            if span.flags & SAMPLED:
                sample = (time_ns(), span.trace_id, span.span_id, left_out)
        else:
            sample = instrument.sample(context, left_out)
        with lock:
            add(value, sample)

    return record
