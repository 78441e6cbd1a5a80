"""The free space tree: what is free, as a second witness for the extent tree.

Answers: "does the file system's own list of free space agree?" It is kept apart from the extent tree, so that an extent
that is missing in one shows in the other. The older free space cache proves nothing and is not read.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (FREE_SPACE_*_KEY), ``fs/btrfs/free-space-tree.c``
(``load_free_space_bitmaps``, ``load_free_space_extents``).
"""

from typing import Final

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.btrfs.allocation import EXTENT_COUNT_MAX, Allocation
from stillframe.fs.btrfs.chunks import CHECK_HINT, ChunkMap
from stillframe.fs.btrfs.superblock import ADDRESS_MAX
from stillframe.fs.btrfs.tree import Leaves, TreeReader, TreeRoot

_FREE_SPACE_INFO, _FREE_EXTENT, _FREE_BITMAP = 198, 199, 200  # BTRFS_FREE_SPACE_*_KEY
_BITMAP_SIZE_MAX: Final = 256  # BTRFS_FREE_SPACE_BITMAP_SIZE


def check_free_space(
    trees: TreeReader, root: TreeRoot, chunks: ChunkMap, allocation: Allocation, *, sector_size: int
) -> None:
    """Compare the free space tree with what is allocated.

    Raises:
        DiskFormatError: What is free and what is allocated do not make up the chunks.
    """
    found, count = [ExtentSet.empty()], 0
    for leaves in trees.iter_leaves(root):
        if not np.isin(leaves.items["type"], (_FREE_SPACE_INFO, _FREE_EXTENT, _FREE_BITMAP)).all():
            raise DiskFormatError("Btrfs free space tree: it has items of another kind", hint=CHECK_HINT)
        if len(leaves.items) and int(max(leaves.items["objectid"].max(), leaves.items["offset"].max())) > ADDRESS_MAX:
            raise DiskFormatError("Btrfs free space tree: it has a range beyond any address", hint=CHECK_HINT)
        more = [_free_extents(leaves), *_free_bits(leaves, sector_size)]
        found += more
        count += sum(len(part) for part in more)
        if count > EXTENT_COUNT_MAX:
            raise DiskFormatError(f"Btrfs free space tree: more than {EXTENT_COUNT_MAX} pieces", hint=CHECK_HINT)
    starts, ends = (np.concatenate([getattr(part, name) for part in found]) for name in ("starts", "ends"))
    free = ExtentSet.from_arrays(starts, ends)
    every = ExtentSet.from_arrays(chunks.starts, chunks.starts + chunks.sizes)
    used = ExtentSet.from_arrays(allocation.starts, allocation.ends)
    # mkfs leaves items behind for the chunks that it began with and gave up: what lies in no chunk means nothing.
    free &= every
    if every - used != free:
        raise DiskFormatError(
            f"Btrfs free space tree: {free.size} bytes are free, by the extent tree {every.size - used.size}",
            hint=CHECK_HINT,
        )


def _free_extents(leaves: Leaves) -> ExtentSet:
    items = leaves.of_type(_FREE_EXTENT)
    starts = items["objectid"].astype(np.int64)
    return ExtentSet.from_arrays(starts, starts + items["offset"].astype(np.int64))


def _free_bits(leaves: Leaves, sector_size: int) -> list[ExtentSet]:
    """One set for each bitmap: one bit stands for one sector."""
    found = []
    for item in leaves.of_type(_FREE_BITMAP):
        count, rest = divmod(int(item["offset"]), sector_size)
        if rest or int(item["size"]) > _BITMAP_SIZE_MAX or (count + 7) // 8 != int(item["size"]):
            raise DiskFormatError("Btrfs free space tree: a bitmap is not as long as its range", hint=CHECK_HINT)
        bits, base = leaves.bytes_of(item), int(item["objectid"])
        found.append(ExtentSet.from_bitmap(bits, count=count, unit=sector_size, base=base))
    return found
