"""What is available and what is activated, for people and for scripts."""

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from echo_core.runtime.registry import Available, Enabled, available, enabled
from echo_core.workspace import BUILD_TYPES, BuildType, Workspace

Scope = Literal["all", "development", "production"]


@dataclass(frozen=True, slots=True)
class Row:
    """One plugin in one build type."""

    name: str
    build_type: BuildType | Literal[""]
    """Empty for an enabled entry that leads to no library."""
    versions: tuple[str, ...]
    """The newest first."""
    plugin_type: str
    description: str
    """Type and description are those of the activated version, or else of the newest."""
    activated: str
    """The version that is enabled; empty if none of this build type is."""
    problems: tuple[str, ...]
    path: str
    """Relative to the workspace."""


def listing(workspace: Workspace, scope: Scope = "all") -> list[Row]:
    """A row for each plugin of each build type in `scope`, and one for each enabled entry that is broken."""
    build_types: tuple[BuildType, ...] = BUILD_TYPES if scope == "all" else (scope,)
    active = {(entry.name, entry.build_type): entry for entry in enabled(workspace)}
    built = {
        key: list(entries)
        for build_type in build_types
        for key, entries in groupby(
            available(workspace, build_type), key=lambda entry: (entry.name, entry.build_type)
        )
    }
    broken = [key for key in active if key not in built and key[1] in (None, *build_types)]
    rows = [_row(workspace, *key, built.get(key, []), active.get(key)) for key in (*built, *broken)]
    return sorted(rows, key=lambda row: (row.name, row.build_type))


def _row(
    workspace: Workspace,
    name: str,
    build_type: BuildType | None,
    versions: list[Available],
    active: Enabled | None,
) -> Row:
    infos = [entry.library for entry in versions if entry.library]
    info = next(
        (info for info in infos if active and info.version == active.version), next(iter(infos), None)
    )
    problems = [f"{entry.version}: {entry.error}" for entry in versions if entry.error]
    if active and active.error and str(active.error) not in " ".join(problems):
        problems.append(f"activated: {active.error}")
    folder = workspace.libraries(build_type) / name if build_type else workspace.enabled / name
    return Row(
        name=name,
        build_type=build_type or "",
        versions=tuple(entry.version for entry in versions),
        plugin_type=info.manifest.plugin_type if info else "",
        description=info.manifest.description if info else "",
        activated=active.version if active else "",
        problems=tuple(problems),
        path=folder.relative_to(workspace.root).as_posix(),
    )
