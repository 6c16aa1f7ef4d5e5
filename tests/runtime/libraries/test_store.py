import threading
from pathlib import Path

import pytest

from echo_core.errors import LibraryError
from echo_core.runtime.libraries import store as stores
from echo_core.runtime.libraries.files import locked
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.libraries.wheel import Wheel, unpack
from support.libraries import make_library, make_wheel, make_workspace


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return make_library(make_workspace(tmp_path / "w"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[Wheel]:
    """The wheels that the store unpacks during the test."""
    wheels = []

    def noted(wheel: Wheel, site: Path) -> None:
        wheels.append(wheel)
        unpack(wheel, site)

    monkeypatch.setattr(stores, "unpack", noted)
    return wheels


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_library_is_unpacked_under_its_digest(library: Library, store: Store, tmp_path: Path) -> None:
    site = store.ingest(library)
    assert site.path == tmp_path / "state" / "store" / library.digest / "site"
    assert b"class Greeter" in (site.path / "greeter" / "__init__.py").read_bytes()
    assert set(contents(site.path)) == set(site.files)


def test_what_is_unpacked_already_is_used_again(library: Library, store: Store) -> None:
    before = store.ingest(library).path / "greeter" / "__init__.py"
    inode = before.stat().st_ino
    assert store.ingest(library).path / "greeter" / "__init__.py" == before
    assert before.stat().st_ino == inode


@pytest.mark.parametrize(
    "extra", ["greeter/__pycache__/__init__.cpython-311.pyc", "greeter/_fast.so", "sitecustomize.py", "x.pth"]
)
def test_a_file_that_was_added_to_the_store_is_gone_after_the_next_load(
    library: Library, store: Store, extra: str
) -> None:
    site = store.ingest(library)
    whole = contents(site.path)
    file = site.path / extra
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"evil")
    assert contents(store.ingest(library).path) == whole


def test_a_file_that_was_changed_or_removed_in_the_store_is_made_anew(library: Library, store: Store) -> None:
    site = store.ingest(library)
    whole = contents(site.path)
    module = site.path / "greeter" / "__init__.py"
    module.chmod(0o644)
    module.write_text("evil = True")
    next(site.path.glob("*.dist-info/METADATA")).unlink()
    assert contents(store.ingest(library).path) == whole


def test_a_wheel_that_was_changed_in_the_store_is_made_anew(library: Library, store: Store) -> None:
    entry = store.ingest(library).path.parent
    wheel = entry / library.wheels[0]
    whole = wheel.read_bytes()
    make_wheel(entry, "greeter", "0.1.0", {"greeter/__init__.py": "evil = True"})
    assert wheel.read_bytes() != whole
    store.ingest(library)
    assert wheel.read_bytes() == whole


def test_a_library_that_changes_between_reading_and_unpacking_is_refused(
    library: Library, store: Store, tmp_path: Path
) -> None:
    make_wheel(library.path, "greeter", "0.1.0", {"greeter/__init__.py": "evil = True"})
    with pytest.raises(LibraryError, match="changed while it was loaded") as caught:
        store.ingest(library)
    assert "greeter-0.1.0-py3-none-any.whl changed while it was read" in caught.value.why
    assert not list((tmp_path / "state").rglob("*.py"))


def test_a_wheel_swapped_for_a_link_is_refused(library: Library, store: Store, tmp_path: Path) -> None:
    wheel = library.path / library.wheels[0]
    wheel.rename(tmp_path / "elsewhere.whl")
    wheel.symlink_to(tmp_path / "elsewhere.whl")
    with pytest.raises(LibraryError, match="cannot be unpacked"):
        store.ingest(library)


def test_a_state_folder_that_cannot_be_written_is_a_clear_error(library: Library, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where a folder must be")
    with pytest.raises(LibraryError, match="cannot be unpacked") as caught:
        Store(tmp_path / "state").ingest(library)
    assert "let the state folder be writable" in caught.value.fix


def test_a_full_disk_leaves_no_half_entry(
    library: Library, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", "site/greeter/__init__.py")

    with monkeypatch.context() as patched:
        patched.setattr(stores, "unpack", fail)
        with pytest.raises(LibraryError, match="No space left on device"):
            store.ingest(library)
    assert [entry.suffix for entry in (tmp_path / "state" / "store").iterdir()] == [".lock"]
    assert store.ingest(library).files


def test_a_second_host_waits_for_the_first_and_uses_what_it_unpacked(
    library: Library, tmp_path: Path, unpacked: list[Wheel]
) -> None:
    started = threading.Event()

    def second() -> None:
        started.set()
        Store(tmp_path / "state").ingest(library)

    other = threading.Thread(target=second)
    with locked(tmp_path / "state" / "store" / f"{library.digest}.lock"):
        other.start()
        started.wait()
        stores._make(tmp_path / "state" / "store" / library.digest, library)
        assert other.is_alive()
    other.join()
    assert len(unpacked) == 1


def test_many_hosts_at_once_unpack_once(library: Library, tmp_path: Path, unpacked: list[Wheel]) -> None:
    sites = []
    barrier = threading.Barrier(8)

    def host() -> None:
        barrier.wait()
        sites.append(Store(tmp_path / "state").ingest(library).path)

    threads = [threading.Thread(target=host) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(sites)) == 1
    assert (len(sites), len(unpacked)) == (8, 1)
