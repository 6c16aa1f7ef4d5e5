"""What `echo-core doctor` looks at: a function for each question, answering with checks that carry a fix."""

import difflib
import os
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from echo_core._version import __version__, compiled_modules
from echo_core.cli.app import PROGRAM
from echo_core.cli.run import check_settings
from echo_core.errors import EchoCoreError
from echo_core.manifest import Manifest
from echo_core.runtime.config import effective_config
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetterStore
from echo_core.runtime.dead_letters.repair import check as look_through
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.path import History
from echo_core.runtime.offer import check_beside_host
from echo_core.runtime.registry import Enabled, enabled
from echo_core.runtime.settings import Settings, load_settings
from echo_core.topics import TopicPattern
from echo_core.workspace import BUILD_TYPES, Workspace

Status = Literal["ok", "warn", "FAIL"]

_OLDEST_PYTHON: Final = (3, 11)
_TOO_NEW_PYTHON: Final = (3, 14)
_CONNECT_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, and how it is."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def check_everything(workspace: Workspace, environ: Mapping[str, str]) -> list[Check]:
    """All checks, in the order in which one would mend what they find."""
    checks = [
        check_python(),
        check_compiled(),
        check_path(environ),
        *check_folders(workspace),
        check_state(workspace),
    ]
    settings = Settings()
    try:
        settings = load_settings(workspace)
        check_settings(settings)
    except EchoCoreError as error:
        checks.append(failed("settings", error))
    entries = enabled(workspace)
    manifests = [entry.library.manifest for entry in entries if entry.library]
    return [
        *checks,
        *check_plugins(entries, settings, environ),
        *check_overrides(settings, [entry.name for entry in entries]),
        *check_topics(manifests),
        check_dead_letters(workspace),
        check_history(workspace, settings),
        *check_telemetry(environ),
    ]


def failed(name: str, error: EchoCoreError) -> Check:
    """An error as a check."""
    place = f" ({error.where})" if error.where else ""
    because = f": {error.why}" if error.why else ""
    return Check(name, "FAIL", f"{error.what}{because}{place}", error.fix)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether this Python is one that Echo Core is made for."""
    detail = f"Python {'.'.join(map(str, version))}, echo-core {__version__}"
    if _OLDEST_PYTHON <= version[:2] < _TOO_NEW_PYTHON:
        return Check("python", "ok", detail)
    return Check("python", "FAIL", detail, "use Python 3.11, 3.12 or 3.13")


def check_compiled() -> Check:
    """Whether the hot modules run compiled; slower is not wrong."""
    names = compiled_modules()
    if names:
        return Check("compiled", "ok", f"{len(names)} modules run compiled")
    return Check(
        "compiled", "ok", "everything runs as pure Python; see docs/compiled.md for how to be faster"
    )


def check_path(environ: Mapping[str, str]) -> Check:
    """Whether `echo-core` means one program."""
    folders = environ.get("PATH", os.defpath).split(os.pathsep)
    files = [Path(folder, PROGRAM) for folder in folders if folder]
    found = list(
        dict.fromkeys(file.resolve() for file in files if file.is_file() and os.access(file, os.X_OK))
    )
    if not found:
        here = Path(sys.executable).parent
        return Check("path", "warn", f"{PROGRAM} is not on PATH", f'export PATH="{here}:$PATH"')
    if len(found) > 1:
        others = ", ".join(map(str, found[1:]))
        return Check(
            "path", "warn", f"{found[0]} hides {others}", "remove the ones that you do not mean from PATH"
        )
    return Check("path", "ok", f"{PROGRAM} is {found[0]}")


def check_folders(workspace: Workspace) -> Iterator[Check]:
    """Whether the workspace has its folders."""
    folders = [
        workspace.workshop,
        *map(workspace.libraries, BUILD_TYPES),
        workspace.scripts,
        workspace.enabled,
    ]
    missing = [folder for folder in folders if not folder.is_dir()]
    for folder in missing:
        yield Check("workspace", "FAIL", f"{folder} is missing", f"mkdir -p '{folder}'")
    if not missing:
        yield Check("workspace", "ok", f"{workspace.root} has its folders")


def check_state(workspace: Workspace) -> Check:
    """Whether the host can keep its state. Nothing is left behind."""
    folder = workspace.state
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("state", "ok", f"{workspace.state} is writable")
    except OSError as error:
        reason = error.strerror or str(error)
        return Check(
            "state", "FAIL", f"{workspace.state}: {reason}", f"make {folder} a folder you can write to"
        )


def check_plugins(
    entries: Sequence[Enabled], settings: Settings, environ: Mapping[str, str]
) -> Iterator[Check]:
    """Whether each activated plugin is intact, fits this host, and has a configuration that fits it."""
    if not entries:
        fix = "echo-core list shows what there is; echo-core activate NAME"
        yield Check("plugins", "warn", "no plugin is activated", fix)
    earlier: list[Library] = []
    for entry in entries:
        name = f"plugin {entry.name}"
        if entry.error is not None:
            yield failed(name, entry.error)
        elif entry.library is not None:
            try:
                effective_config(entry.library.manifest, settings, environ)
                check_beside_host(entry.library, settings, earlier)
            except EchoCoreError as error:
                yield failed(name, error)
            else:
                earlier.append(entry.library)
                which = f"{entry.library.version} ({entry.library.build_type})"
                yield Check(name, "ok", f"{which} is intact, and its configuration fits")


def check_overrides(settings: Settings, activated: Iterable[str]) -> Iterator[Check]:
    """Whether every [plugins.<name>] of the settings is for a plugin that is activated."""
    known = list(activated)
    for name in settings.plugins:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            fix = f"did you mean [plugins.{near[0]}]?" if near else f"echo-core activate {name}, or remove it"
            yield Check("settings", "warn", f"[plugins.{name}] is for no activated plugin", fix)


def check_topics(manifests: Iterable[Manifest]) -> Iterator[Check]:
    """Whether what is published is read, and what is subscribed to is published."""
    plugins = list(manifests)
    publications = [(TopicPattern(topic), plugin.name) for plugin in plugins for topic in plugin.publications]
    subscriptions = [
        (TopicPattern(topic), plugin.name) for plugin in plugins for topic in plugin.subscriptions
    ]
    lonely = False
    for topic, name in subscriptions:
        if not any(topic.overlaps(other) for other, _ in publications):
            lonely = True
            detail = f"{name} subscribes to {topic.text}, and no activated plugin publishes there"
            yield Check("topics", "warn", detail, _topic_fix(topic.text, name, "publishes", publications))
    for topic, name in publications:
        if not any(topic.overlaps(other) for other, _ in subscriptions):
            lonely = True
            detail = f"{name} publishes to {topic.text}, and no activated plugin reads it"
            yield Check("topics", "warn", detail, _topic_fix(topic.text, name, "reads", subscriptions))
    if plugins and not lonely:
        yield Check("topics", "ok", "everything published is read, everything read is published")


def _topic_fix(topic: str, plugin: str, verb: str, others: Iterable[tuple[TopicPattern, str]]) -> str:
    owners = {pattern.text: name for pattern, name in others if name != plugin}
    near = difflib.get_close_matches(topic, owners, n=1, cutoff=0.8)
    if near:
        return f"did you mean {near[0]}, which {owners[near[0]]} {verb}?"
    return f"activate a plugin that {verb} it, or mend the manifest"


def check_dead_letters(workspace: Workspace) -> Check:
    """Whether messages wait for somebody to look at them, and are as they were written."""
    path = workspace.state / FILE_NAME
    try:
        with closing(DeadLetterStore(path)) as store:
            count = store.count()
        report = look_through(path) if count else None
    except EchoCoreError as error:
        return failed("dead letters", error)
    if report is not None and not report.is_sound:
        return Check("dead letters", "FAIL", f"damaged: {report.findings[0]}", "echo-core dlq check")
    if count:
        return Check("dead letters", "warn", f"{count:,} kept", "echo-core dlq list")
    return Check("dead letters", "ok", "none")


def check_history(workspace: Workspace, settings: Settings) -> Check:
    """Whether what is recorded of messages can be read, and whether all of it was."""
    name, path = "message history", history_path(settings, workspace)
    if not path.exists():
        return Check(name, "ok", "none yet" if settings.history.enabled else "switched off")
    try:
        with closing(History(path)) as history:
            extent = history.extent()
    except EchoCoreError as error:
        return failed(name, error)
    detail = f"{extent.records:,} records, {extent.bytes / 1e6:,.1f} MB"
    if extent.dropped:
        fix = "use a faster disk, or set enabled = false under [history] of echo-core.toml"
        return Check(
            name, "warn", f"{detail}; {extent.dropped:,} were dropped: the disk did not keep up", fix
        )
    return Check(name, "ok", detail)


def check_telemetry(environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether telemetry goes somewhere, and whether somebody answers there."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Check("telemetry", "warn", "OTEL_SDK_DISABLED switches it off", "unset OTEL_SDK_DISABLED")
        return
    endpoints = {
        value: variable
        for variable, value in sorted(environ.items())
        if variable.startswith("OTEL_EXPORTER_OTLP_") and variable.endswith("ENDPOINT") and value
    }
    if not endpoints and not any(
        environ.get(f"OTEL_{signal}_EXPORTER") for signal in ("TRACES", "METRICS", "LOGS")
    ):
        fix = "set OTEL_EXPORTER_OTLP_ENDPOINT, or ignore this: traces and metrics then stay in the host"
        yield Check("telemetry", "warn", "no OTLP endpoint is set", fix)
    for endpoint, variable in endpoints.items():
        yield _check_endpoint(endpoint, variable)


def _check_endpoint(endpoint: str, variable: str) -> Check:
    """Whether a TCP connection to the endpoint can be made; what is spoken there is not asked."""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme, 4317)
        if not parts.hostname:
            raise ValueError("it names no host")
        socket.create_connection((parts.hostname, port), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        fix = f"start the collector there, or mend {variable}"
        return Check("telemetry", "FAIL", f"{variable}={endpoint} does not answer: {error}", fix)
    return Check("telemetry", "ok", f"{variable}={endpoint} answers")
