"""The telemetry of one process: providers, exporters, health, and the telemetry of each plugin."""

import atexit
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from common_telemetry import environment, propagation
from common_telemetry.attributes import PluginIdentity
from common_telemetry.config import TelemetryConfig
from common_telemetry.engine import Clock, Engine
from common_telemetry.engines.off import OffEngine
from common_telemetry.environment import ExporterChoice
from common_telemetry.errands import Errand, Errands, all_done
from common_telemetry.health import Faults, Signal, TelemetryHealth
from common_telemetry.logs import LogEmitter, PluginLogging
from common_telemetry.plugin import PluginTelemetry
from common_telemetry.spans import SpanRecord

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.sdk.metrics.view import View
    from opentelemetry.trace import TracerProvider

    from common_telemetry.pipeline import Pipeline
    from common_telemetry.providers import Exporters, OwnProviders
    from common_telemetry.tap import Tap

_logger = logging.getLogger("common_telemetry")
# The part of a shutdown's time in which exporters may still try; the rest is for giving up in order.
_POLITE: Final = 0.75


class TelemetryContext:
    """One per process: made by `from_config`, given to plugins by `for_plugin`, ended by `shutdown`.

    A context that is never shut down does it by itself when the interpreter exits.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        engine: Engine,
        *,
        clock: Clock,
        faults: Faults,
        providers: "OwnProviders | None" = None,
        tap: "Tap | None" = None,
    ) -> None:
        """For this package; `from_config` is the way to make one."""
        self.config = config
        self._engine = engine
        self._clock = clock
        self._faults = faults
        self._providers = providers
        self._tap = tap
        self._pipelines: list[Pipeline] = providers.exporters.pipelines if providers else []
        self._flushers = _adopted_flushers(providers)
        emitter = LogEmitter(providers.logger if providers and providers.sends_logs else None)
        self._logging = PluginLogging(emitter, config.log_level, self, faults)
        self._closing = RLock()
        self._result: bool | None = None
        if providers is not None:
            providers.flush = self.flush
            atexit.register(self.shutdown)

    @classmethod
    def from_config(
        cls,
        config: TelemetryConfig | None = None,
        *,
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
        logger_provider: "LoggerProvider | None" = None,
        views: "Sequence[View]" = (),
        environ: Mapping[str, str] | None = None,
        clock: Clock = time,
    ) -> Self:
        """Set up telemetry as `config` and the OTEL_* variables say.

        Raises TelemetryConfigError naming every fault.

        A provider given here, or set as a global of the OpenTelemetry API, is used as it is for its signal:
        it is flushed with the rest but never replaced and never shut down, and OTEL_<SIGNAL>_EXPORTER adds
        nothing to it. For the other signals a provider is made. It exports only if OTEL_<SIGNAL>_EXPORTER or
        an OTLP endpoint is set; otherwise spans go to taps alone, and nothing is sent anywhere. `views` apply
        to a meter provider made here; each keeps message ids off its series. OTEL_SDK_DISABLED=true is engine
        "off".

        `environ` stands in for the process's environment while this call runs, and for that long it really is
        os.environ, because the SDK reads nothing else. `clock` times messages and lifecycle events.
        """
        config = config or TelemetryConfig()
        with environment.in_force(environ) as variables:
            if config.engine == "off" or environment.is_disabled(variables):
                return cls(config, OffEngine(), clock=clock, faults=Faults())
            from common_telemetry import providers  # the SDK, not needed for less

            tracer = tracer_provider or providers.global_tracer()
            meter = meter_provider or providers.global_meter()
            logger = logger_provider or providers.global_logger()
            made: dict[Signal, object] = {"traces": tracer, "metrics": meter, "logs": logger}
            adopted = [signal for signal, provider in made.items() if provider is not None]
            choices = [one for one in environment.exporters(variables) if one.signal not in adopted]
            official = _official(config, choices, adopted, views, variables)
            exporters = providers.load(choices, config, variables, official)
            return cls._assemble(
                config, exporters, tracer, meter, logger, views=views, environ=environ, clock=clock
            )

    @classmethod
    def over_api_globals(cls) -> Self | None:
        """A context on the OpenTelemetry API's globals, without exporters; None if none are set."""
        from common_telemetry import providers

        tracer, meter, logger = providers.global_tracer(), providers.global_meter(), providers.global_logger()
        if tracer is None and meter is None and logger is None:
            return None
        return cls._assemble(TelemetryConfig(), providers.Exporters(), tracer, meter, logger)

    @classmethod
    def _assemble(
        cls,
        config: TelemetryConfig,
        exporters: "Exporters",
        tracer: "TracerProvider | None" = None,
        meter: "MeterProvider | None" = None,
        logger: "LoggerProvider | None" = None,
        *,
        views: "Sequence[View]" = (),
        environ: Mapping[str, str] | None = None,
        clock: Clock = time,
    ) -> Self:
        from common_telemetry.engines.fast.engine import FastEngine
        from common_telemetry.engines.official import OfficialEngine
        from common_telemetry.providers import OwnProviders
        from common_telemetry.tap import Tap

        faults = exporters.faults
        tap = Tap(faults, exporters.redaction)
        made = OwnProviders(
            config,
            exporters,
            tracer=tracer,
            meter=meter,
            logger=logger,
            views=views,
            environ=environ,
            tap=tap,
        )
        make_engine = FastEngine if config.engine == "fast" else OfficialEngine
        engine = make_engine(
            made, config, faults, clock, keep_message_id=_keeps_message_id(config, adopted=meter is not None)
        )
        return cls(config, engine, clock=clock, faults=faults, providers=made, tap=tap)

    def for_plugin(self, name: str, version: str, status: str = "starting") -> PluginTelemetry:
        """The telemetry of one plugin, which reports with these from the first call on."""
        plugin = PluginIdentity(name, version, status, owner=self)
        return PluginTelemetry(plugin, self._engine.bind(plugin), self._logging, self._faults, self._clock)

    def take_over(self, plugin: PluginTelemetry) -> None:
        """Have a plugin that has its telemetry from another context report through this one."""
        identity = plugin.identity
        identity.owner = self
        plugin.rebind(self._engine.bind(identity), self._logging, self._faults, self._clock)

    def inject(self, carrier: MutableMapping[str, str]) -> None:
        """Write the current OpenTelemetry context into `carrier`: traceparent, tracestate, baggage."""
        propagation.inject(carrier, otel_context.get_current())

    def extract(self, carrier: Mapping[str, str]) -> Context:
        """The OpenTelemetry context in `carrier`; an empty one if there is none or it is malformed."""
        return propagation.extract(carrier)

    def capture_logs(self, logger_name: str) -> None:
        """Export what the standard logger of that name and those below it log, from `log_level` up."""
        self._logging.capture(logger_name)

    def install_globals(self) -> None:
        """Make the providers made here the OpenTelemetry API's globals, where the application has set none.

        Then the spans and metrics of instrumented libraries are exported too, under the spans of the plugins.
        OpenTelemetry lets globals be set once in the life of a process.
        """
        if self._providers is not None:
            self._providers.install()

    def tap(self, callback: Callable[[SpanRecord], None]) -> Callable[[], None]:
        """Call `callback` with every sampled span that ends here, in the thread that ends it; keep it short.

        The returned function ends that. With telemetry off there are no spans.
        """
        return _nothing if self._tap is None else self._tap.add(callback)

    def health(self) -> TelemetryHealth:
        """What was exported, failed and dropped so far. Cheap, and safe at any time from any thread."""
        return TelemetryHealth(
            tuple(pipeline.tally.health() for pipeline in self._pipelines), self._faults.counts()
        )

    def flush(self, deadline_s: float | None = None) -> bool:
        """Send everything recorded so far, all signals at once.

        Takes `deadline_s` seconds at most, by default `shutdown_timeout_s`. True if all of it was accepted by
        the exporters in time; what cannot be sent now is counted as failed. Blocks its thread: from a
        coroutine use asyncio.to_thread.
        """
        end = monotonic() + self._seconds(deadline_s)
        lost = self._lost()
        errands = [pipeline.errands.run(pipeline.flush) for pipeline in self._pipelines]
        errands += [flusher.run() for flusher in self._flushers]
        return all_done(errands, end) and self._lost() == lost

    def shutdown(self, deadline_s: float | None = None) -> bool:
        """Send what is left, within `deadline_s` (default: `shutdown_timeout_s`), and end. Safe to repeat.

        For three quarters of the time exporters may try; then they are broken off, and what is left is
        counted as lost. True if nothing was lost by it. Providers given or adopted are flushed and left
        running.
        """
        with self._closing:
            if self._result is None:
                self._result = self._shut_down(self._seconds(deadline_s))
            return self._result

    def _shut_down(self, seconds: float) -> bool:
        begin = monotonic()
        lost_before = self._lost()
        atexit.unregister(self.shutdown)
        self._logging.close()
        errands = {pipeline: pipeline.errands.run(pipeline.close) for pipeline in self._pipelines}
        flushes = [flusher.run() for flusher in self._flushers]
        if not all_done([*errands.values(), *flushes], begin + seconds * _POLITE):
            for pipeline, errand in errands.items():
                if not errand.done.is_set():
                    pipeline.abandon()
        done = all_done([*errands.values(), *flushes], begin + seconds)
        self._release()
        lost = self._lost() - lost_before
        if lost:
            errors = {pipeline.tally.health().last_error for pipeline in self._pipelines} - {""}
            _logger.warning(
                "telemetry: shut down with %d spans, data points and log records not delivered (%s)",
                lost,
                "; ".join(sorted(errors)) or "no time left",
            )
        return done and not lost

    def _release(self) -> None:
        for pipeline in self._pipelines:
            pipeline.tally.give_up()
            pipeline.release()
        for flusher in self._flushers:
            flusher.close()
        for reader in self._providers.exporters.readers if self._providers else ():
            with suppress(Exception):  # somebody else's reader
                reader.shutdown()
        if self._tap is not None:
            self._tap.close()

    def _lost(self) -> int:
        return sum(pipeline.tally.lost for pipeline in self._pipelines)

    def _seconds(self, deadline_s: float | None) -> float:
        return self.config.shutdown_timeout_s if deadline_s is None else deadline_s


class _Flusher:
    """Flushes a provider that is not ours."""

    def __init__(self, flush: Callable[[], object], name: str) -> None:
        self._flush = flush
        self._errands = Errands(f"telemetry-adopted-{name}")

    def run(self) -> Errand:
        return self._errands.run(self._flush)

    def close(self) -> None:
        self._errands.close()


def _official(
    config: TelemetryConfig,
    choices: Sequence[ExporterChoice],
    adopted: Sequence[Signal],
    views: "Sequence[View]",
    environ: Mapping[str, str],
) -> Mapping[Signal, str]:
    """The signals that the fast engine, though wanted, cannot carry, and why; told once."""
    if config.engine != "fast":
        return {}
    from common_telemetry.engines.fast.selection import reasons_for_official

    reasons = reasons_for_official(config, choices, adopted, views, environ)
    if reasons:
        told = "; ".join(f"{signal}, because {reason}" for signal, reason in reasons.items())
        _logger.info("telemetry: these go through OpenTelemetry's SDK, at its cost: %s", told)
    return reasons


def _adopted_flushers(providers: "OwnProviders | None") -> list[_Flusher]:
    if providers is None:
        return []
    adopted: list[Any] = [providers.adopted_tracer, providers.adopted_meter, providers.adopted_logger]
    # force_flush is not in the API, only in SDKs
    flushes = [getattr(provider, "force_flush", None) for provider in adopted]
    return [
        _Flusher(flush, signal)
        for signal, flush in zip(environment.SIGNALS, flushes, strict=True)
        if callable(flush)
    ]


def _keeps_message_id(config: TelemetryConfig, *, adopted: bool) -> bool:
    """Whether instruments get message.id; only on a meter provider of our own a view keeps it off series."""
    if config.message_id_on_metrics == "attribute":
        _logger.warning(
            "telemetry: message_id_on_metrics is 'attribute': every message becomes a time series of its "
            "own, and OpenTelemetry merges all beyond its limit. For short experiments only."
        )
        return True
    return config.message_id_on_metrics == "exemplar" and not adopted


def _nothing() -> None:
    return None
