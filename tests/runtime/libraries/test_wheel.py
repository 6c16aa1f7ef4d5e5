import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from echo_core.errors import LibraryError
from echo_core.runtime.libraries.wheel import Limits, read_wheel, unpack
from support.libraries import make_wheel

Tamper = Callable[[zipfile.ZipFile], None]


def put(name: str, content: bytes = b"evil", mode: int = 0) -> Tamper:
    def tamper(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo("x")
        info.filename = info.orig_filename = name
        info.external_attr = mode << 16
        archive.writestr(info, content)

    return tamper


HOSTILE = {
    "leads out": (put("../escaped.py"), "leads out"),
    "leads out from within": (put("lib/../../escaped.py"), "leads out"),
    "absolute": (put("/escaped.py"), "absolute"),
    "drive": (put("c:/escaped.py"), "absolute"),
    "backslash": (put("..\\escaped.py"), "backslash"),
    "nul": (put("lib/a.py\0.txt"), "NUL"),
    "empty part": (put("lib//a.py"), "leads out"),
    "collision of case": (put("lib/A.PY"), "collide"),
    "collision of forms": (put("LIB/__init__.py"), "collide"),
    "file as folder": (put("lib/a.py/b.py"), "needs it to be a folder"),
    "symlink": (put("lib/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "link or a device"),
    "device": (put("lib/device", b"", stat.S_IFCHR | 0o666), "link or a device"),
    "pth": (put("evil.pth", b"import os"), ".pth"),
    "pth in capitals": (put("Evil.PTH", b"import os"), ".pth"),
    "unlisted": (put("lib/unlisted.py"), "RECORD does not list"),
    "second dist-info": (put("other-1.0.dist-info/METADATA"), ".dist-info folders"),
}


@pytest.mark.parametrize(("tamper", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_member_is_refused_and_nothing_is_written(
    tmp_path: Path, tamper: Tamper, reason: str
) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/__init__.py": "", "lib/a.py": "A = 1\n"})
    with zipfile.ZipFile(path, "a") as archive:
        tamper(archive)
    with pytest.raises(LibraryError, match="refused") as caught:
        read_wheel(path)
    assert reason in caught.value.why
    assert list(tmp_path.iterdir()) == [path]


def test_a_doubled_member_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/__init__.py": ""})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("lib/__init__.py", "evil")
    with pytest.raises(LibraryError) as caught:
        read_wheel(path)
    assert "'lib/__init__.py' twice" in caught.value.why


def test_a_local_header_that_differs_from_the_directory_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/a.py": "A = 1\n"})
    content = path.read_bytes()
    first = content.index(b"lib/a.pyA = 1")
    path.write_bytes(content[:first] + b"lib/b.py" + content[first + 8 :])
    wheel = read_wheel(path)
    with pytest.raises(LibraryError, match="refused"):
        unpack(wheel, tmp_path / "site")
    assert not any(file.read_bytes() for file in (tmp_path / "site").rglob("*.py"))


def test_a_member_that_differs_from_the_record_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/a.py": "A = 1\n"})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"lib/a.py": b"A = 2\n"}).items():
            archive.writestr(name, content)
    with pytest.raises(LibraryError) as caught:
        unpack(read_wheel(path), tmp_path / "site")
    assert "lib/a.py is not what its RECORD says" in caught.value.why


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=2), "members"),
        (Limits(member_size=1_000), "'lib/big.txt' unpacks to more than 1000 bytes"),
        (Limits(total_size=1_000), "unpacks to more than 1000 bytes"),
    ],
)
def test_an_absurd_size_is_refused_before_anything_is_unpacked(
    tmp_path: Path, limits: Limits, reason: str
) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/big.txt": b"0" * 2_000, "lib/__init__.py": ""})
    read_wheel(path)
    with pytest.raises(LibraryError) as caught:
        read_wheel(path, limits)
    assert reason in caught.value.why


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not an archive" * 100])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lib-1.0-py3-none-any.whl"
    path.write_bytes(content)
    with pytest.raises(LibraryError, match="cannot be opened"):
        read_wheel(path)


def test_a_wheel_of_another_name_is_refused(tmp_path: Path) -> None:
    path = make_wheel(tmp_path, "lib", "1.0", {"lib/__init__.py": ""})
    renamed = path.rename(tmp_path / "other-1.0-py3-none-any.whl")
    with pytest.raises(LibraryError, match="METADATA says that it is 'lib'"):
        read_wheel(renamed)


def test_a_wheel_tells_what_it_holds(tmp_path: Path) -> None:
    files = {
        "lib/__init__.py": "",
        "single.py": "",
        "lib-1.0.data/purelib/extra/__init__.py": "",
        "lib-1.0.data/scripts/run": "#!python",
    }
    wheel = read_wheel(make_wheel(tmp_path, "lib", "1.0", files, requires=["other>=2"]))
    assert wheel.top_levels == {"lib", "single", "extra"}
    assert [str(requirement) for requirement in wheel.requires] == ["other>=2"]
    assert wheel.is_pure
    assert wheel.fits_here
    assert not wheel.has_extension_modules
    unpack(wheel, tmp_path / "site")
    found = {
        path.relative_to(tmp_path / "site").as_posix()
        for path in (tmp_path / "site").rglob("*.*")
        if path.is_file()
    }
    assert found >= {"lib/__init__.py", "single.py", "extra/__init__.py"}
    assert not list((tmp_path / "site").rglob("run"))


def test_a_wheel_for_another_platform_does_not_fit(tmp_path: Path) -> None:
    wheel = read_wheel(make_wheel(tmp_path, "lib", "1.0", {"lib/x.so": b""}, tag="cp39-cp39-win_amd64"))
    assert not wheel.fits_here
    assert not wheel.is_pure
    assert wheel.has_extension_modules
