"""How a plugin's configuration comes together, and whether it fits the plugin's `config_schema`.

The effective configuration is the manifest's `config`, then `[plugins.<name>]` of echo-core.toml, then
variables `ECHO_PLUGIN_<NAME>__<KEY>` (a further `__` goes one table deeper); the later wins. The schema is
JSON Schema, 2020-12 unless it says otherwise.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from echo_core.errors import ConfigError
from echo_core.manifest import Manifest
from echo_core.runtime.settings import Settings

_PREFIX: Final = "ECHO_PLUGIN_"


def effective_config(manifest: Manifest, settings: Settings, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The configuration that the plugin is given, read-only; raises `ConfigError` with every fault."""
    config = _merged(manifest.config, settings.plugins.get(manifest.name, {}))
    for path, text in _overrides(manifest.name, environ):
        _set(config, path, text)
    where = f"[plugins.{manifest.name}] of echo-core.toml, or {_PREFIX}{manifest.name.upper()}__*"
    check_config(manifest, config, where=where)
    return MappingProxyType(config)


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256, as hex, of a configuration: equal for equal values, whatever their order."""
    text = json.dumps(dict(config), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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


def check_config(manifest: Manifest, config: Mapping[str, Any], *, where: str, complete: bool = True) -> None:
    """Raise `ConfigError`, with every fault, unless `config` satisfies the manifest's schema, if it has one.

    Without `complete`, required keys may be missing: defaults need not hold what an operator must say.
    """
    if manifest.config_schema is None:
        return
    # Loaded here, because it takes longer to import than most commands to run.
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    kind = validator_for(manifest.config_schema, default=Draft202012Validator)
    try:
        kind.check_schema(manifest.config_schema)
        # An empty registry: a schema's references are never fetched from a network.
        found = list(kind(manifest.config_schema, registry=Registry()).iter_errors(dict(config)))
    except SchemaError as error:
        raise _error(manifest, where, f"its config_schema is no JSON Schema: {error.message}") from error
    except Unresolvable as error:
        raise _error(
            manifest, where, f"its config_schema refers to {error.ref!r}, which is not in it"
        ) from error
    faults = [
        f"{error.json_path}: {error.message}"
        for error in sorted(found, key=lambda error: error.json_path)
        if complete or error.validator != "required"
    ]
    if faults:
        raise _error(manifest, where, "\n".join(faults))


def _error(manifest: Manifest, where: str, why: str) -> ConfigError:
    return ConfigError(
        f"the configuration of {manifest.name} does not fit its config_schema",
        where=where,
        why=why,
        fix="change the value, or the schema, where it says",
    )
