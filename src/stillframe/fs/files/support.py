"""Which volumes The Sleuth Kit reads rightly.

Answers: "may its answers about this volume be believed?" What it reads wrongly, or not at all, was tried with 4.15 or
read in its source; the tests hold the list. A volume that is not on it is refused here and never reaches the library.
"""

from typing import Final

from stillframe.block import BlockReader
from stillframe.fs.base import Volume
from stillframe.fs.exfat import find_exfat_boot
from stillframe.fs.ext.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Incompat, RoCompat, parse_superblock
from stillframe.fs.fat import find_fat_boot
from stillframe.fs.hfs_plus import find_hfs_plus
from stillframe.fs.ntfs.boot import find_boot
from stillframe.fs.ntfs.mft import open_mft

# Not among them: META_BG: descriptors are looked for behind the superblock only. INLINE_DATA: the second half of a
# small folder is not read. ENCRYPT: names may hold NUL and '/'. RECOVER: what the journal still holds is not seen.
_EXT_INCOMPAT: Final = (
    Incompat.FILETYPE | Incompat.EXTENTS | Incompat.BITS_64 | Incompat.MMP | Incompat.FLEX_BG | Incompat.EA_INODE
    | Incompat.CSUM_SEED | Incompat.LARGEDIR | Incompat.CASEFOLD
)  # fmt: skip
# BIGALLOC: not opened. SHARED_BLOCKS: a block of one file may be another's too. HAS_SNAPSHOT, REPLICA: not ours either.
_EXT_RO_COMPAT_NOT: Final = RoCompat.BIGALLOC | RoCompat.SHARED_BLOCKS | RoCompat.HAS_SNAPSHOT | RoCompat.REPLICA
# ext2fs.cpp, ext2fs_make_data_run_extent: the upper 16 bits of a block's number are shifted by 16 instead of 32.
_EXT_BLOCKS_MAX: Final = 1 << 32
# ntfs.cpp, ntfs_open, "invalid cluster size": it takes the byte for a number of sectors up to 128.
_NTFS_CLUSTER_SECTORS_MAX: Final = 128


def is_read_rightly(reader: BlockReader, volume: Volume) -> bool:
    """Whether the library reads this volume, and nothing on it wrongly.

    Raises:
        DiskFormatError: The volume is broken.
        ReadFault: The device failed.
    """
    match volume.filesystem:
        case "ext2" | "ext3" | "ext4":
            return _is_plain_ext(reader)
        case "ntfs":
            boot = find_boot(reader)
            if boot is None or boot.from_backup or boot.cluster_size // boot.sector_size > _NTFS_CLUSTER_SECTORS_MAX:
                return False
            return not open_mft(reader, boot).from_mirror
        case "vfat":
            fat = find_fat_boot(reader)
            # Only the first table is read, and this one may be out of date.
            return fat is not None and not fat.from_backup and fat.is_mirrored
        case "exfat":
            exfat = find_exfat_boot(reader)
            return exfat is not None and not exfat.from_backup and not exfat.flags & 1  # 3.1.13, ActiveFat
        case _:
            return False


def gives_files(reader: BlockReader, volume: Volume) -> bool:
    """Whether files may be listed and got: also those of HFS+, of which nobody needs to know where they lie.

    Raises:
        DiskFormatError, ReadFault: As ``is_read_rightly``.
    """
    if volume.filesystem == "hfsplus":
        return find_hfs_plus(reader) is not None  # not one inside a wrapper of the older HFS
    return is_read_rightly(reader, volume)


def _is_plain_ext(reader: BlockReader) -> bool:
    superblock = parse_superblock(reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE))
    return (
        superblock is not None
        and not superblock.incompat & ~int(_EXT_INCOMPAT)  # "~" of the flags alone has no bits without a name
        and not superblock.ro_compat & ~sum(RoCompat)
        and not superblock.ro_compat & _EXT_RO_COMPAT_NOT
        and superblock.blocks_count <= _EXT_BLOCKS_MAX
    )
