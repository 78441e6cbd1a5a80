"""What the boot sector of a volume of Windows says of its own size and of its place on the disk.

Answers: "how many bytes belong to this file system, and where did it begin when it was formatted or last moved?" The
place is a hint only: nothing keeps it up to date, and who copies a volume elsewhere may have changed it.

Sources: ntfs-3g include/ntfs-3g/layout.h (NTFS_BOOT_SECTOR: hidden_sectors, number_of_sectors; the backup boot sector
is the sector behind them); Microsoft FAT specification (2005), section 3.1 (BPB_HiddSec, BPB_TotSec16, BPB_TotSec32);
Microsoft exFAT specification, section 3.1 (PartitionOffset, VolumeLength, BytesPerSectorShift).
"""

import struct
from dataclasses import dataclass
from typing import Final

from stillframe.block import BlockReader

SECTOR_SIZES: Final = (512, 1024, 2048, 4096)
_SIZE_MAX: Final = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPlace:
    """What a boot sector says.

    Attributes:
        size: Bytes of the volume, its boot sectors included.
        start: Where it began on its disk; ``None`` when it does not say.
        sector_size: Bytes of a sector of the file system.
    """

    size: int
    start: int | None
    sector_size: int


def read_boot_place(reader: BlockReader, filesystem: str) -> BootPlace | None:
    """What the boot sector of a volume says; ``None`` for other file systems, and where it says what cannot be.

    Args:
        reader: The volume.
        filesystem: What ``registry.identify`` called it.

    Raises:
        ReadFault: The device failed.
    """
    if filesystem not in {"ntfs", "vfat", "exfat"} or reader.size < SECTOR_SIZES[0]:
        return None
    sector = reader.read_at(0, SECTOR_SIZES[0])
    if filesystem == "exfat":
        start, count = struct.unpack_from("<QQ", sector, 64)
        sector_size = 1 << min(sector[108], 63)
    else:
        (sector_size,) = struct.unpack_from("<H", sector, 0x0B)
        (start,) = struct.unpack_from("<I", sector, 0x1C)
        count = _ntfs_count(sector) if filesystem == "ntfs" else _fat_count(sector)
    if sector_size not in SECTOR_SIZES or not 0 < count * sector_size < _SIZE_MAX or start * sector_size >= _SIZE_MAX:
        return None
    return BootPlace(size=count * sector_size, start=start * sector_size or None, sector_size=sector_size)


def _ntfs_count(sector: bytes) -> int:
    """Sectors of an NTFS volume with the backup of its boot sector, which it does not count."""
    (count,) = struct.unpack_from("<Q", sector, 0x28)
    return int(count) + 1


def _fat_count(sector: bytes) -> int:
    small, large = struct.unpack_from("<H", sector, 0x13)[0], struct.unpack_from("<I", sector, 0x20)[0]
    return int(small or large)
