"""The superblock of XFS: what the volume is, how it is laid out, and which features it uses.

Answers: "is this XFS, and may its maps be read by this program?" It reads no allocation group and no log. Every number
in an XFS is big-endian but for the checksums.

Sources: Linux ``fs/xfs/libxfs/xfs_format.h`` (``struct xfs_dsb``, feature flags), ``fs/xfs/libxfs/xfs_sb.c``
(``xfs_validate_sb_common``: the bounds), ``fs/xfs/libxfs/xfs_fs.h`` (limits); "XFS Algorithms & Data Structures",
chapter "Superblocks".
"""

import struct
import uuid
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError

SUPERBLOCK_MAGIC: Final = b"XFSB"  # XFS_SB_MAGIC
SUPERBLOCK_SIZE: Final = 512
"""Bytes that hold every field read here; the checksum covers a whole sector."""
SECTOR_SIZE_MAX: Final = 32 << 10  # XFS_MAX_SECTORSIZE
CHECK_HINT: Final = "Let xfs_repair examine the unmounted volume, then back up again for a small image."

_BLOCK_SIZE_MIN, _BLOCK_SIZE_MAX = 512, 64 << 10  # XFS_MIN_BLOCKSIZE, XFS_MAX_BLOCKSIZE
_CRC_BLOCK_SIZE_MIN: Final = 1024  # XFS_MIN_CRC_BLOCKSIZE
_GROUP_SIZE_MIN, _GROUP_SIZE_MAX = 16 << 20, 1 << 40  # XFS_MIN_AG_BYTES, XFS_MAX_AG_BYTES
_GROUP_BLOCKS_MIN: Final = 64  # XFS_MIN_AG_BLOCKS, of the last group
_GROUPS_COUNT_MAX: Final = 1 << 20  # ours: bounds the time; 1 EiB in groups of 1 TiB
_LOG_SIZE_MAX: Final = 2 << 30  # XFS_MAX_LOG_BYTES, rounded up
_CHECKSUM_OFFSET: Final = 224  # XFS_SB_CRC_OFF
_VERSION_NUMBER: Final = 0xF  # XFS_SB_VERSION_NUMBITS


class VersionFlags(IntFlag):
    """The bits of ``sb_versionnum`` that are read; ``SHARED`` is the only one no kernel accepts."""

    SHARED = 0x200
    LOG_V2 = 0x400
    EXTENT_FLAG = 0x1000
    DIRECTORY_V2 = 0x2000
    MORE_BITS = 0x8000


class Features2(IntFlag):
    """``sb_features2``: what version 4 may have, and version 5 has by nature."""

    LAZY_COUNTERS = 0x2
    ATTR2 = 0x8
    PROJECT_ID_32 = 0x80
    CRC = 0x100
    FILE_TYPE = 0x200


class RoCompat(IntFlag):
    """``sb_features_ro_compat``: who does not know one must not write."""

    FINOBT = 0x1
    RMAPBT = 0x2
    REFLINK = 0x4
    INOBTCNT = 0x8


class Incompat(IntFlag):
    """``sb_features_incompat``: who does not know one must not even read."""

    FTYPE = 0x1
    SPINODES = 0x2
    META_UUID = 0x4
    BIGTIME = 0x8
    NEEDSREPAIR = 0x10
    NREXT64 = 0x20
    EXCHRANGE = 0x40
    PARENT = 0x80
    METADIR = 0x100
    ZONED = 0x200
    ZONE_GAPS = 0x400


class LogIncompat(IntFlag):
    """``sb_features_log_incompat``: what records of the log may be of a newer kind."""

    XATTRS = 0x1


UNSUPPORTED_INCOMPAT: Final = Incompat.METADIR | Incompat.ZONED | Incompat.ZONE_GAPS
"""Known, and not read here: they came with realtime groups, which may lie on the same device behind the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that the map of used blocks depends on.

    Attributes:
        version: 4 or 5, or older ones that are not read.
        block_size, sector_size: Bytes of each.
        blocks_count: Blocks of the data section, from the start of the partition.
        group_blocks: Blocks of an allocation group; the last may be shorter.
        groups_count: Number of groups.
        group_bits: Bits of a block address that number the block inside its group.
        inode_bits: Bits of an inode address that number the inode inside its block.
        log_start: Address of the log's first block; 0 when the log is on another device.
        log_blocks: Blocks of the log.
        root_inode: Address of the root directory's inode.
        free_blocks: What the volume counts as free, in its own way.
        realtime_blocks: Blocks of a realtime section.
        in_progress: Whether mkfs or xfs_copy has not finished.
        uuid: Of the volume, as people see it; the log carries it too.
        header_uuid: What the headers of a version 5 carry.
    """

    version: int
    flags: int
    features2: int
    compat: int
    ro_compat: int
    incompat: int
    log_incompat: int
    block_size: int
    sector_size: int
    blocks_count: int
    group_blocks: int
    groups_count: int
    group_bits: int
    inode_bits: int
    log_start: int
    log_blocks: int
    root_inode: int
    free_blocks: int
    realtime_blocks: int
    in_progress: bool
    uuid: bytes
    header_uuid: bytes
    label: str
    checksum_good: bool

    @property
    def size(self) -> int:
        """Bytes of the file system, from the start of the partition."""
        return self.blocks_count * self.block_size

    @property
    def has_checksums(self) -> bool:
        """Whether headers and tree blocks carry CRC-32C, their own place and the volume's UUID."""
        return self.version == 5

    @property
    def has_lazy_counters(self) -> bool:
        """Whether ``free_blocks`` is brought up to date only when the volume is unmounted."""
        return self.version == 5 or bool(self.features2 & Features2.LAZY_COUNTERS)

    @property
    def has_log_v2(self) -> bool:
        """Whether records of the log may be larger than 32 KiB."""
        return self.version == 5 or bool(self.flags & VersionFlags.LOG_V2)

    @property
    def uuid_text(self) -> str:
        """The UUID as ``blkid`` writes it; empty when there is none."""
        return str(uuid.UUID(bytes=self.uuid)) if any(self.uuid) else ""

    @property
    def header_blocks(self) -> int:
        """Blocks at the start of a group that hold its four headers of a sector each."""
        return -(-4 * self.sector_size // self.block_size)

    def blocks_in_group(self, index: int) -> int:
        """Blocks of a group."""
        return min(self.group_blocks, self.blocks_count - index * self.group_blocks)

    def place_of(self, address: int) -> tuple[int, int]:
        """Group, and block inside it, of a block address. Source: ``XFS_FSB_TO_AGNO``, ``XFS_FSB_TO_AGBNO``."""
        return address >> self.group_bits, address & (1 << self.group_bits) - 1


def parse_superblock(raw: bytes) -> Superblock | None:
    """Parse the first sector of a volume.

    Args:
        raw: At least 512 bytes; where the sector is larger, its checksum counts as wrong unless all of it is given.

    Returns:
        The superblock as it is written, nothing of it checked but the checksum (``checksum_good``); ``None`` when these
        bytes are not one.

    Source: Linux ``fs/xfs/libxfs/xfs_format.h``, ``struct xfs_dsb``.
    """
    if len(raw) < SUPERBLOCK_SIZE or raw[:4] != SUPERBLOCK_MAGIC:
        return None
    block_size, blocks_count, realtime_blocks, realtime_extents = struct.unpack_from(">IQQQ", raw, 4)
    log_start, root_inode = struct.unpack_from(">QQ", raw, 48)
    group_blocks, groups_count, _, log_blocks, version, sector_size = struct.unpack_from(">IIIIHH", raw, 84)
    features2, features2_misplaced, compat, ro_compat, incompat, log_incompat = struct.unpack_from(">IIIIII", raw, 200)
    new = version & _VERSION_NUMBER == 5
    return Superblock(
        version=version & _VERSION_NUMBER,
        flags=version & ~_VERSION_NUMBER,
        # Some kernels wrote the field four bytes too far; Linux takes both. Source: xfs_mount.c.
        features2=features2 | features2_misplaced if version & VersionFlags.MORE_BITS else 0,
        compat=compat if new else 0,
        ro_compat=ro_compat if new else 0,
        incompat=incompat if new else 0,
        log_incompat=log_incompat if new else 0,
        block_size=block_size,
        sector_size=sector_size,
        blocks_count=blocks_count,
        group_blocks=group_blocks,
        groups_count=groups_count,
        group_bits=raw[124],
        inode_bits=raw[123],
        log_start=log_start,
        log_blocks=log_blocks,
        root_inode=root_inode,
        free_blocks=int.from_bytes(raw[144:152], "big"),
        realtime_blocks=realtime_blocks | realtime_extents,
        in_progress=raw[126] != 0,
        uuid=raw[32:48],
        header_uuid=raw[248:264] if new and incompat & Incompat.META_UUID else raw[32:48],
        label=raw[108:120].split(b"\0")[0].decode("utf-8", "replace").rstrip(),
        checksum_good=not new or is_checksum_good(raw[:sector_size], _CHECKSUM_OFFSET),
    )


def is_checksum_good(structure: bytes, offset: int) -> bool:
    """Whether the CRC-32C stored at ``offset`` (little-endian) is that of all other bytes of a structure.

    Source: Linux ``fs/xfs/libxfs/xfs_cksum.h``: the field counts as zeros, the result is inverted.
    """
    if len(structure) < offset + 4:
        return False
    blank = structure[:offset] + bytes(4) + structure[offset + 4 :]
    return crc32c(blank) ^ 0xFFFFFFFF == int.from_bytes(structure[offset : offset + 4], "little")


def check_geometry(superblock: Superblock) -> None:
    """Bound every number that places something, before any is used.

    Raises:
        DiskFormatError: A field cannot be.

    Source: Linux ``fs/xfs/libxfs/xfs_sb.c``, ``xfs_validate_sb_common``.
    """
    block, sector = superblock.block_size, superblock.sector_size
    smallest = _CRC_BLOCK_SIZE_MIN if superblock.has_checksums else _BLOCK_SIZE_MIN
    _demand(_is_power(block) and smallest <= block <= _BLOCK_SIZE_MAX, "block size", block)
    _demand(_is_power(sector) and 512 <= sector <= min(SECTOR_SIZE_MAX, block), "sector size", sector)
    groups, per_group, total = superblock.groups_count, superblock.group_blocks, superblock.blocks_count
    _demand(_GROUP_SIZE_MIN <= per_group * block <= _GROUP_SIZE_MAX, "size of a group", per_group)
    _demand(superblock.group_bits == (per_group - 1).bit_length(), "bits of a group", superblock.group_bits)
    _demand(superblock.inode_bits <= 8, "inodes of a block", superblock.inode_bits)  # XFS_DINODE_MIN_LOG, in 64 KiB
    _demand(0 < groups <= _GROUPS_COUNT_MAX, "number of groups", groups)
    _demand(groups == -(-total // per_group), "number of groups", groups)
    _demand(superblock.blocks_in_group(groups - 1) >= _GROUP_BLOCKS_MIN, "number of blocks", total)
    _demand(superblock.free_blocks <= total, "number of free blocks", superblock.free_blocks)
    group, first = superblock.place_of(superblock.log_start)
    end = first + superblock.log_blocks
    _demand(0 < superblock.log_blocks * block <= _LOG_SIZE_MAX, "size of the log", superblock.log_blocks)
    _demand(group < groups and end <= superblock.blocks_in_group(group), "place of the log", superblock.log_start)
    _demand(first >= superblock.header_blocks, "place of the log", superblock.log_start)
    group, first = superblock.place_of(superblock.root_inode >> superblock.inode_bits)
    inside = group < groups and superblock.header_blocks <= first < superblock.blocks_in_group(group)
    _demand(inside, "root inode", superblock.root_inode)


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _demand(fulfilled: bool, name: str, found: int) -> None:
    if not fulfilled:
        raise DiskFormatError(f"XFS superblock: {name} cannot be {found}", hint=CHECK_HINT)
