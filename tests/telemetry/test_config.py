import pytest

from common_telemetry import TelemetryConfig, TelemetryConfigError


def test_an_empty_table_is_the_default() -> None:
    assert TelemetryConfig.from_mapping({}) == TelemetryConfig()


def test_a_table_sets_what_it_names() -> None:
    config = TelemetryConfig.from_mapping(
        {"engine": "official", "trace_max_age_s": 60, "service_name": "shop"}
    )
    assert (config.engine, config.trace_max_age_s, config.service_name) == ("official", 60, "shop")
    assert config.semconv == TelemetryConfig().semconv


def test_every_fault_is_named_at_once() -> None:
    wrong = {
        "engin": "official",
        "colour": "red",
        "engine": "fastest",
        "semconv": 3,
        "message_id_on_metrics": "yes",
        "links": None,
        "trace_max_age_s": -1,
        "shutdown_timeout_s": "5",
        "service_per_plugin": "no",
        "service_name": " ",
        "log_level": "LOUD",
        "redact": "password",
    }
    with pytest.raises(TelemetryConfigError) as raised:
        TelemetryConfig.from_mapping(wrong)
    faults = raised.value.faults
    assert [fault.split(":")[0].removeprefix("telemetry.") for fault in faults] == list(wrong)
    assert "did you mean 'engine'?" in faults[0]
    assert "known are" in faults[1]
    assert "'fast', 'official', 'off'" in faults[2]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), True, -0.1])
def test_a_time_that_is_no_length_is_refused(seconds: float) -> None:
    with pytest.raises(TelemetryConfigError, match="shutdown_timeout_s"):
        TelemetryConfig(shutdown_timeout_s=seconds)
