"""File systems of images are judged by their own tools, after their journals were replayed."""

import subprocess
from pathlib import Path

import pytest

from stillframe.jobs.checking import check_filesystems
from stillframe.jobs.listing import look_at_image
from stillframe.store.memory import MemoryStore
from stillframe.testing.job_runs import backup_paths, job_context, make_repository
from stillframe.testing.real_disks import build_disk
from stillframe.testing.tools import run_tool, unmount

pytestmark = pytest.mark.root
MIB = 1 << 20


def test_all_file_systems_of_a_disk_are_whole(tmp_path: Path) -> None:
    disk = build_disk(tmp_path)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, disk.path).manifest
    checked = check_filesystems(repository, manifest, job_context())
    assert checked.is_proven, checked
    assert [place.rpartition("(")[2].rstrip(")") for place in checked.checked] == ["vfat", "ext4", "ntfs", "exfat"]
    assert look_at_image(repository, manifest).standing.rung == "checked"


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_volume_that_was_in_use_is_replayed_first(tmp_path: Path, kind: str) -> None:
    volume, copy, place = tmp_path / "volume", tmp_path / "copy", tmp_path / "place"
    with volume.open("wb") as file:
        file.truncate(320 * MIB)
    run_tool(f"mkfs.{kind}", "-q", str(volume))
    place.mkdir()
    run_tool("mount", "-o", "loop", str(volume), str(place))
    try:
        for number in range(50):
            (place / f"file{number}").write_bytes(b"words " * 999 * number)
        subprocess.run(["sync", "-f", place], check=True)
        for number in range(0, 50, 2):
            (place / f"file{number}").unlink()
        subprocess.run(["sync", place / "file1"], check=True)
        subprocess.run(["cp", "--sparse=always", volume, copy], check=True)  # as after a power cut
    finally:
        unmount(place)
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, copy).manifest
    assert check_filesystems(repository, manifest, job_context()).is_proven


def test_a_broken_file_system_is_told_and_is_no_damage(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    with volume.open("wb") as file:
        file.truncate(16 * MIB)
    run_tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", "/usr/share/doc/e2fsprogs", str(volume))
    run_tool("debugfs", "-w", "-R", "clri <12>", str(volume))  # an inode that a folder still names
    repository = make_repository(MemoryStore())
    manifest = backup_paths(repository, volume).manifest
    checked = check_filesystems(repository, manifest, job_context())
    assert not checked.is_proven
    assert "e2fsck" in checked.findings[0].message
    listed = look_at_image(repository, manifest)
    assert (listed.standing.rung == "checked", listed.verdict == "damaged") == (False, False)
