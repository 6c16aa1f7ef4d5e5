"""`echo-core.toml`: the host's settings, and how a plugin's configuration comes together.

A plugin's effective configuration is its manifest's `config`, then `[plugins.<name>]` of echo-core.toml,
then variables `ECHO_PLUGIN_<NAME>__<KEY>` (a further `__` goes one table deeper); the later wins.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from echo_core.errors import ConfigError, SettingsError
from echo_core.manifest import Manifest
from echo_core.workspace import Workspace

_PREFIX: Final = "ECHO_PLUGIN_"


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `[host]` table. Durations are seconds."""

    transport: str = "memory://"
    health_interval_s: float = 10.0
    """Time between two health checks of a plugin."""
    shutdown_timeout_s: float = 20.0
    """Deadline of a stop: three quarters of it to finish what is under way, the rest to be firm."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of `echo-core.toml`."""

    host: HostSettings = HostSettings()
    telemetry: dict[str, Any] = {}
    """Handed to `common_telemetry.TelemetryConfig.from_mapping`, which checks it."""
    plugins: dict[str, dict[str, Any]] = {}
    """Overrides of the manifests' `config`, by plugin name."""


def load_settings(workspace: Workspace) -> Settings:
    """The workspace's settings; raises `SettingsError` naming the file, the place and the fault."""
    where = str(workspace.settings_file)
    try:
        document = tomllib.loads(workspace.settings_file.read_text(encoding="utf-8"))
        return msgspec.convert(document, Settings)
    except OSError as error:
        raise SettingsError(
            "the settings cannot be read", where=where, why=error.strerror or str(error)
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError("the settings are not TOML", where=where, why=str(error)) from error
    except msgspec.ValidationError as error:
        raise SettingsError(
            "the settings are wrong",
            where=where,
            why=str(error),
            fix="see the comments that `echo-core init` writes",
        ) from error


def effective_config(manifest: Manifest, settings: Settings, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The configuration that the plugin is given, read-only; raises `ConfigError` with every fault."""
    config = _merged(manifest.config, settings.plugins.get(manifest.name, {}))
    for path, text in _overrides(manifest.name, environ):
        _set(config, path, text)
    if manifest.config_schema is not None:
        _validate(config, manifest.config_schema, manifest.name)
    return MappingProxyType(config)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _overrides(plugin: str, environ: Mapping[str, str]) -> Iterator[tuple[list[str], str]]:
    prefix = f"{_PREFIX}{plugin.upper()}__"
    for variable in sorted(environ):
        if variable.upper().startswith(prefix) and len(variable) > len(prefix):
            yield variable[len(prefix) :].split("__"), environ[variable]


def _set(config: dict[str, Any], path: list[str], text: str) -> None:
    """Put the text at the path; keys are found whatever their case, since variables are upper-case."""
    *tables, last = path
    for name in tables:
        key = _spelling(config, name)
        inner = config.get(key)
        config[key] = dict(inner) if isinstance(inner, dict) else {}
        config = config[key]
    key = _spelling(config, last)
    config[key] = text if isinstance(config.get(key), str) else _json_or_text(text)


def _spelling(config: Mapping[str, Any], name: str) -> str:
    return next((key for key in config if key.lower() == name.lower()), name.lower())


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _validate(config: Mapping[str, Any], schema: Mapping[str, Any], plugin: str) -> None:
    import jsonschema  # 100 ms: only when a plugin has a schema

    validator = jsonschema.Draft202012Validator
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"the config_schema of {plugin} is no JSON Schema", why=error.message) from error
    errors = list(validator(schema).iter_errors(config))
    if errors:
        raise ConfigError(
            f"the configuration of {plugin} does not fit its schema",
            where=f"[plugins.{plugin}] of echo-core.toml, or {_PREFIX}{plugin.upper()}__*",
            why="\n".join(f"{error.json_path}: {error.message}" for error in errors),
            fix="see config_schema in the plugin's manifest.json",
        )
