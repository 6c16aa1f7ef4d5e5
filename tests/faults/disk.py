"""What a disk has when its machine stops: from a note of everything that was written to it (`disk.c`)."""

import random
import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_NUMBERS = struct.Struct("<QQQ")
SECTOR = 512
"""Of a write, so many bytes reach the disk whole, or not at all."""


def compile_shim(folder: Path) -> Path | None:
    """The library that notes and interferes; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "disk.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", library, source, "-ldl"],
        check=True,
    )
    return library


FOLDER = "."
"""What is synchronised when a file that was removed must not come back."""


class Operation(NamedTuple):
    """One thing that was done to a file."""

    kind: str
    """w: written at an offset; a: at the end; s: synchronised; t: cut to a length; r: removed."""
    file: str
    offset: int
    data: bytes


def read_log(path: Path) -> list[Operation]:
    """Everything that was done, in order."""
    content, at, found = path.read_bytes(), 0, list[Operation]()
    while at < len(content):
        kind = chr(content[at])
        name, offset, length = _NUMBERS.unpack_from(content, at + 1)
        at += 1 + _NUMBERS.size
        file, at = content[at : at + name].decode(), at + name
        found.append(Operation(kind, file, offset, content[at : at + length]))
        at += length
    return found


@dataclass
class _File:
    content: bytearray | None = None
    """What is on the disk for certain; None: there is no such file."""
    pending: list[Operation] = field(default_factory=list)

    def apply(self, operation: Operation) -> None:
        if operation.kind == "r":
            self.content = None
            return
        content = self.content = self.content if self.content is not None else bytearray()
        if operation.kind == "t":
            del content[operation.offset :]
            content.extend(bytes(operation.offset - len(content)))
            return
        offset = len(content) if operation.kind == "a" else operation.offset
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + len(operation.data)] = operation.data


def torn(operations: Sequence[Operation], chance: random.Random) -> Sequence[Operation]:
    """The same, of which the last may be half done."""
    if not operations or operations[-1].kind != "w" or chance.random() < 0.5:
        return operations
    last = operations[-1]
    return [*operations[:-1], last._replace(data=last.data[: chance.randrange(len(last.data) + 1)])]


def files_at(
    operations: Sequence[Operation], chance: random.Random, *, power_fails: bool
) -> dict[str, bytes]:
    """The files when everything ends after these operations.

    Where a process is killed, the system has what was written. Where the power fails, only what was
    synchronised is certain: of all else each write may be there, may be missing, or be there in part.
    """
    files: dict[str, _File] = {}
    for operation in operations:
        file = files.setdefault(operation.file, _File())
        if operation.kind != "s":
            file.pending.append(operation)
        elif operation.file != FOLDER:
            _settle(file)
        else:  # what is there is certain, not what is in it
            for each in files.values():
                if any(pending.kind == "r" for pending in each.pending):
                    _settle(each)
    for file in files.values():
        if power_fails:
            file.pending = [left for each in file.pending if (left := _perhaps(each, chance)) is not None]
        _settle(file)
    return {name: bytes(file.content) for name, file in files.items() if file.content is not None}


def _settle(file: _File) -> None:
    for operation in file.pending:
        file.apply(operation)
    file.pending = []


def _perhaps(operation: Operation, chance: random.Random) -> Operation | None:
    """What is left of a write that was not synchronised."""
    if chance.random() < 0.4:
        return None
    if operation.kind == "w" and chance.random() < 0.2:
        sectors = chance.randrange(len(operation.data) // SECTOR + 1)
        return operation._replace(data=operation.data[: sectors * SECTOR])
    return operation
