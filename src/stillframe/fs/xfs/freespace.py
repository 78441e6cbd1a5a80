"""The tree of free space of an allocation group, sorted by block number (``bnobt``).

Answers: "which blocks of this group are free?" The tree is read level by level, from the root down, each block once.
A second tree has the same ranges sorted by length; it is not read, but the header's count and longest range must agree.

Sources: Linux ``fs/xfs/libxfs/xfs_format.h`` (``struct xfs_btree_block``, ``struct xfs_alloc_rec``),
``fs/xfs/libxfs/xfs_btree.c`` (``__xfs_btree_check_sblock``), ``fs/xfs/scrub/alloc.c`` (``xchk_allocbt_mergeable``: no
two ranges touch); "XFS Algorithms & Data Structures", chapter "AG Free Space B+trees".
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.crc32c import CRC32C, Bytes, crc_rows
from stillframe.errors import DiskFormatError
from stillframe.fs.xfs.groups import Blocks, Group
from stillframe.fs.xfs.superblock import CHECK_HINT, Superblock

RANGES_COUNT_MAX: Final = 1 << 25
"""Free ranges of a volume, and blocks of a tree, that this program reads: it bounds the memory."""

_NO_BLOCK: Final = 0xFFFFFFFF  # NULLAGBLOCK
_MAGIC_V4, _MAGIC_V5 = 0x41425442, 0x41423342  # XFS_ABTB_MAGIC "ABTB", XFS_ABTB_CRC_MAGIC "AB3B"
_RECORD_SIZE, _POINTER_SIZE = 8, 4  # struct xfs_alloc_rec and its key; xfs_alloc_ptr_t
_SECTOR: Final = 512  # bb_blkno counts these, whatever the sector size is
_CHECKSUM_OFFSET: Final = 52  # XFS_BTREE_SBLOCK_CRC_OFF
_READ_SIZE: Final = 1 << 20
_FIELDS_V4: Final = [("magic", ">u4"), ("level", ">u2"), ("count", ">u2"), ("left", ">u4"), ("right", ">u4")]
_FIELDS_V5: Final = [("place", ">u8"), ("lsn", ">u8"), ("uuid", "u1", (16,)), ("owner", ">u4"), ("checksum", "<u4")]
_HEADER_V4: Final = np.dtype(_FIELDS_V4)
_HEADER_V5: Final = np.dtype([*_FIELDS_V4, *_FIELDS_V5])


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSpace:
    """Free ranges of a group, ``[starts, ends)`` in blocks from its start, sorted; and the blocks of the tree."""

    starts: Blocks
    ends: Blocks
    tree_blocks: Blocks

    def holds_any(self, firsts: Blocks, ends: Blocks) -> bool:
        """Whether any block of the ranges ``[firsts, ends)``, none of them empty, is called free."""
        before = np.searchsorted(self.starts, ends, side="left") - 1  # the last free range that begins before the end
        reach = np.concatenate((self.ends, [-1]))[before]
        return bool((reach > firsts).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """The blocks of one level of a tree.

    Attributes:
        blocks: Where they are.
        height: 0 for leaves.
        keys: What the level above says is the first block number below each; -1 when there is none above.
    """

    blocks: Blocks
    height: int
    keys: Blocks


def read_free_space(reader: BlockReader, superblock: Superblock, group: Group) -> FreeSpace:
    """Read and check the tree of free space of a group.

    Raises:
        DiskFormatError: A block of the tree is not one, is damaged or is used twice; ranges are out of order, overlap,
            touch or leave the group; or count or longest range are not the header's.
    """
    level = _Level(blocks=np.array([group.free_root]), height=group.free_levels - 1, keys=np.array([-1]))
    tree = [level.blocks]
    while level.height:
        entries, pointers = _read_level(reader, superblock, group, level)
        _check_places(superblock, group, pointers)
        level = _Level(blocks=pointers, height=level.height - 1, keys=entries[:, 0])
        tree.append(pointers)
    ranges, _ = _read_level(reader, superblock, group, level)
    starts, lengths = ranges[:, 0], ranges[:, 1]
    _check_ranges(superblock, group, starts, lengths)
    return FreeSpace(starts=starts, ends=starts + lengths, tree_blocks=np.concatenate(tree))


def _read_level(
    reader: BlockReader, superblock: Superblock, group: Group, level: _Level
) -> tuple[NDArray[np.int64], Blocks]:
    """All entries of a level, as (block number, length); of an inner one also the blocks they lead to."""
    step = _READ_SIZE // superblock.block_size
    entries, pointers, count = [], [], 0
    for first in range(0, len(level.blocks), step):
        end = min(first + step, len(level.blocks))
        rows = _read_rows(reader, superblock, group, level.blocks[first:end])
        header = _check_rows(rows, superblock, group, level, first)
        found, below = _entries(rows, header["count"].astype(np.int64), level.height, _header_of(superblock).itemsize)
        _check_keys(found, header["count"].astype(np.int64), group, level.keys[first:end])
        entries.append(found)
        pointers.append(below)
        count += len(found)
        if count > RANGES_COUNT_MAX:
            raise _broken(group, f"more than {RANGES_COUNT_MAX} entries, which is more than this version reads")
    return np.concatenate(entries), np.concatenate(pointers)


def _header_of(superblock: Superblock) -> np.dtype[np.void]:
    return _HEADER_V5 if superblock.has_checksums else _HEADER_V4


def _read_rows(reader: BlockReader, superblock: Superblock, group: Group, blocks: Blocks) -> Bytes:
    size = superblock.block_size
    raw = b"".join(reader.read_at(group.start + block * size, size) for block in blocks.tolist())
    return np.frombuffer(raw, np.uint8).reshape(len(blocks), size)


def _check_rows(rows: Bytes, superblock: Superblock, group: Group, level: _Level, first: int) -> NDArray[np.void]:
    """The headers of the blocks of a level from its ``first`` on, after all of them were found right."""
    kind = _header_of(superblock)
    header = np.ascontiguousarray(rows[:, : kind.itemsize]).view(kind)[:, 0]
    blocks = level.blocks[first : first + len(rows)]
    around = np.concatenate(([_NO_BLOCK], level.blocks, [_NO_BLOCK]))
    counts = header["count"]
    may_be_empty = level.height == 0 and level.keys[0] < 0  # a leaf that is the root: then nothing is free
    right = (
        ("signature", header["magic"] == (_MAGIC_V5 if superblock.has_checksums else _MAGIC_V4)),
        ("level", header["level"] == level.height),
        ("number of entries", (counts <= _entries_max(superblock, level.height)) & ((counts > 0) | may_be_empty)),
        ("left neighbour", header["left"] == around[first : first + len(rows)]),
        ("right neighbour", header["right"] == around[first + 2 : first + 2 + len(rows)]),
        *(_identity(rows, header, superblock, group, blocks) if superblock.has_checksums else ()),
    )  # fmt: skip
    for name, good in right:
        if not good.all():
            raise _broken(group, f"block {int(blocks[np.argmin(good)])} of the tree has a wrong {name}")
    return header


def _identity(
    rows: Bytes, header: NDArray[np.void], superblock: Superblock, group: Group, blocks: Blocks
) -> tuple[tuple[str, NDArray[np.bool_]], ...]:
    """What blocks of version 5 say of themselves: checksum, place, group and volume."""
    blank = rows.copy()
    blank[:, _CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 4] = 0
    checksums = ~crc_rows(blank, seeds=np.full(len(rows), 0xFFFFFFFF, np.uint32), polynomial=CRC32C)
    places = (group.start + blocks * superblock.block_size) // _SECTOR
    volume = np.frombuffer(superblock.header_uuid, np.uint8)
    return (
        ("checksum", header["checksum"] == checksums),
        ("place", header["place"] == places.astype(np.uint64)),
        ("group", header["owner"] == group.index),
        ("UUID", (header["uuid"] == volume).all(axis=1)),
    )


def _entries_max(superblock: Superblock, height: int) -> int:
    """Entries that a block has room for. Source: ``xfs_allocbt_block_maxrecs``."""
    room = superblock.block_size - _header_of(superblock).itemsize
    return room // (_RECORD_SIZE + (_POINTER_SIZE if height else 0))


def _entries(rows: Bytes, counts: NDArray[np.int64], height: int, header_size: int) -> tuple[NDArray[np.int64], Blocks]:
    """The records or keys of checked blocks, in order; and of inner blocks, the pointers behind the room for keys."""
    room = rows.shape[1] - header_size
    count_max = room // (_RECORD_SIZE + (_POINTER_SIZE if height else 0))
    filled = np.arange(count_max) < counts[:, np.newaxis]

    def words(start: int, count: int) -> NDArray[np.int64]:
        return np.ascontiguousarray(rows[:, start : start + 4 * count]).view(">u4").astype(np.int64)

    records = words(header_size, 2 * count_max).reshape(len(rows), count_max, 2)[filled]
    if not height:
        return records, np.empty(0, np.int64)
    return records, words(header_size + _RECORD_SIZE * count_max, count_max)[filled]


def _check_keys(entries: NDArray[np.int64], counts: NDArray[np.int64], group: Group, keys: Blocks) -> None:
    """Whether each block begins with the number that the level above has for it."""
    if keys[0] < 0:
        return
    firsts = entries[np.concatenate(([0], np.cumsum(counts)[:-1])), 0]
    if (firsts != keys).any():
        at = int(np.argmax(firsts != keys))
        raise _broken(group, f"a block of the tree begins with {int(firsts[at])}, expected {int(keys[at])}")


def _check_places(superblock: Superblock, group: Group, blocks: Blocks) -> None:
    """Whether pointers stay in the group and none comes twice. Levels cannot mix: every block names its own."""
    wrong = (blocks < superblock.header_blocks) | (blocks >= group.blocks_count)
    if wrong.any():
        raise _broken(group, f"its tree leads to block {int(blocks[np.argmax(wrong)])} of {group.blocks_count}")
    if len(np.unique(blocks)) != len(blocks):
        raise _broken(group, "its tree leads to one block twice")


def _check_ranges(superblock: Superblock, group: Group, starts: Blocks, lengths: Blocks) -> None:
    ends = starts + lengths
    outside = (lengths == 0) | (starts < superblock.header_blocks) | (ends > group.blocks_count)
    if outside.any():
        at = int(np.argmax(outside))
        raise _broken(group, f"blocks [{int(starts[at])}, {int(ends[at])}) cannot be free")
    touching = starts[1:] <= ends[:-1]
    if touching.any():
        at = int(np.argmax(touching))
        raise _broken(group, f"free ranges end at {int(ends[at])} and begin at {int(starts[at + 1])}")
    found = (int(lengths.sum()), int(lengths.max(initial=0)))
    if found != (group.free_count, group.longest):
        raise _broken(
            group,
            f"its header counts {group.free_count} free blocks and {group.longest} in the longest range, "
            f"its tree has {found[0]} and {found[1]}",
        )


def _broken(group: Group, what: str) -> DiskFormatError:
    return DiskFormatError(f"XFS group {group.index}, free space: {what}", hint=CHECK_HINT)
