"""`manifest.json`: what a plugin says of itself. Read as data; no plugin code runs.

`parse` reports all faults at once, each with its path, the reason and a fix. A key means something only
if it stands in `_CHECKS`; unknown keys are faults, except those that begin with `x-`.
"""

import difflib
import json
import keyword
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
from packaging.version import InvalidVersion, Version

from echo_core.errors import EchoCoreError, Fault, ManifestError, NameRefused
from echo_core.names import check_name
from echo_core.topics import TopicPattern

FILE_NAME: Final = "manifest.json"
API_VERSION: Final = "1.0"
"""Version of the plugin interface that this Echo Core offers: MAJOR.MINOR."""

PluginType = Literal["validator", "transformer", "filter", "router", "source", "sink"]
PLUGIN_TYPES: Final[tuple[PluginType, ...]] = get_args(PluginType)
WHEN_FULL: Final = ("wait", "shed_newest", "shed_oldest")
ISOLATIONS: Final = ("in_process", "process")
"""Tiers, the stricter last: in the host's process, or in one of the plugin's own."""


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
    when_full: str = "wait"
    """What then happens: publishers wait, or the newest or oldest messages are shed, counted by reason."""
    max_in_flight: int = 10_000
    """Messages taken from the transport and not ended, at most, over all lanes."""
    circuit_failures: int = 8
    """Failed attempts in a row, at three messages or more, after which the queue is held; 0: never."""
    circuit_open_ms: int = 1_000
    """How long it is held before one message is tried; it doubles each time that fails."""
    circuit_open_max_ms: int = 60_000
    """Where that doubling stops."""
    batch_size: int = 1
    """Most messages that are handed over at a time; above 1 they go to `process_batch`."""
    batch_wait_ms: int = 0
    """How long a batch that is not full waits for more; 0 takes what is there."""


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
    if document is not None:
        faults.extend(_faults(document))
    if document is None or faults:
        raise ManifestError(faults, where=where)
    return msgspec.convert(document, Manifest)


def _load_json(raw: bytes) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The JSON object, None if it is not one, and the faults of its text whatever its keys mean."""
    doubled: list[tuple[dict[str, Any], str]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in items:
            if key in seen:
                doubled.append((seen, key))
            seen[key] = value
        return seen

    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        return None, [Fault("$", f"not UTF-8 at byte {error.start}", "save the file as UTF-8")]
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        return None, [Fault("$", f"not JSON: {error.msg} at {place}", f"mend the JSON at {place}")]
    except ValueError:  # Python refuses to read a number of thousands of digits
        return None, [Fault("$", "it has a number with too many digits", "write a smaller number")]
    except RecursionError:
        return None, [_too_deep("$")]
    if not isinstance(document, dict):
        return None, [Fault("$", f"must be an object, not {_kind(document)}", 'write {"name": ...}')]
    return document, list(_text_faults(document, doubled))


def _text_faults(document: dict[str, Any], doubled: Sequence[tuple[dict[str, Any], str]]) -> Iterator[Fault]:
    """Doubled keys (one would win unseen), and values that Python reads and no JSON can say."""
    pending: list[tuple[str, Any, int]] = [("$", document, 0)]
    while pending:
        path, value, depth = pending.pop()
        if depth > _MAX_DEPTH:
            yield _too_deep(path)
        elif isinstance(value, dict):
            yield from (_doubled(path, key) for owner, key in doubled if owner is value)
            yield from (_no_unicode(_at(path, key)) for key in value if not _is_unicode(key))
            pending.extend((_at(path, key), item, depth + 1) for key, item in value.items())
        elif isinstance(value, list):
            pending.extend((f"{path}[{index}]", item, depth + 1) for index, item in enumerate(value))
        elif isinstance(value, str) and not _is_unicode(value):
            yield _no_unicode(path)
        elif isinstance(value, float) and not math.isfinite(value):
            yield Fault(path, f"{value} is no number in JSON", "write a finite number")


def _too_deep(path: str) -> Fault:
    return Fault(path, "is nested too deeply", f"at most {_MAX_DEPTH} levels")


def _doubled(path: str, key: str) -> Fault:
    return Fault(_at(path, key), "stands twice", "keep one of them")


def _no_unicode(path: str) -> Fault:
    return Fault(path, "holds half of a surrogate pair", "write the character itself")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _at(path: str, key: str) -> str:
    """The path of a key; one that is no plain word is quoted, so that a path is always printable."""
    return f"{path}.{key}" if key.replace("-", "_").isidentifier() else f"{path}[{json.dumps(key)}]"


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
            yield from checks[key](_at(path, key), value)
        elif not key.startswith("x-"):
            near = difflib.get_close_matches(key, checks, n=1)
            meant = f'write "{near[0]}"' if near else f"one of {', '.join(checks)}"
            yield Fault(_at(path, key), "is not a key of a manifest", f'{meant}, or prefix it with "x-"')


def _kind(value: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "an array", str: "text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: Any) -> str:
    """A value as a fault shows it: text is quoted and cut, anything else only named."""
    if not isinstance(value, str):
        return _kind(value)
    return repr(value if len(value) <= _MAX_VERSION_LENGTH else value[:_MAX_VERSION_LENGTH] + "…")


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
        canonical = str(Version(_short_text(value)))
    except InvalidVersion:
        yield Fault(
            path,
            f"{_shown(value)} is no version (PEP 440, at most {_MAX_VERSION_LENGTH} characters)",
            '"version": "0.1.0"',
        )
        return
    if canonical != value:
        yield Fault(path, f"{value!r} is not the canonical spelling", f'"version": "{canonical}"')


def _short_text(value: Any) -> str:
    """The value if it can be a version or a range; empty, which is neither a version nor a bound, if not."""
    return value if isinstance(value, str) and len(value) <= _MAX_VERSION_LENGTH else ""


def _entry_point(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        yield Fault(path, f"{_shown(value)} is not the name of a function", '"entry_point": "create_plugin"')


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
            near = difflib.get_close_matches(_short_text(value), choices, n=1) or choices
            yield Fault(path, f"{_shown(value)} is not one of {', '.join(choices)}", f'write "{near[0]}"')

    return check


def _whole_number(low: int, high: int) -> _Check:
    def check(path: str, value: Any) -> Iterator[Fault]:
        if type(value) is not int:
            yield Fault(path, f"must be a whole number, not {_kind(value)}", f"from {low} to {high}")
        elif not low <= value <= high:
            yield Fault(path, f"{value} is out of range", f"from {low} to {high}")

    return check


def _ordering_key(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str) or not _ORDERING_KEY.fullmatch(value):
        yield Fault(path, "must be a path into the message", 'like "source" or "data.speaker"')


def _table(checks: Mapping[str, _Check]) -> _Check:
    def check(path: str, value: Any) -> Iterator[Fault]:
        if isinstance(value, dict):
            yield from _known_keys(path, value, checks)
        else:
            yield from _object(path, value)

    return check


def _api_version(path: str, value: Any) -> Iterator[Fault]:
    if not isinstance(value, str) or not _MAJOR_MINOR.fullmatch(value):
        yield Fault(path, f"{_shown(value)} is not MAJOR.MINOR", f'"api_version": "{API_VERSION}"')
        return
    offered = tuple(map(int, API_VERSION.split(".")))
    wanted = tuple(map(int, value.split(".")))
    if wanted[0] != offered[0] or wanted > offered:
        yield Fault(
            path,
            f"the plugin wants interface {value}, this Echo Core offers {API_VERSION}",
            "build the plugin for this Echo Core, or run it on one that offers its interface",
        )


def _specifier(path: str, value: Any) -> Iterator[Fault]:
    fault = Fault(path, f"{_shown(value)} is no version range (PEP 440)", '"requires_echo_core": ">=0.1,<1"')
    if not isinstance(value, str) or len(value) > _MAX_VERSION_LENGTH:
        yield fault
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet  # a fifth of `import echo_core`, and rare

    try:
        SpecifierSet(value)
    except InvalidSpecifier:
        yield fault


def _config_schema(path: str, value: Any) -> Iterator[Fault]:
    if value is not None:
        yield from _object(path, value)


_MAX_DEPTH: Final = 64
_MAX_VERSION_LENGTH: Final = 100  # a version is the name of a folder
_ORDERING_KEY: Final = re.compile(r"(source|data(\.[^.]+)*)?")
_MAJOR_MINOR: Final = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
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
            "when_full": _one_of(*WHEN_FULL),
            "max_in_flight": _whole_number(1, 1_000_000),
            "circuit_failures": _whole_number(0, 1_000_000),
            "circuit_open_ms": _MILLISECONDS,
            "circuit_open_max_ms": _MILLISECONDS,
            "batch_size": _whole_number(1, 10_000),
            "batch_wait_ms": _whole_number(0, 60_000),
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
    """Raise `ManifestError` unless this Echo Core, of `host_version`, can run the plugin.

    `requires_echo_core` must admit it. A development or release-candidate host counts as the release it
    leads to: `>=1.3` admits 1.3.0.dev4.
    """
    faults: list[Fault] = []
    if manifest.requires_echo_core:
        from packaging.specifiers import SpecifierSet

        host = Version(host_version)
        release = host.base_version if host.is_prerelease else host.public
        if not SpecifierSet(manifest.requires_echo_core).contains(release):
            reason = f"wants Echo Core {manifest.requires_echo_core}, and this is {host_version}"
            fix = "install such an Echo Core, or build the plugin for this one"
            faults.append(Fault("$.requires_echo_core", reason, fix))
    if faults:
        raise ManifestError(faults, where=where)
