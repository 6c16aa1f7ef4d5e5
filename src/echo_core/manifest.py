"""`manifest.json`: what a plugin says of itself. Read as data; no plugin code runs.

`parse` reports all faults at once, each with its path, the reason and a fix. A key means something only
if it stands in `_CHECKS`; unknown keys are faults, except those that begin with `x-`.
"""

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from echo_core.errors import EchoCoreError, Fault, ManifestError, NameRefused
from echo_core.names import check_name
from echo_core.topics import TopicPattern

FILE_NAME: Final = "manifest.json"
API_VERSION: Final = "1.0"
"""Version of the plugin interface that this Echo Core offers: MAJOR.MINOR."""

PLUGIN_TYPES: Final = ("validator", "transformer", "filter", "router", "source", "sink")
ISOLATIONS: Final = ("in_process", "process")


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How messages are handed to the plugin. Durations are milliseconds."""

    max_attempts: int = 5
    """Attempts before a message is dead-lettered."""
    backoff_ms: int = 100
    """Upper bound of the first retry's wait; it doubles each time, and the wait is random below it."""
    backoff_max_ms: int = 30_000
    """The bound that doubling stops at."""
    lanes: int = 1
    """How many messages may be handled at a time. Order holds within a lane."""
    ordering_key: str = ""
    """Which messages share a lane: a path into the message, like `data.speaker`; empty: no order kept."""
    queue_limit: int = 1_000
    """Messages that may wait for the plugin before its publishers are slowed."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Deadlines, in milliseconds."""

    init_ms: int = 10_000
    message_ms: int = 30_000
    shutdown_ms: int = 5_000
    health_ms: int = 2_000


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A manifest without faults."""

    name: str
    version: str
    description: str
    entry_point: str
    subscriptions: tuple[str, ...]
    publications: tuple[str, ...]
    config: dict[str, Any] = {}
    plugin_type: str = ""
    api_version: str = API_VERSION
    requires_echo_core: str = ""
    config_schema: dict[str, Any] | None = None
    delivery: Delivery = Delivery()
    isolation: str = "in_process"
    timeouts: Timeouts = Timeouts()


def read(path: Path) -> Manifest:
    """The manifest in the file; raises `ManifestError` with every fault, also if it cannot be read."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        fault = Fault("$", error.strerror or str(error), f"put a readable {FILE_NAME} there")
        raise ManifestError([fault], where=str(path)) from error
    return parse(raw, where=str(path))


def parse(raw: bytes, *, where: str = FILE_NAME) -> Manifest:
    """The manifest in these bytes of JSON; raises `ManifestError` with every fault."""
    document, faults = _load_json(raw)
    if not faults:
        faults = list(_faults(document))
    if faults:
        raise ManifestError(faults, where=where)
    known = {key: value for key, value in document.items() if not key.startswith("x-")}
    return msgspec.convert(known, Manifest)


def _load_json(raw: bytes) -> tuple[dict[str, Any], list[Fault]]:
    """The JSON object, or the faults that keep it from being one. Doubled keys are faults: one would win."""
    doubled: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                doubled.append(key)
            seen[key] = value
        return seen

    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        return {}, [Fault("$", f"not UTF-8 at byte {error.start}", "save the file as UTF-8")]
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        return {}, [Fault("$", f"not JSON: {error.msg} at {place}", f"mend the JSON at {place}")]
    except RecursionError:
        return {}, [Fault("$", "nested too deeply", "a manifest is a flat JSON object")]
    if not isinstance(document, dict):
        return {}, [Fault("$", f"must be an object, not {_kind(document)}", 'write {"name": ...}')]
    faults = [Fault(f"$.{key}", "stands twice", "keep one of them") for key in doubled]
    return document, faults


def _faults(document: Mapping[str, Any]) -> Iterator[Fault]:
    for key in _REQUIRED:
        if key not in document:
            yield Fault(f"$.{key}", "is missing", f"add {_EXAMPLES[key]}")
    yield from _known_keys("$", document, _CHECKS)
    if document.get("plugin_type") == "source" and document.get("subscriptions"):
        yield Fault(
            "$.subscriptions", "a source handles no messages", "make it [], or choose another plugin_type"
        )


_Check = Callable[[str, Any], Iterator[Fault]]


def _known_keys(path: str, document: Mapping[str, Any], checks: Mapping[str, _Check]) -> Iterator[Fault]:
    """The faults of each key's value, and one for each key that has no meaning here."""
    for key, value in document.items():
        if key in checks:
            yield from checks[key](f"{path}.{key}", value)
        elif not key.startswith("x-"):
            near = difflib.get_close_matches(key, checks, n=1)
            meant = f'write "{near[0]}"' if near else f"one of {', '.join(checks)}"
            yield Fault(f"{path}.{key}", "is not a key of a manifest", f'{meant}, or prefix it with "x-"')


def _kind(value: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "an array", str: "text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _text(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str):
        yield Fault(path, f"must be text, not {_kind(value)}", f'"{path.rpartition(".")[2]}": "..."')
    elif not value.strip():
        yield Fault(path, "is empty", "say something")


def _object(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield Fault(path, f"must be an object, not {_kind(value)}", "write {...}")


def _name(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str):
        yield Fault(path, f"must be text, not {_kind(value)}", '"name": "my_plugin"')
        return
    try:
        check_name(value)
    except NameRefused as refused:
        yield Fault(path, f"{refused.what}: {refused.why}", f'"name": "{refused.suggestion}"')


def _version(path: str, value: Any) -> Iterator[Fault]:
    """PEP 440, in its canonical spelling: the version is also the name of a folder."""
    try:
        canonical = str(Version(value))
    except (InvalidVersion, TypeError):
        shown = repr(value) if isinstance(value, str) else _kind(value)
        yield Fault(path, f"{shown} is no version (PEP 440)", '"version": "0.1.0"')
        return
    if canonical != value:
        yield Fault(path, f"{value!r} is not the canonical spelling", f'"version": "{canonical}"')


def _entry_point(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str) or not value.isidentifier():
        shown = repr(value) if isinstance(value, str) else _kind(value)
        yield Fault(path, f"{shown} is not the name of a function", '"entry_point": "create_plugin"')


def _patterns(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, list):
        yield Fault(path, f"must be an array of topic patterns, not {_kind(value)}", '["words.by.dots"]')
        return
    for index, pattern in enumerate(value):
        try:
            TopicPattern(pattern)
        except EchoCoreError as error:
            yield Fault(f"{path}[{index}]", error.why or error.what, error.fix)


def _one_of(*choices: str) -> _Check:
    def check(path: str, value: Any) -> Iterator[Fault]:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1) or choices
            yield Fault(path, f"{value!r} is not one of {', '.join(choices)}", f'write "{near[0]}"')

    return check


def _whole_number(low: int, high: int) -> _Check:
    def check(path: str, value: Any) -> Iterator[Fault]:
        if type(value) is not int:
            yield Fault(path, f"must be a whole number, not {_kind(value)}", f"from {low} to {high}")
        elif not low <= value <= high:
            yield Fault(path, f"{value} is out of range", f"from {low} to {high}")

    return check


def _ordering_key(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str) or (value and value.split(".")[0] not in ("source", "data")):
        yield Fault(path, "must be a path into the message", 'like "source" or "data.speaker"')


def _table(checks: Mapping[str, _Check]) -> _Check:
    def check(path: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, dict):
            yield from _known_keys(path, value, checks)
        else:
            yield from _object(path, value)

    return check


def _api_version(path: str, value: Any) -> Iterator[Fault]:
    parts = value.split(".") if isinstance(value, str) else []
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        yield Fault(path, f"{value!r} is not MAJOR.MINOR", f'"api_version": "{API_VERSION}"')
        return
    offered = tuple(map(int, API_VERSION.split(".")))
    wanted = tuple(map(int, parts))
    if wanted[0] != offered[0] or wanted > offered:
        yield Fault(
            path,
            f"the plugin wants interface {value}, this Echo Core offers {API_VERSION}",
            "build the plugin for this Echo Core, or run it on one that offers its interface",
        )


def _specifier(path: str, value: Any) -> Iterator[Fault]:
    try:
        SpecifierSet(value)
    except (InvalidSpecifier, TypeError, AttributeError):
        yield Fault(path, f"{value!r} is no version range (PEP 440)", '"requires_echo_core": ">=0.1,<1"')


def _config_schema(path: str, value: Any) -> Iterator[Fault]:
    if value is not None:
        yield from _object(path, value)


_MILLISECONDS: Final = _whole_number(1, 86_400_000)
_CHECKS: Final[dict[str, _Check]] = {
    "name": _name,
    "version": _version,
    "description": _text,
    "entry_point": _entry_point,
    "subscriptions": _patterns,
    "publications": _patterns,
    "config": _object,
    "plugin_type": _one_of(*PLUGIN_TYPES),
    "api_version": _api_version,
    "requires_echo_core": _specifier,
    "config_schema": _config_schema,
    "delivery": _table(
        {
            "max_attempts": _whole_number(1, 1_000),
            "backoff_ms": _MILLISECONDS,
            "backoff_max_ms": _MILLISECONDS,
            "lanes": _whole_number(1, 1_024),
            "ordering_key": _ordering_key,
            "queue_limit": _whole_number(1, 1_000_000),
        }
    ),
    "isolation": _one_of(*ISOLATIONS),
    "timeouts": _table(dict.fromkeys(("init_ms", "message_ms", "shutdown_ms", "health_ms"), _MILLISECONDS)),
}
_REQUIRED: Final = ("name", "version", "description", "entry_point", "subscriptions", "publications")
_EXAMPLES: Final = {
    "name": '"name": "my_plugin"',
    "version": '"version": "0.1.0"',
    "description": '"description": "what it does, in a sentence"',
    "entry_point": '"entry_point": "create_plugin"',
    "subscriptions": '"subscriptions": ["transcript.*"]',
    "publications": '"publications": ["captions.en"]',
}


def check_host(manifest: Manifest, *, host_version: str, where: str) -> None:
    """Raise `ManifestError` unless the manifest's `requires_echo_core` admits `host_version`.

    A development or release-candidate host counts as the release it leads to: `>=1.3` admits 1.3.0.dev4.
    """
    if not manifest.requires_echo_core:
        return
    release = Version(host_version).base_version
    if not SpecifierSet(manifest.requires_echo_core).contains(release):
        reason = f"wants Echo Core {manifest.requires_echo_core}, and this is {host_version}"
        fix = "install such an Echo Core, or build the plugin for this one"
        raise ManifestError([Fault("$.requires_echo_core", reason, fix)], where=where)
