"""All names of an ext volume at once: the blocks of its folders, taken apart in step.

Answers: "which files are in which folders?" for every folder that is in use. Blocks are read in the order in which they
lie; of many of them one entry after the other is looked at, in all at the same time. The blocks of a hashed folder
read as a list: what is none of it stands behind entries of inode 0 or inside their length.

Source: Linux ``fs/ext4/ext4.h`` (``struct ext4_dir_entry_2``), Documentation/filesystems/ext4/ ("Directory Entries").
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stillframe.block import BlockReader
from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError
from stillframe.fs.ext.groups import CHECK_HINT, Blocks, read_groups
from stillframe.fs.ext.inode import Inode, read_runs
from stillframe.fs.ext.inodes import InodeTable, read_blocks, read_inodes
from stillframe.fs.ext.superblock import (
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    Incompat,
    Superblock,
    parse_superblock,
)
from stillframe.fs.listing import NAMES_MAX, Listing, find_places

_SYSTEM_END: Final = 11  # ext4.h, EXT4_GOOD_OLD_FIRST_INO
_BLOCKS_MAX: Final = 1 << 21
"""Blocks of folders; ten million names of middle length fill a quarter of them."""
_READ_SIZE: Final = 16 << 20  # each step goes through all blocks of a piece: few, large pieces
_LONG_RECORDS: Final = 1 << 16  # blocks of this size write the length of an entry in another way
_EXTENTS_FLAG, _EXTENT_MAGIC = 0x80000, 0xF30A
# EXT4_ENCRYPT_FL, EXT4_INLINE_DATA_FL: support.py takes no such volume; a flag without the feature is a contradiction.
_OTHER_CONTENTS: Final = 0x800 | 0x10000000
_EXTENTS_INSIDE, _BLOCKS_INSIDE = 4, 12
_WRITTEN_MAX: Final = 32768  # EXT_INIT_MAX_LEN
_NAME_MAX: Final = 255
_ENTRY_HEAD: Final = 8
_DOT: Final = 0x2E


@dataclass(slots=True)
class _Names:
    """What was found in the blocks, piece by piece."""

    parents: list[Blocks] = field(default_factory=list)
    places: list[Blocks] = field(default_factory=list)
    """Of each name's inode in the table."""
    folder_names: list[bytes] = field(default_factory=list)
    count: int = 0


def list_ext(reader: BlockReader) -> Listing:
    """List every name of a volume, of which ``support`` says that its files may be read.

    Raises:
        DiskFormatError: Something is not as the kernel writes it, or too large to be read at once.
        ReadFault: The device failed.
    """
    is_long = reader.size >= SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE
    superblock = parse_superblock(reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE)) if is_long else None
    if superblock is None or superblock.block_size >= _LONG_RECORDS or superblock.size > reader.size:
        raise _doubt("the superblock")
    inodes = read_inodes(reader, superblock, read_groups(reader, superblock))
    owners, blocks = _folder_blocks(reader, superblock, inodes)
    order = np.argsort(blocks, kind="stable")
    owners, blocks = owners[order], blocks[order]
    names = _Names()
    most = max(1, _READ_SIZE // superblock.block_size)
    for start in range(0, len(blocks), most):
        raw = read_blocks(reader, blocks[start : start + most], superblock.block_size)
        _take_apart(raw, owners[start : start + most], superblock, inodes, names)
        if names.count > NAMES_MAX:
            raise _doubt(f"more than {NAMES_MAX} names")
    none = [np.empty(0, np.int64)]
    parents, places = np.concatenate(none + names.parents), np.concatenate(none + names.places)
    return Listing(
        root=ROOT_INODE, parents=parents, numbers=inodes.numbers[places], is_folder=inodes.is_folder[places],
        is_file=inodes.is_file[places], sizes=inodes.sizes[places], links=inodes.links[places],
        folder_names=names.folder_names,
    )  # fmt: skip


def _take_apart(
    raw: NDArray[np.uint8], owners: Blocks, superblock: Superblock, inodes: InodeTable, names: _Names
) -> None:
    """Find the entries of blocks, each a row; ``owners`` are the folders' numbers."""
    words = np.concatenate((raw.reshape(-1).view("<u4"), np.zeros(2, np.uint32)))
    word, rows = _find_entries(words, len(raw), superblock.block_size)
    numbers, head, start = (words[word + step].astype(np.int64) for step in range(3))
    length, sizes = head & 0xFFFF, (head >> 16) & (0xFF if Incompat.FILETYPE in superblock.incompat else 0xFFFF)
    _demand((sizes > 0) & (sizes <= _NAME_MAX) & (length >= _ENTRY_HEAD + sizes), "the name of an entry")
    wanted = ~_is_dots(start, sizes) & (numbers >= _SYSTEM_END)
    numbers, sizes, starts = numbers[wanted], sizes[wanted], (word[wanted] << 2) + _ENTRY_HEAD
    places = find_places(inodes.numbers, numbers)
    _demand((places >= 0) & (inodes.links[places] > 0), "the number of an entry")
    folders = inodes.is_folder[places]
    pairs = zip(starts[folders].tolist(), (starts + sizes)[folders].tolist(), strict=True)
    flat = raw.reshape(-1)
    names.folder_names += [flat[first:end].tobytes() for first, end in pairs]
    names.parents.append(owners[rows[wanted]])
    names.places.append(places)
    names.count += len(places)


def _find_entries(words: NDArray[np.uint32], count: int, size: int) -> tuple[Blocks, Blocks]:
    """The first word and the row of every entry in use, of blocks that are ``words`` of four bytes."""
    rows, at = np.arange(count), np.zeros(count, np.int64)
    found: list[tuple[Blocks, Blocks]] = []
    while len(rows):
        word = (rows * size + at) >> 2
        length = (words[word + 1] & 0xFFFF).astype(np.int64)
        end = at + length
        _demand((length >= _ENTRY_HEAD) & (length & 3 == 0) & (end <= size), "the length of an entry")
        used = words[word] != 0
        found.append((word[used], rows[used]))
        going = end < size
        rows, at = rows[going], end[going]
    entries, owners = (np.concatenate(column) for column in zip(*found, strict=True))
    return entries, owners


def _is_dots(start: Blocks, size: Blocks) -> NDArray[np.bool_]:
    """Which names are ``.`` and ``..``, from their first four bytes; one with NUL among these is in doubt."""
    first, second = start & 0xFF, (start >> 8) & 0xFF
    for index in range(3):
        _demand((size <= index) | ((start >> 8 * index) & 0xFF != 0), "NUL in a name")
    is_dots: NDArray[np.bool_] = (first == _DOT) & ((size == 1) | ((size == 2) & (second == _DOT)))
    return is_dots


def _folder_blocks(reader: BlockReader, superblock: Superblock, inodes: InodeTable) -> tuple[Blocks, Blocks]:
    """The number of the folder, and the block on the volume, of each block of a folder."""
    places = np.flatnonzero(inodes.is_folder)
    named = inodes.links[places] > 0
    places, fields = places[named], inodes.folders[named]
    numbers, sizes = inodes.numbers[places], inodes.sizes[places]
    _demand((sizes > 0) & (sizes % superblock.block_size == 0), "the size of a folder")
    _demand((fields["flags"] & _OTHER_CONTENTS) == 0, "the contents of a folder")
    needed = sizes // superblock.block_size
    if int(needed.sum()) > _BLOCKS_MAX:
        raise _doubt(f"more than {_BLOCKS_MAX} blocks of folders")
    areas = np.ascontiguousarray(fields["block_area"]).view(np.uint8).reshape(len(fields), 60)
    is_tree = (fields["flags"] & _EXTENTS_FLAG) != 0
    flat = is_tree & (areas[:, 6] == 0) & (areas[:, 7] == 0)
    listed = ~is_tree & (needed <= _BLOCKS_INSIDE)
    owners: list[Blocks] = []
    blocks: list[Blocks] = []
    for chosen, expand in ((flat, _expand_extents), (listed, _expand_list)):
        which, found = expand(areas[chosen], needed[chosen])
        owners.append(numbers[chosen][which])
        blocks.append(found)
    for index in np.flatnonzero(~flat & ~listed).tolist():
        found = _read_map(reader, superblock, fields[index], int(numbers[index]), int(sizes[index]))
        owners.append(np.full(len(found), numbers[index], np.int64))
        blocks.append(found)
    placed = np.concatenate(blocks)
    _demand((placed > superblock.first_data_block) & (placed < superblock.blocks_count), "a block of a folder")
    return np.concatenate(owners), placed


def _expand_extents(areas: NDArray[np.uint8], needed: Blocks) -> tuple[Blocks, Blocks]:
    """Blocks of folders whose extents are in the inode, with the row of each."""
    # struct ext4_extent_header and four struct ext4_extent, each of 12 bytes.
    parts = np.ascontiguousarray(areas).view("<u2").reshape(len(areas), 30).astype(np.int64)
    count = parts[:, 1]
    _demand((parts[:, 0] == _EXTENT_MAGIC) & (count > 0) & (count <= _EXTENTS_INSIDE), "the extents of a folder")
    covered = np.zeros(len(areas), np.int64)
    owners: list[Blocks] = []
    blocks: list[Blocks] = []
    for index in range(_EXTENTS_INSIDE):
        rows = np.flatnonzero(index < count)
        logical_low, logical_high, length, high, low, middle = (parts[rows, 6 + 6 * index + at] for at in range(6))
        _demand((logical_low | logical_high << 16) == covered[rows], "a hole in a folder")
        _demand((length > 0) & (length <= _WRITTEN_MAX), "an extent of a folder")
        wanted = np.minimum(length, np.maximum(needed[rows] - covered[rows], 0))
        which, step = _count_up(wanted)
        owners.append(rows[which])
        blocks.append((low | middle << 16 | high << 32)[which] + step)
        covered[rows] += length
    _demand(covered >= needed, "a folder that ends too early")
    return np.concatenate(owners), np.concatenate(blocks)


def _expand_list(areas: NDArray[np.uint8], needed: Blocks) -> tuple[Blocks, Blocks]:
    """Blocks of small folders without extents, with the row of each; a hole is block 0."""
    listed = np.ascontiguousarray(areas).view("<u4").reshape(len(areas), 15).astype(np.int64)
    which, step = _count_up(needed)
    return which, listed[which, step]


def _count_up(counts: Blocks) -> tuple[Blocks, Blocks]:
    """Each index as often as its count says, and the numbers from 0 beside it."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - (np.cumsum(counts) - counts)[which]


def _read_map(reader: BlockReader, superblock: Superblock, fields: np.void, number: int, size: int) -> Blocks:
    """Blocks of one folder that needs more than its inode to say where it lies."""
    generation = int(fields["generation"]).to_bytes(4, "little")
    inode = Inode(
        number=number, mode=0, size=size, links=1, flags=int(fields["flags"]),
        block_area=fields["block_area"].tobytes(),
        checksum_seed=crc32c(number.to_bytes(4, "little") + generation, seed=superblock.checksum_seed),
    )  # fmt: skip
    runs = read_runs(reader, superblock, inode)
    needed = size // superblock.block_size
    if not runs.covers(needed):
        raise _doubt(f"folder {number}")
    return runs.places(np.arange(needed, dtype=np.int64))


def _demand(fulfilled: NDArray[np.bool_], what: str) -> None:
    if not fulfilled.all():
        raise _doubt(what)


def _doubt(what: str) -> DiskFormatError:
    return DiskFormatError(f"ext: {what} is not as it was expected to be", hint=CHECK_HINT)
