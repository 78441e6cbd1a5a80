"""What a volume keeps for itself and no folder names.

Answers: "which bytes can be no file's contents?" A damaged block list may lead a file into them. On FAT and exFAT it
cannot, or the library shows a name for what is there (exFAT's bitmap); NTFS's map is proven by all records at once.
"""

from dataclasses import dataclass, field
from typing import Final

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.extents import Extent, ExtentSet
from stillframe.fs.base import Volume
from stillframe.fs.ext.groups import metadata_extents, read_groups
from stillframe.fs.ext.superblock import EXT_NAMES, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Incompat, parse_superblock

EXT_SYSTEM_COUNT: Final = 11
"""Inodes below belong to the file system. Source: ext4.h, EXT4_GOOD_OLD_FIRST_INO."""
# ext4.h, struct ext4_super_block: s_mmp_block is the only one of 64 bits. The inodes have no name, or may have none.
_MMP_BLOCK: Final = 0x168
_JOURNAL, _USER_QUOTA, _GROUP_QUOTA, _PROJECT_QUOTA, _ORPHAN_FILE = 0xE0, 0x240, 0x244, 0x26C, 0x280


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What belongs to the file system itself.

    Attributes:
        extents: As bytes of the partition.
        numbers: Inodes whose blocks belong to it too.
    """

    extents: ExtentSet = field(default_factory=ExtentSet.empty)
    numbers: tuple[int, ...] = ()


def read_reserved(reader: BlockReader, volume: Volume) -> Reserved:
    """What belongs to the file system itself, of a volume that ``support`` says the library reads rightly.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    if volume.filesystem not in EXT_NAMES:
        return Reserved()
    raw = reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)
    superblock = parse_superblock(raw)
    if superblock is None:
        raise DiskFormatError("ext superblock: not found", hint="Run e2fsck on the volume.")
    extents = metadata_extents(superblock, read_groups(reader, superblock))
    if Incompat.MMP in superblock.incompat:
        start = int.from_bytes(raw[_MMP_BLOCK : _MMP_BLOCK + 8], "little") * superblock.block_size
        if start + superblock.block_size <= reader.size:
            extents |= ExtentSet.of(Extent(start, start + superblock.block_size))
    fields = (_JOURNAL, _USER_QUOTA, _GROUP_QUOTA, _PROJECT_QUOTA, _ORPHAN_FILE)
    named = {int.from_bytes(raw[place : place + 4], "little") for place in fields}
    numbers = {*range(1, EXT_SYSTEM_COUNT), *(one for one in named if 0 < one <= superblock.inodes_count)}
    return Reserved(extents=extents, numbers=tuple(sorted(numbers)))
