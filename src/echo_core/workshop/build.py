"""Building: from a plugin's source in the workshop to a library. The format: docs/libraries.md."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import msgspec

from echo_core.errors import BuildError, EchoCoreError, LibraryError
from echo_core.manifest import FILE_NAME
from echo_core.runtime.libraries.files import folder_beside, replace_directory, sha256_of
from echo_core.runtime.libraries.library import (
    FORMAT,
    LOCK_FILE,
    RELEASE_FILE,
    WHEELS,
    FileRecord,
    Library,
    Release,
    inventory_digest,
    own_wheel,
    read_library,
)
from echo_core.runtime.libraries.wheel import Wheel, read_wheel
from echo_core.workshop.dependencies import Dependencies, check_together, gather, where_they_run
from echo_core.workshop.source import Source, read_source
from echo_core.workshop.trial import run_tests
from echo_core.workshop.wheels import repack
from echo_core.workspace import BuildType, Workspace


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made. `size` is bytes, `timings` are seconds by step."""

    name: str
    version: str
    build_type: BuildType
    path: Path
    digest: str
    size: int
    unchanged: bool
    """The library was there already, with the same content; nothing was written."""
    tests: str
    """pytest's last line; empty for a development build, which runs none."""
    timings: dict[str, float]


def build(
    workspace: Workspace, name: str, build_type: BuildType = "development", *, test_seconds: float = 600.0
) -> BuildReport:
    """Build the plugin's library and put it in the place of one of the same version, in one step.

    A development build does nothing when the source is unchanged. A production build runs the
    plugin's tests first. Raises what `read_source` and `gather` raise, and `BuildError`; then nothing
    was written to the libraries.
    """
    try:
        return _build(workspace, name, build_type, test_seconds)
    except OSError as error:
        raise BuildError(
            f"{name} cannot be written",
            where=str(error.filename or workspace.libraries(build_type)),
            why=error.strerror or str(error),
            fix="let the libraries and the state folder be writable, with room for the plugin",
        ) from error


def _build(workspace: Workspace, name: str, build_type: BuildType, test_seconds: float) -> BuildReport:
    timings: dict[str, float] = {}
    with _timed(timings, "check"):
        source = read_source(workspace, name)
        place = workspace.libraries(build_type) / name / source.manifest.version
        present = _present(place)
    if build_type == "development" and present and present.release.source == _fingerprint(source):
        return _report(present, timings, unchanged=True)
    with TemporaryDirectory() as scratch, folder_beside(place) as new:
        with _timed(timings, "dependencies"):
            dependencies = gather(workspace, source, new / WHEELS)
        tests = ""
        if build_type == "production":
            with _timed(timings, "tests"):
                tests = run_tests(source, dependencies.wheels, seconds=test_seconds)
        with _timed(timings, "wheel"):
            wheel = _build_wheel(source, Path(scratch), new)
            check_together(name, (wheel, *dependencies.wheels))
        with _timed(timings, "write"):
            _complete(new, source, build_type, wheel, dependencies)
            built = _checked(source, new)
            unchanged = present is not None and present.release == built.release
            if not unchanged:
                replace_directory(new, place)
    return _report(_checked(source, place), timings, unchanged=unchanged, tests=tests)


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = perf_counter()
    yield
    timings[step] = perf_counter() - start


def _present(place: Path) -> Library | None:
    """The library that is there, if it is in order."""
    try:
        return read_library(place)
    except EchoCoreError:
        return None


def _fingerprint(source: Source) -> str:
    """sha256, in hex, of everything that decides what a build makes: source, lock, and the builder itself."""
    lock = source.folder / LOCK_FILE
    locked = sha256_of(lock) if lock.is_file() else ""
    builder = f"echo-core {FORMAT}, hatchling {installed_version('hatchling')}"
    return hashlib.sha256(f"{source.digest}\n{locked}\n{builder}\n".encode()).hexdigest()


def _build_wheel(source: Source, scratch: Path, target: Path) -> Wheel:
    """Build the plugin's own wheel in `target`, in canonical form, from a copy of the snapshot."""
    # Loaded here, because only a build that has work to do needs it.
    from hatchling.builders.wheel import WheelBuilder

    copy = scratch / "source"
    for path, content in source.files.items():
        file = copy / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (copy / ".gitignore").touch()  # or hatchling searches for one in the folders above
    try:
        (artifact,) = WheelBuilder(str(copy)).build(directory=str(scratch / "wheel"), versions=["standard"])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".replace(str(copy), str(source.folder))
        raise _error(source, reason, "mend pyproject.toml") from error
    wheel = target / own_wheel(source.name, source.manifest.version)
    if Path(artifact).name != wheel.name:
        raise _error(
            source,
            f"pyproject.toml makes {Path(artifact).name}, and the manifest asks for {wheel.name}",
            "let the version come from the manifest, and keep the wheel pure Python",
        )
    repack(Path(artifact), wheel)
    return _checked_wheel(source, wheel)


def _checked_wheel(source: Source, path: Path) -> Wheel:
    try:
        wheel = read_wheel(path)
    except LibraryError as error:
        raise _error(
            source, error.why, "mend pyproject.toml, or the files that it puts into the wheel"
        ) from error
    if f"{source.name}/__init__.py" not in wheel.files:
        raise _error(
            source,
            f"the wheel does not hold the package {source.name}",
            f'[tool.hatch.build.targets.wheel] with packages = ["src/{source.name}"] in pyproject.toml',
        )
    if wheel.has_extension_modules:
        raise _error(
            source,
            "the plugin itself carries compiled modules",
            "put them into a distribution of their own, and depend on it",
        )
    return wheel


def _complete(
    new: Path, source: Source, build_type: BuildType, wheel: Wheel, dependencies: Dependencies
) -> None:
    """Add to the wheels what makes a library of them."""
    (new / FILE_NAME).write_bytes(source.files[FILE_NAME])
    if dependencies.lock:
        (new / LOCK_FILE).write_text(dependencies.lock.text, encoding="utf-8")
    files = {
        path.relative_to(new).as_posix(): FileRecord(sha256_of(path), path.stat().st_size)
        for path in sorted(new.rglob("*"))
        if path.is_file()
    }
    python, platform = where_they_run((), (wheel, *dependencies.wheels))
    release = Release(
        format=FORMAT,
        name=source.name,
        version=source.manifest.version,
        build_type=build_type,
        api_version=source.manifest.api_version,
        python=python,
        platform=platform,
        source=_fingerprint(source),
        files=files,
        digest=inventory_digest(files),
    )
    (new / RELEASE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(release), indent=2) + b"\n")


def _checked(source: Source, place: Path) -> Library:
    """The library, read as the host will read it: what is published can be loaded."""
    try:
        return read_library(place)
    except LibraryError as error:
        raise _error(source, f"{error.what}: {error.why}", error.fix) from error


def _report(library: Library, timings: dict[str, float], *, unchanged: bool, tests: str = "") -> BuildReport:
    return BuildReport(
        name=library.name,
        version=library.version,
        build_type=library.build_type,
        path=library.path,
        digest=library.digest,
        size=sum(file.size for file in library.release.files.values()),
        unchanged=unchanged,
        tests=tests,
        timings=timings,
    )


def _error(source: Source, why: str, fix: str) -> BuildError:
    return BuildError(f"{source.name} cannot be built", where=str(source.folder), why=why, fix=fix)
