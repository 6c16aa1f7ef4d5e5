"""OpenTelemetry providers: those of the application where it has set some, our own from the SDK where not."""

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from uuid import uuid4
from weakref import WeakSet

from opentelemetry import _logs, metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_NAMESPACE, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler

from common_telemetry.attributes import UNBOUNDED, PluginIdentity
from common_telemetry.catalogue import LOST
from common_telemetry.config import TelemetryConfig, TelemetryConfigError
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.loggers import FastLoggerProvider
from common_telemetry.engines.fast.metrics import Metrics, options_of
from common_telemetry.engines.fast.origins import origin_of
from common_telemetry.engines.fast.provider import FastTracerProvider
from common_telemetry.engines.official import PluginProviders
from common_telemetry.environment import ExporterChoice, in_force
from common_telemetry.health import Faults, Signal
from common_telemetry.logs import LogEmitter
from common_telemetry.pipeline import Pipeline
from common_telemetry.redaction import NO_REDACTION, Redaction
from common_telemetry.tap import Tap

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.metrics.view import View

    from common_telemetry.pipelines import LogPipeline, MetricPipeline, TracePipeline

_P = TypeVar("_P")
_OWN_SCOPE: Final = "common_telemetry"
_ours: WeakSet[Any] = WeakSet()


@dataclass
class Exporters:
    """Everything our own providers send to."""

    traces: "list[TracePipeline]" = field(default_factory=list)
    metrics: "list[MetricPipeline]" = field(default_factory=list)
    logs: "list[LogPipeline]" = field(default_factory=list)
    readers: "list[MetricReader]" = field(default_factory=list)  # pull readers, which have no exporter
    # What the fast engine fills, and the pipelines that empty it.
    spans: Buffer | None = None
    measured: Metrics | None = None
    records: Buffer | None = None
    fast: list[Pipeline] = field(default_factory=list)
    faults: Faults = field(default_factory=Faults)
    redaction: Redaction = NO_REDACTION

    @property
    def pipelines(self) -> list[Pipeline]:
        """All of them."""
        return [*self.traces, *self.metrics, *self.logs, *self.fast]


def load(
    choices: Sequence[ExporterChoice],
    config: TelemetryConfig,
    environ: Mapping[str, str],
    official: Container[Signal] = (),
) -> Exporters:
    """Make the exporters asked for: the fast engine's, but those of the SDK for the signals in `official`.

    Raises TelemetryConfigError if one is not installed or cannot be made.
    """
    found, faults = Exporters(redaction=Redaction(config.redact)), []
    for choice in choices:
        try:
            if config.engine == "fast" and choice.signal not in official:
                _add_fast(found, choice, environ)
            else:
                _add(found, choice)
        except Exception as error:  # noqa: BLE001 - an exporter's constructor may raise anything
            faults.append(f"OTEL_{choice.signal.upper()}_EXPORTER {choice.name!r}: {error}")
    if faults:
        for pipeline in found.pipelines:
            pipeline.release()
        raise TelemetryConfigError(faults)
    return found


def _add_fast(found: Exporters, choice: ExporterChoice, environ: Mapping[str, str]) -> None:
    from common_telemetry.engines.fast import exports
    from common_telemetry.engines.fast.log_bytes import log_buffer
    from common_telemetry.engines.fast.trace_bytes import span_buffer

    if choice.signal == "metrics":
        found.measured = Metrics(options_of(environ, found.redaction))
        found.fast.append(exports.MetricPipeline(choice, found.measured, environ))
        return
    limit = exports.queue_limit(choice.signal, environ)
    batch = exports.batch_size(choice.signal, environ)
    if choice.signal == "traces":
        found.spans = span_buffer(limit, found.faults, batch=batch, redaction=found.redaction)
        found.fast.append(exports.BufferPipeline(choice, found.spans, environ))
    else:
        found.records = log_buffer(limit, found.faults, batch=batch, redaction=found.redaction)
        found.fast.append(exports.BufferPipeline(choice, found.records, environ))


def _add(found: Exporters, choice: ExporterChoice) -> None:
    from opentelemetry.sdk.metrics.export import MetricReader

    from common_telemetry import pipelines

    make = _entry_point(choice)
    if choice.signal == "traces":
        found.traces.append(pipelines.TracePipeline(make(), choice.name, found.redaction))
    elif choice.signal == "logs":
        found.logs.append(pipelines.LogPipeline(make(), choice.name, found.redaction))
    elif isinstance(make, type) and issubclass(make, MetricReader):
        found.readers.append(make())
    else:
        found.metrics.append(pipelines.MetricPipeline(make(), choice.name, found.redaction))
    pipelines.listen_to_exporters()


def _entry_point(choice: ExporterChoice) -> Any:
    group = f"opentelemetry_{choice.signal}_exporter"
    for entry_point in entry_points(group=group, name=choice.entry_point):
        return entry_point.load()
    known = sorted({entry_point.name for entry_point in entry_points(group=group)})
    raise LookupError(f"no exporter of that name is installed; known here: otlp, {', '.join(known)}, none")


class OwnProviders:
    """The three providers of a telemetry context, given, adopted or made; and those of each plugin."""

    def __init__(
        self,
        config: TelemetryConfig,
        exporters: Exporters,
        *,
        tracer: trace.TracerProvider | None,
        meter: metrics.MeterProvider | None,
        logger: _logs.LoggerProvider | None,
        views: "Sequence[View]",
        environ: Mapping[str, str] | None,
        tap: Tap,
    ) -> None:
        # Exporters of the SDK need spans of the SDK.
        self._fast_spans = config.engine == "fast" and not exporters.traces
        self.exporters = exporters
        self._config = config
        self._of_plugin: dict[str, PluginProviders] = {}
        self._resource = _resource(config.service_name, exporters.redaction)
        self._views = views
        self._environ = environ
        self._tap = tap
        self.flush: Callable[[float], bool] = _nothing_to_flush
        """What `force_flush` of the fast engine's providers calls, with the seconds it may take."""
        self._sampler: Sampler | None = None
        self.adopted_tracer = tracer
        self.adopted_meter = meter
        self.adopted_logger = logger
        self._own_tracer = None if tracer else self._make_tracer(self._resource)
        self._own_meter = None if meter else self._make_meter(self._resource)
        self._own_logger = None if logger else self._make_logger(self._resource)
        if self._own_meter is not None:
            self._own_meter.get_meter(_OWN_SCOPE).create_observable_counter(
                LOST.name, [self._lost], LOST.unit, LOST.description
            )

    @property
    def tracer(self) -> trace.TracerProvider:
        """The tracer provider of the application."""
        return self.adopted_tracer or cast("trace.TracerProvider", self._own_tracer)

    @property
    def meter(self) -> metrics.MeterProvider:
        """The meter provider of the application."""
        return self.adopted_meter or cast("metrics.MeterProvider", self._own_meter)

    @property
    def logger(self) -> _logs.LoggerProvider:
        """The logger provider of the application."""
        return self.adopted_logger or cast("_logs.LoggerProvider", self._own_logger)

    @property
    def sends_logs(self) -> bool:
        """Whether anything comes of a log record."""
        exporters = self.exporters
        return self.adopted_logger is not None or bool(exporters.logs) or exporters.records is not None

    def of(self, plugin: PluginIdentity) -> PluginProviders:
        """The providers of one plugin: the application's, or with `service_per_plugin` its own."""
        known = self._of_plugin.get(plugin.name)
        if known is None:
            with in_force(self._environ):  # limits and intervals are read when a provider is made
                known = self._of_plugin[plugin.name] = self._make(plugin)
        return known

    def _make(self, plugin: PluginIdentity) -> PluginProviders:
        tracer, meter, logger = self.tracer, self.meter, self.logger
        if self._config.service_per_plugin:
            resource = self._resource.merge(
                Resource(
                    {SERVICE_NAMESPACE: self._resource.attributes[SERVICE_NAME], SERVICE_NAME: plugin.name}
                )
            )
            tracer = self._make_tracer(resource) if self._own_tracer else tracer
            if self._own_meter and not self.exporters.readers:  # a pull reader serves one provider only
                meter = self._make_meter(resource)
            logger = self._make_logger(resource) if self._own_logger else logger
        return PluginProviders(tracer, meter, LogEmitter(logger if self.sends_logs else None))

    def install(self) -> None:
        """Make our own the OpenTelemetry API's globals where nobody has set one."""
        if self._own_tracer and global_tracer() is None:
            trace.set_tracer_provider(self._own_tracer)
            _ours.add(self._own_tracer)
        if self._own_meter and global_meter() is None:
            metrics.set_meter_provider(self._own_meter)
            _ours.add(self._own_meter)
        if self._own_logger and global_logger() is None:
            _logs.set_logger_provider(self._own_logger)
            _ours.add(self._own_logger)

    def _lost(self, options: CallbackOptions) -> Iterator[Observation]:
        signal, exporter, reason = LOST.attributes
        for pipeline in self.exporters.pipelines:
            health = pipeline.tally.health()
            about = {signal: health.signal, exporter: health.exporter}
            if health.dropped:
                yield Observation(health.dropped, {**about, reason: "dropped"})
            if health.failed:
                yield Observation(health.failed, {**about, reason: "failed"})

    def _flushed(self, seconds: float) -> bool:
        return self.flush(seconds)

    def _make_tracer(self, resource: Resource) -> TracerProvider | FastTracerProvider:
        if self._fast_spans:
            fast = FastTracerProvider(
                resource,
                self.exporters.spans,
                self._tap,
                self.exporters.faults,
                sampler=self._sampler,
                redaction=self.exporters.redaction,
            )
            fast.flush = self._flushed
            self._sampler = fast.sampler
            return fast
        made = TracerProvider(self._sampler, resource, shutdown_on_exit=False)
        self._sampler = made.sampler  # the first is made by the environment; all others decide as it does
        for processor in [self._tap, *(pipeline.processor for pipeline in self.exporters.traces)]:
            made.add_span_processor(processor)
        return made

    def _make_meter(self, resource: Resource) -> metrics.MeterProvider:
        exporters = self.exporters
        if self._config.engine == "fast" and not exporters.metrics and not exporters.readers:
            if exporters.measured is None:
                return metrics.NoOpMeterProvider()  # measuring costs, and nobody would ever see it
            from common_telemetry.engines.fast.meter import FastMeterProvider

            fast = FastMeterProvider(
                exporters.measured, lambda scope: origin_of(resource, scope), exporters.faults
            )
            fast.flush = self._flushed
            return fast
        from opentelemetry.sdk.metrics import MeterProvider

        from common_telemetry import views

        readers = [pipeline.another_reader() for pipeline in exporters.metrics]
        readers += exporters.readers
        mine = list(self._views)
        may_have_ids = self._config.message_id_on_metrics == "attribute"
        if exporters.redaction.is_active or not may_have_ids:
            keeps = exporters.redaction.keeps
            mine = views.keeping(
                lambda key: keeps(key) and (may_have_ids or key not in UNBOUNDED),
                mine,
            )
        return MeterProvider(readers, resource=resource, views=mine, shutdown_on_exit=False)

    def _make_logger(self, resource: Resource) -> "LoggerProvider | FastLoggerProvider":
        if self.exporters.records is not None and not self.exporters.logs:
            return FastLoggerProvider(resource, self.exporters.records, self.exporters.faults)
        from opentelemetry.sdk._logs import LoggerProvider

        made = LoggerProvider(resource, shutdown_on_exit=False)
        for pipeline in self.exporters.logs:
            made.add_log_record_processor(pipeline.processor)
        return made


def _nothing_to_flush(seconds: float) -> bool:
    return True


def global_tracer() -> trace.TracerProvider | None:
    """The tracer provider the application has set, if it has."""
    return _set_by_others(trace.get_tracer_provider())


def global_meter() -> metrics.MeterProvider | None:
    """The meter provider the application has set, if it has."""
    return _set_by_others(metrics.get_meter_provider())


def global_logger() -> _logs.LoggerProvider | None:
    """The logger provider the application has set, if it has."""
    return _set_by_others(_logs.get_logger_provider())


def _set_by_others(provider: _P) -> _P | None:
    # Until somebody sets a provider the API hands out a proxy, and has no other way to say so.
    return None if "Proxy" in type(provider).__name__ or provider in _ours else provider


def _resource(service_name: str, redaction: Redaction) -> Resource:
    found = Resource.create()  # OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, detectors
    named = str(found.attributes.get(SERVICE_NAME, ""))
    own: dict[str, str | int] = {"process.pid": os.getpid()}
    if not named or named.startswith("unknown_service"):
        own[SERVICE_NAME] = service_name
    if SERVICE_INSTANCE_ID not in found.attributes:  # older SDKs leave it to who sets them up
        own[SERVICE_INSTANCE_ID] = str(uuid4())
    made = found.merge(Resource(own))
    return Resource(redaction.of(made.attributes), made.schema_url) if redaction.is_active else made
