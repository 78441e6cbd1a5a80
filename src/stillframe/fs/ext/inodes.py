"""All inodes of an ext volume that are in use, as arrays.

Answers: "of what kind and how large is each file?" The tables are read in the order in which they lie, and only those
blocks of them that hold an inode in use: those of a large volume that is almost empty would be gigabytes of zeros.

Sources: Linux ``fs/ext4/ext4.h`` (``struct ext4_inode``), ``fs/ext4/ialloc.c`` (``ext4_read_inode_bitmap``).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ext.groups import CHECK_HINT, Blocks, Flags, GroupTable
from stillframe.fs.ext.superblock import RoCompat, Superblock

INODES_MAX: Final = 20_000_000
"""Inodes in use that are read at once; it bounds the memory."""
_BITS_AT_ONCE: Final = 1 << 22
_READ_SIZE: Final = 4 << 20
_TYPE_MASK, _FOLDER, _FILE = 0xF000, 0x4000, 0x8000
_FIELDS: Final = {
    "names": ("mode", "size", "links", "flags", "block_area", "generation", "size_high"),
    "formats": ("<u2", "<u4", "<u2", "<u4", "V60", "<u4", "<u4"),
    "offsets": (0, 4, 26, 32, 40, 100, 108),
}
_KEPT_TYPE: Final = np.dtype([("mode", "<u2"), ("links", "<u2"), ("size", "<u4"), ("size_high", "<u4")])
_FOLDER_TYPE: Final = np.dtype([("flags", "<u4"), ("block_area", "V60"), ("generation", "<u4")])


@dataclass(frozen=True, slots=True, kw_only=True)
class InodeTable:
    """One element per inode in use, sorted by number.

    Attributes:
        numbers: From 1.
        is_folder, is_file: By the mode.
        sizes: Bytes of the contents.
        links: Names it has.
        folders: The fields of each folder, in the order of ``numbers``: ``flags``, ``block_area``, ``generation``.
    """

    numbers: Blocks = field(repr=False)
    is_folder: Flags = field(repr=False)
    is_file: Flags = field(repr=False)
    sizes: Blocks = field(repr=False)
    links: Blocks = field(repr=False)
    folders: NDArray[np.void] = field(repr=False)


def read_inodes(reader: BlockReader, superblock: Superblock, table: GroupTable) -> InodeTable:
    """Read every inode that the bitmaps call used.

    Raises:
        DiskFormatError: They are more than this program reads at once.
    """
    size = superblock.inode_size
    layout = np.dtype({**_FIELDS, "itemsize": size})  # type: ignore[call-overload]  # numpy's stubs want literals
    numbers: list[Blocks] = []
    records: list[NDArray[np.void]] = []
    folders: list[NDArray[np.void]] = []
    count = 0
    for found, blocks, places in _iter_used(reader, superblock, table):
        count += len(found)
        if count > INODES_MAX:
            raise DiskFormatError(f"ext: more than {INODES_MAX} inodes are in use", hint=CHECK_HINT)
        raw = read_blocks(reader, blocks, superblock.block_size)
        here = raw.reshape(-1).view(layout)[places]
        numbers.append(found)
        folders.append(_packed(here[(here["mode"] & _TYPE_MASK) == _FOLDER], _FOLDER_TYPE))
        records.append(_packed(here, _KEPT_TYPE))
    kept = np.concatenate([np.empty(0, _KEPT_TYPE), *records])
    kind = kept["mode"] & _TYPE_MASK
    is_large = RoCompat.LARGE_FILE in superblock.ro_compat
    high = np.where(kind == _FILE, kept["size_high"], 0) if is_large else np.zeros(len(kept), np.uint32)
    if (not is_large and (kept["size_high"][kind == _FILE] != 0).any()) or (high >> 31).any():
        raise DiskFormatError("ext: a file is larger than the volume allows", hint=CHECK_HINT)
    return InodeTable(
        numbers=np.concatenate([np.empty(0, np.int64), *numbers]),
        is_folder=kind == _FOLDER,
        is_file=kind == _FILE,
        sizes=kept["size"].astype(np.int64) | high.astype(np.int64) << 32,
        links=kept["links"].astype(np.int64),
        folders=np.concatenate([np.empty(0, _FOLDER_TYPE), *folders]),
    )


def _packed(inodes: NDArray[np.void], kind: np.dtype[np.void]) -> NDArray[np.void]:
    """Some fields of inodes without what lies between them, which would be most of the memory."""
    packed = np.empty(len(inodes), kind)
    for name in kind.names or ():
        packed[name] = inodes[name]
    return packed


def read_blocks(reader: BlockReader, blocks: Blocks, size: int) -> NDArray[np.uint8]:
    """Read blocks, a row for each; neighbours are one read."""
    rows = bytearray(len(blocks) * size)
    view = memoryview(rows)
    cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
    starts = np.concatenate((np.zeros(1, np.int64), cuts))[: len(blocks)]
    ends = np.append(cuts, len(blocks))
    for start, end, block in zip(starts.tolist(), ends.tolist(), blocks[starts].tolist(), strict=False):
        reader.read_into(block * size, view[start * size : end * size])
    return np.frombuffer(rows, np.uint8).reshape(len(blocks), size)


def _iter_used(
    reader: BlockReader, superblock: Superblock, table: GroupTable
) -> Iterator[tuple[Blocks, Blocks, Blocks]]:
    """Numbers of inodes in use, the blocks that hold them, and where in those blocks, counted in inodes; in pieces."""
    per_group, per_block = superblock.inodes_per_group, superblock.block_size // superblock.inode_size
    step = max(1, _BITS_AT_ONCE // per_group)
    most = max(1, _READ_SIZE // superblock.block_size)
    for first in range(0, superblock.groups_count, step):
        groups = np.arange(first, min(first + step, superblock.groups_count), dtype=np.int64)
        groups = groups[~table.inodes_unwritten[groups]]
        if not len(groups):
            continue
        rows = read_blocks(reader, table.inode_bitmap[groups], superblock.block_size)
        bits = np.unpackbits(rows, axis=1, count=per_group, bitorder="little")
        row, index = np.nonzero(bits)
        number = groups[row] * per_group + index + 1
        block = table.inode_table[groups[row]] + index // per_block
        is_first = np.ones(len(block), np.bool_)
        is_first[1:] = block[1:] != block[:-1]
        blocks, which = block[is_first], np.cumsum(is_first) - 1
        place = index % per_block
        for start in range(0, len(blocks), most):
            low, high = np.searchsorted(which, (start, start + most)).tolist()
            yield (
                number[low:high],
                blocks[start : start + most],
                (which[low:high] - start) * per_block + place[low:high],
            )
