"""Wheels, read with suspicion: what an archive says of itself is checked before it is believed.

Format: https://packaging.python.org/specifications/binary-distribution-format/
"""

import base64
import csv
import hashlib
import io
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path, PurePosixPath
from typing import Final

from packaging.metadata import parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, NormalizedName, canonicalize_name, parse_wheel_filename

from echo_core.errors import LibraryError

_BLOCK: Final = 1 << 20
_LARGEST_RECORD: Final = 1 << 24
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED: Final = 0x1
_MYPYC: Final = "__mypyc"
"""Ends the name of the module in which mypyc puts what its compiled modules share."""
_UNLISTED: Final = ("RECORD", "RECORD.jws", "RECORD.p7s")


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may at most hold; more is taken for an attack. Sizes are bytes, unpacked."""

    members: int = 50_000
    member_size: int = 1 << 30
    total_size: int = 4 << 30


LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a wheel: its name in the archive, and the sha256 that the wheel's RECORD gives for it."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel whose archive holds nothing dangerous and exactly what its RECORD lists."""

    path: Path
    name: NormalizedName
    version: str
    tags: frozenset[Tag]
    requires: tuple[Requirement, ...]
    requires_python: str
    files: dict[str, Member]
    """What it installs, by path below the site directory."""

    @property
    def is_pure(self) -> bool:
        """Whether it runs on every platform and every Python 3."""
        return any(tag.abi == "none" and tag.platform == "any" for tag in self.tags)

    @property
    def has_extension_modules(self) -> bool:
        """Whether it carries compiled modules, of which a process can hold but one version."""
        return any(path.endswith(tuple(EXTENSION_SUFFIXES)) for path in self.files)

    @property
    def has_sources_of_extensions(self) -> bool:
        """Whether each compiled module stands beside its own Python source, as mypyc and Cython leave them.

        Such a package does the same without its compiled modules, only slower.
        """
        stems = (_stem(path) for path in self.files if path.endswith(tuple(EXTENSION_SUFFIXES)))
        return all(stem.endswith(_MYPYC) or f"{stem}.py" in self.files for stem in stems)

    @property
    def fits_here(self) -> bool:
        """Whether its tags admit this Python on this platform."""
        return not self.tags.isdisjoint(_supported_tags())

    @property
    def top_levels(self) -> frozenset[str]:
        """The names that can be imported from it."""
        heads = {PurePosixPath(path).parts[0] for path in self.files}
        return frozenset(
            head.partition(".")[0] for head in heads if not head.endswith((".dist-info", ".data", ".libs"))
        )


def _stem(path: str) -> str:
    """The path of an extension module without what follows its name."""
    folder, slash, file = path.rpartition("/")
    return folder + slash + file.partition(".")[0]


def read_wheel(path: Path, limits: Limits = LIMITS) -> Wheel:
    """The wheel at `path`; raises `LibraryError` that names what is wrong in it. Nothing is unpacked."""
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename as error:
        raise _refusal(path, str(error)) from error
    with _opened(path) as archive:
        members = _checked_members(path, archive, limits)
        info = _dist_info(path, members)
        files = _recorded_files(path, archive, members, info)
        raw = _read_small(path, archive, members, f"{info}/METADATA")
        if hashlib.sha256(raw).hexdigest() != files[f"{info}/METADATA"].sha256:
            raise _refusal(path, f"{info}/METADATA is not what its RECORD says")
    metadata, _ = parse_email(raw)
    if canonicalize_name(metadata.get("name", "")) != name:
        raise _refusal(path, f"its METADATA says that it is {metadata.get('name')!r}")
    try:
        requires = tuple(Requirement(text) for text in metadata.get("requires_dist", []))
    except InvalidRequirement as error:
        raise _refusal(path, f"a requirement in its METADATA is malformed: {error}") from error
    return Wheel(
        path=path,
        name=name,
        version=str(version),
        tags=tags,
        requires=requires,
        requires_python=metadata.get("requires_python", ""),
        files=_installed(path, info, files),
    )


def unpack(wheel: Wheel, site: Path) -> None:
    """Write the wheel's files below `site`, each checked against RECORD while it is written.

    Raises `LibraryError` for a file that differs, or that another wheel has put there before.
    """
    with _opened(wheel.path) as archive:
        for path, member in wheel.files.items():
            target = site / path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with target.open("xb") as writer:
                    writer.writelines(_recorded_blocks(wheel, archive, member))
            except FileExistsError:
                raise _refusal(wheel.path, f"{path} is carried by another wheel too") from None
            target.chmod(0o444)


def verify(wheel: Wheel) -> None:
    """Raise `LibraryError` if the content of a file differs from what RECORD says."""
    with _opened(wheel.path) as archive:
        for member in wheel.files.values():
            for _ in _recorded_blocks(wheel, archive, member):
                pass


def _recorded_blocks(wheel: Wheel, archive: zipfile.ZipFile, member: Member) -> Iterator[bytes]:
    """The content of the member; raises after the last block unless it was what RECORD says."""
    digest = hashlib.sha256()
    try:
        with archive.open(member.name) as reader:
            while block := reader.read(_BLOCK):
                digest.update(block)
                yield block
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _refusal(wheel.path, f"{member.name} cannot be read: {error}") from error
    if digest.hexdigest() != member.sha256:
        raise _refusal(wheel.path, f"{member.name} is not what its RECORD says")


@cache
def _supported_tags() -> frozenset[Tag]:
    return frozenset(sys_tags())


def _refusal(path: Path, why: str) -> LibraryError:
    return LibraryError(
        f"the wheel {path.name} is refused",
        where=str(path),
        why=why,
        fix="build the library again; if the wheel comes from a package index, choose another version of it",
    )


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _refusal(path, f"it cannot be opened: {error}") from error


def _checked_members(path: Path, archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name, once every one of them is found harmless."""
    infos = archive.infolist()
    if len(infos) > limits.members:
        raise _refusal(path, f"it has {len(infos)} members, and {limits.members} are allowed")
    if sum(info.file_size for info in infos) > limits.total_size:
        raise _refusal(path, f"it unpacks to more than {limits.total_size} bytes")
    for info in infos:
        if objection := _objection(info, limits):
            raise _refusal(path, f"its member {info.orig_filename!r} {objection}")
    names = [info.filename for info in infos]
    for problem in _collisions(names):
        raise _refusal(path, problem)
    return {info.filename: info for info in infos if not info.is_dir()}


def _objection(info: zipfile.ZipInfo, limits: Limits) -> str:
    """Why this member is refused, or an empty string."""
    name = info.orig_filename
    if "\\" in name or "\0" in name:
        return "has a backslash or a NUL in its name"
    if name.startswith("/") or ":" in name.partition("/")[0]:
        return "has an absolute name"
    if any(part in ("", ".", "..") for part in name.rstrip("/").split("/")):
        return "leads out of the archive"
    mode = stat.S_IFMT(info.external_attr >> 16)
    if mode not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        return "is a link or a device, not a file"
    if name.casefold().endswith(".pth"):
        return "is a .pth file, which would run code at the start of an interpreter"
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
        return "is encrypted, or packed by an unusual method"
    if info.file_size > limits.member_size:
        return f"unpacks to more than {limits.member_size} bytes"
    return ""


def _collisions(names: list[str]) -> Iterator[str]:
    """Names that some file system takes for the same, and files that stand where a folder must."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", name.rstrip("/")).casefold()
        if folded in seen:
            other = seen[folded]
            yield f"it has {name!r} twice" if other == name else f"{name!r} and {other!r} collide"
        seen[folded] = name
    for folded, name in seen.items():
        for folder in PurePosixPath(folded).parents:
            if not seen.get(str(folder), "/").endswith("/"):
                yield f"{seen[str(folder)]!r} is a file, and {name!r} needs it to be a folder"


def _dist_info(path: Path, members: dict[str, zipfile.ZipInfo]) -> str:
    heads = {name.partition("/")[0] for name in members}
    found = [head for head in sorted(heads) if head.endswith(".dist-info")]
    if len(found) != 1:
        raise _refusal(path, f"it has {len(found)} .dist-info folders, and must have one")
    return found[0]


def _read_small(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str
) -> bytes:
    """The content of a member that is read into memory whole."""
    if name not in members:
        raise _refusal(path, f"it has no {name}")
    if members[name].file_size > _LARGEST_RECORD:
        raise _refusal(path, f"its {name} is larger than {_LARGEST_RECORD} bytes")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _refusal(path, f"{name} cannot be read: {error}") from error


def _recorded_files(
    path: Path, archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], info: str
) -> dict[str, Member]:
    """Every file with its digest, after RECORD and archive were compared in both directions."""
    record = _read_small(path, archive, members, f"{info}/RECORD")
    files = {f"{info}/RECORD": Member(f"{info}/RECORD", hashlib.sha256(record).hexdigest())}
    unlisted = {f"{info}/{name}" for name in _UNLISTED}
    for row in csv.reader(io.StringIO(record.decode("utf-8", "replace"))):
        if not row or row[0] in unlisted:
            continue
        if row[0] not in members:
            raise _refusal(path, f"its RECORD lists {row[0]!r}, which is missing")
        files[row[0]] = Member(row[0], _sha256_in_hex(path, row))
    for name in members.keys() - files.keys() - unlisted:
        raise _refusal(path, f"it holds {name!r}, which its RECORD does not list")
    return files


def _sha256_in_hex(path: Path, row: list[str]) -> str:
    method, _, text = (row[1] if len(row) > 1 else "").partition("=")
    try:
        digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        digest = b""
    if method != "sha256" or len(digest) != hashlib.sha256().digest_size:
        raise _refusal(path, f"its RECORD gives no sha256 for {row[0]!r}")
    return digest.hex()


def _installed(path: Path, info: str, files: dict[str, Member]) -> dict[str, Member]:
    """Where each file goes. Of a `.data` folder, only modules are installed: a library has no commands."""
    data = f"{info.removesuffix('.dist-info')}.data/"
    placed = {}
    for name, member in files.items():
        if name.startswith(data):
            kind, _, rest = name.removeprefix(data).partition("/")
            if kind not in ("purelib", "platlib"):
                continue
            name = rest
        if name in placed:
            raise _refusal(path, f"it installs {name!r} twice")
        placed[name] = member
    return placed
