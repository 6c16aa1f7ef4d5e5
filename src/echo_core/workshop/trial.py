"""Running a plugin's own tests, with the dependencies that its library would carry."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from echo_core.errors import BuildError
from echo_core.runtime.libraries.wheel import Wheel, unpack
from echo_core.workshop.dependencies import gather
from echo_core.workshop.source import PYPROJECT, Source, read_source
from echo_core.workspace import Workspace

_TAIL: Final = 30
_NOTHING_COLLECTED: Final = 5


def try_plugin(workspace: Workspace, name: str, *, seconds: float = 600.0) -> str:
    """Run the tests of the plugin in the workshop; gives pytest's last line.

    Raises `BuildError` if one fails, if there are none, or after `seconds`; and what `read_source` raises.
    """
    source = read_source(workspace, name)
    with TemporaryDirectory() as scratch:
        dependencies = gather(workspace, source, Path(scratch))
        return run_tests(source, dependencies.wheels, seconds=seconds)


def run_tests(source: Source, wheels: tuple[Wheel, ...], *, seconds: float) -> str:
    """Run the source's tests with these wheels of dependencies; as `try_plugin`."""
    if not (source.folder / "tests").is_dir():
        raise _no_tests(source, "it has no folder tests/")
    if importlib.util.find_spec("pytest") is None:
        raise BuildError(
            f"the tests of {source.name} cannot run",
            why="pytest is not installed beside Echo Core",
            fix=f"{sys.executable} -m pip install pytest",
        )
    with TemporaryDirectory() as scratch:
        site = Path(scratch, "site")
        site.mkdir()
        for wheel in wheels:
            unpack(wheel, site)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", PYPROJECT, "tests"],
                cwd=source.folder,
                env=_environment(source.folder / "src", site),
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                f"the tests of {source.name} did not end",
                where=str(source.folder / "tests"),
                why=f"they had {seconds:g} s",
                fix=f"cd {source.folder} && python -m pytest",
            ) from error
    lines = f"{done.stdout}\n{done.stderr}".strip().splitlines()
    if done.returncode == _NOTHING_COLLECTED:
        raise _no_tests(source, "pytest found none in tests/")
    if done.returncode:
        raise BuildError(
            f"the tests of {source.name} fail",
            where=str(source.folder / "tests"),
            why="\n".join(lines[-_TAIL:]),
            fix=f"mend them, or build for development: echo-core build {source.name} development",
        )
    return done.stdout.strip().splitlines()[-1]


def _environment(*paths: Path) -> dict[str, str]:
    """Ours, with these paths first on Python's path, and nothing that chooses among the tests."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    earlier = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, paths), *([earlier] if earlier else [])])
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return environment


def _no_tests(source: Source, why: str) -> BuildError:
    return BuildError(
        f"{source.name} has no tests",
        where=str(source.folder / "tests"),
        why=f"{why}; a production library is built from a plugin whose tests pass",
        fix=f"write one, or build for development: echo-core build {source.name} development",
    )
