"""What the OTEL_EXPORTER_OTLP_* variables say about one signal, with the meaning the SDK gives them.

The variable of a signal (OTEL_EXPORTER_OTLP_TRACES_HEADERS) replaces the common one
(OTEL_EXPORTER_OTLP_HEADERS); a common endpoint over HTTP gets the path of the signal added
(https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from common_telemetry.environment import Protocol
from common_telemetry.health import Signal

Compression = Literal["none", "gzip", "deflate"]

_logger = logging.getLogger("common_telemetry")
_DEFAULT_ENDPOINT: Final[Mapping[Protocol, str]] = {
    "http/protobuf": "http://localhost:4318",
    "grpc": "http://localhost:4317",
}
_COMPRESSIONS: Final[Mapping[Protocol, tuple[Compression, ...]]] = {
    "http/protobuf": ("none", "gzip", "deflate"),
    "grpc": ("none", "gzip"),
}
_DEFAULT_TIMEOUT_S: Final = 10.0
_CREDENTIAL_PROVIDER: Final = "CREDENTIAL_PROVIDER"


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where one signal goes, and how. `timeout_s` is for one request with all its repetitions."""

    signal: Signal
    endpoint: str
    headers: Mapping[str, str]
    timeout_s: float
    compression: Compression
    certificate: str | None
    client_certificate: str | None
    client_key: str | None
    secure: bool

    @classmethod
    def of(cls, signal: Signal, protocol: Protocol, environ: Mapping[str, str]) -> "OtlpSettings":
        """The settings of `signal`. Raises ValueError if no such endpoint can exist."""
        of_signal = _Variables(signal, environ)
        endpoint = _endpoint(of_signal, protocol)
        return cls(
            signal=signal,
            endpoint=endpoint,
            headers=dict(parse_env_headers(of_signal["HEADERS"], liberal=True)),
            timeout_s=_timeout(of_signal["TIMEOUT"]),
            compression=_compression(of_signal["COMPRESSION"], protocol),
            certificate=of_signal["CERTIFICATE"] or None,
            client_certificate=of_signal["CLIENT_CERTIFICATE"] or None,
            client_key=of_signal["CLIENT_KEY"] or None,
            secure=_is_secure(endpoint, of_signal["INSECURE"]),
        )


def has_credential_provider(environ: Mapping[str, str]) -> bool:
    """Whether credentials come from a plugin of the SDK's exporters, which only those can ask."""
    return any(
        name.startswith("OTEL_PYTHON_EXPORTER_OTLP_") and name.endswith(_CREDENTIAL_PROVIDER)
        for name, value in environ.items()
        if value.strip()
    )


class _Variables:
    def __init__(self, signal: Signal, environ: Mapping[str, str]) -> None:
        self._prefix = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"
        self.signal = signal
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        return self.own(name) or self._environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    def own(self, name: str) -> str:
        return self._environ.get(self._prefix + name, "").strip()


def _endpoint(of_signal: _Variables, protocol: Protocol) -> str:
    endpoint = of_signal["ENDPOINT"] or _DEFAULT_ENDPOINT[protocol]
    if protocol == "grpc" and "://" not in endpoint:
        return endpoint  # a target in gRPC's own notation
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        example = _DEFAULT_ENDPOINT[protocol]
        raise ValueError(f"endpoint {endpoint!r} is no URL of a host; give one like {example}")
    if protocol == "grpc" or of_signal.own("ENDPOINT"):
        return endpoint
    return f"{endpoint.removesuffix('/')}/v1/{of_signal.signal}"


def _is_secure(endpoint: str, insecure: str) -> bool:
    """Whether to speak TLS. https always does; OTEL_EXPORTER_OTLP_INSECURE speaks for what has no scheme."""
    scheme = urlsplit(endpoint).scheme if "://" in endpoint else ""
    if scheme == "https":
        return True
    if insecure:
        return insecure.lower() != "true"
    return scheme != "http"


def _timeout(given: str) -> float:
    # The specification has milliseconds, the Python SDK seconds; programs are configured for the SDK.
    try:
        seconds = float(given or _DEFAULT_TIMEOUT_S)
    except ValueError:
        seconds = math.nan
    if math.isfinite(seconds) and seconds > 0:
        return seconds
    _logger.warning(
        "telemetry: OTEL_EXPORTER_OTLP_TIMEOUT=%s is no number of seconds above 0; it is %d s now",
        given,
        _DEFAULT_TIMEOUT_S,
    )
    return _DEFAULT_TIMEOUT_S


def _compression(given: str, protocol: Protocol) -> Compression:
    for known in _COMPRESSIONS[protocol]:
        if (given.lower() or "none") == known:
            return known
    _logger.warning(
        "telemetry: OTEL_EXPORTER_OTLP_COMPRESSION=%s is not known for %s; nothing is compressed. Use %s",
        given,
        protocol,
        " or ".join(_COMPRESSIONS[protocol]),
    )
    return "none"
