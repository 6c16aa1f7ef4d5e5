"""How a plugin's configuration comes together."""

from typing import Any

import pytest

from echo_core.errors import ConfigError
from echo_core.runtime.config import effective_config
from echo_core.runtime.settings import Settings
from runtime.hosting import manifest

SCHEMA = {
    "type": "object",
    "properties": {"limit": {"type": "integer", "minimum": 1}, "words": {"type": "array"}},
    "additionalProperties": False,
}


def test_the_environment_wins_over_the_file_and_the_file_over_the_manifest() -> None:
    of = manifest("limiter", config={"limit": 1, "name": "a", "deep": {"x": 1, "y": 2}, "kept": True})
    settings = Settings(plugins={"limiter": {"limit": 2, "deep": {"x": 3}}})
    environ = {"ECHO_PLUGIN_LIMITER__NAME": "7", "ECHO_PLUGIN_LIMITER__DEEP__Y": "9", "OTHER": "1"}
    config = effective_config(of, settings, environ)
    assert config == {"limit": 2, "name": "7", "deep": {"x": 3, "y": 9}, "kept": True}


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("true", True), ('["a"]', ["a"]), ("plain", "plain"), ("", "")]
)
def test_a_variable_is_json_where_it_can_be(text: str, value: Any) -> None:
    config = effective_config(manifest("limiter"), Settings(), {"ECHO_PLUGIN_LIMITER__NEW": text})
    assert config == {"new": value}


def test_a_variable_of_another_plugin_with_a_longer_name_is_left_alone() -> None:
    config = effective_config(manifest("limiter"), Settings(), {"ECHO_PLUGIN_LIMITER_TWO__X": "1"})
    assert config == {}


def test_the_schema_is_held_and_every_fault_is_named() -> None:
    of = manifest("limiter", config={"limit": 0, "wrods": []}, config_schema=SCHEMA)
    with pytest.raises(ConfigError) as caught:
        effective_config(of, Settings(), {})
    assert "$.limit: 0 is less than the minimum of 1" in caught.value.why
    assert "wrods" in caught.value.why


def test_a_schema_that_is_none_is_a_clear_error() -> None:
    of = manifest("limiter", config_schema={"type": "objekt"})
    with pytest.raises(ConfigError, match="config_schema is no JSON Schema"):
        effective_config(of, Settings(), {})


def test_the_manifests_own_defaults_are_not_changed() -> None:
    of = manifest("limiter", config={"deep": {"x": 1}})
    effective_config(of, Settings(), {"ECHO_PLUGIN_LIMITER__DEEP__X": "2"})
    assert of.config == {"deep": {"x": 1}}


def test_the_configuration_is_read_only() -> None:
    config = effective_config(manifest("limiter", config={"limit": 1}), Settings(), {})
    with pytest.raises(TypeError):
        config["limit"] = 2  # type: ignore[index]
