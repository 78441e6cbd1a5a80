"""Files of an image beside their originals: on a disk file, on a mounted volume, changed, spoilt, gone."""

import os
from pathlib import Path

import pytest

from stillframe.jobs.listing import look_at_image
from stillframe.jobs.sampling import sample_files
from stillframe.repo.records import Manifest
from stillframe.repo.repository import Repository
from stillframe.store.memory import MemoryStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.loops import loop_device, partition_nodes
from stillframe.testing.real_disks import build_disk, mounted_kernel
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20


def rung(repository: Repository, manifest: Manifest) -> str:
    return look_at_image(repository, manifest).standing.rung


def test_files_of_a_disk_that_nobody_uses_are_as_their_originals(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    sampled = sample_files(repository, manifest, job_context(), count=5)
    assert sampled.is_proven, sampled
    assert [place.split("(")[1].split(")")[0] for place in sampled.places] == ["vfat", "ext4", "ntfs", "exfat"]
    assert (sampled.changed, sampled.skipped) == (0, [])
    assert sampled.compared > 10
    assert rung(repository, manifest) == "sampled"


def test_a_disk_file_whose_partition_is_mounted_is_read_through_its_loop_device(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    ext4 = next(part for part in manifest.disks[0].partitions if part.filesystem == "ext4")
    place = tmp_path / "place"
    place.mkdir()
    with loop_device(disk.path) as device, partition_nodes(device):
        run_tool("mount", f"{device}p{ext4.number}", str(place))
        try:
            sampled = sample_files(repository, manifest, job_context(), count=20)
        finally:
            unmount(place)
    assert (sampled.changed, sampled.skipped, sampled.findings) == (0, [], [])
    used = [str(device), str(place), str(device), str(device)]
    assert [one.partition("with ")[2] for one in sampled.places] == used


def spoil(path: Path, data: bytes) -> None:
    """Other bytes under the same time."""
    facts = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_volume_in_use_is_compared_through_its_mount(tmp_path: Path, kind: str) -> None:
    volume, place = tmp_path / "volume", tmp_path / "place"
    volume.touch()
    os.truncate(volume, 320 * MIB)
    run_tool(f"mkfs.{kind}", "-q", str(volume))
    with mounted_kernel(volume, place) as root:
        (root / "folder").mkdir()
        for number in range(30):
            (root / "folder" / f"file {number}").write_bytes(b"words of %d\n" % number * 999)
        with (root / "large").open("wb") as file:
            file.write(os.urandom(20 * MIB))
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, volume).manifest
    with mounted_kernel(volume, place) as root:
        read_at = (root / "folder" / "file 7").stat().st_atime_ns
        sampled = sample_files(repository, manifest, job_context(), count=100)
        assert (sampled.compared, sampled.changed, sampled.findings) == (31, 0, [])
        assert str(root) in sampled.places[0]
        assert (root / "folder" / "file 7").stat().st_atime_ns == read_at
        (root / "folder" / "file 3").write_bytes(b"new words")
        (root / "folder" / "file 4").unlink()
        spoil(root / "folder" / "file 5", b"words of 5\n" * 998 + b"words of 6\n")
        sampled = sample_files(repository, manifest, job_context(), count=100)
        assert (sampled.compared, sampled.changed, sampled.is_proven) == (29, 2, False)
        assert ["/folder/file 5 differs" in one.message for one in sampled.findings] == [True]
    assert rung(repository, manifest) != "sampled"
    assert look_at_image(repository, manifest).verdict != "damaged"


def test_without_originals_nothing_is_proven(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.touch()
    os.truncate(volume, 16 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", "/usr/share/doc/e2fsprogs", str(volume))
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, volume).manifest
    volume.unlink()
    sampled = sample_files(repository, manifest, job_context(), count=10)
    assert not sampled.is_proven
    assert "not on this computer" in sampled.skipped[0].message
    assert rung(repository, manifest) != "sampled"
