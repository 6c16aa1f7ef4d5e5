"""Makes a new workspace: the tree of a project, its settings, and the four scripts."""

from pathlib import Path
from typing import Final

from echo_core.errors import WorkspaceError
from echo_core.workspace import BUILD_TYPES, Workspace

_TEMPLATE: Final = Path(__file__).parent / "templates" / "workspace"
# Where a file's name would mean something to git or to a packager if it stood in the template as it is.
_RENAMED: Final = {"gitignore": ".gitignore"}


def init(directory: Path) -> Workspace:
    """Write a workspace into `directory`, which is made if it is not there.

    Nothing that is there is changed: raises `WorkspaceError`, before anything is written, if one of the
    workspace's files exists already, or if the folder cannot be written.
    """
    workspace = Workspace(directory.expanduser().resolve())
    files = _files(workspace)
    in_the_way = sorted(str(path) for path in files if path.is_symlink() or path.exists())
    if in_the_way:
        raise WorkspaceError(
            f"{workspace.root} cannot become a workspace",
            where=", ".join(in_the_way),
            why="init changes nothing that is there already",
            fix="choose another folder, or move what is in the way",
        )
    try:
        _write(files)
    except OSError as error:
        raise WorkspaceError(
            f"{workspace.root} could not be made a workspace",
            where=str(error.filename or workspace.root),
            why=error.strerror or str(error),
            fix="name a folder that you can write to",
        ) from error
    return workspace


def _files(workspace: Workspace) -> dict[Path, str]:
    """The text of every file, by its path; the settings, which make it a workspace, come last."""
    files = {}
    for template in sorted(_TEMPLATE.rglob("*")):
        if template.is_file():
            relative = template.relative_to(_TEMPLATE)
            target = workspace.root / relative.with_name(_RENAMED.get(relative.name, relative.name))
            files[target] = template.read_text(encoding="utf-8")
    folders = [workspace.workshop, *map(workspace.libraries, BUILD_TYPES), workspace.enabled]
    files |= {folder / ".gitkeep": "" for folder in folders}
    files[workspace.settings_file] = files.pop(workspace.settings_file)
    return files


def _write(files: dict[Path, str]) -> None:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | 0o111)
