"""Wheels in one canonical form: equal content gives equal bytes, whatever made it, wherever and when."""

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip archive can state
_REGULAR_0644: Final = 0o100644 << 16
_UNIX: Final = 3
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: echo-core\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a pure wheel with these files, whose one .dist-info folder must be among them.

    Names are sorted; members are stored unpacked, because compressors differ; times and modes are fixed.
    RECORD and WHEEL are written anew.
    """
    info = next(name.partition("/")[0] for name in files if name.partition("/")[0].endswith(".dist-info"))
    content = {name: data for name, data in files.items() if name != f"{info}/RECORD"}
    content[f"{info}/WHEEL"] = _WHEEL.encode()
    content[f"{info}/RECORD"] = _record(info, content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = _UNIX
            member.external_attr = _REGULAR_0644
            archive.writestr(member, content[name])


def repack(source: Path, target: Path) -> None:
    """Write the pure wheel `source` to `target` in canonical form."""
    with zipfile.ZipFile(source) as archive:
        write_wheel(
            target, {info.filename: archive.read(info) for info in archive.infolist() if not info.is_dir()}
        )


def _record(info: str, content: Mapping[str, bytes]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, data in sorted(content.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(data)))
    rows.writerow((f"{info}/RECORD", "", ""))
    return text.getvalue().encode()
