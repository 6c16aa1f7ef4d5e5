"""Which exporters the OTEL_* variables ask for."""

import os

import pytest

from common_telemetry import TelemetryConfigError, environment
from common_telemetry.environment import ExporterChoice


def test_nothing_set_asks_for_nothing() -> None:
    assert environment.exporters({}) == []


def test_an_endpoint_asks_for_otlp_over_http_on_all_signals() -> None:
    found = environment.exporters({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4318"})
    assert found == [ExporterChoice(signal, "otlp", "otlp_proto_http") for signal in environment.SIGNALS]


def test_an_endpoint_of_one_signal_asks_for_that_signal_only() -> None:
    found = environment.exporters({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://backend:4318/v1/metrics"})
    assert [choice.signal for choice in found] == ["metrics"]


def test_a_list_of_names_is_followed_in_order() -> None:
    found = environment.exporters({"OTEL_TRACES_EXPORTER": "console, otlp"})
    assert [choice.entry_point for choice in found] == ["console", "otlp_proto_http"]


def test_none_asks_for_nothing_though_there_is_an_endpoint() -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4318", "OTEL_LOGS_EXPORTER": "none"}
    assert [choice.signal for choice in environment.exporters(variables)] == ["traces", "metrics"]


def test_the_protocol_of_a_signal_wins_over_the_common_one() -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://backend:4317",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL": "http/protobuf",
    }
    assert [choice.entry_point for choice in environment.exporters(variables)] == [
        "otlp_proto_grpc",
        "otlp_proto_grpc",
        "otlp_proto_http",
    ]


def test_every_fault_is_named_at_once() -> None:
    variables = {
        "OTEL_TRACES_EXPORTER": "none,otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json",
    }
    with pytest.raises(TelemetryConfigError) as raised:
        environment.exporters(variables)
    assert len(raised.value.faults) == 2
    assert "'none' stands alone" in raised.value.faults[0]
    assert "http/json" in raised.value.faults[1]


def test_another_environment_is_in_force_only_for_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "outside")
    before = dict(os.environ)

    def read_and_fail() -> None:
        with environment.in_force({"OTEL_SERVICE_NAME": "inside"}):
            assert dict(os.environ) == {"OTEL_SERVICE_NAME": "inside"}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        read_and_fail()
    assert dict(os.environ) == before
