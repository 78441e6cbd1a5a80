"""A store in a folder that is missing, whose calls fail, or that holds things that are not ours."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stillframe.errors import StorageError, StorageFull
from stillframe.store import LocalStore, ObjectMissing, StoredObject, write_object

# ---- a folder that is not there


def test_missing_folder_holds_nothing(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "new"))
    assert list(store.list("")) == []
    assert store.free_space() is None
    store.delete("a")
    for ask in (store.read, store.size, store.forget_cached):
        with pytest.raises(ObjectMissing):
            ask("a")
    assert list(tmp_path.iterdir()) == []
    write_object(store, "a", b"1")
    assert list(store.list("")) == [StoredObject("a", 1)]


def test_folder_above_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as caught:
        LocalStore(str(tmp_path / "disk" / "new")).create("a")
    assert "mounted" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_folder_that_was_there_is_never_made_again(tmp_path: Path) -> None:
    root = tmp_path / "root"
    store = LocalStore(str(root))
    write_object(store, "a", b"1")
    root.rename(tmp_path / "elsewhere")
    calls: list[Callable[[], object]] = [
        lambda: store.create("b"),
        lambda: store.read("a"),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(StorageError) as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing)
    assert not root.exists()


def test_file_in_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in ("file", "file/below"):
        with pytest.raises(StorageError):
            LocalStore(str(tmp_path / root)).create("a/b")


def test_free_space_is_unknown_where_the_system_does_not_say() -> None:
    assert LocalStore("/proc").free_space() is None


# ---- failing calls


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, (StorageFull, "room")),
        (errno.EDQUOT, (StorageFull, "quota")),
        (errno.EIO, (StorageError, "cable")),
        (errno.EROFS, (StorageError, "read-only")),
        (errno.ENOTCONN, (StorageError, "connected")),
        (errno.ESTALE, (StorageError, "connected")),
        (errno.ENODEV, (StorageError, "connected")),
        (errno.EACCES, (StorageError, "user")),
        (errno.ENOMEM, (StorageError, "again")),
    ],
)
@pytest.mark.parametrize("call", ["open", "mkdir", "write", "fsync", "close"])
def test_failing_call_is_told(
    call: str, number: int, expected: tuple[type[StorageError], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    with monkeypatch.context() as patch:
        _fail(patch, call, number)
        with pytest.raises(StorageError) as caught:
            write_object(store, "folder/name", b"1")
    assert type(caught.value) is expected[0]
    assert expected[1] in caught.value.hint
    assert str(tmp_path) in caught.value.message
    if call != "close":  # by then it is durable
        assert list(store.list("")) == []


def test_failing_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path))
    write_object(store, "a", b"1")
    for call in ("open", "read", "lstat", "scandir", "unlink"):
        with monkeypatch.context() as patch:
            _fail(patch, call, errno.EIO)
            with pytest.raises(StorageError) as caught:
                _use(store, call)
        assert type(caught.value) is StorageError
        assert "cable" in caught.value.hint
    assert store.read("a") == b"1"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folder_that_cannot_be_synced_is_tolerated_and_a_file_is_not(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def sync_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync_files_only)
    write_object(LocalStore(str(tmp_path)), "folder/name", b"1")
    _fail(monkeypatch, "fsync", number)
    with pytest.raises(StorageError):
        write_object(LocalStore(str(tmp_path)), "folder/other", b"1")


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = os.write, os.read
    monkeypatch.setattr(os, "write", lambda descriptor, rest: write(descriptor, rest[:7]))
    monkeypatch.setattr(os, "read", lambda descriptor, length: read(descriptor, min(length, 5)))
    contents = bytes(range(256))
    store = LocalStore(str(tmp_path))
    write_object(store, "a", contents)
    assert store.read("a") == contents
    assert store.read("a", 3, 100) == contents[3:103]
    monkeypatch.setattr(os, "write", lambda _descriptor, _rest: 0)
    with pytest.raises(StorageError):
        write_object(store, "b", contents)


def test_object_cut_while_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path))
    write_object(store, "a", bytes(100))
    monkeypatch.setattr(os, "read", lambda _descriptor, _length: b"")
    with pytest.raises(StorageError, match="ends before"):
        store.read("a")


def test_size_limit_of_the_file_system_is_told(tmp_path: Path) -> None:
    writer = LocalStore(str(tmp_path)).create("a")
    _limit_file_size("100000")
    try:
        with pytest.raises(StorageError) as caught:
            writer.append(bytes(200_000))
    finally:
        _limit_file_size("unlimited")
    writer.abandon()
    assert "that size" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# ---- order, rights, descriptors


def test_commit_syncs_the_file_then_its_folder(tmp_path: Path, synced: list[str]) -> None:
    store = LocalStore(str(tmp_path / "root"))
    write_object(store, "packs/ab/one", b"1")
    assert synced == [".", "root", "root/packs", "root/packs/ab/one", "root/packs/ab"]
    synced.clear()
    write_object(store, "packs/ab/two", b"2")
    assert synced == ["root/packs/ab/two", "root/packs/ab"]


def test_folders_of_a_killed_run_are_synced_too(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "root/packs/ab").mkdir(parents=True)
    write_object(LocalStore(str(tmp_path / "root")), "packs/ab/one", b"1")
    assert synced == [".", "root", "root/packs", "root/packs/ab/one", "root/packs/ab"]


def test_folder_that_somebody_deleted_is_made_again(tmp_path: Path, synced: list[str]) -> None:
    store = LocalStore(str(tmp_path))
    write_object(store, "packs/ab/one", b"1")
    shutil.rmtree(tmp_path / "packs")
    synced.clear()
    write_object(store, "packs/ab/two", b"2")
    assert synced == [".", "packs", "packs/ab/two", "packs/ab"]


def test_folder_above_that_is_not_ours_need_not_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse_above(path: str, flags: int, mode: int = 0o777) -> int:
        if path == str(tmp_path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode)

    (tmp_path / "old").mkdir()
    monkeypatch.setattr(os, "open", refuse_above)
    write_object(LocalStore(str(tmp_path / "old")), "a", b"1")
    with pytest.raises(StorageError):
        LocalStore(str(tmp_path / "new")).create("a")


def test_objects_are_for_this_user_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_object(LocalStore(str(tmp_path / "root")), "packs/one", b"1")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "root" / path).stat().st_mode) for path in (".", "packs", "packs/one")]
    assert modes == [0o700, 0o700, 0o600]


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = _open_descriptors()
    store = LocalStore(str(tmp_path))
    writer = store.create("given/up")
    (descriptor,) = _open_descriptors() - before
    assert not os.get_inheritable(descriptor)
    writer.abandon()
    write_object(store, "a", b"1")
    store.read("a")
    store.forget_cached("a")
    next(store.list(""))
    with pytest.raises(ObjectMissing):
        store.read("b")
    assert _open_descriptors() == before


# ---- things in the folder that are not ours


def test_foreign_names_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    write_object(store, "packs/ab/one", b"1")
    for name in (".DS_Store", "._one", "System Volume Information", "one~", "\N{SNOWMAN}", "a b", "$RECYCLE.BIN"):
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / "packs/ab" / name).mkdir()
        (tmp_path / "packs/ab" / name / "one").write_bytes(b"x")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"x")
    assert list(store.list("")) == [StoredObject("packs/ab/one", 1)]


def test_links_and_pipes_are_not_objects(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    store = LocalStore(str(tmp_path / "root"))
    write_object(store, "packs/one", b"1")
    folder = tmp_path / "root/packs"
    subprocess.run(["mkfifo", folder / "pipe"], check=True)
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "dangling").symlink_to(tmp_path / "nothing")
    (folder / "circle").symlink_to(folder)
    assert list(store.list("")) == [StoredObject("packs/one", 1)]
    for name in ("packs/pipe", "packs/link", "packs/dangling", "packs/circle"):
        for ask in (store.read, store.size, store.forget_cached):
            with pytest.raises(ObjectMissing):
                ask(name)
        with pytest.raises(StorageError):
            store.create(name)
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert not (tmp_path / "nothing").exists()


def test_link_put_in_place_of_an_object_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    store = LocalStore(str(tmp_path / "root"))
    write_object(store, "one", b"public")
    (tmp_path / "root/one").unlink()
    (tmp_path / "root/one").symlink_to(tmp_path / "outside")
    real = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: real(tmp_path / "outside" if str(path).endswith("one") else path))
    with pytest.raises(ObjectMissing):
        store.read("one")


def test_folders_without_end_are_not_followed(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    write_object(store, "/".join(["d"] * 256), b"deepest")  # 511 characters
    deeper = Path(tmp_path, *["d"] * 255, "e")
    deeper.mkdir()
    (deeper / "too-deep").write_bytes(b"x")
    assert [stored.size for stored in store.list("")] == [7]


def test_files_that_vanish_while_they_are_listed_are_passed_over(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for name in ("a/1", "b/1", "c/1"):
        write_object(store, name, b"1")
    listing = store.list("")
    first = next(listing)
    for folder in {"a", "b", "c"} - {first.name[0]}:
        shutil.rmtree(tmp_path / folder)
    assert list(listing) == []


def test_object_made_anew_is_not_deleted_by_the_writer_of_the_old_one(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    old = store.create("a")
    store.delete("a")
    write_object(store, "a", b"new")
    old.abandon()
    assert store.read("a") == b"new"


# ---- what the tests above stand on


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order, as paths from ``tmp_path``."""
    paths: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        paths.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    return paths


def _open_descriptors() -> set[int]:
    """Without the one that lists them."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}


def _limit_file_size(size: str) -> None:
    """The soft limit of this process."""
    subprocess.run(["prlimit", "--pid", str(os.getpid()), f"--fsize={size}:"], check=True)


def _fail(patch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let a system call fail: ``close`` after it closed, as it does (close(2))."""
    real = getattr(os, call)

    def failing(*arguments: object, **_: object) -> None:
        if call == "close":
            real(*arguments)
        raise OSError(number, os.strerror(number))

    patch.setattr(os, call, failing)


def _use(store: LocalStore, call: str) -> None:
    if call == "scandir":
        list(store.list(""))
    elif call == "unlink":
        store.delete("a")
    else:
        store.read("a")
