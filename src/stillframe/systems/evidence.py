"""What one partition says of systems: on it, below it, or started from it.

Answers: "what was found here?" Read once from the files of a volume; what it means together with the other partitions,
``needed`` says.
"""

from dataclasses import dataclass
from typing import Final

from stillframe.disk.layout import Partition, Scheme
from stillframe.fs.base import Volume
from stillframe.fs.ext import EXT_NAMES
from stillframe.systems.boot_files import BootFiles, read_boot_files
from stillframe.systems.linux import LinuxTraces, read_traces
from stillframe.systems.records import InstalledSystem, SystemFiles
from stillframe.systems.windows import find_windows
from stillframe.systems.windows_disks import VolumeClues, read_clues

FILES_ASKED: Final = EXT_NAMES | {"ntfs", "vfat"}
"""File systems whose files are looked at without mounting them."""
MAY_BE_WINDOWS: Final = frozenset({"ntfs", "vfat"})
"""File systems that Windows is installed on; FAT until 2003."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvidence:
    """What the files of a volume say."""

    windows: InstalledSystem | None
    linux: LinuxTraces
    clues: VolumeClues
    boot: BootFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEvidence:
    """A partition with everything that is known of it.

    Attributes:
        disk: Which of the disks that are judged together, from 0.
        disk_id: The disk GUID or signature.
        scheme: Of its table.
        partition: Where it is, by the table.
        volume: What is in it.
        names: By which an ``fstab`` may call it, paths below ``/dev`` too where they are known.
        files: What its files say; ``None`` where they were not read.
        mounted: Where the running system has it, or a volume that rests on it.
        has_boot_code: The first sector of its disk holds code for what its table is.
        is_swapped_to: The running system swaps to it, or to a volume that rests on it.
        is_opened: All volumes inside of it are known, and are parts of their own.
        inner: Of a volume inside of it, such as ``vg/root``, its name; empty for the partition itself.
        beneath: Of a volume inside, all partitions that hold a part of it: disk and number.
    """

    disk: int
    disk_id: str
    scheme: Scheme
    partition: Partition
    volume: Volume
    names: frozenset[str]
    files: FileEvidence | None
    mounted: tuple[str, ...] = ()
    has_boot_code: bool = False
    is_swapped_to: bool = False
    is_opened: bool = False
    inner: str = ""
    beneath: tuple[tuple[int, int], ...] = ()


def read_file_evidence(files: SystemFiles, *, may_be_windows: bool) -> FileEvidence:
    """What the files of a volume say of systems.

    Args:
        files: Of the volume.
        may_be_windows: Its file system is one that Windows is installed on.
    """
    return FileEvidence(
        windows=find_windows(files) if may_be_windows else None, linux=read_traces(files), clues=read_clues(files, ()),
        boot=read_boot_files(files),
    )  # fmt: skip
