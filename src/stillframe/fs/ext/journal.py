"""The journal of ext3 and ext4 (jbd2): its superblock, and the blocks a log is made of.

Answers: "what does this block of a journal say?" Which transactions count, and what they change, is ``recovery``'s.

Sources: Linux ``include/linux/jbd2.h`` (structures and flags), ``fs/jbd2/journal.c`` (``journal_get_superblock``,
``journal_tag_bytes``), ``fs/jbd2/recovery.c``, Documentation/filesystems/ext4/ ("Journal (jbd2)"). Every number in a
journal is big-endian.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from stillframe.crc32c import crc32c
from stillframe.errors import DiskFormatError

JOURNAL_SUPERBLOCK_SIZE: Final = 1024
JOURNAL_MAGIC: Final = 0xC03B3998  # JBD2_MAGIC_NUMBER
JOURNAL_HINT: Final = "Mount the volume once and unmount it, or run e2fsck; then back up again for a small image."

_HEADER: Final = struct.Struct(">III")  # struct journal_header_s: magic, block type, sequence
_HEADER_SIZE: Final = 12
_CRC32C_CHECKSUM: Final = 4  # JBD2_CRC32C_CHKSUM
_FAST_COMMIT_BLOCKS_DEFAULT: Final = 256  # JBD2_DEFAULT_FAST_COMMIT_BLOCKS
_FAST_COMMIT_BLOCKS_MAX: Final = 1 << 16  # ours: bounds the time to search them
_BLOCKS_MIN: Final = 1024  # JBD2_MIN_JOURNAL_BLOCKS
_FLAG_ESCAPE: Final = 0x1  # JBD2_FLAG_ESCAPE: the block began with the magic, which was blanked in the log
_FLAG_SAME_UUID: Final = 0x2  # JBD2_FLAG_SAME_UUID: no UUID follows the tag
_FLAG_LAST_TAG: Final = 0x8  # JBD2_FLAG_LAST_TAG


class BlockType(IntEnum):
    """``h_blocktype``."""

    DESCRIPTOR = 1
    COMMIT = 2
    SUPERBLOCK_V1 = 3
    SUPERBLOCK_V2 = 4
    REVOKE = 5


class JournalCompat(IntFlag):
    """``s_feature_compat`` of a journal."""

    CHECKSUM = 0x1


class JournalIncompat(IntFlag):
    """``s_feature_incompat`` of a journal."""

    REVOKE = 0x1
    BITS_64 = 0x2
    ASYNC_COMMIT = 0x4
    CSUM_V2 = 0x8
    CSUM_V3 = 0x10
    FAST_COMMIT = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSuperblock:
    """Where the log lies inside the journal, in blocks of the journal, and how its blocks are written.

    Attributes:
        first: First block of the log.
        end: One past the last block of the log, where it wraps to ``first``.
        blocks_count: Blocks of the journal; those from ``end`` on are the fast-commit area.
        start: The block of the first transaction to look at; 0 when the log is empty.
        sequence: The number of that transaction.
        error: What the file system reported through the journal; 0 when nothing.
        compat, incompat: Feature flags, all of them known.
        checksum_seed: What the checksums of the log's blocks go on from.
    """

    block_size: int
    first: int
    end: int
    blocks_count: int
    start: int
    sequence: int
    error: int
    compat: JournalCompat
    incompat: JournalIncompat
    checksum_seed: int

    @property
    def has_block_checksums(self) -> bool:
        """Whether descriptor, revoke and commit blocks carry CRC-32C, and tags the checksum of their block."""
        return bool(self.incompat & (JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3))

    @property
    def tag_size(self) -> int:
        """Bytes of one tag of a descriptor block. Source: ``journal_tag_bytes``."""
        if JournalIncompat.CSUM_V3 in self.incompat:
            return 16
        size = 14 if JournalIncompat.CSUM_V2 in self.incompat else 12
        return size if JournalIncompat.BITS_64 in self.incompat else size - 4

    @property
    def room(self) -> int:
        """Bytes of a descriptor or revoke block before its checksum."""
        return self.block_size - (4 if self.has_block_checksums else 0)


@dataclass(frozen=True, slots=True)
class BlockHeader:
    """The first 12 bytes of every block of a log that is not a copied one."""

    kind: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Tag:
    """One block that a descriptor announces: where it belongs, and its checksum (0 where there is none)."""

    block: int
    escaped: bool
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction: when it was, and the checksum of older journals over all of it."""

    seconds: int
    checksum: int
    checksum_type: int
    checksum_size: int


def parse_journal_superblock(raw: bytes, *, blocks_max: int, block_size: int) -> JournalSuperblock:
    """Parse the first 1,024 bytes of a journal.

    Args:
        raw: The bytes.
        blocks_max: Blocks that the journal's inode holds.
        block_size: Of the file system; a journal inside it has the same.

    Raises:
        DiskFormatError: It is no journal, was written by something newer, or points outside itself.
    """
    magic, kind, _ = _HEADER.unpack_from(raw)
    size, count, first, sequence, start, error = struct.unpack_from(">IIIIII", raw, 12)
    if magic != JOURNAL_MAGIC or kind not in (BlockType.SUPERBLOCK_V1, BlockType.SUPERBLOCK_V2):
        raise _broken(f"expected magic {JOURNAL_MAGIC:#x} and kind 3 or 4, found {magic:#x} and {kind}")
    if size != block_size or not 2 < count <= blocks_max:
        raise _broken(f"{count} blocks of {size} bytes, but its inode holds {blocks_max} of {block_size}")
    compat, incompat = _features(raw) if kind == BlockType.SUPERBLOCK_V2 else (JournalCompat(0), JournalIncompat(0))
    end = count
    if JournalIncompat.FAST_COMMIT in incompat:
        fast = int.from_bytes(raw[84:88], "big") or _FAST_COMMIT_BLOCKS_DEFAULT
        if fast > _FAST_COMMIT_BLOCKS_MAX:
            raise _broken(f"{fast} blocks for fast commits, at most {_FAST_COMMIT_BLOCKS_MAX} are read")
        end = count - fast if count - fast >= _BLOCKS_MIN else count
    if not 0 < first < end or not (start == 0 or first <= start < end):
        raise _broken(f"its log is said to start at block {start} of [{first}, {end})")
    return JournalSuperblock(
        block_size=size,
        first=first,
        end=end,
        blocks_count=count,
        start=start,
        sequence=sequence,
        error=error,
        compat=compat,
        incompat=incompat,
        checksum_seed=crc32c(raw[48:64]),
    )


def _features(raw: bytes) -> tuple[JournalCompat, JournalIncompat]:
    """The feature flags, all of them understood, and the superblock's own checksum."""
    compat, incompat, ro_compat = struct.unpack_from(">III", raw, 36)
    unknown = incompat & ~sum(JournalIncompat)
    if unknown or ro_compat:
        raise _broken(f"unknown features: incompatible {unknown:#x}, read-only {ro_compat:#x}")
    features, old = JournalIncompat(incompat), JournalCompat(compat & JournalCompat.CHECKSUM)
    new = features & (JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3)
    if new == JournalIncompat.CSUM_V2 | JournalIncompat.CSUM_V3 or (new and old):
        raise _broken(f"two kinds of checksum at once: {old!r}, {new!r}")
    if new:
        blank = raw[:252] + bytes(4) + raw[256:]
        if raw[80] != _CRC32C_CHECKSUM or crc32c(blank) != int.from_bytes(raw[252:256], "big"):
            raise _broken("the checksum of its superblock is wrong")
    return old, features


def parse_header(block: bytes) -> BlockHeader | None:
    """The header of a block of the log; ``None`` when it has none, which is how a log ends."""
    magic, kind, sequence = _HEADER.unpack_from(block)
    return BlockHeader(kind, sequence) if magic == JOURNAL_MAGIC else None


def is_block_intact(journal: JournalSuperblock, block: bytes) -> bool:
    """Whether the checksum at the end of a descriptor or revoke block is right, or there is none."""
    if not journal.has_block_checksums:
        return True
    stored = int.from_bytes(block[-4:], "big")
    return crc32c(block[:-4] + bytes(4), seed=journal.checksum_seed) == stored


def is_commit_intact(journal: JournalSuperblock, block: bytes) -> bool:
    """Whether the checksum of a commit block is right, or there is none of the newer kind."""
    if not journal.has_block_checksums:
        return True
    stored = int.from_bytes(block[16:20], "big")
    return crc32c(block[:16] + bytes(4) + block[20:], seed=journal.checksum_seed) == stored


def parse_tags(journal: JournalSuperblock, block: bytes) -> list[Tag]:
    """The tags of a descriptor block. Source: ``count_tags`` and ``do_one_pass`` of ``fs/jbd2/recovery.c``."""
    tags: list[Tag] = []
    place, size = _HEADER_SIZE, journal.tag_size
    wide = JournalIncompat.BITS_64 in journal.incompat
    while place + size <= journal.room:
        low, check, flags = struct.unpack_from(">IHH", block, place)
        high = int.from_bytes(block[place + 8 : place + 12], "big") if wide else 0
        if JournalIncompat.CSUM_V3 in journal.incompat:
            check = int.from_bytes(block[place + 12 : place + 16], "big")
        tags.append(Tag(high << 32 | low, bool(flags & _FLAG_ESCAPE), check))
        place += size if flags & _FLAG_SAME_UUID else size + 16
        if flags & _FLAG_LAST_TAG:
            break
    return tags


def parse_revokes(journal: JournalSuperblock, block: bytes) -> list[int]:
    """The blocks that a revoke block names. Source: ``scan_revoke_records`` of ``fs/jbd2/recovery.c``.

    Raises:
        DiskFormatError: It claims more than a block holds.
    """
    used = int.from_bytes(block[12:16], "big")
    if not 16 <= used <= journal.room:
        raise _broken(f"a revoke block claims {used} bytes of {journal.room}")
    letter, size = ("Q", 8) if JournalIncompat.BITS_64 in journal.incompat else ("I", 4)
    return list(struct.unpack_from(f">{(used - 16) // size}{letter}", block, 16))


def parse_commit(block: bytes) -> Commit:
    """The fields of a commit block. Source: ``struct commit_header``."""
    return Commit(
        seconds=int.from_bytes(block[48:56], "big"),
        checksum=int.from_bytes(block[16:20], "big"),
        checksum_type=block[12],
        checksum_size=block[13],
    )


def _broken(what: str) -> DiskFormatError:
    return DiskFormatError(f"ext journal: {what}", hint=JOURNAL_HINT)
