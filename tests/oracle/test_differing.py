"""What ``diff`` lists, compared with a walk through both states as a mount shows them."""

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from stillframe.errors import UsageError
from stillframe.events import NoEvents
from stillframe.extents import Extent, ExtentSet
from stillframe.jobs import differing
from stillframe.jobs.differing import ImageComparison, Wanted, compare_images
from stillframe.repo.blockmap import MapRoot, ReadNode, iter_spans
from stillframe.repo.map_difference import differing_bytes
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store import MemoryStore
from stillframe.testing import volumes_windows as volumes
from stillframe.testing.job_runs import backup_paths, make_repository
from stillframe.testing.real_disks import make_ext4, make_ntfs, mounted_kernel
from stillframe.testing.tools import run_tool

MIB = 1 << 20
SEEN = ("added", "changed", "removed")
Mount = Callable[[Path, Path], AbstractContextManager[Path]]
State = dict[str, tuple[str, str]]


def make_exfat(image: Path) -> None:
    volumes.make_exfat(image, size=48 * MIB)
    with volumes.mounted_exfat(image, image.with_suffix(".mount")) as root:
        volumes.fill_tree(root, seed=4, size=6 * MIB)


MAKERS: dict[str, tuple[Callable[[Path], object], Mount]] = {
    "ext4": (lambda image: make_ext4(image, 96 * MIB, seed=4), mounted_kernel),
    "ntfs": (lambda image: make_ntfs(image, 96 * MIB, seed=4), volumes.mounted_ntfs),
    "exfat": (make_exfat, volumes.mounted_exfat),
}


def walk(root: Path) -> State:
    """Kind and contents of everything below a mount."""
    found: State = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                fact = ("link", os.readlink(path))
            elif path.is_dir():
                fact = ("folder", "")
            else:
                fact = ("file", hashlib.sha256(path.read_bytes()).hexdigest())
            found[f"/{path.relative_to(root)}"] = fact
    return found


def law(before: State, after: State) -> set[tuple[str, str]]:
    """What is not the same, by the two walks."""
    both = before.keys() & after.keys()
    return (
        {("added", path) for path in after.keys() - both}
        | {("removed", path) for path in before.keys() - both}
        | {("changed", path) for path in both if before[path] != after[path]}
    )


def change(root: Path, *, links: bool) -> None:
    """A day's work, with changes that neither times nor sizes tell."""
    source, files = random.Random(5), sorted(path for path in root.rglob("*.bin") if path.is_file())
    for path in source.sample(files, 12):
        raw, times = bytearray(path.read_bytes()), path.stat()
        if raw:
            raw[len(raw) // 2] ^= 0xFF
            with path.open("r+b") as file:
                file.write(raw)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    left = [path for path in files if path.exists()]
    for path in source.sample(left, 6):
        path.unlink()
    left = [path for path in left if path.exists()]
    for path in source.sample(left, 6):
        path.write_bytes(path.read_bytes())  # other blocks, the same contents
    os.utime(left[0], (1, 1))
    left[1].rename(root / "moved.bin")
    (root / "new folder").mkdir()
    (root / "new folder" / "ü.txt").write_bytes(b"new")
    (root / "sparse").write_bytes(b"")
    os.truncate(root / "sparse", 3 * MIB)
    if links:
        (root / "link").symlink_to("nowhere")
        os.link(left[2], root / "second name")


def compare(repository: Repository, older: Manifest, newer: Manifest, path: str = "") -> ImageComparison:
    return compare_images(repository, older, newer, Wanted(path=path), events=NoEvents())


def told(found: ImageComparison) -> set[tuple[str, str]]:
    return {(one.kind, one.path) for volume in found.volumes for one in volume.changes if one.kind in SEEN}


def two_images(image: Path, tmp_path: Path, kind: str) -> tuple[Repository, Manifest, Manifest, State, State]:
    make, mount = MAKERS[kind]
    make(image)
    repository = make_repository(MemoryStore())
    with mount(image, tmp_path / "m") as root:
        before = walk(root)
    older = backup_paths(repository, image).manifest
    with mount(image, tmp_path / "m") as root:
        change(root, links=kind != "exfat")
    with mount(image, tmp_path / "m") as root:
        after = walk(root)
    return repository, older, backup_paths(repository, image).manifest, before, after


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_it_lists_what_two_walks_find(kind: str, tmp_path: Path) -> None:
    repository, older, newer, before, after = two_images(tmp_path / "image", tmp_path, kind)
    found = compare(repository, older, newer)
    assert found.is_complete
    assert found.volumes[0].status == "compared"
    assert told(found) == law(before, after)
    assert told(compare(repository, newer, older)) == law(after, before)
    inside = compare(repository, older, newer, "/folder 3/")
    assert told(inside) == {one for one in law(before, after) if one[1].startswith("/folder 3")}
    with pytest.raises(UsageError, match="neither image has /nowhere"):
        compare(repository, older, newer, "/nowhere")


@pytest.mark.root
def test_nothing_known_of_the_blocks_gives_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, older, newer, before, after = two_images(tmp_path / "image", tmp_path, "ext4")
    monkeypatch.setattr(differing._Pair, "_differing", lambda _self: None)
    found = compare(repository, older, newer)
    assert (found.volumes[0].notices, found.is_complete) == ((), True)
    assert told(found) == law(before, after)


@pytest.mark.root
def test_equal_maps_are_equal_volumes_and_others_are_told(tmp_path: Path) -> None:
    image = tmp_path / "image"
    make_ext4(image, 96 * MIB, seed=4)
    repository = make_repository(MemoryStore())
    first, second = (backup_paths(repository, image).manifest for _ in range(2))
    found = compare(repository, first, second)
    assert ([volume.status for volume in found.volumes], found.is_complete, told(found)) == (["equal"], True, set())
    other = tmp_path / "other"
    run_tool("mkfs.xfs", "-q", "-f", "-d", "file,name=" + str(other) + ",size=320m")
    foreign = backup_paths(repository, other).manifest
    assert sorted(volume.status for volume in compare(repository, first, foreign).volumes) == [
        "only-newer",
        "only-older",
    ]
    shutil.copyfile(other, image)
    with mounted_kernel(image, tmp_path / "m") as root:
        (root / "new").write_bytes(b"x")
    changed = compare(repository, foreign, backup_paths(repository, image).manifest)
    assert ([volume.status for volume in changed.volumes], changed.is_complete) == (["not-read"], False)
    assert "the files of xfs are not read" in changed.volumes[0].notices[0].message


def entries_of(root: MapRoot, chunk_size: int, read: ReadNode) -> Iterator[tuple[int, bytes]]:
    """Kind and id of every chunk."""
    for span in iter_spans(root, chunk_size, read):
        if span.leaf is None:
            yield from [(int(span.kind), b"")] * span.count
        else:
            yield from zip(span.leaf.kinds.tolist(), span.leaf.entry_ids(), strict=True)


@pytest.mark.parametrize("size", [1, 5, 1024, 1025, 3000])
def test_differing_bytes_are_those_of_chunks_that_differ(size: int, tmp_path: Path) -> None:
    chunk_size = 65_536
    source, image = random.Random(size), tmp_path / "image"
    repository = make_repository(MemoryStore(), chunk_size=chunk_size)
    with image.open("wb") as file:
        file.truncate(size * chunk_size - 512)
    manifests = []
    for _ in range(2):
        with image.open("r+b") as file:
            for _ in range(3):
                file.seek(source.randrange(size * chunk_size - 1024) // 512 * 512)
                file.write(source.randbytes(512))
        manifests.append(backup_paths(repository, image).manifest)
    chunks = repository.reader()
    roots = [one.disks[0].partitions[0].blocks.root() for one in manifests]
    first, second = ([*entries_of(root, chunk_size, chunks.read_node)] for root in roots)
    assert len(first) == size
    differs = np.array([one != other for one, other in zip(first, second, strict=True)])
    expected = ExtentSet.from_mask(differs, unit=chunk_size).clipped(Extent(0, size * chunk_size - 512))
    assert differing_bytes(roots[0], roots[1], chunks, chunk_size=chunk_size) == expected


@pytest.mark.root
def test_a_journal_that_waits_is_part_of_what_is_compared(tmp_path: Path) -> None:
    image, copy = tmp_path / "image", tmp_path / "copy"
    make_ext4(image, 96 * MIB, seed=4)
    repository = make_repository(MemoryStore())
    with mounted_kernel(image, tmp_path / "m") as root:
        before = walk(root)
    older = backup_paths(repository, image).manifest
    with mounted_kernel(image, tmp_path / "m") as root:
        change(root, links=True)
        os.sync()
        shutil.copyfile(image, copy)
    newer = backup_paths(repository, copy).manifest
    with mounted_kernel(copy, tmp_path / "m") as root:
        after = walk(root)
    found = compare(repository, older, newer)
    assert (told(found), found.is_complete) == (law(before, after), True)


@pytest.mark.root
def test_a_volume_that_may_be_out_of_date_is_compared_and_said_to_be_incomplete(tmp_path: Path) -> None:
    image = tmp_path / "image"
    make_ntfs(image, 96 * MIB, seed=4)
    repository = make_repository(MemoryStore())
    older = backup_paths(repository, image).manifest
    with volumes.mounted_ntfs(image, tmp_path / "m") as root:
        (root / "new").write_bytes(b"new")
    with image.open("r+b") as file:
        raw = file.read()
        record = raw.index(b"FILE", raw.index("$Volume".encode("utf-16-le")) - 1024)
        at = raw.index(b"\x03\x01\x00\x00", record + 0x100)  # $VOLUME_INFORMATION: version 3.1, then the flags
        file.seek(at + 2)
        file.write(b"\x01")  # VOLUME_IS_DIRTY
    found = compare(repository, older, backup_paths(repository, image).manifest)
    assert ("added", "/new") in told(found)
    assert not found.is_complete
    assert "files-may-be-stale" in {notice.code for notice in found.volumes[0].notices}
