"""Swap files in the root directory of an ext volume.

Answers: "which blocks hold nothing but swapped-out memory?" Only the names that distributions use are looked for, and
a file counts only when it begins with a swap header. Other folders, inline and encrypted directories are not searched.

Sources: Linux ``fs/ext4/ext4.h`` (``struct ext4_dir_entry_2``, ``ext4_rec_len_from_disk``). The blocks of an indexed
directory (htree) read as plain ones: the index hides behind an entry without inode.
"""

from typing import Final

import numpy as np

from stillframe.block import BlockReader
from stillframe.extents import ExtentSet
from stillframe.fs.base import LeftOutFile
from stillframe.fs.ext.groups import GroupTable
from stillframe.fs.ext.inode import BlockRuns, read_inode, read_runs
from stillframe.fs.ext.superblock import ROOT_INODE, RoCompat, Superblock
from stillframe.fs.swap import PAGE_SIZES, parse_swap_header

SWAP_FILE_NAMES: Final = frozenset({b"swapfile", b"swap.img"})
"""What installers call it: Ubuntu Desktop, Mint and Arch ``/swapfile``; Ubuntu Server ``/swap.img``."""
DIRECTORY_BLOCKS_MAX: Final = 1024
"""Blocks of a root directory that are searched; real ones have one."""

_ENCRYPTED_FLAG: Final = 0x800  # EXT4_ENCRYPT_FL
_INLINE_FLAG: Final = 0x10000000  # EXT4_INLINE_DATA_FL
_REGULAR_FILE: Final = 1  # EXT4_FT_REG_FILE; the high byte of the name's length, 0, without the filetype feature


def find_swap_files(reader: BlockReader, superblock: Superblock, table: GroupTable) -> tuple[LeftOutFile, ...]:
    """The swap files of the root directory, with the blocks behind their header page.

    Raises:
        DiskFormatError: The root directory or a swap file's inode contradicts itself.
    """
    if RoCompat.SHARED_BLOCKS in superblock.ro_compat:
        return ()  # a block of one file may be a block of another too
    root = read_inode(reader, superblock, table, ROOT_INODE)
    blocks_count = -(-root.size // superblock.block_size)
    if not root.is_directory or root.flags & (_ENCRYPTED_FLAG | _INLINE_FLAG) or blocks_count > DIRECTORY_BLOCKS_MAX:
        return ()
    runs = read_runs(reader, superblock, root)
    if not runs.covers(blocks_count):
        return ()
    size = superblock.block_size
    found: dict[int, bytes] = {}
    for block in runs.places(np.arange(blocks_count, dtype=np.int64)).tolist():
        found.update(_swap_names(reader.read_at(block * size, size)))
    files = (_swap_file(reader, superblock, table, inode=inode, name=name) for inode, name in sorted(found.items()))
    return tuple(file for file in files if file is not None)


def _swap_names(block: bytes) -> dict[int, bytes]:
    """The entries of one directory block that are called like a swap file: inode and name."""
    found: dict[int, bytes] = {}
    place = 0
    while place + 8 <= len(block):
        inode = int.from_bytes(block[place : place + 4], "little")
        length = int.from_bytes(block[place + 4 : place + 6], "little")
        if len(block) == 1 << 16 and length in (0, 0xFFFF):
            length = len(block)
        if length < 8 or length % 4 or place + length > len(block):
            return {}
        name = block[place + 8 : place + 8 + block[place + 6]]
        if inode and block[place + 7] in (0, _REGULAR_FILE) and name in SWAP_FILE_NAMES:
            found[inode] = name
        place += length
    return found


def _swap_file(
    reader: BlockReader, superblock: Superblock, table: GroupTable, *, inode: int, name: bytes
) -> LeftOutFile | None:
    file = read_inode(reader, superblock, table, inode)
    if not file.is_file or file.links != 1 or file.flags & (_ENCRYPTED_FLAG | _INLINE_FLAG):
        return None
    runs = read_runs(reader, superblock, file)
    head_blocks = min(PAGE_SIZES[-1], file.size) // superblock.block_size
    header = parse_swap_header(_read_head(reader, runs, blocks_count=head_blocks, block_size=superblock.block_size))
    extent = header.left_out if header is not None else None
    if extent is None:
        return None
    first = -(-extent.start // superblock.block_size)
    end = min(extent.end, file.size) // superblock.block_size
    cut = np.maximum(first - runs.logical, 0)
    starts = (runs.physical + cut) * superblock.block_size
    ends = (runs.physical + np.minimum(runs.count, end - runs.logical)) * superblock.block_size
    contents = ExtentSet.from_arrays(starts, ends)
    return LeftOutFile(path=f"/{name.decode()}", size=file.size, extents=contents, kind="swap")


def _read_head(reader: BlockReader, runs: BlockRuns, *, blocks_count: int, block_size: int) -> bytes:
    """The first bytes of a file. What was never written is zeros: mkswap leaves its first KiB as it is."""
    parts = []
    for number in range(blocks_count):
        if runs.covers_block(number):
            place = int(runs.places(np.array([number], np.int64))[0])
            parts.append(reader.read_at(place * block_size, block_size))
        else:
            parts.append(bytes(block_size))
    return b"".join(parts)
