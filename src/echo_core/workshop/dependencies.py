"""A plugin's dependencies: resolved once, locked with hashes, and kept as the wheels that were published.

The lock stands beside the plugin's pyproject.toml and belongs to its source. It names no index: where
wheels come from is the configuration of pip. The platform packages are the host's, never carried.
"""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from echo_core.errors import BuildError, LibraryError
from echo_core.runtime.isolation.limits import IN_PROCESS
from echo_core.runtime.libraries.files import copy_hashed, replace_file, sha256_of
from echo_core.runtime.libraries.library import ANY_PLATFORM, LOCK_FILE, WHEELS, this_platform
from echo_core.runtime.libraries.platform import contradiction, is_platform, platform_versions
from echo_core.runtime.libraries.wheel import Wheel, read_wheel, verify
from echo_core.workshop.source import Source
from echo_core.workshop.wheels import write_wheel
from echo_core.workspace import BUILD_TYPES, Workspace

_HOST: Final = "+echo.core.host"
_HEADER: Final = "# Written by `echo-core build`. To resolve the dependencies again, delete this file.\n"
_REQUIRES: Final = "# requires: "
_ENVIRONMENT: Final = "# environment: "
_PIN: Final = re.compile(r"([A-Za-z0-9._-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")
_DEPENDS_ON_PLACE: Final = re.compile(r"\b(python_|os_name|sys_platform|platform_|implementation_)")
_SHARED: Final = "the host shares this package with all plugins, in every tier: loosen the version"
_PIP_SECONDS: Final = 600
_PIP_LINES: Final = 8


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked wheel."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Lock:
    """What `requirements.lock` says: for which requirements, for which Python and platform, which wheels."""

    requires: tuple[str, ...]
    environment: str
    pins: tuple[Pin, ...]

    @property
    def text(self) -> str:
        """The file's content, which pip can read too."""
        lines = [f"{_REQUIRES}{requirement}" for requirement in self.requires]
        lines += [f"{_ENVIRONMENT}{self.environment}", *map(str, self.pins)]
        return _HEADER + "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Dependencies:
    """What a library carries besides the plugin: the wheels, and the lock that they satisfy."""

    lock: Lock | None = None
    wheels: tuple[Wheel, ...] = ()


def gather(workspace: Workspace, source: Source, folder: Path) -> Dependencies:
    """Put the wheels of the plugin's dependencies into `folder`, after its lock; resolve and lock if need be.

    The network is used only to resolve, or for a wheel that is in no library of this plugin and was not
    fetched before. Raises `BuildError`, with pip's own reason where pip failed.
    """
    _check_platform(source.name, source.requirements)
    wanted = tuple(requirement for requirement in source.requirements if not is_platform(requirement.name))
    lock_file = source.folder / LOCK_FILE
    if not wanted:
        lock_file.unlink(missing_ok=True)
        return Dependencies()
    lock = read_lock(lock_file)
    requires = tuple(sorted(str(requirement) for requirement in wanted))
    folder.mkdir(parents=True, exist_ok=True)
    if lock and lock.requires == requires and lock.environment in (ANY_PLATFORM, _here()):
        _collect(workspace, source, lock, folder)
        wheels = _read(source.name, folder)
    else:
        kept = lock.pins if lock and lock.requires == requires else ()
        _choose(source, requires, kept, folder)
        wheels = _read(source.name, folder)
        pins = tuple(Pin(wheel.name, wheel.version, sha256_of(wheel.path)) for wheel in wheels)
        python, platform = where_they_run(source.requirements, wheels)
        environment = ANY_PLATFORM if platform == ANY_PLATFORM else f"Python {python}, {platform}"
        lock = Lock(requires, environment, pins)
        replace_file(lock_file, lock.text.encode())
    for wheel in wheels:
        _check_platform(wheel.name, wheel.requires)
        _keep(workspace, wheel.path)
    return Dependencies(lock, wheels)


def read_lock(path: Path) -> Lock | None:
    """The lock in the file, or None if there is none; raises `BuildError` if it is no lock of ours."""
    if not path.exists():
        return None
    requires, environment, pins = [], "", []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(_REQUIRES):
            requires.append(line.removeprefix(_REQUIRES))
        elif line.startswith(_ENVIRONMENT):
            environment = line.removeprefix(_ENVIRONMENT)
        elif match := _PIN.fullmatch(line.strip()):
            pins.append(Pin(*match.groups()))
        elif line.strip() and not line.startswith("#"):
            raise BuildError(
                "the lock of the dependencies cannot be read",
                where=str(path),
                why=f"it has the line {line!r}",
                fix="delete the file; the next build writes it anew",
            )
    return Lock(tuple(requires), environment, tuple(pins))


def where_they_run(requirements: Iterable[Requirement], wheels: Iterable[Wheel]) -> tuple[str, str]:
    """The versions of Python (PEP 440) and the platform that these were chosen for.

    Pure wheels run on every platform, unless a marker on a requirement made the choice depend on it.
    """
    wheels = tuple(wheels)
    chosen = [*requirements, *(requirement for wheel in wheels for requirement in wheel.requires)]
    markers = " ".join(str(requirement.marker) for requirement in chosen if requirement.marker)
    if _DEPENDS_ON_PLACE.search(markers) or not all(wheel.is_pure for wheel in wheels):
        return "=={}.{}.*".format(*sys.version_info[:2]), this_platform()
    ranges = {part.strip() for wheel in wheels for part in wheel.requires_python.split(",") if part.strip()}
    return ",".join(sorted(ranges)), ANY_PLATFORM


def check_together(name: str, wheels: Sequence[Wheel]) -> None:
    """Raise `BuildError` if two of the wheels, the plugin's first, get in each other's way."""
    owners: dict[str, Wheel] = {}
    for wheel in wheels:
        for path in wheel.files:
            other = owners.setdefault(path, wheel)
            if other is not wheel:
                raise BuildError(
                    f"{name} cannot be built",
                    why=f"{other.name} and {wheel.name} both carry {path}",
                    fix="choose other versions of them, or leave one out",
                )
        if wheel is not wheels[0] and name in wheel.top_levels:
            raise BuildError(
                f"{name} cannot be built",
                why=f"its dependency {wheel.name} has a package of the same name, {name}",
                fix="give the plugin another name",
            )


def _here() -> str:
    return "Python =={}.{}.*, {}".format(*sys.version_info[:2], this_platform())


def _check_platform(whose: str, requirements: Iterable[Requirement]) -> None:
    for requirement in requirements:
        if reason := contradiction(requirement):
            raise BuildError(f"{whose} does not go with this host", why=reason, fix=_SHARED)


def _read(name: str, folder: Path) -> tuple[Wheel, ...]:
    """The wheels in the folder, without the stand-ins for platform packages."""
    wheels = []
    for path in sorted(folder.glob("*.whl")):
        if f"{_HOST}-" in path.name:
            path.unlink()
            continue
        try:
            wheel = read_wheel(path)
            verify(wheel)
        except LibraryError as error:
            raise BuildError(
                f"a dependency of {name} is refused", why=f"{path.name}: {error.why}", fix=error.fix
            ) from error
        if is_platform(wheel.name):
            reason = f"{wheel.name} belongs to the platform packages, and is not installed here"
            raise BuildError(
                f"{name} does not go with this host", why=reason, fix="install it beside Echo Core"
            )
        wheels.append(wheel)
    return tuple(wheels)


def _collect(workspace: Workspace, source: Source, lock: Lock, folder: Path) -> None:
    """Get exactly the locked wheels: those at hand are copied, the others fetched."""
    missing = {(canonicalize_name(pin.name), pin.version): pin for pin in lock.pins}
    for path in _at_hand(workspace, source.name):
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            continue
        pin = missing.get((name, str(version)))
        if pin and sha256_of(path) == pin.sha256:
            copy_hashed(path, folder / path.name)
            del missing[name, str(version)]
    if missing:
        with TemporaryDirectory() as scratch:
            exact = Path(scratch, LOCK_FILE)
            exact.write_text("".join(f"{pin}\n" for pin in missing.values()))
            _pip_download(source.name, folder, "--require-hashes", "--no-deps", "--requirement", str(exact))


def _at_hand(workspace: Workspace, name: str) -> Iterator[Path]:
    """Wheels that were fetched before, and those in the libraries of this plugin."""
    yield from sorted(_fetched(workspace).glob("*.whl"))
    for build_type in BUILD_TYPES:
        yield from sorted((workspace.libraries(build_type) / name).glob(f"*/{WHEELS}/*.whl"))


def _fetched(workspace: Workspace) -> Path:
    return workspace.state / "wheels"


def _keep(workspace: Workspace, wheel: Path) -> None:
    """Keep a fetched wheel for the next build. A file of that name with other content is replaced."""
    kept = _fetched(workspace) / wheel.name
    if not kept.is_file() or sha256_of(kept) != sha256_of(wheel):
        replace_file(kept, wheel.read_bytes())


def _choose(source: Source, requires: Sequence[str], kept: Sequence[Pin], folder: Path) -> None:
    """Resolve; in the host's process, with the compiled packages that the host has, if that can be.

    Two versions of one cannot be there.
    """
    locked = [f"{pin.name}=={pin.version}" for pin in kept]
    names = {canonicalize_name(pin.name) for pin in kept}
    wishes: list[str] = []
    if source.manifest.isolation == IN_PROCESS:
        wishes = [f"{name}=={version}" for name, version in _compiled_here().items() if name not in names]
    try:
        _resolve(source.name, requires, [*locked, *wishes], folder)
    except BuildError as error:
        if not any(wish in error.why for wish in wishes):
            raise
        _resolve(source.name, requires, locked, folder)


def _compiled_here() -> dict[str, str]:
    """The packages with extension modules that are installed beside Echo Core, with their versions."""
    return {
        canonicalize_name(installed.name): installed.version
        for installed in metadata.distributions()
        if not is_platform(installed.name)
        and any(str(path).endswith(tuple(EXTENSION_SUFFIXES)) for path in installed.files or ())
    }


def _resolve(name: str, requires: Sequence[str], kept: Sequence[str], folder: Path) -> None:
    """Let pip choose the versions, the platform packages being as they are here, and fetch the wheels.

    Each platform package is represented by an empty wheel of the host's version with a local label that
    no index has. So pip neither fetches it, nor what it needs, nor takes a stranger of that name.
    """
    with TemporaryDirectory() as scratch:
        wanted, constraints, stands = (
            Path(scratch, "wanted"),
            Path(scratch, "constraints"),
            Path(scratch, "stands"),
        )
        stands.mkdir()
        pins = list(kept)
        for package, version in platform_versions().items():
            label = version.partition("+")[0] + _HOST
            _write_stand_in(stands, package, label)
            pins.append(f"{package}=={label}")
        wanted.write_text("\n".join(requires))
        constraints.write_text("\n".join(pins))
        _pip_download(
            name,
            folder,
            "--requirement",
            str(wanted),
            "--constraint",
            str(constraints),
            "--find-links",
            str(stands),
        )


def _write_stand_in(folder: Path, name: str, version: str) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    write_wheel(folder / f"{stem}-py3-none-any.whl", {f"{stem}.dist-info/METADATA": metadata.encode()})


def _pip_download(name: str, folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "download", "--only-binary", ":all:", "--dest", str(folder)]
    options = ["--disable-pip-version-check", "--no-input", "--no-color", "--progress-bar", "off"]
    try:
        done = subprocess.run(
            [*command, *options, *arguments],
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildError(
            f"the dependencies of {name} cannot be had",
            why=f"pip did not answer within {_PIP_SECONDS} s",
            fix="see that the package index can be reached",
        ) from error
    if done.returncode:
        output = f"{done.stdout}\n{done.stderr}"
        raise BuildError(
            f"the dependencies of {name} cannot be had",
            why="\n".join(_reasons(output)),
            fix=_SHARED
            if _HOST in output
            else "change dependencies in pyproject.toml, or pip's configuration",
        )


def _reasons(output: str) -> list[str]:
    """The lines of pip's output that say why."""
    lines = [line.strip().replace(_HOST, "") for line in output.splitlines()]
    errors = [
        line.removeprefix("ERROR: ")
        for line in lines
        if line.startswith("ERROR: ") and not line.startswith("ERROR: ResolutionImpossible")
    ]
    start = next(
        (at for at, line in enumerate(lines, 1) if line.startswith("The conflict is caused by")), len(lines)
    )
    conflict = [line for line in lines[start:] if " depends on " in line or " requested " in line]
    return list(dict.fromkeys([*errors, *conflict]))[:_PIP_LINES] or ["pip gave no reason"]
