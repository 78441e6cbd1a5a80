"""Block groups: where their descriptors lie, what they say, and which blocks hold the file system's own structures.

Answers: "where is each group's bitmap, and which blocks are metadata by the layout alone?" The second is all there is
for a group whose bitmap was never written (``BLOCK_UNINIT``), and a cross-check for every other. Bitmaps are read by
``bitmaps``.

Sources: Linux ``fs/ext4/ext4.h`` (``struct ext4_group_desc``), ``fs/ext4/super.c`` (``descriptor_loc``,
``ext4_group_desc_csum``), ``fs/ext4/balloc.c`` (``ext4_bg_has_super``, ``ext4_num_base_meta_blocks``).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.crc32c import CRC16, CRC32C, Bytes, crc16, crc_rows
from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.ext.superblock import Compat, Incompat, RoCompat, Superblock

DESCRIPTORS_SIZE_MAX: Final = 1 << 27
"""Bytes of group descriptors this program reads: those of 256 TiB in 4 KiB blocks; it bounds the memory."""
CHECK_HINT: Final = "Let e2fsck examine the volume, then back up again for a small image."

INODE_UNINIT: Final = 0x1  # EXT4_BG_INODE_UNINIT
BLOCK_UNINIT: Final = 0x2  # EXT4_BG_BLOCK_UNINIT
_CHECKSUM_OFFSET: Final = 30  # offsetof(struct ext4_group_desc, bg_checksum)

Blocks = NDArray[np.int64]
Flags = NDArray[np.bool_]

_SHORT_FIELDS: Final = [
    ("block_bitmap", "<u4", 0),
    ("inode_bitmap", "<u4", 4),
    ("inode_table", "<u4", 8),
    ("free", "<u2", 12),
    ("flags", "<u2", 18),
    ("bitmap_checksum", "<u2", 24),
    ("checksum", "<u2", _CHECKSUM_OFFSET),
]
_LONG_FIELDS: Final = [
    ("block_bitmap_high", "<u4", 32),
    ("inode_bitmap_high", "<u4", 36),
    ("inode_table_high", "<u4", 40),
    ("free_high", "<u2", 44),
    ("bitmap_checksum_high", "<u2", 56),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTable:
    """One element per group.

    Attributes:
        block_bitmap, inode_bitmap, inode_table: First block of each; all inside the volume.
        free_clusters: How many clusters the descriptor calls free.
        unwritten: Whether the block bitmap was never written.
        inodes_unwritten: Whether the inode bitmap was never written: no inode of the group is in use.
        bitmap_checksum: CRC-32C of the block bitmap, or its low half in descriptors of 32 bytes.
    """

    block_bitmap: Blocks
    inode_bitmap: Blocks
    inode_table: Blocks
    free_clusters: Blocks
    unwritten: Flags
    inodes_unwritten: Flags
    bitmap_checksum: NDArray[np.uint32]


def read_groups(reader: BlockReader, superblock: Superblock) -> GroupTable:
    """Read and check every group descriptor.

    Raises:
        DiskFormatError: There are more groups than this version reads, a checksum is wrong, or a bitmap or an inode
            table is placed outside the volume.
    """
    count, size = superblock.groups_count, superblock.block_size
    if count * superblock.desc_size > DESCRIPTORS_SIZE_MAX:
        raise DiskFormatError(
            f"ext superblock: {count} block groups of {superblock.desc_size} bytes are more than this version reads",
            hint="Nothing is wrong with the volume; it is stored whole.",
        )
    blocks = _descriptor_blocks(superblock)
    if int(blocks.max()) >= superblock.blocks_count:
        raise DiskFormatError(
            f"ext group descriptors: expected below block {superblock.blocks_count}, "
            f"found at block {int(blocks.max())}",
            hint=CHECK_HINT,
        )
    raw = b"".join(reader.read_at(first * size, length * size) for first, length in _runs(blocks))
    table = _table_of(raw, superblock)
    _check_places(table, superblock)
    return table


def _table_of(raw: bytes, superblock: Superblock) -> GroupTable:
    count, step = superblock.groups_count, superblock.desc_size
    wide = Incompat.BITS_64 in superblock.incompat
    fields = _SHORT_FIELDS + (_LONG_FIELDS if wide else [])
    names, formats, offsets = zip(*fields, strict=True)
    layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": step})
    records = np.frombuffer(raw, layout, count)
    _check_checksums(np.frombuffer(raw, np.uint8, count * step).reshape(count, step), records["checksum"], superblock)

    def joined(name: str, shift: int) -> Blocks:
        low = records[name].astype(np.int64)
        # A high half above 2**63 >> shift would wrap to a negative number, which _check_places refuses.
        return low | (records[f"{name}_high"].astype(np.int64) << shift) if wide else low

    unwritten = (records["flags"] & BLOCK_UNINIT) != 0
    inodes_unwritten = (records["flags"] & INODE_UNINIT) != 0
    return GroupTable(
        block_bitmap=joined("block_bitmap", 32),
        inode_bitmap=joined("inode_bitmap", 32),
        inode_table=joined("inode_table", 32),
        free_clusters=joined("free", 16),
        unwritten=unwritten if superblock.has_descriptor_checksums else np.zeros_like(unwritten),
        inodes_unwritten=inodes_unwritten if superblock.has_descriptor_checksums else np.zeros_like(unwritten),
        bitmap_checksum=joined("bitmap_checksum", 16).astype(np.uint32),
    )


def _check_checksums(rows: Bytes, stored: NDArray[np.uint16], superblock: Superblock) -> None:
    """Source: Linux ``fs/ext4/super.c``, ``ext4_group_desc_csum``."""
    if not superblock.has_descriptor_checksums:
        return
    numbers = np.arange(len(rows), dtype="<u4").view(np.uint8).reshape(-1, 4)
    if superblock.has_metadata_checksums:
        blank = rows.copy()
        blank[:, _CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 2] = 0
        message, polynomial, seed = np.hstack((numbers, blank)), CRC32C, superblock.checksum_seed
    else:
        covered = (rows[:, :_CHECKSUM_OFFSET], rows[:, _CHECKSUM_OFFSET + 2 :])
        message, polynomial, seed = np.hstack((numbers, *covered)), CRC16, crc16(superblock.uuid)
    seeds = np.full(len(rows), seed, np.uint32)
    wrong = np.flatnonzero((crc_rows(message, seeds=seeds, polynomial=polynomial) & 0xFFFF) != stored)
    if len(wrong):
        raise DiskFormatError(
            f"ext group descriptor {int(wrong[0])}: its checksum is wrong, as are {len(wrong) - 1} others",
            hint=CHECK_HINT,
        )


def _check_places(table: GroupTable, superblock: Superblock) -> None:
    sizes = (("block bitmap", table.block_bitmap, 1), ("inode bitmap", table.inode_bitmap, 1))
    for what, places, length in (*sizes, ("inode table", table.inode_table, superblock.inode_table_blocks)):
        low, high = superblock.first_data_block, superblock.blocks_count - length
        wrong = np.flatnonzero((places < low) | (places > high))
        if len(wrong):
            raise DiskFormatError(
                f"ext group {int(wrong[0])}: {what} expected between blocks {low} and {high}, "
                f"found at block {int(places[wrong[0]])}",
                hint=CHECK_HINT,
            )


def metadata_extents(superblock: Superblock, table: GroupTable) -> ExtentSet:
    """The bytes of superblocks, descriptors, room kept for descriptors, bitmaps and inode tables of all groups."""
    groups = np.arange(superblock.groups_count, dtype=np.int64)
    base = superblock.first_data_block + groups * superblock.blocks_per_group
    length = _base_lengths(superblock, groups)
    # Group 0 starts with the boot block when a block is 1 KiB and numbering starts at 0, as bigalloc has it.
    length[0] += superblock.superblock_block - superblock.first_data_block
    one = np.ones_like(groups)
    starts = np.concatenate((base, table.block_bitmap, table.inode_bitmap, table.inode_table))
    lengths = np.concatenate((length, one, one, one * superblock.inode_table_blocks))
    ends = np.minimum(starts + lengths, superblock.blocks_count)
    return ExtentSet.from_arrays(starts * superblock.block_size, ends * superblock.block_size)


def _base_lengths(superblock: Superblock, groups: Blocks) -> Blocks:
    """Blocks at the start of each group for superblock and descriptors. Source: ``ext4_num_base_meta_blocks``."""
    per_block = superblock.descriptors_per_block
    has_super = _has_superblock(superblock)
    old_blocks = _contiguous_descriptor_blocks(superblock)
    length = np.where(has_super, 1 + old_blocks + superblock.reserved_gdt_blocks, 0).astype(np.int64)
    if Incompat.META_BG in superblock.incompat:
        place = groups % per_block
        holds_descriptors = (place == 0) | (place == 1) | (place == per_block - 1)
        spread = groups // per_block >= superblock.first_meta_bg
        length = np.where(spread, has_super.astype(np.int64) + holds_descriptors, length)
    return length


def _has_superblock(superblock: Superblock) -> Flags:
    """Which groups keep a copy of the superblock. Source: ``ext4_bg_has_super``."""
    count = superblock.groups_count
    has = np.ones(count, np.bool_)
    if Compat.SPARSE_SUPER2 in superblock.compat:
        chosen = {0, *superblock.backup_groups}
    elif RoCompat.SPARSE_SUPER in superblock.ro_compat:
        chosen = {0, 1} | {base**power for base in (3, 5, 7) for power in range(1, 23)}
    else:
        return has
    has[:] = False
    has[[group for group in chosen if group < count]] = True
    return has


def _contiguous_descriptor_blocks(superblock: Superblock) -> int:
    """Descriptor blocks that follow the superblock: all of them, or those before ``meta_bg`` takes over."""
    total = -(-superblock.groups_count // superblock.descriptors_per_block)
    return min(total, superblock.first_meta_bg) if Incompat.META_BG in superblock.incompat else total


def _descriptor_blocks(superblock: Superblock) -> Blocks:
    """The block of each descriptor block, in order. Source: Linux ``fs/ext4/super.c``, ``descriptor_loc``."""
    total = -(-superblock.groups_count // superblock.descriptors_per_block)
    numbers = np.arange(total, dtype=np.int64)
    places = superblock.superblock_block + 1 + numbers
    old = _contiguous_descriptor_blocks(superblock)
    if old < total:
        groups = numbers * superblock.descriptors_per_block
        skipped = _has_superblock(superblock)[groups].astype(np.int64)
        skipped[0] += superblock.superblock_block - superblock.first_data_block
        spread = superblock.first_data_block + groups * superblock.blocks_per_group + skipped
        places[old:] = spread[old:]
    return places


def _runs(blocks: Blocks) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, count)."""
    cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
    firsts = np.concatenate(([0], cuts))
    lengths = np.diff(np.concatenate((firsts, [len(blocks)])))
    return list(zip(blocks[firsts].tolist(), lengths.tolist(), strict=True))
