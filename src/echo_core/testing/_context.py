"""The context that the harness gives to a plugin."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from opentelemetry import metrics, trace

from echo_core.errors import ConfigError, PublishRefused
from echo_core.manifest import Manifest
from echo_core.message import BaseMessage
from echo_core.topics import TopicSet, check_topic
from echo_core.transports.base import Transport

if TYPE_CHECKING:
    from common_telemetry import Attributes, TelemetryContext

P = ParamSpec("P")
R = TypeVar("R")

_handled: Final[ContextVar[BaseMessage | None]] = ContextVar("_handled", default=None)


def make_context(manifest: Manifest, config: Mapping[str, Any], transport: Transport) -> "HarnessContext":
    """The context for a plugin with this manifest; raises `ConfigError` if `config` does not fit it."""
    effective = {**manifest.config, **config}
    check_config(manifest, effective)
    return HarnessContext(manifest, effective, transport)


def check_config(manifest: Manifest, config: Mapping[str, Any]) -> None:
    """Return if `config` satisfies the manifest's `config_schema`; raise `ConfigError` otherwise."""
    if manifest.config_schema is None:
        return
    from jsonschema import Draft202012Validator  # takes a while to import, and not every test needs it

    faults = sorted(
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(manifest.config_schema).iter_errors(dict(config))
    )
    if faults:
        raise ConfigError(
            f"the configuration does not fit {manifest.name}",
            where="config",
            why="; ".join(faults),
            fix="mend the value, or config_schema in manifest.json",
        )


class HarnessContext:
    """A `PluginContext` over any transport; telemetry goes to the OpenTelemetry API's globals."""

    telemetry: "TelemetryContext | None" = None

    def __init__(self, manifest: Manifest, config: Mapping[str, Any], transport: Transport) -> None:
        self.plugin_name = manifest.name
        self.plugin_version = manifest.version
        self.config: Mapping[str, Any] = MappingProxyType(dict(config))
        self.subscriptions = manifest.subscriptions
        self.publications = manifest.publications
        self.transport = transport
        self._allowed = TopicSet(manifest.publications)
        self._tracer = trace.get_tracer(f"echo.plugin.{manifest.name}", manifest.version)
        self._meter = metrics.get_meter(f"echo.plugin.{manifest.name}", manifest.version)

    @contextmanager
    def handling(self, message: BaseMessage) -> Iterator[None]:
        """While the block runs, what is published is derived from `message`."""
        token = _handled.set(message)
        try:
            yield
        finally:
            _handled.reset(token)

    async def publish(self, topic: str, data: Any) -> BaseMessage:
        check_topic(topic)
        if topic not in self._allowed:
            raise PublishRefused(
                f"{self.plugin_name} may not publish to {topic!r}",
                why=f"its publications are {', '.join(self.publications) or 'none'}",
                fix='add the topic to "publications" in manifest.json',
            )
        message = data if isinstance(data, BaseMessage) else self._message(data)
        await self.transport.publish(topic, message)
        return message

    def _message(self, data: Any) -> BaseMessage:
        handled = _handled.get()
        if handled is None:
            return BaseMessage(source=self.plugin_name, version=self.plugin_version, data=data)
        return handled.derive(data, source=self.plugin_name, version=self.plugin_version)

    async def run_blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)

    def logger(self) -> logging.Logger:
        return logging.getLogger(f"echo.plugin.{self.plugin_name}")

    def create_span(
        self, name: str, attributes: "Attributes | None" = None
    ) -> "AbstractContextManager[trace.Span]":
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def record_counter(self, name: str, value: float = 1, attributes: "Attributes | None" = None) -> None:
        self._meter.create_counter(name).add(value, attributes)

    def record_gauge(self, name: str, value: float, attributes: "Attributes | None" = None) -> None:
        self._meter.create_gauge(name).set(value, attributes)

    def record_histogram(self, name: str, value: float, attributes: "Attributes | None" = None) -> None:
        self._meter.create_histogram(name).record(value, attributes)
