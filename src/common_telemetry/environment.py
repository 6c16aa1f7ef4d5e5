"""What the OTEL_* variables say about exporters (OpenTelemetry specification, SDK environment variables).

Everything else (sampler, limits, batching, endpoints, headers, resource) the SDK reads by itself.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

from common_telemetry.config import TelemetryConfigError
from common_telemetry.health import Signal

Protocol = Literal["http/protobuf", "grpc"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics", "logs")
PROTOCOL_OF_ENTRY_POINT: Final[Mapping[str, Protocol]] = {
    "otlp_proto_http": "http/protobuf",
    "otlp_proto_grpc": "grpc",
}
_ENTRY_POINT_OF_PROTOCOL: Final[Mapping[str, str]] = {
    protocol: entry_point for entry_point, protocol in PROTOCOL_OF_ENTRY_POINT.items()
}
_DEFAULT_PROTOCOL: Final = "http/protobuf"
_swapping = Lock()


@dataclass(frozen=True, slots=True)
class ExporterChoice:
    """One exporter asked for: its name in the environment, and its entry point."""

    signal: Signal
    name: str
    entry_point: str


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Whether OTEL_SDK_DISABLED is true."""
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def exporters(environ: Mapping[str, str]) -> list[ExporterChoice]:
    """The exporters of all signals. Raises TelemetryConfigError naming every fault.

    OTEL_<SIGNAL>_EXPORTER is a list of names; without it the exporter is `otlp` if an OTLP endpoint is set,
    and none otherwise: nothing is sent to a place nobody named.
    """
    faults: list[str] = []
    found = [choice for signal in SIGNALS for choice in _of_signal(signal, environ, faults)]
    if faults:
        raise TelemetryConfigError(faults)
    return found


def _of_signal(signal: Signal, environ: Mapping[str, str], faults: list[str]) -> list[ExporterChoice]:
    named = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not named:
        named = "otlp" if _has_endpoint(signal, environ) else "none"
    names = [name.strip() for name in named.split(",") if name.strip()]
    if "none" in names and len(names) > 1:
        faults.append(f"OTEL_{signal.upper()}_EXPORTER={named}: 'none' stands alone; drop it or the others")
    return [
        ExporterChoice(signal, name, _entry_point(name, signal, environ, faults))
        for name in names
        if name != "none"
    ]


def _has_endpoint(signal: Signal, environ: Mapping[str, str]) -> bool:
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
    return any(environ.get(name, "").strip() for name in names)


def _entry_point(name: str, signal: Signal, environ: Mapping[str, str], faults: list[str]) -> str:
    if name != "otlp":
        return name
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    for variable in variables:
        protocol = environ.get(variable, "").strip()
        if protocol and protocol not in _ENTRY_POINT_OF_PROTOCOL:
            known = ", ".join(_ENTRY_POINT_OF_PROTOCOL)
            faults.append(
                f"{variable}={protocol}: not a protocol that can be spoken here; set one of {known}"
            )
        if protocol:
            return _ENTRY_POINT_OF_PROTOCOL.get(protocol, "")
    return _ENTRY_POINT_OF_PROTOCOL[_DEFAULT_PROTOCOL]


@contextmanager
def in_force(environ: Mapping[str, str] | None) -> Iterator[Mapping[str, str]]:
    """The environment the SDK sees while it is set up; None for the process's own.

    The SDK reads os.environ and takes no other, so for the length of the block os.environ is `environ`.
    """
    if environ is None:
        yield os.environ
        return
    with _swapping:
        before = dict(os.environ)
        try:
            _become(environ)
            yield os.environ
        finally:
            _become(before)


def _become(environ: Mapping[str, str]) -> None:
    for key in set(os.environ) - set(environ):
        del os.environ[key]
    os.environ.update(environ)
