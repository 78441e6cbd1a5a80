"""The log: what fsync wrote since the last transaction.

Answers: "which bytes does the next mount need that no extent tree has yet?" After a power cut the log trees hold inodes
and extents of fsynced files. A mount reads the log, adds what it names to the extent tree and only then commits. So
besides all that the last transaction has in use, exactly the blocks of the log trees and the extents they name are
needed; what a file of the log shares with older files is in the extent tree already. Chunks are never younger than the
log: after a new one, an fsync commits the whole transaction.

Sources: Linux ``fs/btrfs/tree-log.c`` (``btrfs_recover_log_trees``, ``replay_one_extent``), ``fs/btrfs/disk-io.c``
(``btrfs_replay_log``), ``fs/btrfs/block-group.c`` (``btrfs_make_block_group``: ``btrfs_set_log_full_commit``),
``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_file_extent_item``).
"""

from typing import Final

import numpy as np

from stillframe.errors import DiskFormatError
from stillframe.extents import ExtentSet
from stillframe.fs.btrfs.allocation import EXTENT_COUNT_MAX
from stillframe.fs.btrfs.chunks import ChunkMap
from stillframe.fs.btrfs.roots import ROOT_ITEM, ROOT_ITEM_KEY, tree_root_of
from stillframe.fs.btrfs.superblock import ADDRESS_MAX, Superblock
from stillframe.fs.btrfs.tree import Leaves, TreeReader, TreeRoot

LOG_HINT: Final = "Mount and unmount the volume once, which replays the log, then back up again for a small image."

_LOG_TREE: Final = (1 << 64) - 6  # BTRFS_TREE_LOG_OBJECTID
_EXTENT_DATA_KEY: Final = 108  # BTRFS_EXTENT_DATA_KEY
_INLINE, _REGULAR, _PREALLOCATED = 0, 1, 2  # BTRFS_FILE_EXTENT_*
_HEAD: Final = np.dtype({"names": ["kind"], "formats": ["u1"], "offsets": [20], "itemsize": 21})
_FILE_EXTENT: Final = np.dtype(
    {"names": ["address", "size"], "formats": ["<u8", "<u8"], "offsets": [21, 29], "itemsize": 53}
)
"""``struct btrfs_file_extent_item``: ``disk_bytenr`` and ``disk_num_bytes``."""


def read_log(trees: TreeReader, superblock: Superblock, chunks: ChunkMap) -> ExtentSet:
    """Every byte of the device that the log trees lie in or name.

    Args:
        trees: A reader that has read nothing else: its blocks count as those of the log.
        superblock: One whose ``log_root`` is not 0.
        chunks: Where addresses lie.

    Raises:
        DiskFormatError: A log tree cannot be believed.
    """
    top = TreeRoot(
        owner=_LOG_TREE,
        address=superblock.log_root,
        level=superblock.log_root_level,
        # Source: btrfs_replay_log. The log belongs to the transaction that was never committed.
        generation=superblock.generation + 1,
    )
    found, count = [ExtentSet.empty()], 0
    for tops in trees.iter_leaves(top):
        items = tops.of_type(ROOT_ITEM_KEY)
        if len(items) != len(tops.items) or np.any(items["objectid"] != np.uint64(_LOG_TREE)):
            raise DiskFormatError("Btrfs log: the tree of log trees names other things", hint=LOG_HINT)
        for record in tops.records(items, ROOT_ITEM):
            for leaves in trees.iter_leaves(tree_root_of(record, owner=_LOG_TREE)):
                found.append(_file_extents(leaves, chunks))
                count += len(found[-1])
                if count > EXTENT_COUNT_MAX:
                    raise DiskFormatError(f"Btrfs log: more than {EXTENT_COUNT_MAX} extents", hint=LOG_HINT)
    blocks = trees.blocks_read()
    found.append(chunks.to_device(blocks, np.full(len(blocks), superblock.node_size, np.int64)))
    starts, ends = (np.concatenate([getattr(part, name) for part in found]) for name in ("starts", "ends"))
    return ExtentSet.from_arrays(starts, ends)


def _file_extents(leaves: Leaves, chunks: ChunkMap) -> ExtentSet:
    """What the files in these leaves have on the device."""
    items = leaves.of_type(_EXTENT_DATA_KEY)
    kinds = leaves.records(items, _HEAD)["kind"]
    if not np.isin(kinds, (_INLINE, _REGULAR, _PREALLOCATED)).all():
        raise DiskFormatError(f"Btrfs log: a file has an extent of unknown kind {int(kinds.max())}", hint=LOG_HINT)
    records = leaves.records(items[kinds != _INLINE], _FILE_EXTENT)
    records = records[records["address"] != 0]  # 0 is a hole
    if len(records) and int(max(records["address"].max(), records["size"].max())) > ADDRESS_MAX:
        raise DiskFormatError("Btrfs log: a file has an extent beyond any address", hint=LOG_HINT)
    return chunks.to_device(records["address"].astype(np.int64), records["size"].astype(np.int64))
