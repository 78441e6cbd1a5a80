"""Disks of uncommon kinds come back too, and are called by their names."""

import os
import uuid
from pathlib import Path

import pytest

from stillframe.block import MemoryDisk
from stillframe.extents import Extent
from stillframe.repo.records import StoredDisk, StoredPartition
from stillframe.store import MemoryStore
from stillframe.testing import real_disks
from stillframe.testing.disk_builder import fill_with_noise, write_gpt, write_mbr
from stillframe.testing.disks_partitioned import make_disk, see_table
from stillframe.testing.job_runs import backup, backup_paths, make_repository, restore
from stillframe.testing.real_disks import LEFT_OUT, MIB, hash_file
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_btrfs import make_btrfs
from stillframe.testing.volumes_linux import build_luks, build_lvm2, build_raid, build_swap
from stillframe.testing.volumes_windows import fill_tree, hash_tree
from stillframe.testing.volumes_xfs import make_xfs

pytestmark = pytest.mark.root


def there_and_back(disk: Path, tmp_path: Path) -> tuple[StoredDisk, Path]:
    repository = make_repository(MemoryStore())
    before = hash_file(disk)
    result = backup_paths(repository, disk)
    assert result.is_complete
    assert hash_file(disk) == before
    restored = tmp_path / "restored"
    restored.write_bytes(b"\xff" * disk.stat().st_size)
    restore(repository, result.manifest, restored)
    return result.manifest.disks[0], restored


def only_part(disk: StoredDisk) -> StoredPartition:
    (part,) = disk.partitions
    return part


@pytest.mark.parametrize("kind", ["ext4", "ntfs"])
def test_a_file_system_on_a_whole_disk(tmp_path: Path, kind: str) -> None:
    disk = tmp_path / "disk"
    size = 24 * MIB + 512 * 5
    make = real_disks.make_ext4 if kind == "ext4" else real_disks.make_ntfs
    files = make(disk, size, seed=4)
    stored, restored = there_and_back(disk, tmp_path)
    part = only_part(stored)
    assert (stored.scheme, part.filesystem, part.map, part.start, part.size) == ("none", kind, "used", 0, size)
    assert part.bytes_used < 0.8 * size
    real_disks.check_volume(kind, restored)
    found = real_disks.read_files(kind, restored)
    assert {n: h for n, h in found.items() if n not in LEFT_OUT} == {
        n: h for n, h in files.items() if n not in LEFT_OUT
    }


def test_an_xfs_on_a_whole_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_xfs(disk, "-L", "files", size=310 * MIB + 512)
    with real_disks.mounted_kernel(disk, tmp_path / "mount") as root:
        fill_tree(root, seed=3, size=5 * MIB)
        files = hash_tree(root)
    stored, restored = there_and_back(disk, tmp_path)
    part = only_part(stored)
    assert (part.filesystem, part.label, part.map, part.left_out) == ("xfs", "files", "used", ())
    assert part.bytes_used < 0.4 * disk.stat().st_size
    real_disks.check_volume("xfs", restored)
    with real_disks.mounted_kernel(restored, tmp_path / "mount") as root:
        assert hash_tree(root) == files


def test_a_btrfs_on_a_whole_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    make_btrfs(disk, "-L", "files", size=310 * MIB + 512)
    with real_disks.mounted_kernel(disk, tmp_path / "mount") as root:
        fill_tree(root, seed=3, size=5 * MIB)
        files = hash_tree(root)
    stored, restored = there_and_back(disk, tmp_path)
    part = only_part(stored)
    assert (part.filesystem, part.label, part.map, part.left_out) == ("btrfs", "files", "used", ())
    assert part.bytes_used < 0.1 * disk.stat().st_size
    real_disks.check_volume("btrfs", restored)
    with real_disks.mounted_kernel(restored, tmp_path / "mount") as root:
        assert hash_tree(root) == files


def test_what_nobody_knows_is_kept_whole(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(2 * MIB))
    stored, restored = there_and_back(disk, tmp_path)
    part = only_part(stored)
    assert (part.filesystem, part.map) == ("", "raw")
    assert hash_file(restored) == hash_file(disk)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("crypto_LUKS", build_luks(2)),
        ("LVM2_member", build_lvm2()),
        ("linux_raid_member", build_raid("1.2")),
    ],
)
def test_containers_are_named_and_kept_whole(tmp_path: Path, name: str, contents: bytes) -> None:
    disk = MemoryDisk(bytes(8 * MIB))
    place = Extent(MIB + 512, MIB + 512 + len(contents))
    fill_with_noise(disk, Extent(place.start, 7 * MIB), 5)
    disk.write_at(place.start, contents)
    write_mbr(disk, [place])
    (tmp_path / "disk").write_bytes(disk.contents)
    stored, restored = there_and_back(tmp_path / "disk", tmp_path)
    part = only_part(stored)
    assert (part.filesystem, part.map, part.bytes_used) == (name, "raw", place.size)
    assert restored.read_bytes() == disk.contents


def test_a_swap_partition_keeps_its_header_and_its_uuid(tmp_path: Path) -> None:
    disk = MemoryDisk(bytes(6 * MIB))
    place = Extent(MIB, 3 * MIB + 4096)
    write_gpt(disk, [place])
    volume = tmp_path / "swap"
    volume.write_bytes(b"memory!!" * (place.size // 8))
    identity = str(uuid.UUID(int=77 << 64 | 5))
    run_tool("mkswap", "-L", "later", "-U", identity, str(volume))
    disk.write_at(place.start, volume.read_bytes())
    (tmp_path / "disk").write_bytes(disk.contents)
    stored, restored = there_and_back(tmp_path / "disk", tmp_path)
    part = only_part(stored)
    assert (part.filesystem, part.uuid, part.label) == ("swap", identity, "later")
    assert [(file.path, file.kind) for file in part.left_out] == [("swap", "swap")]
    after = real_disks.extract(restored, place, tmp_path / "after")
    assert run_tool("blkid", "-p", "-o", "value", "-s", "UUID", str(after)).strip() == identity
    contents = after.read_bytes()
    assert contents[:4096] == volume.read_bytes()[:4096]
    assert not any(contents[4096:])


def test_a_sleeping_swap_partition_is_kept_whole(tmp_path: Path) -> None:
    contents = build_swap(signature=b"S1SUSPEND", pages=300)
    (tmp_path / "disk").write_bytes(contents)
    _, restored = there_and_back(tmp_path / "disk", tmp_path)
    assert restored.read_bytes() == contents


def test_a_hybrid_table_comes_back_byte_for_byte(tmp_path: Path) -> None:
    contents = make_disk(
        16 * MIB,
        sfdisk=f"label: gpt\nstart=2048, size={4 * 2048}\nstart={6 * 2048}, size={4 * 2048}, type=U\n",
        sgdisk=("--hybrid=1:2",),
    )
    disk = MemoryDisk(contents)
    fill_with_noise(disk, Extent(2 * MIB, 9 * MIB), 8)
    (tmp_path / "disk").write_bytes(disk.contents)
    stored, restored = there_and_back(tmp_path / "disk", tmp_path)
    assert stored.scheme == "gpt"
    assert restored.read_bytes() == disk.contents


@pytest.mark.parametrize("broken", ["primary", "backup"])
def test_a_table_with_one_broken_copy_is_whole_after_a_restore(tmp_path: Path, broken: str) -> None:
    disk = MemoryDisk(bytes(8 * MIB))
    place = Extent(MIB + 1024, 7 * MIB)
    write_gpt(disk, [place])
    whole = bytes(disk.contents)
    fill_with_noise(disk, place, 9)
    spot = 512 + 40 if broken == "primary" else disk.size - 512 + 40
    disk.contents[spot] ^= 0x10
    (tmp_path / "disk").write_bytes(disk.contents)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, tmp_path / "disk").manifest
    assert [notice.code for notice in manifest.notices] == [f"gpt-{broken}-broken"]
    restored = tmp_path / "restored"
    restored.write_bytes(b"\xff" * disk.size)
    restore(repository, manifest, restored)
    assert "No problems found" in run_tool("sgdisk", "--verify", str(restored))
    (tmp_path / "whole").write_bytes(whole)
    assert see_table(restored).partitions == see_table(tmp_path / "whole").partitions
    contents = restored.read_bytes()
    assert contents[place.start : place.end] == disk.contents[place.start : place.end]


def test_a_table_that_contradicts_itself_is_kept_as_bytes(tmp_path: Path) -> None:
    disk = MemoryDisk(bytes(4 * MIB))
    fill_with_noise(disk, Extent(0, 4 * MIB), 3)
    write_mbr(disk, [Extent(MIB, 3 * MIB), Extent(2 * MIB, 4 * MIB)])
    (tmp_path / "disk").write_bytes(disk.contents)
    stored, restored = there_and_back(tmp_path / "disk", tmp_path)
    assert stored.scheme == "none"
    assert restored.read_bytes() == disk.contents


def test_an_old_file_system_under_a_broken_table_hides_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    real_disks.make_ext4(disk, 24 * MIB, seed=5)
    overlapping = MemoryDisk(disk.read_bytes())
    fill_with_noise(overlapping, Extent(20 * MIB, 24 * MIB), 6)
    write_mbr(overlapping, [Extent(19 * MIB, 22 * MIB), Extent(20 * MIB, 24 * MIB)])
    disk.write_bytes(overlapping.contents)
    stored, restored = there_and_back(disk, tmp_path)
    assert only_part(stored).map == "raw"
    assert restored.read_bytes() == overlapping.contents


@pytest.mark.parametrize("scheme", ["gpt", "mbr"])
def test_an_empty_table_comes_back(tmp_path: Path, scheme: str) -> None:
    disk = MemoryDisk(bytes(3 * MIB))
    fill_with_noise(disk, Extent(MIB, 2 * MIB), 3)
    write_gpt(disk, []) if scheme == "gpt" else write_mbr(disk, [])
    (tmp_path / "disk").write_bytes(disk.contents)
    _, restored = there_and_back(tmp_path / "disk", tmp_path)
    assert restored.read_bytes() == disk.contents


def test_a_disk_smaller_than_a_chunk(tmp_path: Path) -> None:
    for size in (512, 1024, 4096, 65_536 + 512):
        contents = os.urandom(size)
        repository = make_repository(MemoryStore())
        manifest = backup(repository, MemoryDisk(contents)).manifest
        restore(repository, manifest, tmp_path / str(size))
        assert (tmp_path / str(size)).read_bytes() == contents
