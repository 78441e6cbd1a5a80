"""The used extents of a raw disk file, as told by partclone: a reader that is independent of ours.

Answers: "which bytes would a tool that follows the file systems read?" Partition tables count as used. Partitions
without a known file system do not (swap, reserved), as in the tools that we are compared with.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

PARTCLONE: Final = {"ext4": "ext4", "ntfs": "ntfs", "vfat": "fat32", "xfs": "xfs", "btrfs": "btrfs"}
"""By the name that blkid gives a file system, the one of partclone."""
_TABLE_SIZE: Final = 1 << 20
_BACKUP_TABLE_SIZE: Final = 33 * 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A partition of a disk file. Bytes."""

    number: int
    start: int
    size: int
    filesystem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """A raw disk file, its partitions, and its used extents as ``(start, size)``."""

    path: str
    size: int
    parts: tuple[Part, ...]
    extents: tuple[tuple[int, int], ...]

    @property
    def used(self) -> int:
        """Bytes in use."""
        return sum(size for _, size in self.extents)

    def used_in(self, filesystems: frozenset[str]) -> int:
        """Bytes in use in partitions with these file systems."""
        parts = [part for part in self.parts if part.filesystem in filesystems]
        return sum(n for at, n in self.extents if any(p.start <= at < p.start + p.size for p in parts))


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def describe(path: str) -> DiskFile:
    """Look at a raw disk file. Needs root, sfdisk, losetup, blkid, partclone."""
    size = os.path.getsize(path)
    table = json.loads(output("sfdisk", "-J", path))["partitiontable"]["partitions"]
    parts = tuple(
        _describe_part(path, number, row["start"] * 512, row["size"] * 512) for number, row in enumerate(table, 1)
    )
    extents = [(0, min(_TABLE_SIZE, parts[0].start))]
    for part in parts:
        if part.filesystem in PARTCLONE:
            with loop_device(path, part, read_only=True) as device:
                extents += [(part.start + at, min(n, part.size - at)) for at, n in _used(device, part.filesystem)]
    extents.append((size - _BACKUP_TABLE_SIZE, _BACKUP_TABLE_SIZE))
    return DiskFile(path=path, size=size, parts=parts, extents=tuple(extents))


@contextmanager
def loop_device(path: str, part: Part, *, read_only: bool) -> Iterator[str]:
    """A loop device over one partition."""
    flags = ["-r"] if read_only else []
    device = output("losetup", "-f", "--show", *flags, "-o", str(part.start), "--sizelimit", str(part.size), path)
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def _describe_part(path: str, number: int, start: int, size: int) -> Part:
    told = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", "-O", str(start), "-S", str(size), path],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return Part(number=number, start=start, size=size, filesystem=told.stdout.strip())


def _used(device: str, filesystem: str) -> list[tuple[int, int]]:
    with tempfile.TemporaryDirectory() as folder:
        told = f"{folder}/map"
        output(f"partclone.{PARTCLONE[filesystem]}", "-D", "-s", device, "-o", told, "-L", f"{folder}/log")
        with open(told, encoding="utf-8") as file:
            rows = re.findall(r"^(0x\w+)\s+(0x\w+)\s+\+", file.read(), re.MULTILINE)
    return [(int(start, 16), int(size, 16)) for start, size in rows]
