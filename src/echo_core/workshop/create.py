"""Makes a new plugin in the workshop: small, whole, and doing its role's job at once.

The templates are real plugins called `my_plugin`, whose class is `MyPlugin`; creating one is copying
its files with those two names exchanged. What all six have in common stands in `templates/shared`.
"""

import difflib
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from echo_core.errors import UnknownPluginType, WorkspaceError
from echo_core.manifest import PLUGIN_TYPES
from echo_core.names import check_name
from echo_core.workspace import Workspace

TEMPLATES: Final = Path(__file__).parent / "templates"
_NAME: Final = "my_plugin"
_CLASS: Final = "MyPlugin"


@dataclass(frozen=True, slots=True)
class Created:
    """What `create` wrote."""

    name: str
    plugin_type: str
    path: Path
    """The plugin's folder in the workshop."""
    files: tuple[str, ...]
    """Its files, relative to `path`, sorted."""


def create(workspace: Workspace, name: str, plugin_type: str = "transformer") -> Created:
    """Write `plugins/workshop/<name>/` for a new plugin, all of it or nothing.

    Raises `UnknownPluginType`, `NameRefused`, and `WorkspaceError` if there is something of that name or
    the folder cannot be written.
    """
    _check_type(plugin_type)
    check_name(name)
    target = workspace.workshop / name
    if target.is_symlink() or target.exists():
        raise WorkspaceError(
            f"there is a {name!r} in the workshop already",
            where=str(target),
            fix="choose another name, or move that one away",
        )
    files = _files(name, plugin_type)
    try:
        _write(target, files)
    except OSError as error:
        raise WorkspaceError(
            f"{name!r} could not be written",
            where=str(error.filename or target),
            why=error.strerror or str(error),
            fix="make room, or get the permission to write there",
        ) from error
    return Created(name, plugin_type, target, tuple(sorted(files)))


def _check_type(plugin_type: str) -> None:
    if plugin_type in PLUGIN_TYPES:
        return
    near = difflib.get_close_matches(plugin_type.lower(), PLUGIN_TYPES, n=1)
    choices = f"the types are {', '.join(PLUGIN_TYPES)}"
    raise UnknownPluginType(
        f"no plugin type {plugin_type!r}", why=choices, fix=f"use {near[0]!r}" if near else "use one of them"
    )


def _files(name: str, plugin_type: str) -> dict[str, str]:
    """The text of each file of the new plugin, by its path. A shared file goes below one of the same name."""
    own, shared = _read(TEMPLATES / plugin_type), _read(TEMPLATES / "shared")
    templates = {path: own.get(path, "") + shared.get(path, "") for path in own | shared}
    class_name = _class_name(name, templates)
    return {
        path.replace(_NAME, name): text.replace(_NAME, name).replace(_CLASS, class_name)
        for path, text in templates.items()
    }


def _read(folder: Path) -> dict[str, str]:
    """The files of a template; not what Python left there when Echo Core was installed."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _class_name(name: str, templates: Mapping[str, str]) -> str:
    """`loud_words` becomes `LoudWords`; a name that the code uses for something else gets a suffix."""
    class_name = "".join(word.capitalize() for word in name.split("_"))
    code = "\n".join(text.replace(_CLASS, "") for path, text in templates.items() if path.endswith(".py"))
    return f"{class_name}Plugin" if re.search(rf"\b{class_name}\b", code) else class_name


def _write(target: Path, files: Mapping[str, str]) -> None:
    """Write beside the target and rename: nobody sees half a plugin, and a failure leaves none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as beside:
        staged = Path(beside) / target.name
        for path, text in files.items():
            file = staged / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
        staged.rename(target)
