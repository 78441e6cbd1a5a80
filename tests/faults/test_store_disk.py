"""A store on a real disk that is full, read-only or unmounted, and what a power cut leaves of a committed object."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stillframe.errors import StorageError, StorageFull
from stillframe.store import LocalStore, ObjectMissing, write_object
from stillframe.testing.tools import unmount


@pytest.mark.root
def test_full_disk_is_told_and_abandoning_gives_the_room_back(disk: Path) -> None:
    store = LocalStore(str(disk / "full"))
    write_object(store, "kept", b"kept" * 1000)
    before = store.free_space()
    writer = store.create("packs/ab/big")
    with pytest.raises(StorageFull) as caught:
        writer.append(bytes(8 << 20))
    assert str(disk / "full/packs/ab/big") in caught.value.message
    assert "room" in caught.value.hint
    with pytest.raises(ValueError, match="abandoned"):
        writer.commit()
    writer.abandon()
    assert store.read("kept") == b"kept" * 1000
    assert before is not None
    assert (store.free_space() or 0) >= before - 4096  # the two folders stay
    write_object(store, "packs/ab/small", bytes(65536))
    shutil.rmtree(disk / "full")


@pytest.mark.root
def test_free_space_is_what_df_says(disk: Path) -> None:
    said = subprocess.run(["df", "-B1", "--output=avail", disk], capture_output=True, text=True, check=True).stdout
    assert LocalStore(str(disk)).free_space() == int(said.split()[1])


@pytest.mark.root
def test_read_only_disk_is_told_and_can_be_read(disk: Path) -> None:
    store = LocalStore(str(disk / "readonly"))
    write_object(store, "a/b", b"1")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        for ask in (store.create, store.delete):
            for name in ("a/b", "a/c", "new/c"):
                if (ask, name) not in ((store.create, "a/b"), (store.delete, "a/c"), (store.delete, "new/c")):
                    with pytest.raises(StorageError) as caught:
                        ask(name)
                    assert "read-only" in caught.value.hint
        assert store.read("a/b") == b"1"
        assert store.forget_cached("a/b")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@pytest.mark.root
def test_unmounted_disk_is_not_an_empty_one(make_disk: Callable[[], tuple[Path, Path]]) -> None:
    image, folder = make_disk()
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    store = LocalStore(str(folder))
    write_object(store, "a/b", b"1")
    unmount(folder)
    calls: list[Callable[[], object]] = [
        lambda: store.read("a/b"),
        lambda: store.size("a/b"),
        lambda: store.forget_cached("a/b"),
        lambda: list(store.list("")),
        lambda: store.create("a/c"),
        lambda: store.delete("a/b"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="another device") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing)
        assert "mounted" in caught.value.hint
    assert list(folder.iterdir()) == []
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        assert store.read("a/b") == b"1"
    finally:
        unmount(folder)


@pytest.mark.root
def test_forgotten_object_has_no_page_in_memory(disk: Path) -> None:
    store = LocalStore(str(disk / "cached"))
    write_object(store, "a", bytes(100_000))
    assert store.read("a") == bytes(100_000)
    path = disk / "cached/a"
    assert _cached_pages(path) > 0
    assert store.forget_cached("a")
    assert _cached_pages(path) == 0
    assert store.read("a") == bytes(100_000)


@pytest.mark.root
def test_object_being_written_is_forgotten_too(disk: Path) -> None:
    store = LocalStore(str(disk / "cached"))
    writer = store.create("b")
    writer.append(b"b" * 100_000)
    assert store.forget_cached("b")
    assert _cached_pages(disk / "cached/b") == 0
    assert store.read("b") == b"b" * 100_000
    writer.abandon()


@pytest.mark.root
@pytest.mark.parametrize("killed_run_made_the_folders", [False, True])
def test_committed_object_survives_a_power_cut(
    make_disk: Callable[[], tuple[Path, Path]], *, killed_run_made_the_folders: bool
) -> None:
    """What the disk holds when ``commit`` returns is copied; what is only in memory is not in the copy."""
    image, folder = make_disk()
    subprocess.run(["mount", "-t", "ext2", "-o", "loop", image, folder], check=True)
    try:
        if killed_run_made_the_folders:
            (folder / "repository/packs/ab").mkdir(parents=True)
        (folder / "unsynced").write_bytes(b"x" * 50_000)
        write_object(LocalStore(str(folder / "repository")), "packs/ab/one", b"1" * 50_000)
        after_the_cut = Path(shutil.copy(image, image.with_suffix(".cut")))
    finally:
        unmount(folder)
    assert _stored_on(after_the_cut, "/repository/packs/ab/one") == b"1" * 50_000
    assert _stored_on(after_the_cut, "/unsynced") != b"x" * 50_000, "the copy shows what was never synced: no proof"


@pytest.fixture
def make_disk(tmp_path: Path) -> Callable[[], tuple[Path, Path]]:
    def make() -> tuple[Path, Path]:
        image, folder = tmp_path / "image", tmp_path / "mounted"
        folder.mkdir()
        return _make_image(image), folder

    return make


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    image = _make_image(tmp_path_factory.mktemp("disk") / "image")
    folder = tmp_path_factory.mktemp("mounted")
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    yield folder
    unmount(folder)


def _make_image(image: Path) -> Path:
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext2", "-q", "-b", "1024", "-m", "0", image], check=True)
    return image


def _cached_pages(path: Path) -> int:
    said = subprocess.run(
        ["fincore", "--noheadings", "--output", "PAGES", path], capture_output=True, text=True, check=True
    ).stdout
    return int(said)


def _stored_on(image: Path, path: str) -> bytes:
    return subprocess.run(["debugfs", "-R", f"cat {path}", image], capture_output=True, check=True).stdout
