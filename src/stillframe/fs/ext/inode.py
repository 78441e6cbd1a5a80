"""Inodes: the few fields that are needed, and which blocks hold a file's contents.

Answers: "where does this file lie?" for the journal, the root directory and a swap file. It does not read contents,
and knows neither inline data nor encryption.

Sources: Linux ``fs/ext4/ext4.h`` (``struct ext4_inode``), ``fs/ext4/ext4_extents.h``, ``fs/ext4/inode.c``
(``ext4_inode_csum``), ``fs/ext4/extents.c`` (``ext4_extent_block_csum``), ``fs/ext4/indirect.c``.
"""

import stat
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError
from stillframe.fs.ext.groups import CHECK_HINT, GroupTable
from stillframe.fs.ext.superblock import Superblock

EXTENT_LEVEL_SIZE_MAX: Final = 1 << 26
"""Bytes of one level of an extent tree that are read: some five million extents; bounds time and memory."""
MAPPED_BLOCKS_MAX: Final = 1 << 22
"""Blocks of a file mapped by indirect blocks: 16 GiB of 4 KiB; bounds time and memory."""

_EXTENTS_FLAG: Final = 0x80000  # EXT4_EXTENTS_FL
_EXTENT_MAGIC: Final = 0xF30A  # EXT4_EXT_MAGIC
_EXTENT_DEPTH_MAX: Final = 5  # EXT4_MAX_EXTENT_DEPTH
_UNWRITTEN_LENGTH: Final = 32768  # EXT_INIT_MAX_LEN: longer means "allocated, not written", less that number
_HEADER: Final = struct.Struct("<HHHHI")  # struct ext4_extent_header
_EXTENT_TYPE: Final = np.dtype([("logical", "<u4"), ("length", "<u2"), ("high", "<u2"), ("low", "<u4")])
_INDEX_TYPE: Final = np.dtype([("logical", "<u4"), ("low", "<u4"), ("high", "<u2"), ("unused", "<u2")])
_DIRECT_BLOCKS: Final = 12  # EXT4_NDIR_BLOCKS

Blocks = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode.

    Attributes:
        number: From 1.
        mode: Type and permissions, as ``st_mode``.
        size: Bytes of the contents.
        links: Names it has; 0 when it is deleted.
        flags: ``i_flags``.
        block_area: The 60 bytes of ``i_block``.
        checksum_seed: What the checksums of its extent blocks go on from.
    """

    number: int
    mode: int
    size: int
    links: int
    flags: int
    block_area: bytes
    checksum_seed: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file that has a name."""
        return stat.S_ISREG(self.mode) and self.links > 0

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory that has a name."""
        return stat.S_ISDIR(self.mode) and self.links > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRuns:
    """Where a file's blocks lie: runs in the order of the file, without overlap; what no run covers is a hole.

    Attributes:
        logical: First block of each run inside the file.
        physical: First block of each run on the volume.
        count: Blocks of each run, all at least 1.
        written: Whether the contents are on the disk; otherwise they read as zeros.
    """

    logical: Blocks
    physical: Blocks
    count: Blocks
    written: NDArray[np.bool_]

    def covers(self, blocks_count: int) -> bool:
        """Whether the first ``blocks_count`` blocks of the file are all there and written."""
        ends = self.logical + self.count
        joined = len(ends) > 0 and int(self.logical[0]) == 0 and bool((self.logical[1:] == ends[:-1]).all())
        return joined and bool(self.written.all()) and int(ends[-1]) >= blocks_count

    def covers_block(self, logical: int) -> bool:
        """Whether one block of the file is there and written."""
        run = int(np.searchsorted(self.logical, logical, side="right")) - 1
        return run >= 0 and bool(self.written[run]) and logical < int(self.logical[run] + self.count[run])

    def places(self, logical: Blocks) -> Blocks:
        """Blocks of the volume for blocks of a file of which is known that they are there."""
        run = np.searchsorted(self.logical, logical, side="right") - 1
        return self.physical[run] + logical - self.logical[run]


def read_inode(reader: BlockReader, superblock: Superblock, table: GroupTable, number: int) -> Inode:
    """Read one inode by its number.

    Raises:
        DiskFormatError: The number is none of this volume, or the inode's checksum is wrong.
    """
    group, index = divmod(number - 1, superblock.inodes_per_group)
    if number < 1 or group >= superblock.groups_count:
        raise DiskFormatError(
            f"ext inode {number}: the volume has {superblock.groups_count * superblock.inodes_per_group} inodes",
            hint=CHECK_HINT,
        )
    place = int(table.inode_table[group]) * superblock.block_size + index * superblock.inode_size
    raw = reader.read_at(place, superblock.inode_size)
    seed = crc32c(number.to_bytes(4, "little") + raw[100:104], seed=superblock.checksum_seed)
    if superblock.has_metadata_checksums:
        _check_inode(raw, number, seed)
    return Inode(
        number=number,
        mode=int.from_bytes(raw[0:2], "little"),
        size=int.from_bytes(raw[4:8], "little") | int.from_bytes(raw[108:112], "little") << 32,
        links=int.from_bytes(raw[26:28], "little"),
        flags=int.from_bytes(raw[32:36], "little"),
        block_area=raw[40:100],
        checksum_seed=seed,
    )


def _check_inode(raw: bytes, number: int, seed: int) -> None:
    """Source: Linux ``fs/ext4/inode.c``, ``ext4_inode_csum`` and ``ext4_inode_csum_verify``."""
    blank = bytearray(raw)
    stored, kept = int.from_bytes(raw[124:126], "little"), 0xFFFF
    blank[124:126] = bytes(2)
    if len(raw) > 128 and int.from_bytes(raw[128:130], "little") >= 4:  # i_extra_isize reaches i_checksum_hi
        stored, kept = stored | int.from_bytes(raw[130:132], "little") << 16, 0xFFFFFFFF
        blank[130:132] = bytes(2)
    if crc32c(bytes(blank), seed=seed) & kept != stored:
        raise DiskFormatError(f"ext inode {number}: its checksum is wrong", hint=CHECK_HINT)


def read_runs(reader: BlockReader, superblock: Superblock, inode: Inode) -> BlockRuns:
    """Which blocks of the volume hold a file.

    Raises:
        DiskFormatError: The map of the file is not a map: a loop, a block outside the volume, an overlap, or more of it
            than a file of that size needs.
    """
    if inode.flags & _EXTENTS_FLAG:
        runs = _ExtentTree(reader, superblock, inode).runs()
    else:
        runs = _runs_of_blocks(_indirect_blocks(reader, superblock, inode))
    ends = runs.logical + runs.count
    if (runs.logical[1:] < ends[:-1]).any():
        raise _broken(inode, "two of its extents overlap")
    if ((runs.physical < superblock.first_data_block) | (runs.physical + runs.count > superblock.blocks_count)).any():
        raise _broken(inode, f"an extent lies outside the {superblock.blocks_count} blocks of the volume")
    return runs


class _ExtentTree:
    """The extent tree of one inode, read level by level, so that no loop in it can be followed."""

    def __init__(self, reader: BlockReader, superblock: Superblock, inode: Inode) -> None:
        self._reader = reader
        self._superblock = superblock
        self._inode = inode

    def runs(self) -> BlockRuns:
        """All extents of the tree."""
        nodes = [self._inode.block_area]
        depth = self._depth_of_root()
        for level in range(depth, 0, -1):
            indexes = np.concatenate([self._entries(node, level, _INDEX_TYPE) for node in nodes])
            children = indexes["low"].astype(np.int64) | indexes["high"].astype(np.int64) << 32
            if len(children) * self._superblock.block_size > EXTENT_LEVEL_SIZE_MAX:
                raise _broken(self._inode, f"a level of its extent tree has {len(children)} blocks, too many to read")
            nodes = [self._node(block, level - 1) for block in children.tolist()]
        extents = np.concatenate([self._entries(node, 0, _EXTENT_TYPE) for node in nodes])
        length = extents["length"].astype(np.int64)
        written = length <= _UNWRITTEN_LENGTH
        length = np.where(written, length, length - _UNWRITTEN_LENGTH)
        if (length == 0).any():
            raise _broken(self._inode, "an extent has no length")
        return BlockRuns(
            logical=extents["logical"].astype(np.int64),
            physical=extents["low"].astype(np.int64) | extents["high"].astype(np.int64) << 32,
            count=length,
            written=written,
        )

    def _depth_of_root(self) -> int:
        magic, _, _, depth, _ = _HEADER.unpack_from(self._inode.block_area)
        if magic != _EXTENT_MAGIC or depth > _EXTENT_DEPTH_MAX:
            raise _broken(self._inode, f"the root of its extent tree has magic {magic:#x} and depth {depth}")
        return int(depth)

    def _node(self, block: int, depth: int) -> bytes:
        superblock = self._superblock
        if not superblock.first_data_block < block < superblock.blocks_count:
            raise _broken(self._inode, f"its extent tree points to block {block} of {superblock.blocks_count}")
        raw = self._reader.read_at(block * superblock.block_size, superblock.block_size)
        magic, entries, room, found, _ = _HEADER.unpack_from(raw)
        end = _HEADER.size + room * _EXTENT_TYPE.itemsize
        if magic != _EXTENT_MAGIC or found != depth or entries > room or end + 4 > len(raw):
            raise _broken(self._inode, f"block {block} is not a node of depth {depth} of its extent tree")
        stored = int.from_bytes(raw[end : end + 4], "little")
        if superblock.has_metadata_checksums and crc32c(raw[:end], seed=self._inode.checksum_seed) != stored:
            raise _broken(self._inode, f"the checksum of block {block} of its extent tree is wrong")
        return raw

    def _entries(self, node: bytes, depth: int, entry: np.dtype[np.void]) -> NDArray[np.void]:
        magic, entries, _, found, _ = _HEADER.unpack_from(node)
        if magic != _EXTENT_MAGIC or found != depth or _HEADER.size + entries * entry.itemsize > len(node):
            raise _broken(self._inode, f"a node of its extent tree claims {entries} entries at depth {found}")
        return np.frombuffer(node, entry, entries, _HEADER.size)


def _indirect_blocks(reader: BlockReader, superblock: Superblock, inode: Inode) -> Blocks:
    """The block of the volume for each block of the file, 0 for a hole."""
    needed = -(-inode.size // superblock.block_size)
    if needed > MAPPED_BLOCKS_MAX:
        raise _broken(inode, f"{needed} blocks without extents; at most {MAPPED_BLOCKS_MAX} are read by this version")
    roots = np.frombuffer(inode.block_area, "<u4").astype(np.int64)
    parts = [roots[:_DIRECT_BLOCKS][:needed]]
    missing = needed - len(parts[0])
    for depth, root in enumerate(roots[_DIRECT_BLOCKS:].tolist(), start=1):
        if missing == 0:
            break
        found = _pointed_blocks(reader, superblock, inode, root=root, depth=depth, count=missing)
        parts.append(found)
        missing -= len(found)
    if missing:
        raise _broken(inode, f"{missing} of its {needed} blocks are beyond what indirect blocks can reach")
    return np.concatenate(parts)


def _pointed_blocks(
    reader: BlockReader, superblock: Superblock, inode: Inode, *, root: int, depth: int, count: int
) -> Blocks:
    """Up to ``count`` blocks below one indirect block, read level by level."""
    per_block = superblock.block_size // 4
    level = np.array([root], np.int64)
    for below in range(depth - 1, -1, -1):
        # A level holds no more pointers than the file's remaining size asks for.
        wanted = -(-min(count, per_block**depth) // per_block**below)
        level = np.concatenate([_pointers(reader, superblock, inode, block) for block in level.tolist()])[:wanted]
    return level


def _pointers(reader: BlockReader, superblock: Superblock, inode: Inode, block: int) -> Blocks:
    if block == 0:
        return np.zeros(superblock.block_size // 4, np.int64)
    if not superblock.first_data_block < block < superblock.blocks_count:
        raise _broken(inode, f"an indirect block lies at block {block} of {superblock.blocks_count}")
    raw = reader.read_at(block * superblock.block_size, superblock.block_size)
    return np.frombuffer(raw, "<u4").astype(np.int64)


def _runs_of_blocks(blocks: Blocks) -> BlockRuns:
    """Join neighbours; 0 is a hole."""
    logical = np.flatnonzero(blocks).astype(np.int64)
    physical = blocks[logical]
    first = np.flatnonzero(np.diff(physical - logical, prepend=-1) != 0)
    # Two runs of equal distance with a hole between them are two runs.
    gaps = np.flatnonzero(np.diff(logical, prepend=-2) != 1)
    starts = np.union1d(first, gaps)
    count = np.diff(np.append(starts, len(logical))).astype(np.int64)
    return BlockRuns(
        logical=logical[starts], physical=physical[starts], count=count, written=np.ones(len(starts), np.bool_)
    )


def _broken(inode: Inode, what: str) -> DiskFormatError:
    return DiskFormatError(f"ext inode {inode.number}: {what}", hint=CHECK_HINT)
