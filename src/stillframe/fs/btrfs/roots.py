"""The roots of the trees that the map needs, the chunk tree, and what the device tree says of the same chunks.

Answers: "where do the trees begin, and which chunks are there?" Chunks are written down twice, in the chunk tree and
as extents of the device; both must say the same.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (tree numbers, ``struct btrfs_root_item``, ``btrfs_dev_extent``),
``fs/btrfs/disk-io.c`` (``open_ctree``), ``fs/btrfs/volumes.c`` (``btrfs_verify_dev_extents``).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import DiskFormatError
from stillframe.fs.btrfs.chunks import CHECK_HINT, CHUNK_ITEM_KEY, Chunk, ChunkMap, Offsets, parse_chunk
from stillframe.fs.btrfs.superblock import (
    ADDRESS_MAX,
    DEVICE_ITEM_SIZE,
    RoCompat,
    Superblock,
    parse_device_item,
)
from stillframe.fs.btrfs.tree import TreeReader, TreeRoot

# BTRFS_*_TREE_OBJECTID
ROOT_TREE, EXTENT_TREE, CHUNK_TREE, DEVICE_TREE = 1, 2, 3, 4
FREE_SPACE_TREE, BLOCK_GROUP_TREE = 10, 11

ROOT_ITEM_KEY: Final = 132  # BTRFS_ROOT_ITEM_KEY
_DEVICE_EXTENT_KEY: Final = 204  # BTRFS_DEV_EXTENT_KEY
_DEVICE_ITEM_KEY: Final = 216  # BTRFS_DEV_ITEM_KEY
_DEVICE_ITEMS: Final = 1  # BTRFS_DEV_ITEMS_OBJECTID
_CHUNKS: Final = 256  # BTRFS_FIRST_CHUNK_TREE_OBJECTID

ROOT_ITEM: Final = np.dtype(
    {
        "names": ["generation", "address", "level"],
        "formats": ["<u8", "<u8", "u1"],
        "offsets": [160, 176, 238],
        "itemsize": 239,
    }
)
"""``struct btrfs_root_item`` as far as all versions of it go."""
_DEVICE_EXTENT: Final = np.dtype(
    {"names": ["chunk", "size"], "formats": ["<u8", "<u8"], "offsets": [16, 24], "itemsize": 48}
)
"""``struct btrfs_dev_extent``."""


def root_of_root_tree(superblock: Superblock) -> TreeRoot:
    """Where the tree of trees begins."""
    return TreeRoot(
        owner=ROOT_TREE, address=superblock.root, level=superblock.root_level, generation=superblock.generation
    )


def read_roots(trees: TreeReader, superblock: Superblock) -> dict[int, TreeRoot]:
    """Where the trees of allocation begin, by number.

    Raises:
        DiskFormatError: One that the features demand is missing, or is there twice.
    """
    wanted = {EXTENT_TREE, DEVICE_TREE}
    if RoCompat.FREE_SPACE_TREE in superblock.ro_compat:
        wanted.add(FREE_SPACE_TREE)
    if RoCompat.BLOCK_GROUP_TREE in superblock.ro_compat:
        wanted.add(BLOCK_GROUP_TREE)
    found: dict[int, TreeRoot] = {}
    for leaves in trees.iter_leaves(root_of_root_tree(superblock), objects=(min(wanted), max(wanted))):
        items = leaves.of_type(ROOT_ITEM_KEY)
        items = items[np.isin(items["objectid"], np.array(sorted(wanted), np.uint64))]
        for item, record in zip(items, leaves.records(items, ROOT_ITEM), strict=True):
            owner = int(item["objectid"])
            if owner in found:
                raise DiskFormatError(f"Btrfs root tree: it names tree {owner} twice", hint=CHECK_HINT)
            found[owner] = tree_root_of(record, owner=owner)
    missing = sorted(wanted - found.keys())
    if missing:
        raise DiskFormatError(f"Btrfs root tree: it does not name tree {missing[0]}", hint=CHECK_HINT)
    return found


def tree_root_of(record: np.void, *, owner: int) -> TreeRoot:
    """The root that a record ``ROOT_ITEM`` names."""
    return TreeRoot(
        owner=owner,
        address=int(record["address"]),
        level=int(record["level"]),
        generation=int(record["generation"]),
    )


def read_chunks(trees: TreeReader, superblock: Superblock) -> tuple[Chunk, ...]:
    """All chunks, in the order of their logical addresses.

    Raises:
        DiskFormatError: The tree names other devices than the superblock.
    """
    root = TreeRoot(
        owner=CHUNK_TREE,
        address=superblock.chunk_root,
        level=superblock.chunk_root_level,
        generation=superblock.chunk_root_generation,
    )
    found: list[Chunk] = []
    devices = []
    for leaves in trees.iter_leaves(root):
        for item in leaves.items:
            key = int(item["objectid"]), int(item["type"])
            if key == (_DEVICE_ITEMS, _DEVICE_ITEM_KEY) and int(item["size"]) == DEVICE_ITEM_SIZE:
                devices.append(parse_device_item(leaves.bytes_of(item)))
            elif key == (_CHUNKS, CHUNK_ITEM_KEY):
                found.append(parse_chunk(leaves.bytes_of(item), start=int(item["offset"])))
            else:
                raise DiskFormatError(f"Btrfs chunk tree: an item has the key {key}", hint=CHECK_HINT)
    if devices != [superblock.device]:
        numbers = [device.number for device in devices]
        raise DiskFormatError(
            f"Btrfs chunk tree: it names devices {numbers}, the superblock number {superblock.device.number}",
            hint=CHECK_HINT,
        )
    return tuple(found)


def check_device_extents(trees: TreeReader, superblock: Superblock, root: TreeRoot, chunks: ChunkMap) -> None:
    """Compare the device tree with the chunks.

    Raises:
        DiskFormatError: It has other extents than the chunks have copies.
    """
    found: list[Offsets] = [np.empty((0, 3), np.int64)]
    for leaves in trees.iter_leaves(root, objects=(superblock.device.number, superblock.device.number)):
        items = leaves.of_type(_DEVICE_EXTENT_KEY)
        records = leaves.records(items, _DEVICE_EXTENT)
        numbers = np.stack([items["offset"], records["size"], records["chunk"]], axis=1)
        found.append(_small(numbers.astype(np.uint64), "device extent"))
        if np.any(items["objectid"] != np.uint64(superblock.device.number)):
            raise DiskFormatError("Btrfs device tree: it has extents of another device", hint=CHECK_HINT)
    extents = np.concatenate(found)
    expected = np.stack(chunks.stripes(), axis=1)
    if not np.array_equal(extents, expected[np.argsort(expected[:, 0])]):
        raise DiskFormatError(
            f"Btrfs device tree: its {len(extents)} extents are not the {len(expected)} copies of the chunks",
            hint=CHECK_HINT,
        )


def _small(numbers: NDArray[np.uint64], name: str) -> Offsets:
    """The same numbers, signed.

    Raises:
        DiskFormatError: One is too large for any device.
    """
    if numbers.size and int(numbers.max()) > ADDRESS_MAX:
        raise DiskFormatError(f"Btrfs: a {name} has the number {int(numbers.max())}", hint=CHECK_HINT)
    return numbers.astype(np.int64)
