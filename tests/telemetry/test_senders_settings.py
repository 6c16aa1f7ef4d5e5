"""OTEL_EXPORTER_OTLP_*: what they mean, held against the SDK's own exporters."""

import logging
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

from common_telemetry.environment import Protocol
from common_telemetry.senders.settings import OtlpSettings, has_credential_provider
from telemetry.sdk import since_1_45

OTLP = "OTEL_EXPORTER_OTLP"


def of(protocol: Protocol = "http/protobuf", **variables: str) -> OtlpSettings:
    return OtlpSettings.of("traces", protocol, {f"{OTLP}_{name}": value for name, value in variables.items()})


HTTP_CASES: list[dict[str, str]] = [
    {},
    {"ENDPOINT": "http://backend:4318"},
    {"ENDPOINT": "http://backend:4318/"},
    {"ENDPOINT": "https://backend/otlp"},
    {"ENDPOINT": "http://backend:4318", "TRACES_ENDPOINT": "http://other/any/path?q=1"},
    {"HEADERS": "authorization=Bearer%20abc,x-one=1", "TIMEOUT": "2.5", "COMPRESSION": "gzip"},
    {"HEADERS": "a=1,b=2", "TRACES_HEADERS": "B=3", "TIMEOUT": "2", "TRACES_TIMEOUT": "3"},
    {"HEADERS": "not url encoded=a b, broken"},
    {"COMPRESSION": "gzip", "TRACES_COMPRESSION": "deflate"},
    {"COMPRESSION": "none"},
]


@since_1_45
@pytest.mark.parametrize("variables", HTTP_CASES, ids=str)
def test_http_settings_mean_what_they_mean_for_the_sdk(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"{OTLP}_{name}", value)
    official: Any = HttpExporter()
    mine = of("http/protobuf", **variables)
    assert mine.endpoint == official._endpoint
    assert mine.timeout_s == official._client._timeout
    assert mine.compression == official._compression.value
    theirs = {key.lower(): value for key, value in official._client._headers.items()}
    assert theirs.items() >= mine.headers.items()
    assert theirs.keys() - mine.headers.keys() <= {"content-type", "user-agent", "content-encoding"}
    official.shutdown()


GRPC_CASES: list[dict[str, str]] = [
    {},
    {"ENDPOINT": "http://backend:4317"},
    {"ENDPOINT": "https://backend:4317"},
    {"ENDPOINT": "backend:4317"},
    {"ENDPOINT": "backend:4317", "INSECURE": "true"},
    {"ENDPOINT": "https://backend:4317", "INSECURE": "true"},
    {"ENDPOINT": "http://backend:4317", "INSECURE": "false"},
    {"ENDPOINT": "backend:4317", "TRACES_INSECURE": "true"},
    {"ENDPOINT": "http://backend:4317", "TRACES_ENDPOINT": "http://other:1"},
    {"HEADERS": "Authorization=Bearer%20abc", "TIMEOUT": "3", "COMPRESSION": "gzip"},
]


@since_1_45  # which has what is compared under these names
@pytest.mark.parametrize("variables", GRPC_CASES, ids=str)
def test_grpc_settings_mean_what_they_mean_for_the_sdk(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from common_telemetry.senders.grpc import GrpcSender

    for name, value in variables.items():
        monkeypatch.setenv(f"{OTLP}_{name}", value)
    official: Any = GrpcExporter()
    mine = of("grpc", **variables)
    sender: Any = GrpcSender(mine)
    assert sender._target == official._endpoint
    assert mine.secure == (not official._insecure)
    assert mine.timeout_s == official._timeout
    assert sender._compression == official._compression
    assert tuple(mine.headers.items()) == official._headers
    official.shutdown()


def test_certificates_are_those_of_the_signal_or_the_common_ones() -> None:
    mine = of(
        CERTIFICATE="ca.pem", TRACES_CLIENT_CERTIFICATE="me.pem", CLIENT_CERTIFICATE="x", CLIENT_KEY="key.pem"
    )
    assert (mine.certificate, mine.client_certificate, mine.client_key) == ("ca.pem", "me.pem", "key.pem")


@pytest.mark.parametrize("endpoint", ["backend:4318", "ftp://backend", "http://", "/v1/traces"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="no URL of a host"):
        of(ENDPOINT=endpoint)


@pytest.mark.parametrize("timeout", ["soon", "-1", "0", "nan"])
def test_a_senseless_timeout_is_the_default_and_told(timeout: str, caplog: pytest.LogCaptureFixture) -> None:
    assert of(TIMEOUT=timeout).timeout_s == 10
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize(("protocol", "given"), [("http/protobuf", "zstd"), ("grpc", "deflate")])
def test_a_compression_that_cannot_be_done_is_none_and_told(
    protocol: Protocol, given: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert of(protocol, COMPRESSION=given).compression == "none"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_credentials_of_a_plugin_of_the_sdk_are_noticed() -> None:
    assert has_credential_provider({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "gcp"})
    assert has_credential_provider({"OTEL_PYTHON_EXPORTER_OTLP_GRPC_TRACES_CREDENTIAL_PROVIDER": "gcp"})
    assert not has_credential_provider({"OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": " "})
