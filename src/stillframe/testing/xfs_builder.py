"""Small XFS volumes and logs built from the specification, for what no tool makes on demand.

Answers: "what does an XFS look like whose tree of free space, or whose log, is just like this?" Real volumes are made
by ``volumes_xfs``. Everything but headers, one tree for each group and the log is zeros.

Source: "XFS Algorithms & Data Structures"; Linux ``fs/xfs/libxfs/xfs_format.h``, ``xfs_log_format.h``.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stillframe.crc32c import crc32c
from stillframe.testing.volumes_linux import IDENTITY

GROUP_SIZE: Final = 16 << 20
LOG_BLOCK: Final = 100
LOG_SIZE: Final = 1 << 20
_ROOT_INODE_BLOCK: Final = 50
_SECTOR: Final = 512
_NO_BLOCK: Final = 0xFFFFFFFF
_MAGIC: Final = 0xFEEDBABE

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class XfsShape:
    """What to build.

    Attributes:
        version: 4 or 5.
        block_size: Bytes.
        free: For each group its free ranges, as first block and count. The first 200 blocks hold headers and the root
            inode, in the last group [100, 100 + 1 MiB) is the log, and the last 100 blocks of a group hold its tree.
        fanout: Entries of a block of the tree, so that few ranges make many levels.
    """

    version: int = 5
    block_size: int = 1024
    free: Sequence[Ranges] = ((), ())
    fanout: int = 4

    @property
    def group_blocks(self) -> int:
        """Blocks of a group."""
        return GROUP_SIZE // self.block_size

    @property
    def log_start(self) -> int:
        """Byte of the volume where the log begins."""
        return (len(self.free) - 1) * GROUP_SIZE + LOG_BLOCK * self.block_size

    @property
    def header_size(self) -> int:
        """Bytes of a tree block before its entries."""
        return 56 if self.version == 5 else 16


def build_xfs(shape: XfsShape, *, log: bytes | None = None) -> bytearray:
    """The bytes of the volume; the log is one that was just unmounted, unless given."""
    volume = bytearray(len(shape.free) * GROUP_SIZE)
    volume[:_SECTOR] = _superblock(shape)
    for index, ranges in enumerate(shape.free):
        root, levels = _build_tree(shape, volume, index, ranges)
        place = index * GROUP_SIZE
        volume[place + 512 : place + 1024] = _agf(shape, index, root, levels)
        agfl = bytearray(b"\xff" * 512)
        if shape.version == 5:
            agfl[:36] = struct.pack(">4sI16sQI", b"XAFL", index, IDENTITY.bytes, 0, 0)
        volume[place + 1536 : place + 2048] = seal(agfl, 32) if shape.version == 5 else agfl
    records = ((1, True),)
    log = log or build_log(LOG_SIZE // _SECTOR, records)
    volume[shape.log_start : shape.log_start + len(log)] = log
    return volume


def seal(structure: bytes | bytearray, offset: int) -> bytes:
    """The structure with the right checksum at ``offset``."""
    blank = bytes(structure[:offset]) + bytes(4) + bytes(structure[offset + 4 :])
    checksum = (crc32c(blank) ^ 0xFFFFFFFF).to_bytes(4, "little")
    return blank[:offset] + checksum + blank[offset + 4 :]


def _superblock(shape: XfsShape) -> bytes:
    block, groups, per_group = shape.block_size, len(shape.free), shape.group_blocks
    bits = (per_group - 1).bit_length()
    inode_bits = (block // 256).bit_length() - 1
    total = sum(count for ranges in shape.free for _, count in ranges)
    total += sum(_tree_size(shape, ranges) for ranges in shape.free)
    raw = bytearray(_SECTOR)
    struct.pack_into(">4sIQQQ16s", raw, 0, b"XFSB", block, groups * per_group, 0, 0, IDENTITY.bytes)
    struct.pack_into(">QQ", raw, 48, (groups - 1 << bits) + LOG_BLOCK, _ROOT_INODE_BLOCK << inode_bits)
    version = 0xB4A4 if shape.version == 4 else 0xB4A5
    struct.pack_into(">IIIIHHHH", raw, 84, per_group, groups, 0, LOG_SIZE // block, version, _SECTOR, 256, block // 256)
    raw[120:125] = bytes((block.bit_length() - 1, 9, 8, inode_bits, bits))
    struct.pack_into(">Q", raw, 144, total)
    struct.pack_into(">II", raw, 200, *[0x8A if shape.version == 4 else 0x18A] * 2)
    return seal(raw, 224) if shape.version == 5 else bytes(raw)


def _agf(shape: XfsShape, index: int, root: int, levels: int) -> bytes:
    ranges, raw = shape.free[index], bytearray(_SECTOR)
    struct.pack_into(">4s7I", raw, 0, b"XAGF", 1, index, shape.group_blocks, root, 0, 0, levels)
    counts = [count for _, count in ranges]
    freed = (sum(counts), max(counts, default=0), _tree_size(shape, ranges))
    struct.pack_into(">6I16s", raw, 40, 0, (512 - 36) // 4 - 1, 0, *freed, IDENTITY.bytes)
    return seal(raw, 216) if shape.version == 5 else bytes(raw)


def _tree_size(shape: XfsShape, ranges: Ranges) -> int:
    """Blocks of the tree but for its root."""
    count, width = 0, len(ranges)
    while width > shape.fanout:
        width = -(-width // shape.fanout)
        count += width
    return count


def _build_tree(shape: XfsShape, volume: bytearray, index: int, ranges: Ranges) -> tuple[int, int]:
    """Write the tree from its leaves up into the last blocks of the group; its root and levels."""
    entries = [(first, count, 0) for first, count in ranges]
    height, block = 0, shape.group_blocks - 100
    while True:
        pieces = [entries[at : at + shape.fanout] for at in range(0, len(entries), shape.fanout)] or [[]]
        for number, piece in enumerate(pieces):
            left = block + number - 1 if number else _NO_BLOCK
            right = block + number + 1 if number + 1 < len(pieces) else _NO_BLOCK
            raw = _tree_block(shape, piece, (height, left, right), (index, block + number))
            place = index * GROUP_SIZE + (block + number) * shape.block_size
            volume[place : place + shape.block_size] = raw
        if len(pieces) == 1:
            return block, height + 1
        entries = [(piece[0][0], piece[0][1], block + number) for number, piece in enumerate(pieces)]
        block, height = block + len(pieces), height + 1


def _tree_block(
    shape: XfsShape, entries: Sequence[tuple[int, int, int]], head: tuple[int, int, int], place: tuple[int, int]
) -> bytes:
    height, left, right = head
    group, block = place
    raw = bytearray(shape.block_size)
    magic = b"AB3B" if shape.version == 5 else b"ABTB"
    struct.pack_into(">4sHHII", raw, 0, magic, height, len(entries), left, right)
    if shape.version == 5:
        sector = (group * GROUP_SIZE + block * shape.block_size) // _SECTOR
        struct.pack_into(">QQ16sI", raw, 16, sector, 0, IDENTITY.bytes, group)
    room = (shape.block_size - shape.header_size) // 12
    for number, (first, count, pointer) in enumerate(entries):
        struct.pack_into(">II", raw, shape.header_size + 8 * number, first, count)
        if height:
            struct.pack_into(">I", raw, shape.header_size + 8 * room + 4 * number, pointer)
    return seal(raw, 52) if shape.version == 5 else bytes(raw)


def build_log(
    sectors: int,
    records: Sequence[tuple[int, bool]],
    *,
    volume: bytes = IDENTITY.bytes,
    lost: frozenset[int] = frozenset(),
) -> bytes:
    """A log as writing records to it from its start, round after round, leaves it.

    Args:
        sectors: Its size, in sectors of 512 bytes.
        records: For each the sectors of its contents, and whether it is the one that unmounting writes.
        volume: UUID of the volume.
        lost: Numbers of records that did not reach the disk.
    """
    log = bytearray(sectors * _SECTOR)
    written = 0
    for number, (length, is_unmount) in enumerate(records):
        header = bytearray(_SECTOR)
        turn, place = written // sectors + 1, written % sectors
        struct.pack_into(">IIIIQQ", header, 0, _MAGIC, turn, 2, length * _SECTOR, turn << 32 | place, 1 << 32)
        struct.pack_into(">II", header, 36, 0, 1 if is_unmount else 3)
        struct.pack_into(">I16sI", header, 300, 1, volume, 32 << 10)
        contents = bytearray(length * _SECTOR)
        if length:
            struct.pack_into(">IIBB", contents, 0, 0, 8, 0xAA, 0x20 if is_unmount else 0x01)
        for step in range(length + 1):
            turn, place = (written + step) // sectors + 1, (written + step) % sectors
            sector = header if step == 0 else contents[(step - 1) * _SECTOR : step * _SECTOR]
            if step:
                struct.pack_into(">I", sector, 0, turn)
            if number not in lost:
                log[place * _SECTOR : (place + 1) * _SECTOR] = sector
        written += length + 1
    return bytes(log)
