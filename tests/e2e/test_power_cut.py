"""A power cut, then a backup of what the disk held, a restore, and the next start: every fsynced file must be there."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.extents import Extent
from stillframe.store import LocalStore
from stillframe.testing import real_disks, volumes_windows
from stillframe.testing.disks_partitioned import make_disk
from stillframe.testing.job_runs import backup_paths, make_repository, restore, verify
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root

MIB = 1 << 20
PLACE = Extent(MIB + 512 * 37, 41 * MIB)
Promised = dict[str, str]


def work(root: Path, promised: Promised, seed: int) -> None:
    """Write, fsync, rename, delete; what was fsynced is promised."""
    chance = random.Random(seed)
    for number in range(60):
        path = root / f"folder{chance.randrange(5)}" / f"file{seed}-{number}"
        path.parent.mkdir(exist_ok=True)
        contents = chance.randbytes(chance.choice((1, 900, 5000, 70_000, 250_000)))
        with path.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        promised[str(path.relative_to(root))] = hashlib.sha256(contents).hexdigest()
        if number % 7 == 6:
            victim = chance.choice(sorted(promised))
            (root / victim).unlink()
            del promised[victim]
            folder = os.open((root / victim).parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)


@contextmanager
def mounted_part(disk: Path, place: Path, options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    run_tool("mount", "-o", f"loop,offset={PLACE.start},sizelimit={PLACE.size},{options}", str(disk), str(place))
    try:
        yield place
    finally:
        unmount(place)


@pytest.mark.parametrize(
    "features",
    [(), *(pytest.param(one, marks=pytest.mark.slow) for one in (("-O", "^metadata_csum"), ("-b", "1024")))],
)
def test_ext4_with_its_journal_unreplayed(tmp_path: Path, features: tuple[str, ...]) -> None:
    disk, promised = tmp_path / "disk", Promised()
    table = f"label: gpt\nstart={PLACE.start // 512}, size={PLACE.size // 512}\n"
    disk.write_bytes(make_disk(PLACE.end + MIB, sfdisk=table))
    volume = tmp_path / "volume"
    volume.touch()
    os.truncate(volume, PLACE.size)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", *features, str(volume))
    real_disks.copy_into(volume, disk, PLACE.start)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    moments = []
    with mounted_part(disk, tmp_path / "mount", "commit=900") as root:
        for seed in range(3):
            work(root, promised, seed)
            copy = tmp_path / f"cut{seed}"
            copy.write_bytes(disk.read_bytes())
            moments.append((copy, dict(promised)))
    for copy, expected in moments:
        before = real_disks.hash_file(copy)
        result = backup_paths(repository, copy)
        assert result.is_complete
        assert real_disks.hash_file(copy) == before
        (part,) = result.manifest.disks[0].partitions
        assert (part.filesystem, part.map, part.consistency) == ("ext4", "used", "offline")
        assert [notice.code for notice in part.notices] == ["ext-journal-replayed"]
        assert part.bytes_used < 0.95 * PLACE.size
        assert verify(repository, result.manifest).ok
        restored = tmp_path / "restored"
        restored.write_bytes(b"\xff" * copy.stat().st_size)
        restore(repository, result.manifest, restored)
        with mounted_part(restored, tmp_path / "again", "rw") as root:
            found = hash_tree(root)
        assert {name: found.get(name) for name in expected} == expected
        part_file = real_disks.extract(restored, PLACE, tmp_path / "part")
        run_tool("e2fsck", "-fn", str(part_file))


def test_ntfs_while_its_driver_had_it(tmp_path: Path) -> None:
    volume, promised = tmp_path / "volume", Promised()
    volumes_windows.make_ntfs(volume, size=32 * MIB, label="windows")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    with volumes_windows.mounted_ntfs(volume, tmp_path / "mount") as root:
        work(root, promised, 5)
        os.sync()
        copy = tmp_path / "cut"
        copy.write_bytes(volume.read_bytes())
    result = backup_paths(repository, copy)
    restored = tmp_path / "restored"
    restored.write_bytes(b"\xff" * copy.stat().st_size)
    restore(repository, result.manifest, restored)
    found = real_disks.read_files("ntfs", restored)
    assert {name: found.get(name) for name in promised} == promised
