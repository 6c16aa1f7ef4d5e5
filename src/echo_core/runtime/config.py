"""Whether a configuration fits a plugin's `config_schema` (JSON Schema, 2020-12 unless it says otherwise)."""

from collections.abc import Mapping
from typing import Any

from echo_core.errors import ConfigError
from echo_core.manifest import Manifest


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
