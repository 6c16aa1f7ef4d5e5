"""OTLP over gRPC: requests as bytes through a generic call, so that the protobuf runtime is not needed."""

from collections.abc import Mapping
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

# grpc has no types of its own. Importing this module is the choice to load it.
import grpc  # type: ignore[import-untyped]

from common_telemetry.errors import describe
from common_telemetry.health import Signal
from common_telemetry.senders.answers import Answer, accepted, retry_delay, retry_delay_of_status
from common_telemetry.senders.delivery import Body, Sender
from common_telemetry.senders.settings import OtlpSettings

_METHODS: Final[Mapping[Signal, str]] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
# OTLP specification, "Failures" of OTLP/gRPC.
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# Left alone gRPC waits up to two minutes before it looks again whether a backend has come back.
_OPTIONS: Final = (
    ("grpc.primary_user_agent", "common-telemetry-otlp"),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class GrpcSender(Sender):
    """Calls the Export method of one signal's service.

    Raises OSError when it is made if a certificate or key cannot be read.
    """

    def __init__(self, settings: OtlpSettings) -> None:
        self._method = _METHODS[settings.signal]
        self._target = urlsplit(settings.endpoint).netloc if "://" in settings.endpoint else settings.endpoint
        self._credentials = _credentials(settings) if settings.secure else None
        self._metadata = tuple(settings.headers.items())
        self._compression = (
            grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
        )
        self._channel: Any = None
        self._export: Any = None
        self._broken_off = False

    def prepare(self, body: Body) -> Body:
        """Part of Sender; gRPC itself compresses."""
        return bytes(body)

    def attempt(self, prepared: Body, end: float) -> Answer:
        """Part of Sender."""
        left = end - monotonic()
        if self._broken_off:
            return Answer("refused", "given up at shutdown")
        if left <= 0:
            return Answer("retry", "no time left")
        try:
            return accepted(self._call()(prepared, timeout=left, metadata=self._metadata))
        except grpc.RpcError as error:
            return self._judge(error)
        except ValueError as error:  # gRPC's word for a channel that was closed, or a header it cannot send
            return Answer("refused", describe(error))

    def break_off(self) -> None:
        """Part of Sender."""
        self._broken_off = True
        channel = self._channel
        if channel is not None:
            channel.close()

    def close(self) -> None:
        """Part of Sender."""
        channel, self._channel, self._export = self._channel, None, None
        if channel is not None:
            channel.close()

    def forget_connection(self) -> None:
        """Part of Sender."""
        self._channel = self._export = None

    def _call(self) -> Any:
        if self._export is None:
            if self._credentials is None:
                channel = grpc.insecure_channel(self._target, _OPTIONS, self._compression)
            else:
                channel = grpc.secure_channel(self._target, self._credentials, _OPTIONS, self._compression)
            self._channel = channel
            self._export = channel.unary_unary(self._method)  # no serialisers: bytes go in and come out
        return self._export

    def _judge(self, error: Any) -> Answer:
        code = error.code()
        said = f"gRPC {code.name}: {error.details()}"
        trailers = dict(error.trailing_metadata() or ())
        wait = retry_delay_of_status(trailers.get("grpc-status-details-bin", b""))
        if wait is None and "google.rpc.retryinfo-bin" in trailers:
            wait = retry_delay(trailers["google.rpc.retryinfo-bin"])
        # RESOURCE_EXHAUSTED may be repeated only if the backend says when (OTLP specification).
        retryable = code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait is not None)
        if retryable and not self._broken_off:
            return Answer("retry", said, retry_after_s=wait)
        return Answer("refused", said)


def _credentials(settings: OtlpSettings) -> Any:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(settings.certificate),
        private_key=_read(settings.client_key),
        certificate_chain=_read(settings.client_certificate),
    )


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
