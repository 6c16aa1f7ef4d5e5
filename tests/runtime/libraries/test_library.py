import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echo_core.errors import LibraryError, ManifestError
from echo_core.runtime.libraries import platform
from echo_core.runtime.libraries.library import (
    FileRecord,
    Library,
    inventory_digest,
    peek_library,
    read_library,
    this_platform,
    this_python,
)
from support.libraries import make_library, make_wheel, make_workspace


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(make_workspace(tmp_path))


def change_release(library: Library, **changes: Any) -> None:
    file = library.path / "release.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changes))


def own_wheel(library: Library) -> Path:
    return library.path / library.wheels[0]


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def replace_by_link(file: Path) -> None:
    real = file.rename(file.parent.parent / file.name)
    file.symlink_to(real)


def test_a_library_is_read_as_it_was_built(library: Library) -> None:
    assert (library.name, library.version, library.build_type) == ("greeter", "0.1.0", "development")
    assert library.wheels == ("greeter-0.1.0-py3-none-any.whl",)
    assert library.digest == inventory_digest(library.release.files)
    assert library.release.platform == "any"
    assert read_library(library.path) == library


def test_the_digest_is_what_the_documentation_says() -> None:
    files = {"b": FileRecord("22", 2), "a": FileRecord("11", 1)}
    # printf '11 1 a\n22 2 b\n' | sha256sum
    assert inventory_digest(files) == "8fee8f112033756961a37a43345e8676c10bc42008a4e29688fbb50d736b70b4"


def put(name: str) -> Callable[[Library], object]:
    def tamper(library: Library) -> None:
        file = library.path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"evil")

    return tamper


TAMPERED: dict[str, tuple[Callable[[Library], object], str]] = {
    "a changed byte": (lambda library: flip_a_byte(own_wheel(library)), "none-any.whl was modified"),
    "a changed manifest": (
        lambda library: flip_a_byte(library.path / "manifest.json"),
        "manifest.json was modified",
    ),
    "a missing file": (lambda library: own_wheel(library).unlink(), "none-any.whl is missing"),
    "an extra .pyc": (put("greeter.pyc"), "greeter.pyc is not part of the release"),
    "an extra .so": (put("greeter.so"), "greeter.so is not part of the release"),
    "an extra wheel": (put("wheels/x.whl"), "wheels/x.whl is not part of the release"),
    "a link to the same": (lambda library: replace_by_link(own_wheel(library)), "is a link or a device"),
    "a changed digest": (lambda library: change_release(library, digest="0" * 64), "its digest is not that"),
    "a changed inventory": (lambda library: change_release(library, files={}), "its digest is not that"),
    "another name": (lambda library: change_release(library, name="other"), "release.json is of other 0.1.0"),
    "a newer format": (
        lambda library: change_release(library, format=2),
        "format 2, and this Echo Core reads 1",
    ),
    "an unknown key": (lambda library: change_release(library, more=1), "release.json: "),
    "no release": (lambda library: (library.path / "release.json").unlink(), "release.json: No such file"),
    "a release that is no JSON": (put("release.json"), "release.json: "),
    "a release that is a list": (
        lambda library: (library.path / "release.json").write_text("[]"),
        "release.json: ",
    ),
}


@pytest.mark.parametrize(("tamper", "reason"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_library_is_refused_with_its_own_reason(
    library: Library, tamper: Callable[[Library], object], reason: str
) -> None:
    tamper(library)
    with pytest.raises(LibraryError) as caught:
        read_library(library.path)
    assert reason in caught.value.why
    assert caught.value.where == str(library.path)
    assert "build" in caught.value.fix


def test_every_file_at_fault_is_named_at_once(library: Library) -> None:
    own_wheel(library).unlink()
    (library.path / "extra.pth").touch()
    flip_a_byte(library.path / "manifest.json")
    with pytest.raises(LibraryError) as caught:
        read_library(library.path)
    assert [line.split()[0] for line in caught.value.why.splitlines()] == [
        "greeter-0.1.0-py3-none-any.whl",
        "extra.pth",
        "manifest.json",
    ]


def test_a_path_without_a_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match="there is no library"):
        read_library(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"python": "==3.9.*"}, f"built for Python ==3.9.* on any platform; this is Python {this_python()}"),
        ({"python": "nonsense"}, "built for Python nonsense"),
        (
            {"platform": "win-arm64"},
            f"on win-arm64; this is Python {this_python()} on {this_platform()}",
        ),
        ({"api_version": "2.0"}, "built for plugin interface 2.0; this host has 1.0"),
        ({"api_version": "1.7"}, "built for plugin interface 1.7; this host has 1.0"),
    ],
)
def test_a_library_for_another_host_is_refused_with_both_sides(
    library: Library, changes: dict[str, Any], reason: str
) -> None:
    change_release(library, **changes)
    with pytest.raises(LibraryError, match="does not fit this host") as caught:
        read_library(library.path)
    assert reason in caught.value.why
    assert "echo-core build greeter development" in caught.value.fix


def test_a_plugin_that_wants_another_echo_core_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = make_library(make_workspace(tmp_path), requires_echo_core=">=0.1")
    monkeypatch.setattr("echo_core.runtime.libraries.library.__version__", "0.0.9")
    with pytest.raises(ManifestError, match=r"wants Echo Core >=0\.1, and this is 0\.0\.9"):
        read_library(library.path)


def test_a_platform_package_of_another_version_than_the_library_needs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(tmp_path / "index", "helper", "1.0", {"helper.py": ""}, requires=["msgspec>=0.19,<7"])
    library = make_library(make_workspace(tmp_path / "w"), carrying=[wheel])
    newer = platform.platform_versions() | {"msgspec": "7.0"}
    monkeypatch.setattr(platform, "platform_versions", lambda: newer)
    with pytest.raises(LibraryError, match="does not fit this host") as caught:
        read_library(library.path)
    assert "msgspec<7,>=0.19 is wanted, and the host has 7.0 (by helper 1.0)" in caught.value.why


def test_a_peek_reads_without_verifying(library: Library) -> None:
    own_wheel(library).unlink()
    assert peek_library(library.path).manifest.description == "Greets."
