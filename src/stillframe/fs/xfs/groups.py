"""The headers of an allocation group: where its tree of free space is, and what it counts.

Answers: "what does this group say of its free blocks?" Whether the tree says the same is ``freespace``'s to find out.
The group's inode header is not read.

Sources: Linux ``fs/xfs/libxfs/xfs_format.h`` (``struct xfs_agf``, ``struct xfs_agfl``), ``fs/xfs/libxfs/xfs_alloc.c``
(``xfs_agf_verify``, ``xfs_agfl_verify``, ``xfs_agfl_needs_reset``); "XFS Algorithms & Data Structures", chapter
"Allocation Groups".
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.xfs.superblock import CHECK_HINT, Superblock, is_checksum_good

Blocks = NDArray[np.int64]

_AGF_MAGIC: Final = b"XAGF"
_AGF_VERSION: Final = 1
_AGF_CHECKSUM_OFFSET: Final = 216  # XFS_AGF_CRC_OFF
_AGFL_MAGIC: Final = b"XAFL"
_AGFL_CHECKSUM_OFFSET: Final = 32  # XFS_AGFL_CRC_OFF
_AGFL_HEADER_SIZE: Final = 36  # sizeof(struct xfs_agfl), packed; version 4 has none
_LEVELS_MAX: Final = 9  # XFS_BTREE_MAXLEVELS; a tree of 2**31 blocks is lower


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One allocation group; blocks are numbered from its start.

    Attributes:
        index: From 0.
        start: Byte of the partition where it begins.
        blocks_count: Its blocks.
        free_root: Root of the tree of free space by block number.
        free_levels: Levels of that tree; 1 when the root is a leaf.
        free_count: Free blocks, those of the tree alone.
        longest: Blocks of the longest free range.
        tree_count: Blocks that its trees hold besides their roots.
        kept_blocks: The free list: blocks put aside for the trees to grow. They are in use.
    """

    index: int
    start: int
    blocks_count: int
    free_root: int
    free_levels: int
    free_count: int
    longest: int
    tree_count: int
    kept_blocks: Blocks


def read_group(reader: BlockReader, superblock: Superblock, index: int) -> Group:
    """Read and check the headers of a group.

    Raises:
        DiskFormatError: A header has another signature, place, length or checksum than it must, or a number in it
            lies outside the group.
    """
    start, sector = index * superblock.group_blocks * superblock.block_size, superblock.sector_size
    headers = reader.read_at(start, 4 * sector)  # superblock copy, AGF, AGI, AGFL
    agf, agfl = headers[sector : 2 * sector], headers[3 * sector :]
    blocks_count = superblock.blocks_in_group(index)
    magic, version, number, length, root, _, _, levels = struct.unpack_from(">4s7I", agf)
    first, last, count, free, longest, tree_count = struct.unpack_from(">6I", agf, 40)
    place = f"XFS group {index}, AGF"
    _demand(magic == _AGF_MAGIC, place, "signature", magic)
    if superblock.has_checksums:
        _demand(is_checksum_good(agf, _AGF_CHECKSUM_OFFSET), place, "checksum", "a wrong one")
        _demand(agf[64:80] == superblock.header_uuid, place, "UUID", agf[64:80].hex())
    _demand(version == _AGF_VERSION, place, "version", version)
    _demand(number == index, place, "number", number)
    _demand(length == blocks_count, place, "length", length)
    _demand(superblock.header_blocks <= root < blocks_count, place, "root of free space", root)
    _demand(0 < levels <= _LEVELS_MAX, place, "levels of free space", levels)
    _demand(free <= blocks_count, place, "free blocks", free)
    _demand(longest <= free, place, "longest free range", longest)
    _demand(tree_count <= blocks_count, place, "blocks of trees", tree_count)
    return Group(
        index=index,
        start=start,
        blocks_count=blocks_count,
        free_root=root,
        free_levels=levels,
        free_count=free,
        longest=longest,
        tree_count=tree_count,
        kept_blocks=_kept_blocks(agfl, superblock, index, (first, last, count)),
    )


def _kept_blocks(agfl: bytes, superblock: Superblock, index: int, ring: tuple[int, int, int]) -> Blocks:
    """The entries of the free list between the first and the last one, which may lie before it."""
    place = f"XFS group {index}, AGFL"
    header = 0
    if superblock.has_checksums:
        header = _AGFL_HEADER_SIZE
        _demand(agfl[:4] == _AGFL_MAGIC, place, "signature", agfl[:4])
        _demand(is_checksum_good(agfl, _AGFL_CHECKSUM_OFFSET), place, "checksum", "a wrong one")
        _demand(int.from_bytes(agfl[4:8], "big") == index, place, "number", int.from_bytes(agfl[4:8], "big"))
        _demand(agfl[8:24] == superblock.header_uuid, place, "UUID", agfl[8:24].hex())
    entries = np.frombuffer(agfl, ">u4", (len(agfl) - header) // 4, header).astype(np.int64)
    first, last, count = ring
    _demand(first < len(entries) and last < len(entries), place, "first and last entry", (first, last))
    # When the header had four bytes more, entries moved; Linux then empties the list. Source: xfs_agfl_needs_reset.
    active = (last - first) % len(entries) + 1 if count else 0
    _demand(active == count, place, "number of entries", count)
    kept = entries[(first + np.arange(count, dtype=np.int64)) % len(entries)]
    wrong = (kept < superblock.header_blocks) | (kept >= superblock.blocks_in_group(index))
    _demand(not wrong.any(), place, "block", int(kept[np.argmax(wrong)]) if len(kept) else 0)
    return kept


def _demand(fulfilled: bool, place: str, name: str, found: object) -> None:
    if not fulfilled:
        raise DiskFormatError(f"{place}: {name} cannot be {found!r}", hint=CHECK_HINT)
