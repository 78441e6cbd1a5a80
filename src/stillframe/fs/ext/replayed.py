"""An ext volume as its next mount would see it.

Answers: "what do the files of this volume say after its journal was replayed?" Nothing is written.
"""

from typing import Final

from stillframe.block import BlockReader, OverlayReader
from stillframe.errors import DiskFormatError
from stillframe.fs.ext.groups import read_groups
from stillframe.fs.ext.journal import JOURNAL_HINT
from stillframe.fs.ext.superblock import SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Incompat, parse_superblock
from stillframe.fs.ext.volume import replay_journal

_INCOMPAT_AT: Final = 0x60  # ext4.h, struct ext4_super_block: s_feature_incompat


def replayed_reader(reader: BlockReader) -> BlockReader:
    """The volume with its journal replayed in memory; the same reader where there is nothing to replay.

    The flag that says so is taken from the superblock. Its checksum is not made again: this is for reading files.

    Raises:
        DiskFormatError: The journal cannot be replayed, or holds what is not replayed in this version.
        ReadFault: The device failed.
    """
    if reader.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        return reader
    superblock = parse_superblock(reader.read_at(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE))
    if superblock is None or Incompat.RECOVER not in superblock.incompat:
        return reader
    replay = replay_journal(reader, superblock, read_groups(reader, superblock))
    if replay.fast_commits:
        raise DiskFormatError("ext journal: it holds fast commits, which are not replayed", hint=JOURNAL_HINT)
    size = superblock.block_size
    view = OverlayReader(reader, block_size=size, blocks=replay.blocks)
    block, inside = divmod(SUPERBLOCK_OFFSET, size)
    contents = bytearray(view.read_at(block * size, size))
    flags = slice(inside + _INCOMPAT_AT, inside + _INCOMPAT_AT + 4)
    kept = int.from_bytes(contents[flags], "little") & ~int(Incompat.RECOVER)
    contents[flags] = kept.to_bytes(4, "little")
    return OverlayReader(view, block_size=size, blocks={block: bytes(contents)})
