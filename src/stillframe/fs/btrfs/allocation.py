"""The extent tree and the block groups: which bytes of the address space are allocated.

Answers: "which bytes does the file system have in use?" The extent tree has one item for each extent of data and for
each tree block of the last transaction, of all subvolumes and snapshots, and for the files of the old free space
cache. The sums of it are written down three more times, and all must agree.

Not kept: tree blocks that only older transactions used. The superblock names the roots of the last four
(``super_roots``), which serve ``mount -o usebackuproot`` for as long as nothing was written over them; a restored
volume does not have these blocks.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (item keys, ``struct btrfs_block_group_item``),
``fs/btrfs/tree-checker.c`` (``check_extent_item``, ``check_block_group_item``), ``fs/btrfs/block-group.c``
(``check_chunk_block_group_mappings``); Btrfs documentation, "On-disk Format".
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.btrfs.chunks import CHECK_HINT, CONTENTS, ChunkMap, Offsets
from stillframe.fs.btrfs.roots import BLOCK_GROUP_TREE, EXTENT_TREE
from stillframe.fs.btrfs.superblock import ADDRESS_MAX, Superblock
from stillframe.fs.btrfs.tree import Leaves, Records, TreeReader, TreeRoot

# BTRFS_*_KEY
_EXTENT_ITEM, _METADATA_ITEM = 168, 169
_REFERENCES: Final = (176, 178, 182, 184)  # TREE_BLOCK_REF, EXTENT_DATA_REF, SHARED_BLOCK_REF, SHARED_DATA_REF
_BLOCK_GROUP_ITEM: Final = 192

_BLOCK_GROUP: Final = np.dtype(
    {"names": ["used", "flags"], "formats": ["<u8", "<u8"], "offsets": [0, 16], "itemsize": 24}
)
"""``struct btrfs_block_group_item``."""
EXTENT_COUNT_MAX: Final = 1 << 25
"""Pieces that are not next to each other; it bounds the memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What is allocated.

    Attributes:
        starts, ends: Logical ranges in rising order, disjoint, each inside one chunk; neighbours may touch.
        used: Allocated bytes of each chunk of the map.
    """

    starts: Offsets
    ends: Offsets
    used: Offsets


def read_allocation(
    trees: TreeReader, superblock: Superblock, roots: dict[int, TreeRoot], chunks: ChunkMap
) -> Allocation:
    """Read what is allocated, and check it against all that says the same.

    Raises:
        DiskFormatError: Extents overlap or leave their chunk, a sum differs, a block that was read is called free, or
            there are more extents than this version reads.
    """
    gathered = _Gathered(chunks, superblock.node_size)
    groups: list[tuple[Records, Records]] = []
    own_tree = BLOCK_GROUP_TREE in roots
    for leaves in trees.iter_leaves(roots[EXTENT_TREE]):
        known = [_EXTENT_ITEM, _METADATA_ITEM, *_REFERENCES, *([] if own_tree else [_BLOCK_GROUP_ITEM])]
        _demand_types(leaves, known, "extent")
        gathered.add(leaves.of_type(_EXTENT_ITEM, _METADATA_ITEM))
        groups.append(_block_groups(leaves))
    if own_tree:
        for leaves in trees.iter_leaves(roots[BLOCK_GROUP_TREE]):
            _demand_types(leaves, [_BLOCK_GROUP_ITEM], "block group")
            groups.append(_block_groups(leaves))
    allocation = gathered.finish()
    keys, records = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    _check_groups(keys, records, chunks, allocation)
    total = int(allocation.used.sum())
    if total != superblock.bytes_used:
        raise DiskFormatError(
            f"Btrfs extent tree: its extents are {total} bytes, the superblock says {superblock.bytes_used}",
            hint=CHECK_HINT,
        )
    return allocation


class _Gathered:
    """Extents as they come in, joined where they touch."""

    def __init__(self, chunks: ChunkMap, node_size: int) -> None:
        self._chunks = chunks
        self._node_size = node_size
        self._used = np.zeros(len(chunks.starts), np.int64)
        self._starts: list[Offsets] = []
        self._ends: list[Offsets] = []
        self._count = 0
        self._end = 0

    def add(self, items: Records) -> None:
        if not len(items):
            return
        is_block = items["type"] == _METADATA_ITEM  # its offset is the level, not the size
        sizes = np.where(is_block, np.uint64(self._node_size), items["offset"])
        if int(items["objectid"].max()) > ADDRESS_MAX or int(sizes.max()) > ADDRESS_MAX:
            raise DiskFormatError("Btrfs extent tree: an extent lies beyond any address", hint=CHECK_HINT)
        starts, lengths = items["objectid"].astype(np.int64), sizes.astype(np.int64)
        index = self._chunks.find(starts, lengths)
        ends = starts + lengths
        before = np.concatenate(([self._end], ends[:-1]))
        if np.any(starts < before):
            place = int(starts[starts < before][0])
            raise DiskFormatError(f"Btrfs extent tree: two extents overlap at {place}", hint=CHECK_HINT)
        self._end = int(ends[-1])
        np.add.at(self._used, index, lengths)
        # Only extents of one chunk are joined: the next chunk may lie anywhere on the device.
        first = np.concatenate(([True], (starts[1:] != ends[:-1]) | (index[1:] != index[:-1])))
        last = np.concatenate((first[1:], [True]))
        self._starts.append(starts[first])
        self._ends.append(ends[last])
        self._count += int(first.sum())
        if self._count > EXTENT_COUNT_MAX:
            raise DiskFormatError(
                f"Btrfs extent tree: more than {EXTENT_COUNT_MAX} pieces are more than this version reads",
                hint="Nothing is wrong with the volume; it is stored whole.",
            )

    def finish(self) -> Allocation:
        nothing = np.empty(0, np.int64)
        return Allocation(
            starts=np.concatenate([nothing, *self._starts]),
            ends=np.concatenate([nothing, *self._ends]),
            used=self._used,
        )


def _demand_types(leaves: Leaves, known: list[int], name: str) -> None:
    strange = leaves.items["type"][~np.isin(leaves.items["type"], known)]
    if len(strange):
        raise DiskFormatError(f"Btrfs {name} tree: an item has the unknown type {int(strange[0])}", hint=CHECK_HINT)


def _block_groups(leaves: Leaves) -> tuple[Records, Records]:
    items = leaves.of_type(_BLOCK_GROUP_ITEM)
    return items, leaves.records(items, _BLOCK_GROUP)


def _check_groups(keys: Records, groups: Records, chunks: ChunkMap, allocation: Allocation) -> None:
    """Raise unless there is one block group for each chunk, of the same range, contents and use."""
    contents = np.uint64(CONTENTS)
    same = (
        len(keys) == len(chunks.starts)
        and np.array_equal(keys["objectid"], chunks.starts.astype(np.uint64))
        and np.array_equal(keys["offset"], chunks.sizes.astype(np.uint64))
        and np.array_equal(groups["flags"] & contents, chunks.types.astype(np.uint64) & contents)
    )
    if not same:
        raise DiskFormatError(
            f"Btrfs: the {len(keys)} block groups are not the {len(chunks.starts)} chunks", hint=CHECK_HINT
        )
    wrong = np.flatnonzero(groups["used"] != allocation.used.astype(np.uint64))
    if len(wrong):
        first = wrong[0]
        raise DiskFormatError(
            f"Btrfs block group {int(chunks.starts[first])}: its extents are {int(allocation.used[first])} bytes, "
            f"it says {int(groups['used'][first])}",
            hint=CHECK_HINT,
        )


def to_device(allocation: Allocation, chunks: ChunkMap) -> ExtentSet:
    """Every copy of what is allocated, as bytes of the device."""
    return chunks.to_device(allocation.starts, allocation.ends - allocation.starts)
