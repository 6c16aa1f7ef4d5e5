import os
from pathlib import Path

import pytest

from echo_core.runtime.libraries import files
from echo_core.runtime.libraries.files import folder_beside, replace_directory, replace_file, replace_link


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda *_: False)


def put(folder: Path, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(content)
    return folder


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("before", ["nothing", "something"])
def test_a_directory_takes_the_place_of_another(tmp_path: Path, before: str) -> None:
    target = tmp_path / "target"
    if before == "something":
        put(target, "old")
        (target / "only in the old").touch()
    with folder_beside(target) as new:
        put(new, "new")
        replace_directory(new, target)
    assert [path.name for path in target.iterdir()] == ["file"]
    assert (target / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_not_used_leaves_nothing(tmp_path: Path) -> None:
    target = put(tmp_path / "target", "old")

    def interrupted() -> None:
        with folder_beside(target) as new:
            put(new, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "file").read_text() == "old"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk is full"):
            replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_in_one_step(tmp_path: Path) -> None:
    link = tmp_path / "link"
    for destination in ("one", "other"):
        replace_link(link, destination)
        assert str(link.readlink()) == destination
    assert list(tmp_path.iterdir()) == [link]
