"""Volumes on disks whose logical sectors have another size than those they were made on.

Answers: "is this volume right there as it is, or made anew, or not at all?" A block device is read and written in whole
sectors, so a file system whose own unit is smaller than the target's sectors cannot be used there. One whose unit is
larger can, if it does not care what a sector is.

Sources: Microsoft, FAT specification (2005), 3.1, and exFAT specification, 3.1.14 (the sector size in the boot sector
is that of the disk); Linux fs/ext4/super.c, fs/btrfs/disk-io.c, fs/xfs/xfs_super.c (a block, or XFS's own sector, is no
smaller than the device's sector). That Windows mounts an NTFS only where its boot sector names the size of the disk's
sectors: learn.microsoft.com, "4K sector hard drive support".
"""

from typing import Final

from stillframe.errors import TargetError
from stillframe.fs.ext import EXT_NAMES
from stillframe.fs.xfs.making import read_sector_size
from stillframe.host.disks import describe
from stillframe.jobs.restoring.plan import DiskInImage
from stillframe.jobs.restoring.remaking import WITHOUT_TOOLS, read_stored
from stillframe.repo.records import StoredPartition

_BY_BLOCKS: Final = EXT_NAMES | {"btrfs", "swap"}
"""File systems that count in blocks of their own; the page of swap is one."""
_HEAD: Final = 512
_HINT: Final = "Use a disk with the same sector size; some can be switched with 'nvme format' or the maker's tool."


def find_sector_size(path: str, saved: int) -> int:
    """Bytes of a logical sector of a target; a file has none and takes what was saved."""
    facts = describe(path)
    return saved if facts.kind == "file" else facts.sector_size


def needs_new(stored: DiskInImage, part: StoredPartition, sector_size: int) -> bool:
    """Whether a partition must be made anew for sectors of another size; else it is right as it is.

    Raises:
        TargetError: Neither is.
    """
    if sector_size == stored.disk.sector_size:
        return False
    name = part.filesystem
    unit = 0
    if name in WITHOUT_TOOLS:
        return True
    if name == "xfs":
        unit = read_sector_size(read_stored(stored.origin, stored.manifest, part).read_at(0, _HEAD))
        return unit < sector_size
    if name in _BY_BLOCKS:
        unit = part.block_size
    if unit < sector_size:
        raise TargetError(
            f"partition {part.number} is not right on sectors of {sector_size} bytes: {_reason(part, unit)}",
            hint=_HINT,
        )
    return False


def refuse_other_sectors(stored: DiskInImage, part: StoredPartition | None, path: str, sector_size: int) -> None:
    """Refuse a whole disk, or a partition as it is, on sectors of another size, and say what is possible.

    Raises:
        TargetError: With a reason for each partition.
    """
    disk = stored.disk
    if sector_size == disk.sector_size:
        return
    words = [_verdict(stored, one, sector_size) for one in (disk.partitions if part is None else (part,))]
    possible = [number for number, is_possible, _ in words if is_possible]
    raise TargetError(
        f"{path} has sectors of {sector_size} bytes, the saved disk of {disk.sector_size}: a copy block by block "
        f"would not start there ({'; '.join(text for _, _, text in words)})",
        hint=f"Make partitions there, and restore into them with '--partition N:M --fit': {_join(possible)}."
        if possible
        else _HINT,
    )


def _verdict(stored: DiskInImage, part: StoredPartition, sector_size: int) -> tuple[int, bool, str]:
    if part.is_left_out:
        return part.number, False, f"partition {part.number} is not in this image"
    try:
        is_new = needs_new(stored, part, sector_size)
    except TargetError as error:
        return part.number, False, error.message
    way = "can be made anew" if is_new else "is right as it is"
    return part.number, True, f"partition {part.number} {way}"


def _reason(part: StoredPartition, unit: int) -> str:
    if unit:
        return f"{part.filesystem} counts in {unit} bytes there"
    if part.filesystem == "ntfs":
        return "Windows mounts an NTFS only on sectors of the size that it was made for"
    return f"nobody knows what {part.filesystem or part.type_name or 'its contents'} would make of them"


def _join(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
