"""The superblock of ext2, ext3 and ext4: what the volume is, how it is laid out, and what it says of itself.

Answers: "is this ext, which one, and may its bitmaps be read by this program?" It reads no group and no journal.

Sources: Linux ``fs/ext4/ext4.h`` (``struct ext4_super_block``, feature flags), Documentation/filesystems/ext4/
("Super Block"), ``fs/ext4/super.c`` (bounds of ``__ext4_fill_super``); the names ext2, ext3 and ext4 follow util-linux
``libblkid/src/superblocks/ext.c``.
"""

import struct
import uuid
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from stillframe.crc32c import crc32c

EXT_NAMES: Final = frozenset({"ext2", "ext3", "ext4"})
"""What ``blkid`` calls such a volume."""
SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_SIZE: Final = 1024
ROOT_INODE: Final = 2  # EXT4_ROOT_INO

_MAGIC: Final = 0xEF53
_TEST_FILESYSTEM: Final = 0x4  # s_flags, EXT2_FLAGS_TEST_FILESYS


class Compat(IntFlag):
    """``s_feature_compat``: who does not know one may still write."""

    HAS_JOURNAL = 0x4
    SPARSE_SUPER2 = 0x200
    FAST_COMMIT = 0x400


class Incompat(IntFlag):
    """``s_feature_incompat``: who does not know one must not even read."""

    COMPRESSION = 0x1
    FILETYPE = 0x2
    RECOVER = 0x4
    JOURNAL_DEV = 0x8
    META_BG = 0x10
    EXTENTS = 0x40
    BITS_64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    DIRDATA = 0x1000
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class RoCompat(IntFlag):
    """``s_feature_ro_compat``: who does not know one must not write; the meaning of a bitmap may depend on it."""

    SPARSE_SUPER = 0x1
    LARGE_FILE = 0x2
    BTREE_DIR = 0x4
    HUGE_FILE = 0x8
    GDT_CSUM = 0x10
    DIR_NLINK = 0x20
    EXTRA_ISIZE = 0x40
    HAS_SNAPSHOT = 0x80
    QUOTA = 0x100
    BIGALLOC = 0x200
    METADATA_CSUM = 0x400
    REPLICA = 0x800
    READONLY = 0x1000
    PROJECT = 0x2000
    SHARED_BLOCKS = 0x4000
    VERITY = 0x8000
    ORPHAN_PRESENT = 0x10000


class State(IntFlag):
    """``s_state``."""

    VALID = 0x1
    ERROR = 0x2
    ORPHANS = 0x4


UNSUPPORTED_INCOMPAT: Final = Incompat.COMPRESSION | Incompat.JOURNAL_DEV
"""Known, and not read here: the old compression patches, and a volume that is only a journal."""
UNSUPPORTED_RO_COMPAT: Final = RoCompat.HAS_SNAPSHOT | RoCompat.REPLICA
"""Known, and not read here: next3 snapshots keep blocks in a second bitmap; replica was never specified."""

# What ext2 and ext3 may carry; anything else makes it ext4. Source: libblkid ext.c, EXT2_/EXT3_FEATURE_*_SUPP.
_OLD_RO_COMPAT: Final = RoCompat.SPARSE_SUPER | RoCompat.LARGE_FILE | RoCompat.BTREE_DIR
_OLD_INCOMPAT: Final = Incompat.FILETYPE | Incompat.META_BG | Incompat.RECOVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The fields that the map of used blocks depends on; names as in the specification without ``s_``.

    ``blocks_count``, ``first_data_block`` and the fields ending in ``_block`` count blocks of ``block_size`` bytes.
    """

    blocks_count: int
    first_data_block: int
    block_size: int
    cluster_blocks: int
    blocks_per_group: int
    clusters_per_group: int
    inodes_count: int
    inodes_per_group: int
    inode_size: int
    desc_size: int
    reserved_gdt_blocks: int
    first_meta_bg: int
    backup_groups: tuple[int, int]
    state: State
    compat: Compat
    incompat: Incompat
    ro_compat: RoCompat
    flags: int
    journal_inode: int
    journal_device: int
    uuid: bytes
    label: str
    checksum_seed: int
    checksum_good: bool

    @property
    def groups_count(self) -> int:
        """Number of block groups; the last may be short."""
        return -(-(self.blocks_count - self.first_data_block) // self.blocks_per_group)

    @property
    def descriptors_per_block(self) -> int:
        """Group descriptors that fit in a block."""
        return self.block_size // self.desc_size

    @property
    def size(self) -> int:
        """Bytes of the file system, from the start of the partition."""
        return self.blocks_count * self.block_size

    @property
    def superblock_block(self) -> int:
        """The block that holds the primary superblock."""
        return SUPERBLOCK_OFFSET // self.block_size

    @property
    def inode_table_blocks(self) -> int:
        """Blocks of one group's inode table."""
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    @property
    def has_metadata_checksums(self) -> bool:
        """Whether bitmaps, inodes and descriptors carry CRC-32C."""
        return RoCompat.METADATA_CSUM in self.ro_compat

    @property
    def has_descriptor_checksums(self) -> bool:
        """Whether descriptors are checked, which is also what gives the ``UNINIT`` flags their meaning."""
        return bool(self.ro_compat & (RoCompat.METADATA_CSUM | RoCompat.GDT_CSUM))

    @property
    def uuid_text(self) -> str:
        """The UUID as ``blkid`` writes it; empty when there is none."""
        return str(uuid.UUID(bytes=self.uuid)) if any(self.uuid) else ""

    @property
    def kind(self) -> str:
        """``ext2``, ``ext3``, ``ext4`` or ``jbd``, as ``blkid`` tells them apart."""
        if Incompat.JOURNAL_DEV in self.incompat:
            return "jbd"
        if self.ro_compat & ~int(_OLD_RO_COMPAT) or self.incompat & ~int(_OLD_INCOMPAT):
            return "ext4dev" if self.flags & _TEST_FILESYSTEM else "ext4"
        return "ext3" if Compat.HAS_JOURNAL in self.compat else "ext2"

    @property
    def geometry(self) -> tuple[object, ...]:
        """Everything that places bitmaps and metadata; a replayed journal must not change it."""
        layout = (self.blocks_count, self.first_data_block, self.block_size, self.cluster_blocks, self.desc_size)
        groups = (self.blocks_per_group, self.inodes_per_group, self.inode_size, self.reserved_gdt_blocks)
        flags = (self.incompat & ~int(Incompat.RECOVER), self.ro_compat & ~int(RoCompat.ORPHAN_PRESENT))
        return layout, groups, flags, self.first_meta_bg, self.backup_groups, self.uuid, self.checksum_seed


def parse_superblock(raw: bytes) -> Superblock | None:
    """Parse the 1,024 bytes at offset 1,024 of a volume.

    Returns:
        The superblock, or ``None`` when these bytes are not one: the magic is only two bytes long, so a layout that no
        ext can have counts as "not ext" too. A wrong checksum is kept in ``checksum_good``.

    Source: Linux ``fs/ext4/ext4.h``, ``struct ext4_super_block``; bounds as ``fs/ext4/super.c``.
    """
    if len(raw) != SUPERBLOCK_SIZE or _u16(raw, 56) != _MAGIC:
        return None
    log_block_size, log_cluster_size, revision = _u32(raw, 24), _u32(raw, 28), _u32(raw, 76)
    if log_block_size > 6 or revision > 1:  # EXT4_MAX_BLOCK_LOG_SIZE 16, EXT4_DYNAMIC_REV 1
        return None
    incompat, ro_compat = Incompat(_u32(raw, 96) * revision), RoCompat(_u32(raw, 100) * revision)
    bigalloc = RoCompat.BIGALLOC in ro_compat
    if bigalloc and not log_block_size <= log_cluster_size <= 20:  # EXT4_MAX_CLUSTER_LOG_SIZE 30
        return None
    wide = Incompat.BITS_64 in incompat
    blocks_per_group = _u32(raw, 32)
    superblock = Superblock(
        blocks_count=_u32(raw, 4) | (_u32(raw, 336) << 32 if wide else 0),
        first_data_block=_u32(raw, 20),
        block_size=1024 << log_block_size,
        cluster_blocks=1 << (log_cluster_size - log_block_size) if bigalloc else 1,
        blocks_per_group=blocks_per_group,
        clusters_per_group=_u32(raw, 36) if bigalloc else blocks_per_group,
        inodes_count=_u32(raw, 0),
        inodes_per_group=_u32(raw, 40),
        inode_size=_u16(raw, 88) if revision else 128,
        desc_size=_u16(raw, 254) if wide else 32,
        reserved_gdt_blocks=_u16(raw, 206),
        first_meta_bg=_u32(raw, 260) if Incompat.META_BG in incompat else 0,
        backup_groups=(_u32(raw, 588), _u32(raw, 592)),
        state=State(_u16(raw, 58)),
        compat=Compat(_u32(raw, 92) * revision),
        incompat=incompat,
        ro_compat=ro_compat,
        flags=_u32(raw, 352),
        journal_inode=_u32(raw, 224),
        journal_device=_u32(raw, 228),
        uuid=raw[104:120],
        label=raw[120:136].split(b"\0")[0].decode("utf-8", "replace").rstrip(),
        checksum_seed=_u32(raw, 624) if Incompat.CSUM_SEED in incompat else crc32c(raw[104:120]),
        checksum_good=RoCompat.METADATA_CSUM not in ro_compat or crc32c(raw[:1020]) == _u32(raw, 1020),
    )
    return superblock if _is_possible(superblock) else None


def _is_possible(superblock: Superblock) -> bool:
    """Whether the layout is one that an ext file system can have at all."""
    if Incompat.JOURNAL_DEV in superblock.incompat:
        return superblock.blocks_count > 0
    bits = 8 * superblock.block_size
    inode_size, desc_size = superblock.inode_size, superblock.desc_size
    return (
        superblock.first_data_block == (1 if superblock.block_size == 1024 and superblock.cluster_blocks == 1 else 0)
        and superblock.blocks_count > superblock.first_data_block + superblock.superblock_block
        and 8 <= superblock.clusters_per_group <= bits
        and superblock.clusters_per_group % 8 == 0
        and superblock.blocks_per_group == superblock.clusters_per_group * superblock.cluster_blocks
        and 0 < superblock.inodes_per_group <= bits
        and 128 <= inode_size <= superblock.block_size
        and inode_size & (inode_size - 1) == 0
        and (64 if Incompat.BITS_64 in superblock.incompat else 32) <= desc_size <= 1024
        and desc_size & (desc_size - 1) == 0
    )


def _u16(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 2], "little")


def _u32(raw: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", raw, offset)[0])
