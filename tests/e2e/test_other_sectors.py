"""Single partitions of a disk with sectors of 512 bytes on one with sectors of 4096 bytes, judged by other tools."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.errors import TargetError
from stillframe.jobs.restore import RestoreOptions, plan_restore
from stillframe.store import LocalStore
from stillframe.testing.job_runs import backup_paths, make_repository, restore
from stillframe.testing.loops import attach_loop, detach_loop
from stillframe.testing.real_disks import mounted_kernel, used_file
from stillframe.testing.tools import run_tool, unmount
from stillframe.testing.volumes_windows import hash_tree

pytestmark = pytest.mark.root
MIB = 1 << 20
FIT = RestoreOptions(partition=1, fit=True)


@contextmanager
def large_sectors(image: Path) -> Iterator[Path]:
    """The file as a device with sectors of 4096 bytes."""
    loop = attach_loop(image, "--sector-size", "4096")
    try:
        assert run_tool("blockdev", "--getss", loop).strip() == "4096"
        yield Path(loop)
    finally:
        detach_loop(loop)


def make_volume(path: Path, size: int, *maker: str) -> Path:
    path.touch()
    os.truncate(path, size)
    run_tool(*maker, str(path))
    return path


def fill(root: Path) -> dict[str, str]:
    (root / "folder").mkdir()
    for number in range(50):
        (root / "folder" / f"file {number}").write_bytes(os.urandom(number * 1000))
    return hash_tree(root)


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    ("maker", "is_anew"),
    [
        (("mke2fs", "-q", "-t", "ext4", "-b", "4096"), False),
        (("mkfs.xfs", "-q", "-s", "size=512"), True),
        pytest.param(("mkfs.xfs", "-q", "-s", "size=4096"), False, marks=pytest.mark.slow),
        pytest.param(("mkfs.btrfs", "-q"), False, marks=pytest.mark.slow),
    ],
)
def test_what_the_kernel_mounts(tmp_path: Path, maker: tuple[str, ...], is_anew: bool) -> None:
    volume = make_volume(tmp_path / "volume", 320 * MIB, *maker)
    with mounted_kernel(volume, tmp_path / "mount") as root:
        files = fill(root)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    with large_sectors(used_file(tmp_path / "target", 330 * MIB)) as loop:
        plan = plan_restore(repository, manifest, 1, str(loop), repository_folder="", options=FIT)
        assert any("made anew" in step for step in plan.steps) == is_anew
        restore(repository, manifest, loop, options=FIT)
        (tmp_path / "there").mkdir()
        run_tool("mount", "-o", "ro", str(loop), str(tmp_path / "there"))
        try:
            assert hash_tree(tmp_path / "there") == files
        finally:
            unmount(tmp_path / "there")


@pytest.mark.parametrize(
    ("maker", "checker"),
    [
        (("mkfs.fat", "-F", "16"), ("fsck.fat", "-n")),
        pytest.param(("mkfs.fat", "-F", "32", "-s", "1"), ("fsck.fat", "-n"), marks=pytest.mark.slow),
    ],
)
def test_a_fat_is_made_anew_for_them(tmp_path: Path, maker: tuple[str, ...], checker: tuple[str, ...]) -> None:
    volume = make_volume(tmp_path / "volume", 64 * MIB, *maker)
    data = os.urandom(300_001)
    (tmp_path / "data").write_bytes(data)
    run_tool("mmd", "-i", str(volume), "::/folder")
    run_tool("mcopy", "-i", str(volume), str(tmp_path / "data"), "::/folder/a rather long name")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    size = 280 if "32" in maker else 64  # a FAT32 has 65525 clusters at least, none smaller than a sector
    with large_sectors(used_file(tmp_path / "target", size * MIB)) as loop:
        restore(repository, manifest, loop, options=FIT)
    run_tool(*checker, str(tmp_path / "target"))
    assert int.from_bytes((tmp_path / "target").read_bytes()[11:13], "little") == 4096
    found = subprocess.run(
        ["mtype", "-i", str(tmp_path / "target"), "::/folder/a rather long name"], capture_output=True, check=True
    ).stdout
    assert found == data


def test_an_exfat_is_made_anew_for_them(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "volume", 64 * MIB, "mkfs.exfat", "-c", "4K")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    (tmp_path / "mount").mkdir()
    loop = Path(attach_loop(volume))
    run_tool("mount.exfat-fuse", str(loop), str(tmp_path / "mount"))
    files = fill(tmp_path / "mount")
    unmount(tmp_path / "mount")
    detach_loop(loop)
    manifest = backup_paths(repository, volume).manifest
    with large_sectors(used_file(tmp_path / "target", 64 * MIB)) as target:
        restore(repository, manifest, target, options=FIT)
        assert "clean" in run_tool("fsck.exfat", "-n", str(target))
        run_tool("mount.exfat-fuse", "-o", "ro", str(target), str(tmp_path / "mount"))
        try:
            assert hash_tree(tmp_path / "mount") == files
        finally:
            unmount(tmp_path / "mount")


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (("mkntfs", "-q", "-F"), "Windows mounts an NTFS only on sectors of the size that it was made for"),
        (("mke2fs", "-q", "-t", "ext4", "-b", "1024"), "ext4 counts in 1024 bytes there"),
    ],
)
def test_what_cannot_be_there_says_why(tmp_path: Path, maker: tuple[str, ...], words: str) -> None:
    volume = make_volume(tmp_path / "volume", 64 * MIB, *maker)
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    target = used_file(tmp_path / "target", 64 * MIB)
    with large_sectors(target) as loop:
        for options in (FIT, RestoreOptions(partition=1), RestoreOptions(), RestoreOptions(fit=True)):
            with pytest.raises(TargetError, match=words):
                restore(repository, manifest, loop, options=options)
    assert target.read_bytes() == b"\xff" * (64 * MIB)


def test_a_whole_disk_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    volume = make_volume(tmp_path / "volume", 64 * MIB, "mkfs.fat", "-F", "16")
    repository = make_repository(LocalStore(str(tmp_path / "repository")))
    manifest = backup_paths(repository, volume).manifest
    with (
        large_sectors(used_file(tmp_path / "target", 64 * MIB)) as loop,
        pytest.raises(TargetError, match="partition 1 can be made anew") as caught,
    ):
        restore(repository, manifest, loop, options=RestoreOptions())
    assert "'--partition N:M --fit': 1" in caught.value.hint
