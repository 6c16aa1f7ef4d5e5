"""A plugin's source: a snapshot of its folder in the workshop, in which everything was found to agree."""

import ast
import hashlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from echo_core import manifest as manifests
from echo_core._version import __version__
from echo_core.errors import BuildError, Fault, ManifestError
from echo_core.manifest import Manifest
from echo_core.names import suggest_name
from echo_core.runtime.libraries.library import LOCK_FILE, this_python
from echo_core.runtime.libraries.platform import PLATFORM_MODULES
from echo_core.workshop.lookup import not_found
from echo_core.workspace import Workspace

PYPROJECT: Final = "pyproject.toml"
BACKEND: Final = "hatchling.build"
_LEFT_OUT: Final = frozenset({"tests", "build", "dist", "out", "venv", "node_modules", LOCK_FILE})
_VERSION_FROM_MANIFEST: Final = (
    'write dynamic = ["version"] there, and [tool.hatch.version] with path = "manifest.json" and '
    """pattern = '"version":\\s*"(?P<version>[^"]+)"', so that the manifest alone states it"""
)


@dataclass(frozen=True, slots=True)
class Source:
    """A plugin's source, ready to be built."""

    folder: Path
    manifest: Manifest
    requirements: tuple[Requirement, ...]
    """What the plugin depends on, as its pyproject.toml says."""
    files: Mapping[str, bytes]
    """Content by path, without tests, hidden files and what other tools made."""

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.manifest.name

    @property
    def digest(self) -> str:
        """sha256, in hex, over paths and content."""
        total = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            total.update(f"{hashlib.sha256(content).hexdigest()} {path}\n".encode())
        return total.hexdigest()


def read_source(workspace: Workspace, name: str) -> Source:
    """The source of the plugin; its code is read, not run.

    Raises `NotFound` if there is none, `ManifestError` if only the manifest has faults or this Echo Core
    cannot run the plugin, and else `BuildError`, with everything that is wrong at once.
    """
    names = plugin_sources(workspace)
    if name not in names:
        raise not_found(
            "plugin source",
            name,
            names,
            where=str(workspace.workshop),
            fix=f"echo-core create {suggest_name(name)}",
        )
    folder = workspace.workshop / name
    files = dict(_snapshot(folder, folder))
    manifest, faulty_manifest = _manifest(folder)
    project, faults = _pyproject(files)
    faults += _project_faults(project, name, manifest) if project is not None else []
    faults += _package_faults(files, name, manifest)
    if manifest and manifest.name != name:
        faults.append(
            Fault("manifest.json $.name", f"{manifest.name!r} is not the folder's name", f'"name": "{name}"')
        )
    if faulty_manifest and not faults:
        raise faulty_manifest
    if faulty_manifest:
        faults = [
            *(
                Fault(f"manifest.json {fault.path}", fault.reason, fault.fix)
                for fault in faulty_manifest.faults
            ),
            *faults,
        ]
    if faults or manifest is None or project is None:
        raise BuildError(
            f"{name} cannot be built",
            where=str(folder),
            why="\n".join(f"{fault.path}: {fault.reason}" for fault in faults),
            fix="\n".join(f"{fault.path}: {fault.fix}" for fault in faults),
        )
    requirements = tuple(Requirement(text) for text in project["project"].get("dependencies", []))
    return Source(folder, manifest, requirements, files)


def plugin_sources(workspace: Workspace) -> list[str]:
    """Names of the plugins in the workshop, in order."""
    if not workspace.workshop.is_dir():
        return []
    folders = (entry for entry in workspace.workshop.iterdir() if entry.is_dir())
    return sorted(folder.name for folder in folders if not folder.name.startswith("."))


def _snapshot(root: Path, folder: Path) -> Iterator[tuple[str, bytes]]:
    """The files below `folder` that may go into the wheel, with their content."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if (
            entry.name.startswith(".")
            or entry.name == "__pycache__"
            or entry.name.endswith((".pyc", ".egg-info"))
        ):
            continue
        if folder == root and entry.name in _LEFT_OUT:
            continue
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _snapshot(root, path)
        elif entry.is_file():
            yield path.relative_to(root).as_posix(), path.read_bytes()


def _manifest(folder: Path) -> tuple[Manifest | None, ManifestError | None]:
    path = folder / manifests.FILE_NAME
    try:
        manifest = manifests.read(path)
        manifests.check_host(manifest, host_version=__version__, where=str(path))
        return manifest, None
    except ManifestError as error:
        return None, error


def _pyproject(files: Mapping[str, bytes]) -> tuple[dict[str, Any] | None, list[Fault]]:
    if PYPROJECT not in files:
        return None, [
            Fault(PYPROJECT, "is missing", "echo-core create makes one; copy it from another plugin")
        ]
    try:
        project = tomllib.loads(files[PYPROJECT].decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return None, [Fault(PYPROJECT, f"is no TOML: {error}", "mend it there")]
    if not isinstance(project.get("project"), dict):
        return None, [Fault(PYPROJECT, "has no [project] table", '[project] with name = "..."')]
    return project, []


def _project_faults(document: dict[str, Any], name: str, manifest: Manifest | None) -> list[Fault]:
    return [
        Fault(f"{PYPROJECT} {path}", reason, fix)
        for path, reason, fix in (
            *_build_system_faults(document),
            *_identity_faults(document["project"], name, manifest),
            *_dependency_faults(document["project"]),
        )
    ]


_Triple = tuple[str, str, str]


def _build_system_faults(document: dict[str, Any]) -> Iterator[_Triple]:
    system = document.get("build-system")
    backend = system.get("build-backend") if isinstance(system, dict) else None
    if backend != BACKEND:
        yield (
            "build-system.build-backend",
            f"is {backend!r}",
            f'requires = ["hatchling"], build-backend = "{BACKEND}"',
        )


def _identity_faults(project: dict[str, Any], name: str, manifest: Manifest | None) -> Iterator[_Triple]:
    stated = project.get("name")
    if not isinstance(stated, str) or canonicalize_name(stated) != canonicalize_name(name):
        yield "project.name", f"{stated!r} is not the folder's name", f'name = "{name}"'
    if "version" in project:
        if manifest and not _same_version(project["version"], manifest.version):
            reason = f"{project['version']!r} is not the manifest's {manifest.version!r}"
            yield "project.version", reason, _VERSION_FROM_MANIFEST
    elif "version" not in project.get("dynamic", []):
        yield "project.version", "is missing", _VERSION_FROM_MANIFEST
    python = project.get("requires-python", "")
    try:
        if not SpecifierSet(python).contains(this_python(), prereleases=True):
            yield "project.requires-python", f"{python!r} excludes this Python {this_python()}", "widen it"
    except (InvalidSpecifier, TypeError, AttributeError):
        yield "project.requires-python", f"{python!r} is no version range", 'requires-python = ">=3.11"'


def _same_version(one: object, other: str) -> bool:
    try:
        return Version(str(one)) == Version(other)
    except InvalidVersion:
        return False


def _dependency_faults(project: dict[str, Any]) -> Iterator[_Triple]:
    if "dependencies" in project.get("dynamic", []):
        yield "project.dynamic", "leaves the dependencies open", 'state them: dependencies = ["..."]'
    stated = project.get("dependencies", [])
    if not isinstance(stated, list):
        yield "project.dependencies", "is no list", 'dependencies = ["..."]'
        return
    for index, text in enumerate(stated):
        place = f"project.dependencies[{index}]"
        try:
            requirement = Requirement(text)
        except (InvalidRequirement, TypeError) as error:
            yield place, f"{text!r} is no requirement: {str(error).splitlines()[0]}", 'like "pysubs2>=1.7"'
            continue
        if requirement.url:
            yield (
                place,
                f"{text!r} names a place, which cannot be locked",
                f'write "{requirement.name}" with a version',
            )


def _package_faults(files: Mapping[str, bytes], name: str, manifest: Manifest | None) -> list[Fault]:
    faults = [
        Fault(path, "is a .pth file, which runs code at start", "remove it")
        for path in files
        if _is_pth(path)
    ]
    for top in sorted({path.split("/")[1] for path in files if path.startswith("src/")}):
        module = top.removesuffix(".py")
        if module in sys.stdlib_module_names or module in PLATFORM_MODULES:
            reason = f"{module} is a module of Python or of the platform, and would never be imported"
            faults.append(Fault(f"src/{top}", reason, f"move it into src/{name}/"))
    trees: dict[str, ast.Module] = {}
    for path, content in files.items():
        if path.startswith(f"src/{name}/") and path.endswith(".py"):
            try:
                trees[path] = ast.parse(content, path)
            except (SyntaxError, ValueError) as error:
                line = getattr(error, "lineno", None)
                if not line and b"\0" in content:  # which Python does not say the place of
                    line = content[: content.index(b"\0")].count(b"\n") + 1
                faults.append(
                    Fault(f"{path}:{line}" if line else path, f"SyntaxError: {error.args[0]}", "mend it")
                )
    package = f"src/{name}/__init__.py"
    if package not in files:
        faults.append(Fault(package, "is missing", f"the plugin's package is src/{name}/"))
    elif package in trees and manifest:
        faults += _entry_point_faults(package, trees[package], manifest.entry_point)
    return faults


def _is_pth(path: str) -> bool:
    return path.casefold().endswith(".pth")


def _entry_point_faults(package: str, tree: ast.Module, entry_point: str) -> Iterator[Fault]:
    found = list(_definitions(tree.body, entry_point))
    if not found:
        yield Fault(
            package,
            f"does not offer the entry point {entry_point}()",
            f"define `def {entry_point}() -> Plugin`, or name another function in manifest.json",
        )
        return
    last = found[-1]
    if isinstance(last, ast.AsyncFunctionDef):
        yield Fault(
            f"{package}:{last.lineno}", f"{entry_point} is a coroutine", f"write `def {entry_point}()`"
        )
    elif isinstance(last, ast.FunctionDef) and _needs_arguments(last.args):
        yield Fault(
            f"{package}:{last.lineno}", f"{entry_point} needs arguments", f"write `def {entry_point}()`"
        )


def _definitions(body: list[ast.stmt], name: str) -> Iterator[ast.AST]:
    """What binds `name` in the module, as far as reading tells; `import *` may bind anything."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name in (name, "__getattr__"):
                yield node if node.name == name else ast.Pass()
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if any((alias.asname or alias.name) in (name, "*") for alias in node.names):
                yield node
        else:
            if any(
                isinstance(inner, ast.Name) and inner.id == name and isinstance(inner.ctx, ast.Store)
                for inner in ast.walk(node)
            ):
                yield node
            for block in ("body", "orelse", "finalbody"):
                yield from _definitions(getattr(node, block, []), name)
            for handler in getattr(node, "handlers", []):
                yield from _definitions(handler.body, name)


def _needs_arguments(arguments: ast.arguments) -> bool:
    positional = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return positional > 0 or any(default is None for default in arguments.kw_defaults)
