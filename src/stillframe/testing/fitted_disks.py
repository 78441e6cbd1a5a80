"""Disks and volumes that are made smaller or larger: some whose files lie at their end, and what must be true after it.

Answers: "is everything there, and whole, at the new size?" Made and judged by the tools of each file system, as root.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from stillframe.extents import Extent
from stillframe.testing.disks_partitioned import see_table
from stillframe.testing.real_disks import LEFT_OUT, MIB, RealDisk, copy_into, extract, mounted_kernel, read_files
from stillframe.testing.tools import run_tool
from stillframe.testing.volumes_windows import hash_tree, mounted_ntfs

_MAKERS: Final = {
    "ext4": "mke2fs -q -F -t ext4", "ntfs": "mkntfs -q -F", "btrfs": "mkfs.btrfs -q", "xfs": "mkfs.xfs -q",
}  # fmt: skip
_CHECKERS: Final = {"ext4": "e2fsck -fn", "btrfs": "btrfs check --readonly", "xfs": "xfs_repair -n"}


def _mounter(kind: str) -> Callable[[Path, Path], AbstractContextManager[Path]]:
    return mounted_ntfs if kind == "ntfs" else mounted_kernel


def make_late_volume(path: Path, kind: str, size: int) -> dict[str, str]:
    """A volume with large files at its end, and nothing before them; the hashes of its files."""
    path.touch()
    os.truncate(path, size)
    run_tool(*_MAKERS[kind].split(), str(path))
    with _mounter(kind)(path, path.with_suffix(".mount")) as root:
        for number in range(size * 7 // 10 // (4 * MIB)):
            (root / f"file {number}").write_bytes(os.urandom(4 * MIB))
        for number in range(size * 6 // 10 // (4 * MIB)):
            (root / f"file {number}").unlink()
        (root / "folder").mkdir()
        for number in range(100):
            (root / "folder" / f"small {number}").write_bytes(os.urandom(number * 50))
        return hash_tree(root)


def make_late_mbr(folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """NTFS and ext4 on an MBR disk, as primary partitions; the hashes of their files."""
    disk, volumes = folder / "disk", [folder / "one", folder / "two"]
    files = [make_late_volume(volumes[0], "ntfs", 64 * MIB), make_late_volume(volumes[1], "ext4", 96 * MIB)]
    disk.touch()
    os.truncate(disk, 170 * MIB)
    table = (
        "label: dos\nlabel-id: 0x5eadbeef\nstart=2048,size=131072,type=7,bootable\nstart=135168,size=196608,type=83\n"
    )
    subprocess.run(["sfdisk", "-q", str(disk)], input=table.encode(), check=True)  # noqa: S603, S607
    for volume, start in zip(volumes, (2048, 135168), strict=True):
        copy_into(volume, disk, start * 512)
    return disk, files


def judge_late_volume(kind: str, target: Path, files: dict[str, str]) -> None:
    """A file with a volume of ``make_late_volume``: its files are the same, it is whole, and about as large."""
    size = target.stat().st_size
    with _mounter(kind)(target, target.with_suffix(".mount")) as root:
        _require(hash_tree(root) == files, "files are the same")
        _require(abs(shutil.disk_usage(root).total - size) < size // 6, "the volume fills its place")
    if kind in _CHECKERS:
        run_tool(*_CHECKERS[kind].split(), str(target))


def judge_late_mbr(target: Path, files: list[dict[str, str]], folder: Path) -> None:
    """A disk of ``make_late_mbr``: its table is right and fills it, and files are the same."""
    run_tool("sfdisk", "--verify", str(target))
    dump = run_tool("sfdisk", "--dump", str(target))
    _require("label-id: 0x5eadbeef" in dump and "bootable" in dump, "id and active partition stay")
    places = [part.extent for part in see_table(target).partitions]
    _require(target.stat().st_size - places[-1].end < 2 * MIB, "the disk is used to its end")
    for kind, place, expected in zip(("ntfs", "ext4"), places, files, strict=True):
        copy = extract(target, place, folder / "copy")
        with _mounter(kind)(copy, folder / "mount") as root:
            _require(hash_tree(root) == expected, "files are the same")


def judge_gpt(disk: RealDisk, target: Path, folder: Path) -> dict[int, Extent]:
    """A disk of ``build_disk``: its table and volumes are whole, and files are the same; where partitions are now."""
    _require("No problems found" in run_tool("sgdisk", "-v", str(target)), "sgdisk takes the table for whole")
    places = {part.number: part.extent for part in see_table(target).partitions}
    _require(sorted(places) == [volume.number for volume in disk.volumes], "all partitions are there")
    judge_volumes(disk, target, places, folder)
    return places


def judge_volumes(disk: RealDisk, target: Path, places: Mapping[int, Extent], folder: Path) -> None:
    """File systems of a disk of ``build_disk`` are whole, and files are the same."""
    for volume in disk.volumes:
        copy = extract(target, places[volume.number], folder / f"{volume.number}-after")
        if volume.kind in ("vfat", "ext4", "ntfs", "exfat"):
            found = read_files(volume.kind, copy)
            same = [{name: one for name, one in files.items() if name not in LEFT_OUT}
                    for files in (found, volume.files)]  # fmt: skip
            _require(same[0] == same[1], f"files of the {volume.kind} are the same")
        if volume.kind == "ext4":
            run_tool("e2fsck", "-fn", str(copy))
        if volume.kind == "ntfs":
            run_tool("ntfsresize", "--info", "--force", str(copy))


def _require(is_so: bool, what: str) -> None:
    if not is_so:
        raise AssertionError(f"not so: {what}")
