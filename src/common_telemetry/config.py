"""What can be set about telemetry that OTEL_* variables do not already cover."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Final, Literal, Self, get_args

Engine = Literal["fast", "official", "off"]
Semconv = Literal["both", "echo", "otel"]
MessageIdOnMetrics = Literal["exemplar", "attribute", "off"]
Links = Literal["always", "needed"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "engine": get_args(Engine),
    "semconv": get_args(Semconv),
    "message_id_on_metrics": get_args(MessageIdOnMetrics),
    "links": get_args(Links),
    "log_level": get_args(LogLevel),
}
_SECONDS: Final = ("trace_max_age_s", "shutdown_timeout_s")
_FLAGS: Final = ("service_per_plugin",)
_TEXTS: Final = ("service_name",)
_LISTS: Final = ("redact",)


class TelemetryConfigError(ValueError):
    """Telemetry cannot be set up as told. `faults` holds one line for every reason."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("telemetry cannot be set up:\n" + "\n".join(f"  - {fault}" for fault in faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """How telemetry behaves; where it goes is told by the OTEL_* variables.

    Wrong values raise TelemetryConfigError.

    - `engine`: "official" makes plain OpenTelemetry SDK calls; "fast" brings the same to the backend for a
      fraction of the cost; "off" records nothing and costs next to nothing.
    - `semconv`: "both" gives message spans and metrics Echo's names and those of the OpenTelemetry messaging
      conventions; "echo" leaves the conventions' out, "otel" leaves out of Echo's what has a twin there.
      plugin.*, message.topic and message.id are always present.
    - `message_id_on_metrics`: "exemplar" keeps message ids on exemplars only; "attribute" makes every message
      its own time series and is for short experiments; "off" leaves them out.
    - `trace_max_age_s`: a message older than this, in seconds, starts a new trace that links to the old one.
    - `links`: "always" links a process span to its publish span, which is also its parent; "needed" links
      only where no parent says it already (replays, late messages, batches, earlier attempts).
    - `service_per_plugin`: each plugin reports as a service of its own, in the namespace of `service_name`.
    - `shutdown_timeout_s`: how long `shutdown` (and the end of the process) may wait for the backend, in
      seconds.
    - `service_name`: `service.name` of the resource, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES has
      one.
    - `log_level`: plugin log records from this level up are exported.
    - `redact`: keys of attributes that never leave the process, on spans, metrics and log records alike;
      `*`, `?` and `[...]` as in file names, upper and lower case the same: ["password", "*.token"].
    """

    engine: Engine = "fast"
    semconv: Semconv = "both"
    message_id_on_metrics: MessageIdOnMetrics = "exemplar"
    trace_max_age_s: float = 3600.0
    links: Links = "always"
    service_per_plugin: bool = False
    shutdown_timeout_s: float = 5.0
    service_name: str = "echo-core"
    log_level: LogLevel = "INFO"
    redact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        faults = _faults({field.name: getattr(self, field.name) for field in fields(self)})
        if faults:
            raise TelemetryConfigError(faults)
        object.__setattr__(self, "redact", tuple(self.redact))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Read a `[telemetry]` table. Raises TelemetryConfigError naming every fault at once."""
        faults = _unknown(values) + _faults(values)
        if faults:
            raise TelemetryConfigError(faults)
        return cls(**values)


def _unknown(values: Mapping[str, Any]) -> list[str]:
    known = [field.name for field in fields(TelemetryConfig)]
    faults = []
    for key in values:
        if key not in known:
            close = get_close_matches(str(key), known, n=1)
            cure = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            faults.append(f"telemetry.{key}: no such setting; {cure}")
    return faults


def _faults(values: Mapping[str, Any]) -> list[str]:
    found = [(key, _fault(key, value)) for key, value in values.items()]
    return [f"telemetry.{key}: {fault}" for key, fault in found if fault]


def _fault(key: str, value: Any) -> str | None:
    if key in _CHOICES and value not in _CHOICES[key]:
        return f"{value!r} is not one of {', '.join(map(repr, _CHOICES[key]))}"
    if key in _SECONDS and not _is_seconds(value):
        return f"{value!r} is not a number of seconds; give one of at least 0"
    if key in _FLAGS and not isinstance(value, bool):
        return f"{value!r} is neither true nor false"
    if key in _TEXTS and not (isinstance(value, str) and value.strip()):
        return f"{value!r} is not a text with something in it"
    if key in _LISTS and not _is_list_of_texts(value):
        return f"{value!r} is not a list of texts with something in them"
    return None


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) and one.strip() for one in value)


def _is_seconds(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
