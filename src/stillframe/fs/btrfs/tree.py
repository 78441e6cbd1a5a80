"""Trees of Btrfs: their blocks, read level by level and verified, and the items of their leaves as arrays.

Answers: "what does this tree hold, and is every block of it what its parent expects?" A block is believed when its
checksum, its address, its file system, its tree, its level, its generation and its first key are right, in the first
copy or in the second. Levels fall by one and keys rise, so no loop is possible. It knows no item's meaning.

Sources: Linux ``include/uapi/linux/btrfs_tree.h`` (``struct btrfs_header``, ``btrfs_item``, ``btrfs_key_ptr``),
``fs/btrfs/disk-io.c`` (``btrfs_validate_extent_buffer``), ``fs/btrfs/tree-checker.c`` (``__btrfs_check_leaf``,
``__btrfs_check_node``); Btrfs documentation, "On-disk Format".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader, ReadFault
from stillframe.errors import DiskFormatError
from stillframe.fs.btrfs.checksums import Blocks, ChecksumType, are_checksums_good
from stillframe.fs.btrfs.chunks import CHECK_HINT, ChunkMap, Offsets
from stillframe.fs.btrfs.superblock import ADDRESS_MAX, LEVEL_MAX, Superblock

HEADER_SIZE: Final = 101  # sizeof(struct btrfs_header)
KEY_SIZE: Final = 17  # sizeof(struct btrfs_disk_key)
ANY_OBJECT: Final = (0, (1 << 64) - 1)

_BATCH_SIZE: Final = 4 << 20
_KEY_FIELDS: Final = [("objectid", "<u8"), ("type", "u1"), ("offset", "<u8")]
_HEADER: Final = np.dtype(
    {
        "names": ["fsid", "address", "generation", "owner", "count", "level"],
        "formats": ["(16,)u1", "<u8", "<u8", "<u8", "<u4", "u1"],
        "offsets": [32, 48, 80, 88, 96, 100],
        "itemsize": HEADER_SIZE,
    }
)
_ITEM: Final = np.dtype([*_KEY_FIELDS, ("data", "<u4"), ("size", "<u4")])  # struct btrfs_item, 25 bytes
_POINTER: Final = np.dtype([*_KEY_FIELDS, ("address", "<u8"), ("generation", "<u8")])  # struct btrfs_key_ptr, 33 bytes

Records = NDArray[np.void]
"""Structured arrays: ``_POINTER`` for blocks yet to be read, ``_ITEM`` with absolute ``data`` for items of leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRoot:
    """Where a tree begins, and what its first block must say.

    Attributes:
        owner: Number of the tree.
        address: Logical, in bytes.
        level: 0 for a single leaf.
        generation: Transaction that wrote the block.
    """

    owner: int
    address: int
    level: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaves:
    """Some leaves of a tree, and their items in the order of their keys.

    Attributes:
        contents: The blocks, one after the other.
        items: One record each: ``objectid``, ``type``, ``offset``, ``size``, and in ``data`` where its bytes begin in
            ``contents``; all of them lie inside.
    """

    contents: NDArray[np.uint8]
    items: Records

    def of_type(self, *types: int) -> Records:
        """The items whose key has one of these types."""
        return self.items[np.isin(self.items["type"], types)]

    def bytes_of(self, item: Records) -> bytes:
        """The bytes of one item."""
        return self.contents[int(item["data"]) : int(item["data"]) + int(item["size"])].tobytes()

    def records(self, items: Records, layout: np.dtype[np.void]) -> Records:
        """The beginnings of items, as an array of records.

        Raises:
            DiskFormatError: An item is shorter than the record.
        """
        if len(items) and int(items["size"].min()) < layout.itemsize:
            raise DiskFormatError(f"Btrfs: an item is shorter than its {layout.itemsize} bytes", hint=CHECK_HINT)
        places = items["data"].astype(np.int64)[:, None] + np.arange(layout.itemsize)
        return self.contents[places].view(layout)[:, 0] if len(items) else np.empty(0, layout)


class TreeReader:
    """Reads trees of one file system, and remembers which blocks it read."""

    def __init__(self, reader: BlockReader, superblock: Superblock, chunks: ChunkMap) -> None:
        self._reader = reader
        self._superblock = superblock
        self._chunks = chunks
        self._node_size = superblock.node_size
        self._kind = ChecksumType(superblock.checksum_type)
        self._read: list[Offsets] = []
        self.second_copies_count = 0

    def blocks_read(self) -> Offsets:
        """The logical addresses of all blocks read so far."""
        return np.concatenate([np.empty(0, np.int64), *self._read])

    def iter_leaves(self, root: TreeRoot, *, objects: tuple[int, int] = ANY_OBJECT) -> Iterator[Leaves]:
        """All leaves that may hold a key with an ``objectid`` of this inclusive range, some at a time.

        Raises:
            DiskFormatError: A block is not what its parent expects in any copy, or the tree contradicts itself.
            ReadFault: A block could not be read in any copy.
        """
        pointers = _pointer_to(root)
        for level in range(root.level, 0, -1):
            is_root = level == root.level
            found = [_pointers_in(blocks) for blocks in self._iter_blocks(pointers, root, level, is_root=is_root)]
            pointers = np.concatenate(found)
            _demand_rising(pointers, root)
            if len(pointers) * self._node_size > self._superblock.device.size:
                raise _broken(root, "it names more blocks than the device has")
            pointers = _within(pointers, objects)
        last = np.empty(0, _ITEM)
        for blocks in self._iter_blocks(pointers, root, 0, is_root=root.level == 0):
            leaves = _leaves_of(blocks, root, may_be_empty=root.level == 0)
            _demand_rising(np.concatenate((last, leaves.items)), root)
            last = leaves.items[-1:]
            yield leaves

    def _iter_blocks(self, pointers: Records, root: TreeRoot, level: int, *, is_root: bool) -> Iterator[Blocks]:
        step = max(1, _BATCH_SIZE // self._node_size)
        for first in range(0, len(pointers), step):
            wanted = pointers[first : first + step]
            blocks = self._read_blocks(wanted, root, level)
            starts = blocks[:, HEADER_SIZE : HEADER_SIZE + KEY_SIZE].tobytes()
            if not is_root and starts != b"".join(pointer.tobytes()[:KEY_SIZE] for pointer in wanted):
                raise _broken(root, f"a block of level {level} does not begin with the key its parent has")
            yield blocks

    def _read_blocks(self, wanted: Records, root: TreeRoot, level: int) -> Blocks:
        """Read blocks of one level; from the second copy where the first is not good."""
        size, addresses = self._node_size, wanted["address"]
        if len(addresses) and int(addresses.max()) > ADDRESS_MAX:
            raise _broken(root, f"it names a block at {int(addresses.max())}")
        starts = addresses.astype(np.int64)
        blocks = np.zeros((len(wanted), size), np.uint8)
        missing = np.ones(len(wanted), np.bool_)
        fault: ReadFault | None = None
        for copy, places in enumerate(self._chunks.copies(starts, np.full(len(wanted), size, np.int64))):
            tried = missing & (places >= 0)
            for index in np.flatnonzero(tried).tolist():
                try:
                    blocks[index] = np.frombuffer(self._reader.read_at(int(places[index]), size), np.uint8)
                except ReadFault as error:
                    fault = error
                    blocks[index] = 0
            rows = np.flatnonzero(tried)
            good = self._are_good(blocks[rows], wanted[rows], root, level)
            missing[rows[good]] = False
            self.second_copies_count += int(good.sum()) if copy else 0
        if missing.any():
            if fault is not None:
                raise fault
            raise _broken(root, f"the block at logical address {int(starts[missing][0])} is not what was written there")
        self._read.append(starts)
        return blocks

    def _are_good(self, blocks: Blocks, wanted: Records, root: TreeRoot, level: int) -> NDArray[np.bool_]:
        """Whether each block is the one that is wanted."""
        headers = _headers_of(blocks)
        fsid = np.frombuffer(self._superblock.metadata_uuid, np.uint8)
        good: NDArray[np.bool_] = (
            are_checksums_good(blocks, self._kind)
            & (headers["fsid"] == fsid).all(axis=1)
            & (headers["address"] == wanted["address"])
            & (headers["generation"] == wanted["generation"])
            & (headers["owner"] == np.uint64(root.owner))
            & (headers["level"] == level)
        )
        return good


def _headers_of(blocks: Blocks) -> Records:
    return np.ascontiguousarray(blocks[:, :HEADER_SIZE]).view(_HEADER)[:, 0]


def _pointer_to(root: TreeRoot) -> Records:
    if not 0 <= root.level <= LEVEL_MAX or not 0 <= root.address <= ADDRESS_MAX:
        raise _broken(root, f"it begins at {root.address}, level {root.level}")
    return np.array([(0, 0, 0, root.address, root.generation)], _POINTER)


def _pointers_in(blocks: Blocks) -> Records:
    """The children of nodes."""
    room = (blocks.shape[1] - HEADER_SIZE) // _POINTER.itemsize
    counts = _headers_of(blocks)["count"]
    if int(counts.min()) == 0 or int(counts.max()) > room:
        raise DiskFormatError(f"Btrfs: a node has {int(counts.max())} children, room for {room}", hint=CHECK_HINT)
    parts = [
        np.frombuffer(block.tobytes(), _POINTER, count, HEADER_SIZE)
        for block, count in zip(blocks, counts.tolist(), strict=True)
    ]
    return np.concatenate(parts)


def _leaves_of(blocks: Blocks, root: TreeRoot, *, may_be_empty: bool) -> Leaves:
    """The items of leaves; the bytes of each lie inside its leaf, behind the table of items."""
    size = blocks.shape[1]
    counts = _headers_of(blocks)["count"]
    if int(counts.max()) > (size - HEADER_SIZE) // _ITEM.itemsize or (int(counts.min()) == 0 and not may_be_empty):
        raise _broken(root, f"a leaf has {int(counts.max())} items")
    parts = []
    for number, (block, count) in enumerate(zip(blocks, counts.tolist(), strict=True)):
        items = np.frombuffer(block.tobytes(), _ITEM, count, HEADER_SIZE).copy()
        ends = items["data"].astype(np.int64) + items["size"]
        # Source: __btrfs_check_leaf. The first item's bytes end with the leaf, each next item's where the last began.
        expected = np.concatenate(([size - HEADER_SIZE], items["data"][:-1].astype(np.int64)))[:count]
        if count and (not np.array_equal(ends, expected) or int(items["data"][-1]) < count * _ITEM.itemsize):
            raise _broken(root, f"the items of the leaf at {int(_headers_of(block[None])['address'][0])} overlap")
        items["data"] += np.uint32(HEADER_SIZE + number * size)
        parts.append(items)
    return Leaves(contents=blocks.reshape(-1), items=np.concatenate(parts))


def _demand_rising(keys: Records, root: TreeRoot) -> None:
    """Raise unless each key is above the one before it."""
    low, high = keys[:-1], keys[1:]
    same = low["objectid"] == high["objectid"]
    below = (low["type"] < high["type"]) | ((low["type"] == high["type"]) & (low["offset"] < high["offset"]))
    if not ((low["objectid"] < high["objectid"]) | (same & below)).all():
        raise _broken(root, "its keys do not rise")


def _within(pointers: Records, objects: tuple[int, int]) -> Records:
    """The pointers below which a key with such an ``objectid`` may be."""
    first, last = np.uint64(objects[0]), np.uint64(objects[1])
    starts = pointers["objectid"]
    before = np.append(starts[1:] >= first, True)
    chosen: Records = pointers[(starts <= last) & before]
    return chosen


def _broken(root: TreeRoot, why: str) -> DiskFormatError:
    return DiskFormatError(f"Btrfs tree {root.owner}: {why}", hint=CHECK_HINT)
