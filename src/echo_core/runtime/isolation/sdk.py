"""What a plugin's process shares with its host: the SDK. Found here, offered there by `bootstrap`.

It is Echo Core, the platform packages and what they need. Other packages of the host's environment do not
exist for a plugin, so those that it carries itself may contradict them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final, TypedDict

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

import common_telemetry
import echo_core
from echo_core.runtime.libraries.platform import is_platform

_OF_ECHO_CORE: Final = ("packaging", "uuid-utils")
"""What Echo Core's own modules need in a plugin's process, beside the platform packages."""


class Sdk(TypedDict):
    """Where it is, and the names that may be seen of it."""

    folders: list[str]
    modules: list[str]
    distributions: list[str]


@cache
def find_sdk() -> Sdk:
    """The SDK of this host. Takes some tens of milliseconds, the first time."""
    installed = {canonicalize_name(found.name): found for found in metadata.distributions()}
    roots = [name for name in installed if is_platform(name) and name != "echo-core"]
    needed = _with_requirements([*roots, *_OF_ECHO_CORE], installed)
    distributions = [installed[name] for name in needed]
    own = [str(Path(package.__file__ or "").parents[1]) for package in (echo_core, common_telemetry)]
    folders = [*own, *(str(found.locate_file("")) for found in distributions)]
    modules = {"echo_core", "common_telemetry"}.union(*map(_top_levels, distributions))
    return Sdk(folders=list(dict.fromkeys(folders)), modules=sorted(modules), distributions=sorted(needed))


def _with_requirements(
    names: Iterable[str], installed: Mapping[NormalizedName, metadata.Distribution]
) -> set[NormalizedName]:
    found: set[NormalizedName] = set()
    pending = [canonicalize_name(name) for name in names]
    while pending:
        name = pending.pop()
        if name in found or name not in installed:
            continue
        found.add(name)
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(canonicalize_name(requirement.name))
    return found


def _top_levels(distribution: metadata.Distribution) -> Iterator[str]:
    """The importable names at the top of what the distribution installed."""
    if distribution.files is None:  # its installer keeps no list
        yield from (distribution.read_text("top_level.txt") or "").split()
    for path in distribution.files or ():
        top = path.parts[0]
        if len(path.parts) > 1 and top.isidentifier():
            yield top
        elif len(path.parts) == 1 and top.endswith((".py", ".so", ".pyd")):
            yield top.partition(".")[0]
