"""Which tier a plugin runs in, and what its process is given."""

import pytest

from echo_core.runtime.isolation.limits import Limits, limits_of, scrubbed, tier_of
from echo_core.runtime.settings import IsolationSettings, PluginIsolation, Tier
from runtime.hosting import manifest


@pytest.mark.parametrize("asked", ["in_process", "process"])
@pytest.mark.parametrize("for_all", ["in_process", "process"])
@pytest.mark.parametrize("for_it", ["in_process", "process"])
def test_the_stricter_of_manifest_and_operator_wins(asked: Tier, for_all: Tier, for_it: Tier) -> None:
    settings = IsolationSettings(tier=for_all, plugins={"greeter": PluginIsolation(tier=for_it)})
    strict = "process" in (asked, for_all, for_it)
    assert tier_of(manifest("greeter", isolation=asked), settings) == ("process" if strict else "in_process")


def test_the_operator_of_one_plugin_says_nothing_of_others() -> None:
    settings = IsolationSettings(plugins={"greeter": PluginIsolation(tier="process", memory_mb=64)})
    assert tier_of(manifest("other"), settings) == "in_process"
    assert limits_of("other", settings) == Limits()


def test_what_is_said_for_one_plugin_goes_over_what_is_said_for_all() -> None:
    settings = IsolationSettings(
        memory_mb=512, block_s=3.0, plugins={"greeter": PluginIsolation(memory_mb=0, environment=("MODEL",))}
    )
    assert limits_of("greeter", settings) == Limits(memory_mb=0, block_s=3.0, environment=("MODEL",))


def test_a_process_sees_little_of_the_environment() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost",
        "https_proxy": "http://proxy",
        "PYTHONPATH": "/evil",
        "LD_PRELOAD": "evil.so",
        "DATABASE_PASSWORD": "secret",
        "MODEL": "small",
    }
    passed = {"PATH", "LC_ALL", "OTEL_EXPORTER_OTLP_ENDPOINT", "https_proxy", "MODEL"}
    sooner = {"OTEL_BSP_SCHEDULE_DELAY", "OTEL_METRIC_EXPORT_INTERVAL"}
    assert set(scrubbed(environ, Limits(environment=("MODEL",)))) == passed | sooner


def test_it_sends_its_telemetry_sooner_than_is_usual_unless_the_environment_says_when() -> None:
    found = scrubbed({"OTEL_BSP_SCHEDULE_DELAY": "3000"}, Limits())
    assert found == {"OTEL_BSP_SCHEDULE_DELAY": "3000", "OTEL_METRIC_EXPORT_INTERVAL": "10000"}
